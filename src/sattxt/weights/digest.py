"""Hashes of files, and one digest over several of them.

The digest of a set of files depends on their names and contents only, so a folder on disk and the same files on the
hub (whose listing states every sha256) give the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sattxt.errors import WeightsError

TOKENIZER = "tokenizer.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"

_CHUNK = 1 << 20


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file's bytes, as 64 lower-case hex digits.

    Raises:
        WeightsError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()


def digest_files(files: Iterable[tuple[str, str]]) -> str:
    """One sha256 over (name, sha256) pairs, whatever their order.

    Names are relative paths with forward slashes. Where order matters (adapters are merged one after the other), it
    belongs in the names: ``base/model.safetensors``, ``adapter-0/adapter_model.safetensors``.
    """
    lines = sorted(f"{sha256.lower()}  {name}" for name, sha256 in files)
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def base_files(names: Iterable[str], *, tokenizer: bool = True) -> list[str]:
    """Of a language model's files, those that its digest covers: the weights, and (if wanted) the tokenizer."""
    names = list(names)
    weights = [name for name in names if "/" not in name and name.endswith(".safetensors")]
    return sorted(weights) + [name for name in names if tokenizer and name == TOKENIZER]


def adapter_files(names: Iterable[str]) -> list[str]:
    """Of an adapter's files, those that its digest covers."""
    return sorted(n for n in names if n in (ADAPTER_WEIGHTS, ADAPTER_CONFIG, TOKENIZER))


def encoder_digest(base: Mapping[str, str], adapters: Sequence[Mapping[str, str]]) -> str:
    """The ``weights_sha256`` of a language model with adapters: what decides its vectors, apart from the template.

    Args:
        base: file name to sha256 for at least :func:`base_files` of the model.
        adapters: the same for each adapter (:func:`adapter_files`), in merge order.

    The tokenizer is the first adapter's that has one, else the model's. Names of repositories and folders do not
    enter, so a mirror or a local copy has the same digest.
    """
    pairs = [(f"base/{name}", base[name]) for name in base_files(base, tokenizer=False)]
    for number, files in enumerate(adapters):
        pairs += [(f"adapter-{number}/{name}", files[name]) for name in adapter_files(files) if name != TOKENIZER]
    tokenizers = [files[TOKENIZER] for files in (*adapters, base) if TOKENIZER in files]
    pairs += [(TOKENIZER, sha256) for sha256 in tokenizers[:1]]
    return digest_files(pairs)
