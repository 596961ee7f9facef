"""Tensors out of checkpoint files: ``.pth`` and ``.pt`` pickles, read without running any code, and safetensors."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sattxt.errors import UnsafePickleError, WeightsError
from sattxt.io import first_line

_WRAPPERS = ("teacher", "model", "state_dict", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.", "backbone.")
_CODE = re.compile(r"unsupported|unrecognized|not an allowed|can only build|blocked", re.IGNORECASE)
_GLOBAL = re.compile(r"GLOBAL\s+`?([\w.]+)")


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, by name, on the CPU and of the dtype they are stored in.

    Accepts what ``torch.save`` wrote (read with ``weights_only=True``: nothing in the file is executed) and
    ``.safetensors``. Wrappers such as ``{"model": ...}`` or ``{"teacher": ...}`` are taken off, and so are the prefixes
    ``module.`` and ``backbone.``.

    Raises:
        UnsafePickleError: the file names code to run; it was not run.
        WeightsError: there is no such file, it is damaged, or it holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, a checkpoint file is needed" if path.is_dir() else "no such file"
        raise WeightsError(f"{path}: {what}")
    if path.suffix == ".safetensors":
        return _unprefixed(read_safetensors(path))
    return _unprefixed(_tensors(_unwrapped(_load_pickle(path)), path))


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        WeightsError: there is no such file, or it is damaged or no safetensors file.
    """
    try:
        return dict(load_file(str(path)))
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: damaged, or not a safetensors file ({first_line(error)})") from error


def read_folder(folder: str | Path) -> dict[str, Tensor]:
    """The tensors of every ``*.safetensors`` file in a folder (the shards of a transformers checkpoint).

    Raises:
        WeightsError: there is none, one is damaged, or two hold a tensor of the same name.
    """
    folder = Path(folder)
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise WeightsError(f"{folder}: holds no .safetensors file")
    state: dict[str, Tensor] = {}
    for shard in shards:
        tensors = read_safetensors(shard)
        twice = sorted(set(tensors) & set(state))
        if twice:
            raise WeightsError(f"{shard}: tensor {twice[0]!r} is also in another file of this folder")
        state.update(tensors)
    return state


def _load_pickle(path: Path) -> Any:
    is_zip = zipfile.is_zipfile(path)
    with open(path, "rb") as stream:
        start = stream.read(4)
    if not is_zip and not start.startswith(b"\x80"):
        cut = "a truncated checkpoint" if start.startswith(b"PK") else "not a checkpoint that torch.save wrote"
        raise WeightsError(f"{path}: {cut}; download it again, or pass a .pth, .pt or .safetensors file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        message = str(error)
        if _CODE.search(message):
            named = _GLOBAL.search(message)
            what = f" ({named.group(1)})" if named else ""
            raise UnsafePickleError(
                f"{path}: holds more than tensors{what}; it was refused and nothing in it was run. "
                "Ask its author for a plain state dict or safetensors"
            ) from error
        raise WeightsError(f"{path}: damaged checkpoint ({first_line(error)}); download it again") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: damaged or truncated checkpoint ({first_line(error)})") from error


def _unwrapped(data: Any) -> Any:
    while isinstance(data, Mapping):
        inner = next((data[key] for key in _WRAPPERS if isinstance(data.get(key), Mapping)), None)
        if inner is None:
            return data
        data = inner
    return data


def _tensors(data: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(data, Mapping):
        raise WeightsError(f"{path}: holds {type(data).__name__}, a state dict (names to tensors) is needed")
    state = {str(key): value for key, value in data.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(f"{path}: holds no tensors; its keys are {_some(map(str, data))}")
    return state


def _unprefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes of training wrappers. Where some keys are ``backbone.*``, the others (heads) are dropped."""
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            inside = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
            if inside:
                state, changed = inside, True
    return state


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:4]) + (", …" if len(listed) > 4 else "") if listed else "none"
