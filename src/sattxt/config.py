"""What a model directory's ``config.json`` says: plain frozen dataclasses, nothing of torch.

``ModelConfig.from_dict`` is strict: a key it does not know, or a format it cannot read, is an error
naming the key, so that a config written by a newer version never loads half-understood.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from sattxt.errors import InputError, WeightsError
from sattxt.io import read_json

FORMAT_VERSION = 1
SMALLEST_WINDOW = 8  # pixels of an image that segmentation looks at, at the least

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageConfig:
    """From an RGB image in [0, 255] to ``pixel_values``: resize, centre crop, ``x * rescale``, ``(x - mean) / std``.

    ``size`` is the side of the square fed to the backbone. The short side is resized to it (long side truncated
    to an integer), then the centre is cropped. ``preset`` names where the numbers come from. ``window`` is the side,
    in pixels of the image, of the squares that segmentation cuts it into unless told otherwise; ``None``: ``size``.
    """

    size: int = 224
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    rescale: float = 1 / 255
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    preset: str = "custom"
    window: int | None = None


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
    """A transformers vision model: its ``model_type`` and the keyword arguments of its config class.

    ``output_stride`` (convolutional backbones) is the pixel distance between neighbouring feature vectors; the
    strides of the last stages are set to 1 to reach it.
    """

    model_type: Literal["dinov3_vit", "mobilenet_v1"] = "dinov3_vit"
    options: dict[str, Any] = field(default_factory=dict)
    output_stride: int | None = None


@dataclass(frozen=True)
class HeadConfig:
    """The vision head: ``depth`` pre-norm transformer blocks of width ``dim``, then LayerNorm.

    ``input_dim`` differs from ``dim`` only where a linear map comes first (small models).
    """

    input_dim: int
    dim: int
    depth: int
    heads: int
    ffn_dim: int


@dataclass(frozen=True)
class VisionConfig:
    """Backbone and head."""

    backbone: BackboneConfig
    head: HeadConfig


@dataclass(frozen=True)
class ModelSource:
    """Where a component lives: a hub repository (with revision) or a local folder.

    ``files`` are the sha256 of its files by name, so that one that was swapped can be named; models converted before
    they were recorded have none, and are checked by ``TextEncoderConfig.weights_sha256`` alone.
    """

    location: str
    revision: str | None = None
    files: dict[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class TextEncoderConfig:
    """The frozen language model and how its tokens become one vector.

    kind: ``llm2vec`` (decoder LLM, bidirectional attention, adapters merged) or ``sentence`` (small BERT-like encoder).
    base: where the model is; ``None`` when it lies in the model directory's ``text_encoder/``.
    template: wraps a text; ``{text}`` is replaced. ``None``: the text as it is. Never taken from a model's name.
    max_length: tokens kept, special ones included. max_text_tokens: the text alone is shortened to this first.
    dtype: the precision in which the frozen encoder runs unless the caller asks for another.
    weights_sha256: digest over the encoder's weight files, adapters and tokenizer, in merge order.
    instruction: put before every text unless the caller passes another; pooled tokens never include it.
    """

    kind: Literal["llm2vec", "sentence"]
    hidden_size: int
    weights_sha256: str
    base: ModelSource | None = None
    adapters: tuple[ModelSource, ...] = ()
    pooling: Literal["mean"] = "mean"
    template: str | None = None
    max_length: int = 512
    max_text_tokens: int | None = None
    padding_side: Literal["left", "right"] = "right"
    dtype: Literal["float32", "bfloat16"] = "float32"
    instruction: str = ""


@dataclass(frozen=True)
class ModelConfig:
    """All of ``config.json``.

    embed_dim: width of the shared space (twice the head's ``dim``).
    logit_scale: what cosine similarities are multiplied by before a softmax (1 / temperature).
    logit_scale_source: ``trained``, or why another value stands in (the published release has none).
    prompt_templates: applied to a label, ``{}`` is replaced; several are averaged and renormalised.
    backgrounds: prompts that mean "none of these", for multi-label scores; empty: those of ``sattxt.labels.prompts``.
    multi_label_scale, multi_label_bias: Platt scaling of the contrast in multi-label mode.
    """

    name: str
    embed_dim: int
    image: ImageConfig
    vision: VisionConfig
    text: TextEncoderConfig
    logit_scale: float
    logit_scale_source: str = "trained"
    prompt_templates: tuple[str, ...] = ("a satellite image of {}",)
    backgrounds: tuple[str, ...] = ()
    multi_label_scale: float | None = None
    multi_label_bias: float | None = None
    licence: str = ""
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
        config: ModelConfig = _build(cls, data, name)
        if config.embed_dim != 2 * config.vision.head.dim:
            raise WeightsError(
                f"{name}: embed_dim is {config.embed_dim}, but twice the vision head's dim is "
                f"{2 * config.vision.head.dim}"
            )
        return config

    @classmethod
    def read(cls, path: str | Path) -> ModelConfig:
        """Read a ``config.json`` file."""
        path = Path(path)
        return cls.from_dict(read_json(path), name=str(path))


def image_config(preprocess: str | dict[str, Any] | ImageConfig, base: ImageConfig) -> ImageConfig:
    """The image config for ``preprocess``: a preset's name, or explicit ``rescale``, ``mean``, ``std`` (and ``size``,
    ``window``).

    What is not named is taken from ``base``.
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
    else:
        known = {f.name for f in fields(ImageConfig)} - {"preset"}
        unknown = sorted(set(preprocess) - known)
        if unknown:
            raise InputError(f"preprocess has unknown keys {unknown}; it takes {sorted(known)}")
        values = {**preprocess, "preset": "custom"}
    merged = {**asdict(base), **values}
    return _build(ImageConfig, merged, "preprocess")


def _build(cls: Any, data: Any, where: str) -> Any:
    """An instance of dataclass ``cls`` from JSON data, nested dataclasses and tuples included."""
    if not isinstance(data, dict):
        raise WeightsError(f"{where}: expected an object for {cls.__name__}, found {type(data).__name__}")
    hints = get_type_hints(cls)
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise WeightsError(f"{where}: unknown key {unknown[0]!r}; {cls.__name__} has {', '.join(sorted(known))}")
    values = {key: _value(hints[key], value, f"{where}: {key}") for key, value in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise WeightsError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    arguments: tuple[Any, ...] = getattr(hint, "__args__", ())
    origin = getattr(hint, "__origin__", None)
    if value is None or isinstance(value, bool):
        if value is None and type(None) not in arguments:
            raise WeightsError(f"{where} must not be null")
        return value
    if origin is Literal:
        if value not in arguments:
            raise WeightsError(f"{where} is {value!r}; one of {', '.join(map(repr, arguments))} is needed")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise WeightsError(f"{where} must be a list")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise WeightsError(f"{where} must have {len(arguments)} values, has {len(value)}")
        return tuple(_value(arguments[0], item, where) for item in value)
    if type(None) in arguments:  # Optional
        return _value(next(a for a in arguments if a is not type(None)), value, where)
    if hasattr(hint, "__dataclass_fields__"):
        return value if isinstance(value, hint) else _build(hint, value, where)
    if hint is float and isinstance(value, int):
        return float(value)
    kind = origin or hint
    if isinstance(kind, type) and not isinstance(value, kind):
        raise WeightsError(f"{where} must be {kind.__name__}, is {type(value).__name__}")
    return value
