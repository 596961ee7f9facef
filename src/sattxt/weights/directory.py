"""A model directory: what is in it, how it is written whole or not at all, and how every tensor is checked on reading.

config.json              sizes, preprocessing, text side (sattxt.config.ModelConfig)
vision.safetensors       backbone.*, head.*
text_head.safetensors    ln.weight, ln.bias, proj.weight
text_encoder/            the frozen language model, where it is not elsewhere (optional)
fit.safetensors          what tells whether any label fits: words, pictures, calibration (optional)
README.md                the model card
SHA256SUMS               of all of these
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sattxt.config import ModelConfig
from sattxt.errors import InputError, WeightsError
from sattxt.io import write_directory
from sattxt.weights.checksums import read_sums, verify_sums, write_sums
from sattxt.weights.manifest import model_card

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "config.json"
VISION_FILE = "vision.safetensors"
TEXT_HEAD_FILE = "text_head.safetensors"
TEXT_ENCODER_DIR = "text_encoder"
FIT_FILE = "fit.safetensors"
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


def read_model(path: str | Path) -> StoredModel:
    """Read a model directory, once every file is found to be as SHA256SUMS says.

    A large file is hashed once, then again only when its size or modification time changes.

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
    verify_sums(folder, optional=() if encoder.is_dir() else (TEXT_ENCODER_DIR + "/",))
    from sattxt.weights.tensors import check_tensors, read_safetensors

    read = [read_safetensors(folder / name) for name in (VISION_FILE, TEXT_HEAD_FILE)]
    vision, text_head = ({k: v.float() if v.is_floating_point() else v for k, v in state.items()} for state in read)
    check_tensors(text_head, _text_head_shapes(config), folder / TEXT_HEAD_FILE)
    fit = read_safetensors(folder / FIT_FILE) if (folder / FIT_FILE).is_file() else {}
    if fit:
        rows = {name: (len(fit.get(name, ())), config.embed_dim) for name in ("words", "pictures")}
        check_tensors(fit, {**rows, "floor": (), "scale": (), "bias": ()}, folder / FIT_FILE)
    return StoredModel(folder, config, vision, text_head, encoder if encoder.is_dir() else None, fit)


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


def weight_sums(path: Path) -> list[tuple[str, str]]:
    """Name and sha256 of the files that embeddings depend on: not the card, ``config.json``, and what tells the fit."""
    return sorted(s for s in read_sums(path).items() if s[0].endswith(".safetensors") and s[0] != FIT_FILE)


def copy_model(stored: StoredModel, path: str | Path) -> Path:
    """Write a model that was read to another directory: its files as they are, with ``stored.config``.

    Raises:
        InputError: something is at ``path`` already. DiskFullError: as in :func:`write_model`.
    """
    target = Path(path)
    check_target(target)
    with _new_directory(target, stored.config) as folder:
        for name in (VISION_FILE, TEXT_HEAD_FILE, CARD_FILE, FIT_FILE):
            if (stored.path / name).is_file():
                shutil.copyfile(stored.path / name, folder / name)
        if stored.text_encoder_dir is not None:
            shutil.copytree(stored.text_encoder_dir, folder / TEXT_ENCODER_DIR)
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
