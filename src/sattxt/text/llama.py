"""The published text encoder's weights: a Llama checkpoint and LoRA adapters, checked, loaded, merged, saved.

Only safetensors are opened. The adapters' configs name a class of the ``llm2vec`` package; peft does not need it to
merge them, and it is never imported. Whether the weights fit into memory is asked before they are loaded, so that the
answer is an error and not a killed process.
"""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sattxt.errors import MissingExtraError, NotEnoughMemoryError, WeightsError
from sattxt.io import first_line, read_json

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth")
_NOT_USED = ("lm_head.",)  # of a causal LM's checkpoint
_HEADROOM = 1.05  # room for activations beside the weights


def load_merged(
    base: Path, adapters: Sequence[Path], *, dtype: torch.dtype, device: torch.device, device_map: str | None = None
) -> Any:
    """A transformers ``LlamaModel`` with adapters merged in order; errors as the class's.

    It is causal unless it is given :func:`bidirectional_mask`.
    """
    from safetensors import SafetensorError
    from transformers import LlamaModel

    _check_folder(base, ("config.json", "*.safetensors"), "model_type", "llama", "a Llama checkpoint")
    for adapter in adapters:
        _check_folder(adapter, _ADAPTER_FILES, "peft_type", "LORA", "a peft LoRA adapter")
    for package, purpose in (
        ("peft", "merging the text encoder's adapters" if adapters else None),
        ("accelerate", None if device_map is None else f"device_map={device_map!r}"),
    ):
        if purpose is not None and find_spec(package) is None:
            raise MissingExtraError("llm", package, purpose)
    placement: Any = device_map
    if device_map is None and device.type != "cpu" and find_spec("accelerate") is not None:
        placement = {"": device}  # straight to the device, not through the CPU's memory
    needed = weights_bytes(sorted(base.glob("*.safetensors")), dtype, skip=_NOT_USED)
    require_memory(needed, device, dtype=dtype, spread=device_map is not None)
    try:
        loaded: Any = LlamaModel.from_pretrained(
            base,
            dtype=dtype,
            attn_implementation="sdpa",
            device_map=placement,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise WeightsError(f"{base}: the language model cannot be loaded ({first_line(error)})") from error
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise WeightsError(f"{base}: tensor {missing[0]} ({len(missing)} in all) is missing from its safetensors files")
    if placement is None:
        model = model.to(device)
    for adapter in adapters:
        model = _merge(model, adapter)
    return model.eval().requires_grad_(False)


def save_merged(base: Path, adapters: Sequence[Path], folder: Path) -> None:
    """Merge adapters into a language model and write it as one folder, in the base's own precision.

    Args:
        base, adapters: local folders. folder: is made if it does not exist.

    Raises:
        WeightsError, NotEnoughMemoryError, MissingExtraError: as of :class:`sattxt.text.llm2vec.LLM2VecEncoder`.
    """
    from safetensors import safe_open

    with safe_open(min(base.glob("*.safetensors")), "pt") as stored:
        dtype: torch.dtype = stored.get_tensor(next(iter(stored.keys()))).dtype
    model = load_merged(base, adapters, dtype=dtype, device=torch.device("cpu"))
    model.save_pretrained(folder)
    for path in tokenizer_folder(base, adapters).glob("tokenizer*.json"):
        shutil.copyfile(path, folder / path.name)


def bidirectional_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, L) of 1 (token) and 0 (padding) to the (B, 1, L, L) additive mask by which every token sees every token."""
    hidden = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask == 0, torch.finfo(dtype).min)
    return hidden[:, None, None, :].expand(-1, 1, mask.shape[1], -1)


def tokenizer_folder(base: Path, adapters: Sequence[Path]) -> Path:
    """The first adapter that brings a tokeniser, else the base model."""
    return next((folder for folder in adapters if (folder / "tokenizer.json").is_file()), base)


def weights_bytes(files: Sequence[Path], dtype: torch.dtype, *, skip: tuple[str, ...] = ()) -> int:
    """Bytes that the floating tensors of safetensors files take in ``dtype``, read from the files' headers.

    Tensors whose name starts with one of ``skip`` do not count.

    Raises:
        WeightsError: a file is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    numbers = 0
    for path in files:
        try:
            with safe_open(path, "pt") as stored:
                slices = [stored.get_slice(name) for name in stored.keys() if not name.startswith(skip)]  # noqa: SIM118
                numbers += sum(math.prod(part.get_shape()) for part in slices if "F" in part.get_dtype())
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path}: cannot be read as safetensors ({first_line(error)})") from error
    return numbers * dtype.itemsize


def require_memory(needed: int, device: torch.device, *, dtype: torch.dtype, spread: bool) -> None:
    """Raise :class:`NotEnoughMemoryError` with both figures unless ``needed`` bytes (and 5 %) are free."""
    needed = int(needed * _HEADROOM)
    free = available_bytes(device, spread=spread)
    if needed > free:
        where = "all devices together have" if spread else f"{device} has"
        raise NotEnoughMemoryError(
            f"the text encoder needs {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')}, {where} "
            f"{free / 1e9:.1f} GB free; encode the labels on a larger machine with `sattxt labels build` and load that "
            "file here with `import_labels`"
        )


def available_bytes(device: torch.device, *, spread: bool = False) -> int:
    """Free memory of a device; ``spread``: of all CUDA devices and the CPU together."""
    if device.type == "cuda" and not spread:
        return int(torch.cuda.mem_get_info(device)[0])
    cuda = sum(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())) if spread else 0
    return cuda + _cpu_available()


def _cpu_available() -> int:
    """The least of what the system says is available, all memory there is, and what the container's limit leaves."""
    found = [1 << 62]
    with suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError, KeyError):  # Linux
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(1024 * int(dict(line.split()[:2] for line in lines)["MemAvailable:"]))
    with suppress(OSError, ValueError, KeyError):  # control groups, version 2; the page cache is not counted as used
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        cached = int(stat["inactive_file"]) + int(stat["active_file"])
        found.append(max(0, limit - max(0, used - cached)))
    return min(found)


def _merge(model: Any, adapter: Path) -> Any:
    """One LoRA merged into the weights; all of its tensors must have a place in the model."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a renamed property
            wrapped = PeftModel.from_pretrained(model, str(adapter))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(  # the first line names no tensor
            f"{adapter}: the adapter does not fit the language model ({' '.join(str(error).split())[:300]})"
        ) from error
    with safe_open(adapter / "adapter_model.safetensors", "pt") as stored:
        different = sorted(set(stored.keys()) ^ set(get_peft_model_state_dict(wrapped, save_embedding_layers=False)))
    if different:
        raise WeightsError(f"{adapter}: the adapter does not fit the language model (tensor {different[0]})")
    return wrapped.merge_and_unload()


def _check_folder(folder: Path, names: Sequence[str], key: str, needed: str, kind: str) -> None:
    """Refuse a folder that lacks a file or holds pickles in its place, or whose config (the first file) differs."""
    missing = [name for name in names if not any(folder.glob(name))]
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if missing and pickles:
        raise WeightsError(
            f"{folder}: {pickles[0]} is a pickle, which can hold code, and was not opened; save the weights as "
            "safetensors (save_pretrained of current transformers or peft does)"
        )
    if missing:
        raise WeightsError(f"{folder}: {missing[0]} is missing; pass the folder of {kind}")
    found = read_json(folder / names[0]).get(key)
    if found != needed:
        raise WeightsError(f"{folder}: {key} is {found!r}; {needed!r} is needed")
