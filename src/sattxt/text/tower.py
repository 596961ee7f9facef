"""The text side of a model: pooled vectors from banks, cache or (only if needed) the frozen encoder, then a head."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sattxt.config import TextEncoderConfig
from sattxt.errors import (
    BankMismatchError,
    CacheError,
    DiskFullError,
    HubError,
    MissingExtraError,
    TextEncoderUnavailableError,
    WeightsError,
)
from sattxt.text.cache import TextCache, TextCacheWarning
from sattxt.text.encoder import FloatArray, TextEncoder, check_texts, fingerprint
from sattxt.text.label_bank import LabelBank


class TextHead(nn.Module):
    """LayerNorm, then a linear map without bias: (N, in) pooled vectors to (N, out); not normalised."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(in_features)
        self.proj = nn.Linear(in_features, out_features, bias=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """(N, in) to (N, out)."""
        return self.proj(self.ln(pooled))


class TextTower:
    """Frozen text encoder, its cache, imported label banks, and the trained head.

    A text's pooled vector is looked for in the banks (the last imported first), then in the cache; only for what
    neither has is the encoder opened. So it need not be on disk as long as every prompt is known.

    Args:
        config: of the encoder; with an instruction and the precision it names the cache's entries.
        head: trained map into the shared space; kept in float32.
        encoder_factory: opens the encoder; called at most once.
        cache: ``None`` keeps nothing on disk (the last few thousand vectors are kept in memory).
        dtype: precision the encoder runs in (``"float32"``, ``"bfloat16"``); ``None``: the config's.

    Raises:
        WeightsError: the head takes vectors of another width than the encoder gives.
    """

    def __init__(
        self,
        config: TextEncoderConfig,
        head: TextHead,
        *,
        encoder_factory: Callable[[], TextEncoder],
        cache: TextCache | None = None,
        dtype: str | None = None,
    ) -> None:
        if head.proj.in_features != config.hidden_size:
            raise WeightsError(
                f"text head takes width {head.proj.in_features}, the text encoder gives {config.hidden_size}"
            )
        self.config = config
        self.head = head.float().eval().requires_grad_(False)
        self._factory = encoder_factory
        self._encoder: TextEncoder | None = None
        self._opening = threading.Lock()
        self._cache = cache
        self._dtype = dtype or config.dtype
        # By fingerprint, vectors by text: of label banks (no precision in it), and what is kept without a cache.
        self._known: dict[str, dict[str, FloatArray]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_encoder": None, "_opening": None}  # the copy opens it again where it needs it

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opening=threading.Lock())

    def to(self, device: torch.device | str) -> TextTower:
        """Move the head; the frozen encoder stays where it was opened."""
        self.head.to(device)
        return self

    def add_bank(self, bank: LabelBank) -> None:
        """Use a label bank's vectors from now on.

        Raises:
            BankMismatchError: it was made by another text encoder, or its vectors have another width.
        """
        space = fingerprint(self.config, bank.instruction)
        if (bank.space, bank.vectors.shape[1]) != (space, self.config.hidden_size):
            raise BankMismatchError(
                f"{bank.source or 'the label bank'} was made by another text encoder ({bank.model}, width "
                f"{bank.vectors.shape[1]}); build it again with this model: `sattxt labels build --model NAME`"
            )
        self._known.setdefault(space, {}).update(zip(bank.texts, bank.vectors, strict=True))

    def pooled(
        self, texts: str | Sequence[str], *, instruction: str | None = None, progress: bool = False
    ) -> FloatArray:
        """(N, hidden) float32 pooled vectors, in the order of ``texts``; each distinct text is encoded at most once.

        Args:
            texts: one text or several; none is empty.
            instruction: put before every text; ``None`` takes the config's.
            progress: show a bar on stderr once encoding takes longer than a second.

        Raises:
            InputError: a text is empty or no string.
            TextEncoderUnavailableError: a text is not cached and the encoder cannot be had.
            NotEnoughMemoryError: the encoder does not fit in memory.
        """
        listed = check_texts(texts)
        space = fingerprint(self.config, instruction)
        exact = fingerprint(self.config, instruction, self._dtype)
        found: dict[str, FloatArray] = {}
        for known in (self._known.get(exact, {}), self._known.get(space, {})):
            found.update((text, known[text]) for text in listed if text in known)
        wanted = [text for text in listed if text not in found]
        width = self.config.hidden_size
        found.update(self._ask_cache(lambda cache: cache.get_many(exact, wanted, width=width), {}))
        # What `sattxt labels import` brought lies under the fingerprint alone, rounded if the bank was.
        rest = [text for text in wanted if text not in found]
        found.update(self._ask_cache(lambda cache: cache.get_many(space, rest, width=width, accept_float16=True), {}))
        new = list(dict.fromkeys(text for text in rest if text not in found))
        if new:
            vectors = self.open_encoder(new).encode(
                new,
                instruction=instruction,
                progress=progress,
                on_batch=lambda batch, values: self._store(exact, batch, values),
            )
            found.update(zip(new, vectors, strict=True))
        return np.array([found[text] for text in listed], dtype=np.float32).reshape(len(listed), width)

    @torch.inference_mode()
    def embed(self, texts: str | Sequence[str], *, instruction: str | None = None, progress: bool = False) -> Tensor:
        """(N, embed_dim) float32 text embeddings on the head's device, not normalised; errors as in :meth:`pooled`."""
        pooled = torch.from_numpy(self.pooled(texts, instruction=instruction, progress=progress))
        embedding: Tensor = self.head(pooled.to(self.head.proj.weight.device))
        if not embedding.sum().isfinite():  # one pass, where a look at each value takes four
            raise WeightsError(
                f"the text side gives NaN or infinity in {self._dtype}; pass dtype='float32', or check the weights"
            )
        return embedding

    def tokenize(self, texts: str | Sequence[str], *, instruction: str | None = None) -> dict[str, Tensor]:
        """What the encoder reads: ``input_ids``, ``attention_mask``, ``embed_mask`` (pooled tokens), (N, L) int64."""
        return self.open_encoder().tokenize(texts, instruction)

    def bank(
        self,
        texts: str | Sequence[str],
        *,
        labels: Mapping[str, Sequence[str]] | None = None,
        model: str = "",
        instruction: str | None = None,
        progress: bool = False,
    ) -> LabelBank:
        """A label bank of texts, for machines without the encoder.

        Args:
            texts: encoded (or looked up) as in :meth:`pooled`; duplicates are dropped.
            labels: label to its prompts, kept in the bank. model: the model's name, kept in the bank.
        """
        unique = list(dict.fromkeys(check_texts(texts)))
        return LabelBank(
            space=fingerprint(self.config, instruction),
            texts=unique,
            vectors=self.pooled(unique, instruction=instruction, progress=progress),
            labels={label: list(prompts) for label, prompts in (labels or {}).items()},
            model=model,
            instruction=self.config.instruction if instruction is None else instruction,
        )

    def open_encoder(self, needed: Sequence[str] = ()) -> TextEncoder:
        """The frozen encoder, opened on the first call; errors as in :meth:`pooled`.

        Args:
            needed: the texts it is opened for, for the message.
        """
        with self._opening:
            if self._encoder is None:
                try:
                    self._encoder = self._factory()
                except (HubError, MissingExtraError, TextEncoderUnavailableError) as error:
                    shown = ", ".join(repr(text[:60]) for text in needed[:3]) + (", …" if len(needed) > 3 else "")
                    lacking = f"{len(needed)} prompts are not cached ({shown}) and " if needed else ""
                    raise TextEncoderUnavailableError(
                        f"{lacking}the text encoder is not at hand: {error}. Or encode the labels where it is, with "
                        "`sattxt labels build`, and load the file here with `import_labels`"
                    ) from error
            return self._encoder

    def _store(self, space: str, texts: list[str], vectors: FloatArray) -> None:
        """Keep a batch on disk; in memory where there is no cache, or it fails."""
        if self._ask_cache(lambda cache: cache.put_many(space, texts, vectors), 0) == len(texts):
            return  # fewer: the file is read-only (it warned), or another process was faster
        kept = self._known.setdefault(space, {})
        kept.update(zip(texts, vectors, strict=True))
        for oldest in list(kept)[:-4096]:  # which is some megabytes
            del kept[oldest]

    def _ask_cache(self, ask: Callable[[TextCache], Any], otherwise: Any) -> Any:
        """What the cache answers, ``otherwise`` where there is none.

        That it fails is told once, and the work goes on without it: what is computed is still returned.
        """
        if self._cache is None:
            return otherwise
        try:
            return ask(self._cache)
        except (CacheError, DiskFullError, OSError) as error:
            self._cache = None
            warnings.warn(f"going on without the text cache: {error}", TextCacheWarning, stacklevel=2)
            return otherwise


def open_text_tower(
    config: TextEncoderConfig,
    head_state: Mapping[str, Tensor],
    encoder_dir: str | Path | None,
    *,
    cache: TextCache | str | os.PathLike[str] | bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    device_map: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> TextTower:
    """A text tower from a model directory's parts. The encoder itself is opened with the first uncached prompt.

    Args:
        head_state: the text head's tensors, which ``read_model`` checked.
        encoder_dir: the model directory's ``text_encoder/``; ``None``: the encoder is where ``config.base`` says.
        cache: a text cache or its path; ``True``: in its usual place, ``False``: none.
        dtype: precision of the encoder; ``None``: the config's.
        device, device_map: where the encoder runs; the head is on ``device``.
        cache_dir, local_files_only, token: as in ``huggingface_hub``.
    """
    if cache is not False and not isinstance(cache, TextCache):
        cache = TextCache(None if cache is True else cache)
    hub = {"cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
    head = TextHead(config.hidden_size, len(head_state["proj.weight"]))
    head.load_state_dict(head_state)
    return TextTower(
        config,
        head,
        encoder_factory=partial(_open_encoder, config, encoder_dir, dtype, device, {"device_map": device_map, **hub}),
        cache=cache or None,
        dtype=None if dtype is None else str(dtype).removeprefix("torch."),
    ).to(device)


def _open_encoder(
    config: TextEncoderConfig,
    encoder_dir: str | Path | None,
    dtype: torch.dtype | None,
    device: torch.device | str,
    options: dict[str, Any],
) -> TextEncoder:
    """The frozen encoder; a function of its own, so that a tower can be pickled before the encoder is opened."""
    if config.kind == "sentence":
        from sattxt.text.sentence import SentenceEncoder

        if encoder_dir is None:
            raise TextEncoderUnavailableError("the model directory holds no text_encoder/")
        return SentenceEncoder(config, encoder_dir, dtype=dtype, device=device)
    from sattxt.text.llm2vec import LLM2VecEncoder

    adapters = None if encoder_dir is None else ()
    return LLM2VecEncoder(config, base=encoder_dir, adapters=adapters, dtype=dtype, device=device, **options)
