"""Label banks: text vectors in one safetensors file, for zero-shot on a machine that has no text encoder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from sattxt.errors import BankMismatchError, CacheError, DiskFullError, InputError
from sattxt.text.cache import Precision, TextCache

_FORMAT = "sattxt-label-bank"
_VERSION = "1"
_HEADER_BYTES = 90_000_000  # safetensors refuses headers of more than 100 MB
#: How far (relative) two vectors of one text may lie apart, by the least precise step they went through.
_TOLERANCE = {"float32": 1e-3, "float16": 5e-3, "bfloat16": 3e-2}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


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
    labels: dict[str, list[str]] | None = None
    model: str = ""
    instruction: str = ""
    created: str = field(default_factory=_now)
    source: str = ""

    def __post_init__(self) -> None:
        self.texts = tuple(self.texts) if not isinstance(self.texts, str) else (self.texts,)
        self.labels = _clean_labels(self.labels)
        vectors = np.asarray(self.vectors)
        if not isinstance(self.space, str) or not self.space:
            raise InputError("a label bank needs the text encoder's fingerprint as its space")
        known = _check_texts(self.texts)
        if vectors.dtype.kind != "f" or vectors.ndim != 2 or len(vectors) != len(self.texts) or vectors.shape[1] == 0:
            raise InputError(
                f"vectors are {vectors.dtype} {vectors.shape}; {len(self.texts)} texts need floats of shape "
                f"({len(self.texts)}, hidden)"
            )
        kept = np.float16 if vectors.dtype == np.float16 else np.float32
        with np.errstate(over="ignore"):
            self.vectors = np.ascontiguousarray(vectors, dtype=kept)
        finite = np.isfinite(self.vectors).all(axis=1)
        if not finite.all():
            raise InputError(f"the vector of {self.texts[int(np.argmin(finite))]!r} is not finite in {np.dtype(kept)}")
        for label, prompts in self.labels.items():
            absent = next((prompt for prompt in prompts if prompt not in known), None)
            if absent is not None or not prompts:
                what = "has no prompts" if absent is None else f"has a prompt without a vector: {absent!r}"
                raise InputError(f"label {label!r} {what}")

    @property
    def precision(self) -> Precision:
        """Of the vectors: ``"float32"`` or ``"float16"``."""
        return "float16" if self.vectors.dtype == np.float16 else "float32"

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

        if precision not in ("float32", "float16"):
            raise InputError(f"precision={precision!r}: pass 'float32' or 'float16'")
        target = Path(os.path.realpath(Path(path).expanduser()))
        vectors = self.vectors
        if precision == "float16":
            with np.errstate(over="ignore"):
                vectors = vectors.astype(np.float16)
            if not np.isfinite(vectors).all():
                raise CacheError(f"{path}: vectors hold values too large for float16; save with precision='float32'")
        content = {"texts": list(self.texts), "labels": list((self.labels or {}).items())}
        facts = {
            "format": _FORMAT,
            "version": _VERSION,
            "space": self.space,
            "dtype": self.dtype,
            "model": self.model,
            "instruction": self.instruction,
            "created": self.created,
            **{key: json.dumps(value, ensure_ascii=False) for key, value in content.items()},
        }
        facts["checksum"] = _checksum(facts, vectors)
        if sum(len(json.dumps(value, ensure_ascii=False).encode()) for value in facts.values()) > _HEADER_BYTES:
            raise CacheError(f"{path}: the texts are too long for one file; save them as several banks")
        _write_whole(target, save({"vectors": vectors}, metadata=facts))
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
        wide = np.result_type(*(bank.vectors.dtype for bank in parts))
        place: dict[str, int] = {}
        owner: list[int] = []
        rows: list[npt.NDArray[Any]] = []
        for number, bank in enumerate(parts):
            for text, vector in zip(bank.texts, bank.vectors, strict=True):
                index = place.setdefault(text, len(rows))
                if index == len(rows):
                    rows.append(vector)
                    owner.append(number)
                    continue
                _check_same_vector(text, rows[index], vector, dtype, names[owner[index]], names[number])
                if vector.dtype == np.float32 and rows[index].dtype == np.float16:
                    rows[index], owner[index] = vector, number
        return cls(
            space=parts[0].space,
            texts=tuple(place),
            vectors=np.stack([row.astype(wide) for row in rows]),
            dtype=dtype,
            labels=_merge_labels(parts, names),
            model=next((bank.model for bank in parts if bank.model), ""),
            instruction=parts[0].instruction,
        )

    # -- the text cache ----------------------------------------------------------------------------------------

    def to_cache(self, cache: TextCache, space_key: str | None = None) -> int:
        """Put the vectors into a text cache, in their own precision; returns how many were new.

        Args:
            space_key: the cache's space; default: the bank's, where models look for imported texts.
        """
        return cache.put_many(self.space if space_key is None else space_key, self.texts, self.vectors)

    @classmethod
    def from_cache(
        cls,
        cache: TextCache,
        space_key: str,
        texts: Sequence[str],
        *,
        labels: Mapping[str, Sequence[str]] | None = None,
        model: str = "",
        instruction: str = "",
    ) -> LabelBank:
        """A bank of texts that are cached under ``space_key``, a fingerprint with or without ``":precision"``.

        The vectors are float16 where all rows are, else float32.

        Raises:
            CacheError: a text is not cached.
        """
        found = dict(cache.iter_many(space_key, texts))
        unique = list(dict.fromkeys(texts))
        absent = [text for text in unique if text not in found]
        if absent:
            raise CacheError(
                f"{cache.path}: {len(absent)} of {len(unique)} texts are not cached, such as {absent[0]!r}"
            )
        if not unique:
            raise InputError("texts is empty; pass at least one text")
        space, _, dtype = space_key.partition(":")
        vectors = np.stack([found[text] for text in unique])
        kept = {label: list(prompts) for label, prompts in (labels or {}).items()}
        return cls(space, tuple(unique), vectors, dtype=dtype, labels=kept, model=model, instruction=instruction)

    def summary(self) -> str:
        """A few lines to print: where it comes from, what it holds."""
        lines = [
            f"label bank of {self.model or 'an unnamed model'}" + (f", from {self.source}" if self.source else ""),
            f"  {len(self.texts)} texts, {len(self.labels or {})} labels",
            f"  vectors: {self.vectors.shape[1]} wide, {self.precision}"
            + (f", computed in {self.dtype}" if self.dtype else ""),
            f"  text encoder: {self.space[:16]}",
            f"  created: {self.created}",
        ]
        if self.instruction:
            lines.insert(3, f"  instruction: {self.instruction}")
        return "\n".join(lines)


def _clean_labels(labels: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    clean: dict[str, list[str]] = {}
    for label, prompts in (labels or {}).items():
        if isinstance(prompts, str) or not all(isinstance(text, str) for text in (label, *prompts)):
            raise InputError(f"label {label!r} needs a list of prompts, all strings")
        clean[label] = list(prompts)
    return clean


def _check_texts(texts: Sequence[str]) -> set[str]:
    if not texts:
        raise InputError("a label bank needs at least one text")
    known: set[str] = set()
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"texts[{index}] is {type(text).__name__}; pass strings only")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"texts[{index}] is not valid Unicode ({error.reason}); pass clean text") from error
        if text in known:
            raise InputError(f"texts[{index}] {text!r} is there twice; pass every text once")
        known.add(text)
    return known


def _checksum(facts: Mapping[str, str], vectors: npt.NDArray[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(dict(sorted(facts.items())), ensure_ascii=False).encode())
    digest.update(f"{vectors.dtype}{vectors.shape}".encode())
    digest.update(np.ascontiguousarray(vectors).tobytes())
    return digest.hexdigest()


def _common_encoder(parts: Sequence[LabelBank], names: Sequence[str]) -> str:
    """The precision all banks were computed in; refuses banks that do not come from one encoder."""
    first, first_name = parts[0], names[0]
    dtype, dtype_name = "", ""
    for bank, name in zip(parts, names, strict=True):
        if bank.space != first.space:
            raise BankMismatchError(
                f"{first_name} ({first.model}) and {name} ({bank.model}) were made by different text encoders or "
                "instructions; merge banks of one"
            )
        if bank.vectors.shape[1] != first.vectors.shape[1]:
            raise BankMismatchError(
                f"{first_name} has vectors of width {first.vectors.shape[1]} and {name} of {bank.vectors.shape[1]}"
            )
        if bank.dtype and dtype and bank.dtype != dtype:
            raise BankMismatchError(
                f"{dtype_name} was computed in {dtype} and {name} in {bank.dtype}; build one of them again"
            )
        if bank.dtype and not dtype:
            dtype, dtype_name = bank.dtype, name
    return dtype


def _check_same_vector(
    text: str, one: npt.NDArray[Any], other: npt.NDArray[Any], dtype: str, one_name: str, other_name: str
) -> None:
    a, b = one.astype(np.float64), other.astype(np.float64)
    allowed = max(_TOLERANCE[str(one.dtype)], _TOLERANCE[str(other.dtype)], _TOLERANCE.get(dtype, 0.0))
    scale = max(float(np.linalg.norm(a)), float(np.linalg.norm(b)), 1e-12)
    if float(np.linalg.norm(a - b)) / scale > allowed:
        raise CacheError(f"{one_name} and {other_name} hold different vectors for {text!r}; build one of them again")


def _merge_labels(parts: Sequence[LabelBank], names: Sequence[str]) -> dict[str, list[str]]:
    merged: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for bank, name in zip(parts, names, strict=True):
        for label, prompts in (bank.labels or {}).items():
            if merged.setdefault(label, prompts) != prompts:
                raise CacheError(
                    f"label {label!r} has other prompts in {owner[label]} than in {name}; rename one of them"
                )
            owner.setdefault(label, name)
    return merged


def _write_whole(target: Path, data: bytes) -> None:
    """Write beside the target, then put it in place in one step."""
    draft = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with draft.open("xb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(draft, target)
    except BaseException as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            _raise_typed(error, target)
        raise


def _raise_typed(error: OSError, target: Path) -> NoReturn:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise DiskFullError(f"{target}: no space left on the disk; what was there before is kept") from error
    raise CacheError(f"{target}: cannot be written ({error.strerror or error}); pass another path") from error
