"""A model directory: what is in it, how it is written whole or not at all, and how every tensor is checked on reading.

config.json              sizes, preprocessing, text side (sattxt.config.ModelConfig)
vision.safetensors       backbone.*, head.*
text_head.safetensors    ln.weight, ln.bias, proj.weight
text_encoder/            the frozen language model, where it is not elsewhere (optional)
fit.safetensors          what tells whether any label fits: words, pictures, calibration (optional)
openvino/                the image tower as OpenVINO runs it: int8.xml, int8.bin, int8.json (optional)
README.md                the model card
SHA256SUMS               of all of these
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sattxt.config import ModelConfig
from sattxt.errors import ChecksumError, InputError, WeightsError
from sattxt.io import read_json, write_directory
from sattxt.weights.checksums import read_sums, verify_file, verify_sums, write_sums
from sattxt.weights.manifest import model_card

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "config.json"
VISION_FILE = "vision.safetensors"
TEXT_HEAD_FILE = "text_head.safetensors"
TEXT_ENCODER_DIR = "text_encoder"
FIT_FILE = "fit.safetensors"
OPENVINO_DIR = "openvino"
CARD_FILE = "README.md"


@dataclass(frozen=True)
class StoredModel:
    """What :func:`read_model` found: float32 tensors on the CPU.

    vision: as ``load_tower`` takes them; it checks that they fit. text_head, fit: checked; fit may be empty.
    ``text_encoder_dir`` is None where the frozen language model lies elsewhere (``config.text.base``), or nowhere.
    """

    path: Path
    config: ModelConfig
    vision: dict[str, Tensor]
    text_head: dict[str, Tensor]
    text_encoder_dir: Path | None
    fit: dict[str, Tensor] = field(default_factory=dict)


def is_model_dir(path: str | Path) -> bool:
    """Whether ``path`` is a folder that looks like a model directory."""
    return all((Path(path) / name).is_file() for name in (CONFIG_FILE, VISION_FILE, TEXT_HEAD_FILE))


def read_model(path: str | Path, *, vision: bool = True) -> StoredModel:
    """Read a model directory, once every file is found to be as SHA256SUMS says.

    A large file is hashed once, then again only when its size or modification time changes.

    Args:
        path: of the directory.
        vision: ``False`` leaves the tensors of the image side to :func:`read_vision`.

    Raises:
        ChecksumError: a file is not the one that was written.
        WeightsError: a file is missing or damaged; the config is not understood; a tensor of the text head does not fit
            it, or holds NaN or infinity.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no such model directory")
    for name in (CONFIG_FILE, VISION_FILE, TEXT_HEAD_FILE):
        if not (folder / name).is_file():
            found = ", ".join(sorted(item.name for item in folder.iterdir())[:8]) or "nothing"
            raise WeightsError(f"{folder}: {name} is missing from this model directory (it holds {found})")
    config = ModelConfig.read(folder / CONFIG_FILE)
    encoder = folder / TEXT_ENCODER_DIR
    verify_sums(folder, optional=tuple(f"{x}/" for x in (TEXT_ENCODER_DIR, OPENVINO_DIR) if not (folder / x).is_dir()))
    from sattxt.weights.tensors import check_tensors, read_safetensors

    text_head = _as_float32(read_safetensors(folder / TEXT_HEAD_FILE))
    check_tensors(text_head, _text_head_shapes(config), folder / TEXT_HEAD_FILE)
    fit = read_safetensors(folder / FIT_FILE) if (folder / FIT_FILE).is_file() else {}
    if fit:
        rows = {name: (len(fit.get(name, ())), config.embed_dim) for name in ("words", "pictures")}
        check_tensors(fit, {**rows, "floor": (), "scale": (), "bias": ()}, folder / FIT_FILE)
    tensors = read_vision(folder) if vision else {}
    return StoredModel(folder, config, tensors, text_head, encoder if encoder.is_dir() else None, fit)


def read_vision(folder: Path) -> dict[str, Tensor]:
    """The tensors of the image side in float32; whether they make a tower ``load_tower`` tells."""
    from sattxt.weights.tensors import read_safetensors

    return _as_float32(read_safetensors(folder / VISION_FILE))


def _as_float32(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def form_files(precision: str) -> list[str]:
    """Where the image tower lies in a precision as OpenVINO runs it: graph, weights, and what they were made of."""
    return [f"{OPENVINO_DIR}/{precision}.{suffix}" for suffix in ("xml", "bin", "json")]


def read_form(folder: Path, precision: str, size: int) -> Path | None:
    """The graph of the image tower in a precision, once it is found to be whole and of these very weights.

    Args:
        size: side of the images, pixels.

    Returns:
        The ``.xml`` file; ``None`` where the model ships no such form.

    Raises:
        ChecksumError: a file is not the one that was written, or it was made of other weights.
        InputError: it takes images of another size.
    """
    graph, *others = form_files(precision)
    sums = read_sums(folder)
    if graph not in sums and not (folder / graph).exists():
        return None
    for name in (graph, *others):
        if name not in sums:
            raise ChecksumError(f"{folder / name}: is not listed in SHA256SUMS: it was put there later; remove it")
        verify_file(folder / name, sums[name])
    facts = read_json(folder / others[-1])
    if facts.get("vision_sha256") != sums[VISION_FILE]:
        raise ChecksumError(f"{folder / graph}: was made of other weights; make it again with `sattxt optimize`")
    if facts.get("size") != size:
        raise InputError(
            f"{folder / graph}: takes images of {facts.get('size')} pixels, not of {size}; pass backend='torch', or "
            "make one of that size with `sattxt optimize`"
        )
    return folder / graph


def write_model(
    path: str | Path,
    config: ModelConfig,
    vision: Mapping[str, Tensor],
    text_head: Mapping[str, Tensor],
    text_encoder_dir: str | Path | Callable[[Path], object] | None = None,
    card: str | None = None,
    *,
    fit: Mapping[str, Tensor] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model directory, whole or not at all, and return its path.

    The tensors keep their dtype (floating point ones are read back as float32).

    Args:
        path: where; it must not exist, or be empty.
        config: what goes into ``config.json``.
        vision: state dict of a ``VisionTower`` of this config; whether it is one shows when the model is opened.
        text_head: state dict of a ``TextHead`` of this config.
        text_encoder_dir: a folder whose files are copied into ``text_encoder/``, or a function that fills the folder
            it is given.
        card: text of ``README.md``; by default written from the config.
        fit: what goes into ``fit.safetensors``, as :class:`StoredModel` has it; none leaves the file out.
        overwrite: replace a model directory that lies at ``path`` (nothing else is ever replaced).

    Raises:
        InputError: something is at ``path`` already.
        WeightsError: a tensor of the text head does not fit the config, or a tensor holds NaN or infinity.
        DiskFullError: no space is left; nothing is left behind and an existing directory is unchanged.
    """
    from safetensors.torch import save_file

    from sattxt.weights.tensors import check_tensors

    target = Path(path)
    check_target(target, overwrite=overwrite)
    check_tensors(vision, {key: value.shape for key, value in vision.items()}, target / VISION_FILE)
    check_tensors(text_head, _text_head_shapes(config), target / TEXT_HEAD_FILE)
    with _new_directory(target, config) as folder:
        (folder / CARD_FILE).write_text(card or model_card(config), encoding="utf-8")
        for name, state in ((VISION_FILE, vision), (TEXT_HEAD_FILE, text_head), *([(FIT_FILE, fit)] if fit else [])):
            save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, str(folder / name))
        if isinstance(text_encoder_dir, (str, Path)):
            shutil.copytree(text_encoder_dir, folder / TEXT_ENCODER_DIR)
        elif text_encoder_dir is not None:
            text_encoder_dir(folder / TEXT_ENCODER_DIR)
    return target


def weight_sums(path: Path, precision: str = "float32") -> list[tuple[str, str]]:
    """Name and sha256 of the files that embeddings depend on: not the card, ``config.json``, and what tells the fit."""
    form = form_files(precision)[:2] if precision == "int8" else ()
    named = read_sums(path).items()
    return sorted(s for s in named if s[0] in form or (s[0].endswith(".safetensors") and s[0] != FIT_FILE))


def fingerprint(config: ModelConfig, stored: StoredModel | None, precision: str, tower: Any) -> str:
    """16 hex digits over a model's config and weights: its files, or the tensors of a tower that comes from none."""
    # No embedding depends on the window, nor on where the language model lies: its weights_sha256 counts.
    text = replace(config.text, base=None, adapters=())
    config = replace(config, image=replace(config.image, window=None), text=text)
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    if stored is not None:
        digest.update(repr(weight_sums(stored.path, precision)).encode())
    else:
        for name, tensor in tower.state_dict().items():
            digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def copy_model(stored: StoredModel, path: str | Path, add: Callable[[Path], object] | None = None) -> Path:
    """Write a model that was read to another directory: its files as they are, with ``stored.config``.

    Args:
        stored: the model.
        path: as in :func:`write_model`.
        add: called with the new folder before it is closed, to put more files into it.

    Raises:
        InputError: something is at ``path`` already. DiskFullError: as in :func:`write_model`.
    """
    target = Path(path)
    check_target(target)
    with _new_directory(target, stored.config) as folder:
        for name in (VISION_FILE, TEXT_HEAD_FILE, CARD_FILE, FIT_FILE):
            if (stored.path / name).is_file():
                shutil.copyfile(stored.path / name, folder / name)
        if (stored.path / OPENVINO_DIR).is_dir():
            shutil.copytree(stored.path / OPENVINO_DIR, folder / OPENVINO_DIR)
        if stored.text_encoder_dir is not None:
            shutil.copytree(stored.text_encoder_dir, folder / TEXT_ENCODER_DIR)
        if add is not None:
            add(folder)
    return target


@contextmanager
def _new_directory(target: Path, config: ModelConfig) -> Iterator[Path]:
    """A folder that becomes the model directory ``target`` once the block has filled it: config and sums are added."""
    with write_directory(target) as folder:
        yield folder
        text = json.dumps(config.to_dict(), indent=2, ensure_ascii=False) + "\n"
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
        write_sums(folder)


def check_target(target: Path, *, overwrite: bool = False) -> None:
    """Raise InputError unless a model directory may be written to ``target``."""
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: is a file; pass the path of a new folder")
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{target}: is not empty; pass another folder, or overwrite=True to replace the model in it")
    if not is_model_dir(target):
        raise InputError(
            f"{target}: is not empty and holds no sattxt model, so it is not replaced; pass another folder"
        )


def _text_head_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden = config.text.hidden_size
    return {"ln.weight": (hidden,), "ln.bias": (hidden,), "proj.weight": (config.embed_dim, hidden)}
