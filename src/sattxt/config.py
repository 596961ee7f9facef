"""A model directory's ``config.json`` as frozen dataclasses, without torch.

Reading is strict: an unknown key, or a format this version does not read, is an error that names it. So a config that a
newer version wrote is never half understood.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sattxt.errors import InputError, WeightsError
from sattxt.io import read_json

FORMAT_VERSION = 1
SMALLEST_WINDOW = 8  # side of the smallest window that segmentation takes, image pixels

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

T = TypeVar("T")


@dataclass(frozen=True)
class ImageConfig:
    """From an RGB image in [0, 255] to ``pixel_values``: resize, centre crop, ``x * rescale``, ``(x - mean) / std``."""

    size: int = 224  # side of the square that the backbone sees, pixels; the image's short side is resized to it
    resample: Literal["bicubic", "bilinear"] = "bicubic"  # interpolation of the resize
    rescale: float = 1 / 255  # factor from [0, 255] to the scale of mean and std
    mean: tuple[float, float, float] = CLIP_MEAN  # red, green, blue, after rescale
    std: tuple[float, float, float] = CLIP_STD  # red, green, blue, after rescale; above 0
    preset: str = "custom"  # where rescale, mean and std come from: a key of IMAGE_PRESETS, or "custom"
    window: int | None = None  # side of the squares that segmentation cuts an image into, image pixels; None: size


#: Pixel scalings of the published weights, by name. ``official`` is how the released code behaves: pixels stay in
#: 0-255 before the CLIP statistics are applied. ``unit`` divides by 255 first. ``dinov3-sat`` uses the statistics
#: that DINOv3 publishes for its satellite weights (sat493m).
IMAGE_PRESETS: dict[str, dict[str, Any]] = {
    "official": {"rescale": 1.0, "mean": CLIP_MEAN, "std": CLIP_STD},
    "unit": {"rescale": 1 / 255, "mean": CLIP_MEAN, "std": CLIP_STD},
    "dinov3-sat": {"rescale": 1 / 255, "mean": (0.430, 0.411, 0.296), "std": (0.213, 0.156, 0.143)},
}


@dataclass(frozen=True)
class BackboneConfig:
    """A vision backbone."""

    model_type: Literal["dinov3_vit", "mobilenet_v1"] = "dinov3_vit"  # as transformers names it
    options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of its config (or module) class
    output_stride: int | None = None  # pixels between neighbouring features: 8, 16, 32; convolutional backbones only

    @property
    def patch_size(self) -> int:
        """Side of the squares that an image must be made of, pixels."""
        return 1 if self.model_type == "mobilenet_v1" else self.options.get("patch_size", 16)


@dataclass(frozen=True)
class HeadConfig:
    """The vision head: pre-norm transformer blocks, then LayerNorm."""

    input_dim: int  # width of the backbone's tokens; where it is not dim, a linear map comes first
    dim: int  # width of the blocks, a multiple of heads
    depth: int  # blocks, 1 or more
    heads: int  # attention heads
    ffn_dim: int  # hidden width of the SwiGLU layers


@dataclass(frozen=True)
class VisionConfig:
    """Backbone and head."""

    backbone: BackboneConfig
    head: HeadConfig


@dataclass(frozen=True)
class ModelSource:
    """Where a component lies."""

    location: str  # a hub id, or an absolute folder
    revision: str | None = None  # commit of the hub repository; None for a folder
    # sha256 by file name, to name a file that was swapped; empty in models converted before they were recorded
    files: dict[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class TextEncoderConfig:
    """The frozen language model, and how its tokens become one vector."""

    kind: Literal["llm2vec", "sentence"]  # a decoder LLM with bidirectional attention, or a small BERT
    hidden_size: int  # width of the pooled vectors
    weights_sha256: str  # digest over its weight files, adapters (in merge order) and tokenizer
    base: ModelSource | None = None  # None: it lies in the model directory's text_encoder/
    adapters: tuple[ModelSource, ...] = ()  # LoRA adapters, in merge order
    pooling: Literal["mean"] = "mean"  # of the text's tokens
    template: str | None = None  # wraps a text, which replaces {text}; None: the text as it is
    max_length: int = 512  # tokens kept, special ones included
    max_text_tokens: int | None = None  # tokens that the text alone is cut to first; None: no cut
    padding_side: Literal["left", "right"] = "right"  # where shorter texts of a batch are padded
    dtype: Literal["float32", "bfloat16"] = "float32"  # precision it runs in unless the caller passes another
    instruction: str = ""  # put before every text unless the caller passes another; its tokens are not pooled


@dataclass(frozen=True)
class ModelConfig:
    """All of ``config.json``."""

    name: str  # of the model, for people and the card
    embed_dim: int  # width of the shared space, twice the vision head's dim
    image: ImageConfig
    vision: VisionConfig
    text: TextEncoderConfig
    logit_scale: float  # factor on cosine similarities before a softmax (1 / temperature), above 0
    logit_scale_source: str = "trained"  # or how else it was found
    prompt_templates: tuple[str, ...] = ("a satellite image of {}",)  # a label replaces {}; several are averaged
    backgrounds: tuple[str, ...] = ()  # prompts of "none of these" for multi-label scores; (): the package's own
    multi_label_scale: float | None = None  # Platt scaling of multi-label scores; None: not calibrated
    multi_label_bias: float | None = None  # the same
    licence: str = ""  # of the weights: an SPDX name, or a sentence
    format_version: int = FORMAT_VERSION

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; ``from_dict`` reads it back equal."""
        data = asdict(self)
        if data["image"]["window"] is None:
            del data["image"]["window"]  # sattxt 0.1 does not know it
        for source in (data["text"]["base"], *data["text"]["adapters"]):
            if source is not None and not source["files"]:
                del source["files"]  # nor this
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, name: str = "config.json") -> ModelConfig:
        """Read what :meth:`to_dict` wrote.

        Raises:
            WeightsError: a key is missing, unknown or of the wrong type, or the format is newer than this package.
        """
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            raise WeightsError(
                f"{name}: format_version is {version!r}, this sattxt reads {FORMAT_VERSION}; upgrade sattxt, "
                "or convert the model again"
            )
        config = build(cls, data, name)
        if config.embed_dim != 2 * config.vision.head.dim:
            raise WeightsError(
                f"{name}: embed_dim is {config.embed_dim}, but twice the vision head's dim is "
                f"{2 * config.vision.head.dim}"
            )
        return config

    @classmethod
    def read(cls, path: str | Path) -> ModelConfig:
        """Read a ``config.json`` file."""
        return cls.from_dict(read_json(Path(path)), name=str(path))


def image_config(preprocess: str | dict[str, Any] | ImageConfig, base: ImageConfig) -> ImageConfig:
    """The image config for ``preprocess``: a preset's name, or a dict with some of ``base``'s fields.

    Raises:
        InputError: no such preset, or no such field. WeightsError: a value is of the wrong type.
    """
    if isinstance(preprocess, ImageConfig):
        return preprocess
    if isinstance(preprocess, str):
        if preprocess not in IMAGE_PRESETS:
            raise InputError(
                f"preprocess={preprocess!r}: pass one of {', '.join(map(repr, IMAGE_PRESETS))}, "
                "or a dict with rescale, mean and std"
            )
        values = {**IMAGE_PRESETS[preprocess], "preset": preprocess}
    elif not isinstance(preprocess, dict):
        raise InputError(f"preprocess is {type(preprocess).__name__}; pass a preset's name or a dict")
    else:
        known = {f.name for f in fields(ImageConfig)} - {"preset"}
        if unknown := sorted(set(preprocess) - known):
            raise InputError(f"preprocess has unknown keys {unknown}; it takes {sorted(known)}")
        values = {**preprocess, "preset": "custom"}
    return build(ImageConfig, {**asdict(base), **values}, "preprocess")


def build(cls: type[T], data: Any, where: str) -> T:
    """An instance of a dataclass from JSON data, nested dataclasses and tuples included.

    Args:
        cls: the dataclass. Its fields are of plain types, ``Literal``, ``X | None``, tuples or dataclasses.
        data: an object of the file.
        where: the file, for errors.

    Raises:
        WeightsError: a key is missing, unknown or of the wrong type.
    """
    if not isinstance(data, dict):
        raise WeightsError(f"{where}: expected an object for {cls.__name__}, found {type(data).__name__}")
    hints = get_type_hints(cls)
    if unknown := sorted(set(data) - set(hints)):
        raise WeightsError(f"{where}: unknown key {unknown[0]!r}; {cls.__name__} has {', '.join(sorted(hints))}")
    values = {key: _value(hints[key], value, f"{where}: {key}") for key, value in data.items()}
    try:
        return cls(**values)
    except TypeError as error:  # a key is missing
        raise WeightsError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    kind: Any = get_origin(hint) or hint
    arguments = get_args(hint)
    if kind in (Union, UnionType):  # X | None
        return None if value is None else _value(arguments[0], value, where)
    if kind is Literal:
        if value not in arguments:
            raise WeightsError(f"{where} is {value!r}; one of {', '.join(map(repr, arguments))} is needed")
        return value
    if kind is tuple and isinstance(value, (list, tuple)):
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise WeightsError(f"{where} must have {len(arguments)} values, has {len(value)}")
        return tuple(_value(arguments[0], item, where) for item in value)
    if hasattr(kind, "__dataclass_fields__") and not isinstance(value, kind):
        return build(kind, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        found = "null" if value is None else type(value).__name__
        raise WeightsError(f"{where} must be {'list' if kind is tuple else kind.__name__}, is {found}")
    return value
