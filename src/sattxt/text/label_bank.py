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

from sattxt.errors import BankMismatchError, CacheError, DiskFullError, InputError, WeightsError
from sattxt.io import atomic_write, first_line
from sattxt.text.cache import Precision, TextCache, as_stored, check_precision
from sattxt.text.encoder import check_texts

_FORMAT = "sattxt-label-bank"
_VERSION = "1"
_HEADER_BYTES = 90_000_000  # safetensors refuses headers of more than 100 MB
#: How far (relative) two vectors of one text may lie apart, by the least precise step they went through.
_TOLERANCE = {"float32": 1e-3, "float16": 5e-3, "bfloat16": 3e-2}


@dataclass(eq=False)
class LabelBank:
    """Pooled text vectors with all that must be known to use them.

    Attributes:
        space: the text encoder's fingerprint, without a precision; a model takes only banks of its own encoder.
        texts: N different texts, exact.
        vectors: (N, hidden) float32 or float16, finite. float16 is kept; any other float type becomes float32.
        dtype: precision the encoder ran in (``"bfloat16"``), or ``""`` where it is not known.
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
    vectors: npt.NDArray[Any]
    dtype: str = ""
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
            self.vectors = as_stored(self.vectors, len(self.texts), "float32")
        except CacheError as error:
            raise InputError(str(error)) from error
        for label, prompts in self.labels.items():
            if isinstance(prompts, str) or not all(isinstance(text, str) for text in (label, *prompts)):
                raise InputError(f"label {label!r} needs a list of prompts, all strings")
            absent = next((prompt for prompt in prompts if prompt not in known), None)
            if absent is not None or not prompts:
                what = "has no prompts" if absent is None else f"has a prompt without a vector: {absent!r}"
                raise InputError(f"label {label!r} {what}")
        self.labels = {label: list(prompts) for label, prompts in self.labels.items()}

    @property
    def precision(self) -> Precision:
        """Of the vectors: ``"float32"`` or ``"float16"``."""
        return "float16" if self.vectors.dtype == np.float16 else "float32"

    @property
    def prompts(self) -> dict[str, list[str]]:
        """Label to its prompts; where the bank has no labels, every text is its own."""
        return self.labels or {text: [text] for text in self.texts}

    # -- files -------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], precision: Precision = "float32") -> Path:
        """Write one safetensors file, whole or not at all; an older file of that name stays until then.

        Args:
            precision: ``"float16"`` halves the file and rounds the vectors. ``"float32"`` writes them as they are
                (float16 vectors stay float16: nothing would be gained).

        Raises:
            DiskFullError: no space is left; an older file is untouched.
            CacheError: the file cannot be written, or values are too large for float16.
        """
        from safetensors.numpy import save

        target = Path(os.path.realpath(Path(path).expanduser()))
        vectors = as_stored(self.vectors, len(self.texts), check_precision(precision))
        facts = {
            "format": _FORMAT,
            "version": _VERSION,
            "space": self.space,
            "dtype": self.dtype,
            "model": self.model,
            "instruction": self.instruction,
            "created": self.created,
            "texts": json.dumps(list(self.texts), ensure_ascii=False),
            "labels": json.dumps(list(self.labels.items()), ensure_ascii=False),
        }
        facts["checksum"] = _checksum(facts, vectors)
        if sum(len(json.dumps(value, ensure_ascii=False).encode()) for value in facts.values()) > _HEADER_BYTES:
            raise CacheError(f"{path}: the texts are too long for one file; save them as several banks")
        if not target.parent.is_dir():
            raise CacheError(f"{target}: cannot be written (no such folder); pass another path")
        try:
            with atomic_write(target) as file:
                file.write(save({"vectors": vectors}, metadata=facts))
                file.flush()
                os.fsync(file.fileno())
        except DiskFullError:
            raise
        except (OSError, WeightsError) as error:
            raise CacheError(f"{target}: cannot be written ({first_line(error)}); pass another path") from error
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LabelBank:
        """Read a label bank.

        Raises:
            CacheError: the file cannot be read, is damaged, or is no label bank.
        """
        from safetensors import SafetensorError, safe_open

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
        except (SafetensorError, OSError, TypeError) as error:
            raise CacheError(f"{file}: damaged, or no label bank ({error}); {again}") from error
        if facts.pop("checksum", None) != _checksum(facts, vectors):
            raise CacheError(f"{file}: damaged (its checksum differs); {again}")
        try:
            return cls(
                space=facts["space"],
                texts=json.loads(facts["texts"]),
                vectors=vectors,
                dtype=facts["dtype"],
                labels=dict(json.loads(facts["labels"])),
                model=facts["model"],
                instruction=facts["instruction"],
                created=facts["created"],
                source=str(file),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise CacheError(f"{file}: not a sound label bank ({error}); {again}") from error

    # -- putting together --------------------------------------------------------------------------------------

    @classmethod
    def merge(cls, *banks: LabelBank | Iterable[LabelBank]) -> LabelBank:
        """One bank with the texts and labels of several, in their order.

        Of a text that is in two banks the more precise vector is kept, else the first. Banks without labels of their
        own add texts only, as soon as another one has labels. Values are never rounded: float16 vectors are widened
        where another bank's are float32.

        Raises:
            BankMismatchError: banks of different text encoders, or of different precisions of one.
            CacheError: banks contradict each other: other vectors for the same text, other prompts for a label.
        """
        parts = [bank for given in banks for bank in ([given] if isinstance(given, LabelBank) else given)]
        if not parts:
            raise InputError("nothing to merge; pass at least one label bank")
        names = [bank.source or f"label bank {number}" for number, bank in enumerate(parts, 1)]
        dtype = _common_encoder(parts, names)
        vectors: dict[str, tuple[npt.NDArray[Any], str]] = {}  # each with the name of the bank it is from
        labels: dict[str, tuple[list[str], str]] = {}
        for bank, name in zip(parts, names, strict=True):
            for text, vector in zip(bank.texts, bank.vectors, strict=True):
                kept, owner = vectors.setdefault(text, (vector, name))
                if kept is not vector:
                    _check_same_vector(text, kept, vector, dtype, owner, name)
                    if vector.itemsize > kept.itemsize:
                        vectors[text] = vector, name
            for label, prompts in bank.labels.items():
                known, owner = labels.setdefault(label, (prompts, name))
                if known != prompts:
                    raise CacheError(f"label {label!r} has other prompts in {owner} than in {name}; rename one of them")
        return cls(
            space=parts[0].space,
            texts=tuple(vectors),
            vectors=np.stack([vector for vector, _ in vectors.values()]),
            dtype=dtype,
            labels={label: prompts for label, (prompts, _) in labels.items()},
            model=next((bank.model for bank in parts if bank.model), ""),
            instruction=parts[0].instruction,
        )

    def to_cache(self, cache: TextCache) -> int:
        """Put the vectors into a text cache, in their own precision, where models look for imported texts.

        Returns:
            How many texts were new to it.
        """
        return cache.put_many(self.space, self.texts, self.vectors)


def _checksum(facts: Mapping[str, str], vectors: npt.NDArray[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(dict(sorted(facts.items())), ensure_ascii=False).encode())
    digest.update(f"{vectors.dtype}{vectors.shape}".encode())
    digest.update(np.ascontiguousarray(vectors).tobytes())
    return digest.hexdigest()


def _common_encoder(parts: Sequence[LabelBank], names: Sequence[str]) -> str:
    """The precision all banks were computed in; refuses banks that do not come from one encoder."""
    first = parts[0]
    precisions: dict[str, str] = {}  # each with the first bank that was computed in it
    for bank, name in zip(parts, names, strict=True):
        if bank.space != first.space:
            raise BankMismatchError(
                f"{names[0]} ({first.model}) and {name} ({bank.model}) were made by different text encoders or "
                "instructions; merge banks of one"
            )
        if bank.vectors.shape[1] != first.vectors.shape[1]:
            raise BankMismatchError(
                f"{names[0]} has vectors of width {first.vectors.shape[1]} and {name} of {bank.vectors.shape[1]}"
            )
        if bank.dtype:
            precisions.setdefault(bank.dtype, name)
    if len(precisions) > 1:
        (one, one_name), (other, other_name), *_ = precisions.items()
        raise BankMismatchError(
            f"{one_name} was computed in {one} and {other_name} in {other}; build one of them again"
        )
    return next(iter(precisions), "")


def _check_same_vector(
    text: str, one: npt.NDArray[Any], other: npt.NDArray[Any], dtype: str, one_name: str, other_name: str
) -> None:
    a, b = one.astype(np.float64), other.astype(np.float64)
    allowed = max(_TOLERANCE[str(one.dtype)], _TOLERANCE[str(other.dtype)], _TOLERANCE.get(dtype, 0.0))
    scale = max(float(np.linalg.norm(a)), float(np.linalg.norm(b)), 1e-12)
    if float(np.linalg.norm(a - b)) / scale > allowed:
        raise CacheError(f"{one_name} and {other_name} hold different vectors for {text!r}; build one of them again")
