"""Label banks: text vectors in one safetensors file, for zero-shot on a machine that has no text encoder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sattxt.errors import BankMismatchError, CacheError, InputError
from sattxt.io import atomic_write, check_new
from sattxt.text.cache import as_stored
from sattxt.text.encoder import FloatArray, check_texts

_FORMAT = "sattxt-label-bank"
_VERSION = "1"
_HEADER_BYTES = 90_000_000  # safetensors refuses headers of more than 100 MB
_TOLERANCE = 3e-2  # relative distance of two vectors of one text: what an encoder in bfloat16 differs by


@dataclass(eq=False, repr=False)
class LabelBank:
    """Pooled text vectors with all that must be known to use them.

    Attributes:
        space: the text encoder's fingerprint, without a precision; a model takes only banks of its own encoder.
        texts: N different texts, exact.
        vectors: (N, hidden), finite, any float type; they become float32.
        labels: label to its prompts, each one of ``texts``; empty: every text is its own label.
        model: name of the model it was made with, to show.
        instruction: what was put before every text (part of the fingerprint, kept to show).
        created: when, ISO 8601.
        source: the file it was read from, for messages; not stored.

    Raises:
        InputError: (on construction) texts, vectors and labels do not fit together.
    """

    space: str
    texts: Sequence[str]
    vectors: FloatArray
    labels: dict[str, list[str]] = field(default_factory=dict)
    model: str = ""
    instruction: str = ""
    created: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    source: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.space, str) or not self.space:
            raise InputError("a label bank needs the text encoder's fingerprint as its space")
        self.texts = tuple(check_texts(self.texts, blank=True))
        if not self.texts:
            raise InputError("a label bank needs at least one text")
        known = set(self.texts)
        if len(known) < len(self.texts):
            index = next(i for i, text in enumerate(self.texts) if text in self.texts[:i])
            raise InputError(f"texts[{index}] {self.texts[index]!r} is there twice; pass every text once")
        try:
            self.vectors = as_stored(self.vectors, len(self.texts), "float32").astype(np.float32, copy=False)
        except CacheError as error:
            raise InputError(str(error)) from error
        for label, prompts in self.labels.items():
            if isinstance(prompts, str) or not isinstance(label, str) or not prompts:
                raise InputError(f"label {label!r} needs a list of prompts, one at least")
            if absent := [prompt for prompt in prompts if prompt not in known]:
                raise InputError(f"label {label!r} has a prompt without a vector: {absent[0]!r}")

    def __repr__(self) -> str:
        made = f"{self.model or 'a model without a name'}, {self.created}"
        return f"LabelBank({len(self.labels)} labels, {len(self.texts)} texts of {self.vectors.shape[1]}, {made})"

    @property
    def prompts(self) -> dict[str, list[str]]:
        """Label to its prompts; where the bank has no labels, every text is its own."""
        return self.labels or {text: [text] for text in self.texts}

    # -- files -------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write one safetensors file, whole or not at all.

        Raises:
            InputError: a file is there already, and ``overwrite`` is not set.
            DiskFullError: no space is left. WeightsError: the file cannot be written. An older one is untouched.
            CacheError: the texts are too long for one file.
        """
        from safetensors.numpy import save

        target = Path(os.path.realpath(Path(path).expanduser()))
        check_new(target, overwrite=overwrite)
        facts = {
            "format": _FORMAT,
            "version": _VERSION,
            "space": self.space,
            "dtype": "",  # earlier versions read it
            "model": self.model,
            "instruction": self.instruction,
            "created": self.created,
            "texts": json.dumps(list(self.texts), ensure_ascii=False),
            "labels": json.dumps(list(self.labels.items()), ensure_ascii=False),
        }
        facts["checksum"] = _checksum(facts, self.vectors)
        if sum(len(json.dumps(value, ensure_ascii=False).encode()) for value in facts.values()) > _HEADER_BYTES:
            raise CacheError(f"{path}: the texts are too long for one file; save them as several banks")
        with atomic_write(target) as file:
            file.write(save({"vectors": self.vectors}, metadata=facts))
            file.flush()
            os.fsync(file.fileno())
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LabelBank:
        """Read a label bank.

        Raises:
            CacheError: the file cannot be read, is damaged, or is no label bank.
            InputError: ``path`` is no path.
        """
        from safetensors import SafetensorError, safe_open

        if not isinstance(path, (str, os.PathLike)):
            raise InputError(f"a label bank is a file: pass its path, not {type(path).__name__}; labels are no bank")
        file = Path(path).expanduser()
        again = "build it again with `sattxt labels build`"
        if not file.is_file():
            raise CacheError(f"{file}: no such file; pass a label bank that `sattxt labels build` wrote")
        try:
            with safe_open(file, framework="numpy") as opened:
                facts: dict[str, str] = opened.metadata() or {}
                if facts.get("format") != _FORMAT:
                    raise CacheError(f"{file}: not a label bank; pass one that `sattxt labels build` wrote")
                if facts.get("version") != _VERSION:
                    raise CacheError(
                        f"{file}: a label bank of version {facts.get('version')}; update sattxt to read it"
                    )
                vectors = opened.get_tensor("vectors")
            if facts.pop("checksum", None) != _checksum(facts, vectors):
                raise CacheError(f"{file}: damaged (its checksum differs); {again}")
            return cls(
                texts=json.loads(facts["texts"]),
                vectors=vectors,
                labels=dict(json.loads(facts["labels"])),
                source=str(file),
                **{key: facts[key] for key in ("space", "model", "instruction", "created")},
            )
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise CacheError(f"{file}: damaged, or no label bank ({error}); {again}") from error

    @classmethod
    def merge(cls, banks: Iterable[LabelBank]) -> LabelBank:
        """One bank with the texts and labels of several, in their order; of a text in two banks the first vector.

        Banks without labels of their own add texts only, as soon as another one has labels.

        Raises:
            BankMismatchError: banks of different text encoders or instructions.
            CacheError: banks contradict each other: other vectors for the same text, other prompts for a label.
        """
        parts = list(banks)
        if not parts:
            raise InputError("nothing to merge; pass at least one label bank")
        first = parts[0]
        owners: dict[str, str] = {}  # of a text, the bank that its vector is from
        vectors: dict[str, FloatArray] = {}
        labels: dict[str, list[str]] = {}
        for number, bank in enumerate(parts, 1):
            name = bank.source or f"label bank {number}"
            if (bank.space, bank.vectors.shape[1]) != (first.space, first.vectors.shape[1]):
                raise BankMismatchError(
                    f"{first.source or 'label bank 1'} ({first.model}) and {name} ({bank.model}) were made by "
                    "different text encoders or instructions; merge banks of one"
                )
            for text, vector in zip(bank.texts, bank.vectors, strict=True):
                kept, owner = vectors.setdefault(text, vector), owners.setdefault(text, name)
                if kept is not vector and np.linalg.norm(vector - kept) > _TOLERANCE * np.linalg.norm(kept):
                    raise CacheError(f"{owner} and {name} hold different vectors for {text!r}; build one of them again")
            for label, prompts in bank.labels.items():
                if labels.setdefault(label, prompts) != prompts:
                    raise CacheError(f"label {label!r} has other prompts in {name} than before it; rename one of them")
        return cls(
            space=first.space,
            texts=tuple(vectors),
            vectors=np.stack(list(vectors.values())),
            labels=labels,
            model=first.model,
            instruction=first.instruction,
        )


def _checksum(facts: Mapping[str, str], vectors: npt.NDArray[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(dict(sorted(facts.items())), ensure_ascii=False).encode())
    digest.update(f"{vectors.dtype}{vectors.shape}".encode())
    digest.update(np.ascontiguousarray(vectors).tobytes())
    return digest.hexdigest()
