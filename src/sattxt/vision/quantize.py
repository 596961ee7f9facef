"""The image tower exported for OpenVINO, in float32 or int8 (extra ``openvino``).

The first layers see how little a dark, even tile varies; in 8 bits, whose steps are as wide as the brightest tile
needs, that is lost, and no later layer brings it back. How many of them stay in float is measured: as many as it takes
until the embeddings of the calibration tiles agree with those in float32.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sattxt.config import ModelConfig
from sattxt.errors import InputError, import_extra
from sattxt.images.load import sources_of
from sattxt.vision.embeddings import FloatArray, unit_rows
from sattxt.vision.openvino import import_openvino, logging_kept, trace
from sattxt.vision.tower import load_tower
from sattxt.weights.checksums import sha256_file
from sattxt.weights.directory import VISION_FILE, form_files, read_vision

#: Tiles that are drawn where none are given, and at most used of those that are.
CALIBRATION_TILES = 300
_LAYERS = ("Convolution", "GroupConvolution", "MatMul")
_FLOAT = {"INFERENCE_PRECISION_HINT": "f32"}
_MOST_FLOAT = 6  # layers
_BATCH = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Agreement:
    """Cosine of int8 embeddings with those of float32, over the calibration tiles."""

    worst: float
    first_percentile: float
    median: float

    @property
    def good(self) -> bool:
        """Whether the int8 form can stand for the float32 one."""
        return self.worst >= 0.95 and self.first_percentile >= 0.985


def quantize_graph(graph: Any, pixels: Tensor, *, transformer: bool) -> tuple[Any, list[str], Agreement]:
    """A float32 graph in int8, but for the layers that must stay in float.

    Args:
        graph: as ``trace`` makes it.
        pixels: (N, 3, S, S) float32 pixel values to calibrate with; ranges and errors are measured on them.
        transformer: whether the backbone is one, for nncf's choice of what to quantise.

    Returns:
        The int8 graph, the names of the layers left in float, and how well it agrees.
    """
    nncf = import_extra("nncf", "openvino", "nncf", "quantisation to int8")
    nncf.set_log_level(logging.ERROR)
    data = nncf.Dataset([tile[None].numpy() for tile in pixels])
    wanted = _embeddings(graph, pixels)

    def quantized(kept: Sequence[str], *, exact: bool) -> tuple[Any, Agreement]:
        made = nncf.quantize(
            graph,
            data,
            subset_size=len(pixels),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            fast_bias_correction=not exact,
            ignored_scope=nncf.IgnoredScope(names=list(kept)) if kept else None,
        )
        cosines = (unit_rows(_embeddings(made, pixels)) * unit_rows(wanted)).sum(axis=1)
        return made, Agreement(*(round(float(np.percentile(cosines, q)), 4) for q in (0, 1, 50)))

    layers = [op.get_friendly_name() for op in graph.get_ordered_ops() if op.get_type_name() in _LAYERS]
    for count in range(_MOST_FLOAT + 1):
        made, agreement = quantized(layers[:count], exact=False)
        log.info("first %d layers in float: %s", count, agreement)
        if agreement.good:
            break
    kept = layers[:count]
    if not transformer:  # correcting biases layer after layer: minutes for a large model, and it needs it less
        made, agreement = quantized(kept, exact=True)
    if not agreement.good:
        log.warning("int8 agrees little with float32 on the calibration tiles: %s", agreement)
    return made, kept, agreement


def _embeddings(graph: Any, pixels: Tensor) -> FloatArray:
    """(N, 2 D) embeddings [cls ; mean(patch)] by a graph."""
    compiled = import_openvino().Core().compile_model(graph, "CPU", _FLOAT)
    rows: list[FloatArray] = []
    for start in range(0, len(pixels), _BATCH):
        _, cls, patches = compiled([pixels[start : start + _BATCH].numpy()]).values()
        rows.append(np.concatenate([cls, patches.mean(axis=1)], axis=1))
    return np.concatenate(rows)


def add_form(
    config: ModelConfig, preprocess: Callable[[Any], Tensor], precision: str, images: Any
) -> Callable[[Path], None]:
    """What puts the OpenVINO form of a model's image side into its directory.

    Args:
        config: of the model. preprocess: images to pixel values.
        precision: ``"int8"`` or ``"float32"``.
        images: to calibrate int8 with; ``None``: drawn ones.

    Raises:
        InputError: no such precision, or no images. MissingExtraError: a package is not installed.
    """
    if precision not in ("int8", "float32"):
        raise InputError(f"quantize={precision!r}: pass 'int8', or None for float32")
    ov = import_openvino()
    facts: dict[str, Any] = {
        "precision": precision,
        "size": config.image.size,
        "openvino": ov.__version__.split("-")[0],
    }
    pixels: Tensor | None = None
    if precision == "int8":
        facts["nncf"] = import_extra("nncf", "openvino", "nncf", "quantisation to int8").__version__
        chosen = draw_tiles(CALIBRATION_TILES, config.image.size) if images is None else list(sources_of(images))
        if not chosen:
            raise InputError("calibration: no images; pass some, or None for drawn ones")
        spread = np.linspace(0, len(chosen) - 1, min(len(chosen), CALIBRATION_TILES)).astype(int)
        chosen = [chosen[index] for index in spread]
        facts["calibration"] = f"{len(chosen)} {'drawn' if images is None else 'given'} tiles"
        pixels = preprocess(chosen).as_subclass(Tensor)

    @logging_kept()
    def add(folder: Path) -> None:
        tower = load_tower(config.vision, read_vision(folder), folder / VISION_FILE)
        graph = trace(tower.for_inference(torch.float32), config.image.size)
        if pixels is not None:
            transformer = config.vision.backbone.model_type != "mobilenet_v1"
            graph, kept, agreement = quantize_graph(graph, pixels, transformer=transformer)
            facts.update(layers_in_float=kept, cosine_with_float32=asdict(agreement))
        facts["vision_sha256"] = sha256_file(folder / VISION_FILE)
        target, _, described = (folder / name for name in form_files(precision))
        target.parent.mkdir(exist_ok=True)
        ov.save_model(graph, target, compress_to_fp16=precision == "int8")
        described.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    return add


def draw_tiles(count: int, side: int) -> list[NDArray[np.uint8]]:
    """(side, side, 3) tiles of no place: clouds of noise at several scales, bright and dark, even and rough, with
    patches and rows of rectangles of other colours in them. The same ones every time.
    """
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    across, down = np.meshgrid(np.arange(side), np.arange(side))

    def clouds() -> FloatArray:
        phases = random.standard_normal(frequency.shape) + 1j * random.standard_normal(frequency.shape)
        field = np.fft.irfft2(phases * frequency ** -random.uniform(0.8, 2.2), s=(side, side))
        return np.asarray(field / field.std(), dtype=np.float32)

    def rectangles() -> NDArray[np.bool_]:
        angle, wide, high = random.uniform(0, np.pi), *random.uniform(0.03, 0.5, 2) * side
        along, aside = (across * np.cos(angle + turn) + down * np.sin(angle + turn) for turn in (0, np.pi / 2))
        return (along % wide < random.uniform(0.2, 0.6) * wide) & (aside % high < random.uniform(0.3, 0.9) * high)

    tiles: list[NDArray[np.uint8]] = []
    for _ in range(count):
        colour = 255 * (0.8 * random.beta(1.5, 3) + 0.2 * random.beta(1.5, 3, size=3))
        contrast = np.exp(random.uniform(np.log(2), np.log(60)))
        shared = clouds()
        tile = np.stack([c + contrast * (0.9 * shared + 0.25 * clouds()) for c in colour], axis=-1)
        for _ in range(random.integers(0, 6)):
            where = clouds() > random.uniform(0.3, 1.5)
            if random.random() < 0.5:
                where = rectangles() & (clouds() > 0)
            tile[where] += random.normal(0, contrast * 1.2) + random.normal(0, contrast * 0.7, size=3)
        tiles.append(np.clip(tile, 0, 255).round().astype(np.uint8))
    return tiles
