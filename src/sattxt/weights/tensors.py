"""Tensors out of checkpoint files, pickles and safetensors, without running any code; and whether they fit a model."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from sattxt.errors import UnsafePickleError, WeightsError
from sattxt.io import first_line

_WRAPPERS = ("teacher", "model", "state_dict", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.", "backbone.")


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, by name, on the CPU and of the dtype they are stored in.

    Accepts what ``torch.save`` wrote (read with ``weights_only=True``: nothing in the file is executed) and
    ``.safetensors``. Wrappers such as ``{"model": ...}`` or ``{"teacher": ...}`` are taken off, and so are the prefixes
    ``module.`` and ``backbone.``; where some names begin with ``backbone.``, the others (heads) are dropped. The
    names in a dict of state dicts begin with its keys.

    Raises:
        UnsafePickleError: the file names code to run; it was not run.
        WeightsError: there is no such file, it is damaged, or it holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: {'is a folder, a checkpoint file is needed' if path.is_dir() else 'no such file'}")
    state = read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    while prefix := next((p for p in _PREFIXES if any(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state


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
    shards = sorted(Path(folder).glob("*.safetensors"))
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


def weights_bytes(files: Sequence[Path], dtype: torch.dtype, *, skip: tuple[str, ...] = ()) -> int:
    """Bytes that the floating tensors of safetensors files take in ``dtype``, read from the files' headers.

    Tensors whose name starts with one of ``skip`` do not count.

    Raises:
        WeightsError: a file is no safetensors file.
    """
    numbers = 0
    for path in files:
        try:
            with safe_open(path, "pt") as stored:
                slices = [stored.get_slice(name) for name in stored.keys() if not name.startswith(skip)]  # noqa: SIM118
                numbers += sum(math.prod(part.get_shape()) for part in slices if "F" in part.get_dtype())
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path}: cannot be read as safetensors ({first_line(error)})") from error
    return numbers * dtype.itemsize


def require_tensor(state: Mapping[str, Tensor], key: str, ndim: int, where: str) -> Tensor:
    """The tensor ``key``, from which a size is read.

    Raises:
        WeightsError: it is missing, or has not ``ndim`` dimensions; the message begins with ``where``.
    """
    tensor = state.get(key)
    if tensor is None or tensor.ndim != ndim:
        found = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
        names = ", ".join(list(state)[:4])
        raise WeightsError(f"{where}: tensor {key!r} of {ndim} dimensions is needed, it is {found} (there are {names})")
    return tensor


def check_tensors(
    state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], where: object, *, partial: bool = False
) -> None:
    """Check that tensors are those of a model, by name and shape, and hold finite values.

    Args:
        state: tensors by name.
        shapes: names and shapes of the model's tensors.
        where: the file (or what else the tensors come from), for the message.
        partial: tensors of the model may be missing.

    Raises:
        WeightsError: a tensor is missing, unknown, of another shape, or holds NaN or infinity; the message names it.
    """
    for key, shape in shapes.items():
        if key not in state and not partial:
            raise WeightsError(f"{where}: tensor {key!r} is missing; the model needs one of shape {tuple(shape)}")
    for key, value in state.items():
        found = tuple(value.shape)
        if key not in shapes:
            more = len(set(state) - set(shapes))
            raise WeightsError(f"{where}: tensor {key!r} of shape {found} has no place in the model ({more} such)")
        if found != tuple(shapes[key]):
            raise WeightsError(f"{where}: tensor {key!r} has shape {found}, the model needs {tuple(shapes[key])}")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(f"{where}: tensor {key!r} of shape {found} holds NaN or infinite values")


def _read_pickle(path: Path) -> dict[str, Tensor]:
    data = _load_pickle(path)
    while isinstance(data, Mapping) and (inner := [data[k] for k in _WRAPPERS if isinstance(data.get(k), Mapping)]):
        data = inner[0]
    if not isinstance(data, Mapping):
        raise WeightsError(f"{path}: holds {type(data).__name__}, a state dict (names to tensors) is needed")
    parts = {key: part for key, part in data.items() if isinstance(part, Mapping)}
    if parts and not any(isinstance(value, Tensor) for value in data.values()):  # several modules', side by side
        data = {f"{key}.{name}": value for key, part in parts.items() for name, value in part.items()}
    state = {str(key): value for key, value in data.items() if isinstance(value, Tensor)}
    if not state:
        keys = ", ".join(str(key) for key in list(data)[:4]) or "none"
        raise WeightsError(f"{path}: holds no tensors; its keys are {keys}{', …' if len(data) > 4 else ''}")
    return state


def _load_pickle(path: Path) -> Any:
    with open(path, "rb") as stream:
        start = stream.read(4)
    if not start.startswith((b"PK", b"\x80")):  # a zip archive, or a pickle of protocol 2 or later
        raise WeightsError(
            f"{path}: not a checkpoint that torch.save wrote; download it again, or pass a .pth, .pt or .safetensors "
            "file"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(b"PK"))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        of_code = "unsupported|unrecognized|not an allowed|can only build|blocked"
        if isinstance(error, pickle.UnpicklingError) and re.search(of_code, str(error), re.IGNORECASE):
            named = re.search(r"GLOBAL\s+`?([\w.]+)", str(error))
            raise UnsafePickleError(
                f"{path}: holds more than tensors{f' ({named.group(1)})' if named else ''}; it was refused and nothing "
                "in it was run. Ask its author for a plain state dict or safetensors"
            ) from error
        raise WeightsError(
            f"{path}: damaged or truncated checkpoint ({first_line(error)}); download it again"
        ) from error
