"""A training recipe: a YAML file that names data, prompts, encoders, teacher and settings of both stages."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from sattxt.config import CLIP_MEAN, CLIP_STD, IMAGE_PRESETS, SMALLEST_WINDOW
from sattxt.errors import InputError, near
from sattxt.images.bands import SENTINEL2_L2A
from sattxt.io import read_json
from sattxt.labels.sets import humanise
from sattxt.training.objectives.align.model import AlignConfig
from sattxt.training.objectives.srd.model import SRDConfig
from sattxt.training.prompts import PromptConfig, shipped_texts
from sattxt.training.schema import Config, Count, Positive, override, read_yaml
from sattxt.training.sets import SetEntry, TilesEntry, parse_entry
from sattxt.training.start import VisionSource, find_path
from sattxt.training.teachers.croma import CromaSource
from sattxt.training.teachers.dynamicworld import DynamicWorldSource
from sattxt.training.vectors import LLMSource, SentenceSource

log = logging.getLogger(__name__)

_RECIPES = resources.files("sattxt.training") / "recipes"
_STAGE = TypeVar("_STAGE", bound=Config)

Text = Annotated[str, Field(pattern=r"\S")]


class ImageBlock(Config):
    """From an image to what the backbone sees; a ``preset`` gives what is not stated beside it."""

    size: Count = 224  # side in pixels of what the backbone sees, in validation and in the exported model
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    rescale: Positive = 1 / 255  # factor of pixels in 0-255, before mean and std
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[Positive, Positive, Positive] = CLIP_STD
    preset: Literal["custom", "official", "unit", "dinov3-sat"] = "custom"  # see sattxt.config.IMAGE_PRESETS
    window: Annotated[int, Field(ge=SMALLEST_WINDOW)] | None = None  # side in pixels of segmentation's windows

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, values: Any) -> Any:
        named = IMAGE_PRESETS.get(str(values.get("preset"))) if isinstance(values, Mapping) else None
        if named is None:
            return values
        own = {key: value for key, value in values.items() if value is not None}
        return {**named, **own, **({"preset": "custom"} if set(named) & set(own) else {})}

    def normalise(self, tiles: Tensor) -> Tensor:
        """Pixel values, ``(x * 255 * rescale - mean) / std``, of tiles x: (N, 3, H, W) in [0, 1] to the same shape."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (tiles * (255 * self.rescale) - mean) / std


class HeadBlock(Config):
    """Sizes of the vision head, see :class:`sattxt.config.HeadConfig`."""

    dim: Count  # width; embeddings have twice as many numbers
    depth: Count  # transformer blocks
    heads: Count  # attention heads; dim is a multiple of them
    ffn_dim: Count  # width inside a block


class GalileoSource(Config):
    """A Galileo encoder."""

    kind: Literal["galileo"]
    path: str  # the published folder, under the data folder or anywhere
    patch_size: Count = 8  # pixels a patch, at most the stored kernels' side
    month: Annotated[int, Field(ge=0, le=11)] = 5  # of the tiles' acquisition, 0 is January
    metres: Positive = 10.0  # ground size of a pixel


class SpectralGPTSource(Config):
    """A SpectralGPT encoder."""

    kind: Literal["spectralgpt"]
    path: str  # the authors' checkpoint file
    heads: Count | None = None  # attention heads; None: width / 64


class RandomSource(Config):
    """A strided convolution of random weights, for dry runs."""

    kind: Literal["random"]
    bands: tuple[str, ...] = SENTINEL2_L2A
    width: Count = 16  # of its tokens
    patch: Count = 8  # pixels a token, each way


TeacherSource: TypeAlias = Annotated[
    GalileoSource | SpectralGPTSource | CromaSource | DynamicWorldSource | RandomSource, Field(discriminator="kind")
]


class SRDBlock(SRDConfig):
    """Stage 1: settings, data and teacher."""

    pairs: tuple[Annotated[SetEntry, BeforeValidator(partial(parse_entry, pairs=True))], ...] = Field(min_length=1)
    teacher: TeacherSource

    @model_validator(mode="after")
    def _check_pairs(self) -> SRDBlock:
        _check_entries("pairs", self.pairs)
        return self


def _take_texts(value: Any) -> Any:
    return shipped_texts() if value == "default" else value


class AlignBlock(AlignConfig, PromptConfig):
    """Stage 2: settings, prompts and data."""

    sets: tuple[Annotated[SetEntry, BeforeValidator(parse_entry)], ...] = Field(min_length=1)
    vocabulary: dict[str, dict[str, Annotated[list[Text], Field(min_length=1)]]] = Field({})  # set, class, phrases
    # Texts held near where the start's text head has them; "default": names and phrases of ours.
    keep_texts: Annotated[tuple[Text, ...], BeforeValidator(_take_texts)] = ()

    @model_validator(mode="after")
    def _check_sets(self) -> AlignBlock:
        _check_entries("sets", self.sets)
        known = list(self.vocabulary)
        for name, named in self.vocabulary_of.items():
            if named not in known:
                hint = near(named, known) or f"; there are {', '.join(known) or 'none'}"
                raise ValueError(f"sets.{name}.vocabulary={named!r}: no such vocabulary{hint}")
        return self

    @property
    def vocabulary_of(self) -> dict[str, str]:
        """The vocabulary of each data set that names one, by the data set's name."""
        return {
            entry.name: entry.vocabulary for entry in self.sets if isinstance(entry, TilesEntry) and entry.vocabulary
        }

    def phrases(self, name: str, classes: Sequence[str]) -> list[tuple[str, ...]]:
        """For each class of a data set, what stands for it: its vocabulary's phrases, or else its name in plain words.

        Raises:
            InputError: the vocabulary lacks a class; the message has near matches.
        """
        if name not in self.vocabulary_of:
            return [(humanise(each),) for each in classes]
        phrases = self.vocabulary[self.vocabulary_of[name]]
        for each in classes:
            if each not in phrases:
                hint = near(each, list(phrases)) or f"; it has {', '.join(list(phrases)[:8])}"
                raise InputError(
                    f"align.sets.{name}: the vocabulary has no phrases for class {each!r}{hint}; add some, "
                    "or leave it out"
                )
        return [tuple(phrases[each]) for each in classes]


class Recipe(Config):
    """A recipe as ``recipes/mini.yaml`` has it; ``docs/training.md`` says what each key means."""

    name: str  # of the exported model
    image: ImageBlock
    vision: VisionSource  # the backbone to start from
    head: HeadBlock
    text_encoder: Annotated[SentenceSource | LLMSource, Field(discriminator="kind")]
    srd: SRDBlock | None = None  # without it there is no stage 1
    align: AlignBlock
    leave_out: str | tuple[str, ...] = ()  # data sets that neither stage sees; empty once they are left out


def read_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe: a YAML file, or a shipped one by name (``mini``, ``finetune``, ``sattxt-vitl16``).

    Args:
        path: ends in ``.yaml`` or ``.yml``, or is a shipped recipe's name.
        overrides: dotted keys to values, as :func:`sattxt.training.schema.parse_override` makes them of text:
            ``align.steps``, ``align.sets.eurosat.count``. ``None`` takes a key or an entry out, so that its default
            holds.

    Raises:
        InputError: no such recipe; a key is unknown (with the nearest known one) or missing; a value is unfit.
    """
    source = Path(path)
    if source.suffix not in (".yaml", ".yml"):
        source = Path(str(_RECIPES / f"{path}.yaml"))
    if not source.is_file():
        known = sorted(item.name.removesuffix(".yaml") for item in _RECIPES.iterdir() if item.name.endswith(".yaml"))
        raise InputError(f"{path}: no such recipe; pass a .yaml file or one of {known}{near(str(path), known)}")
    tree = override(read_yaml(source), overrides or {})
    try:
        for key in tree:
            if key in AlignBlock.model_fields and key not in Recipe.model_fields:
                raise InputError(f"{key}: unknown key; did you mean 'align.{key}'?")
        align = tree.get("align")
        if isinstance(align, dict) and isinstance(align.get("vocabulary"), str):
            path = find_path(align["vocabulary"], source.parent, "align.vocabulary")  # beside the recipe, or anywhere
            align["vocabulary"] = read_json(path) if path.suffix == ".json" else read_yaml(path)
        recipe = Recipe(**{str(key): value for key, value in tree.items()})
        for name in [recipe.leave_out] if isinstance(recipe.leave_out, str) else recipe.leave_out:
            recipe = leave_out(recipe, name)
    except InputError as error:
        raise InputError(f"{source.name}: {error}") from error
    return recipe


def leave_out(recipe: Recipe, name: str) -> Recipe:
    """The recipe without a data set: pictures, labels, captions and vocabulary, of both stages.

    An entry belongs to the data set of its ``name``, or to the one that its key ``dataset`` names.

    Raises:
        InputError: there is no such data set, or no other.
    """
    align, srd = recipe.align, recipe.srd
    pairs = srd.pairs if srd else ()
    known = sorted({key for entry in (*align.sets, *pairs) for key in (entry.name, entry.dataset) if key})
    if name not in known:
        raise InputError(f"leave_out={name!r}: no such data set{near(name, known) or f'; there are {known}'}")
    sets = tuple(entry for entry in align.sets if name not in (entry.name, entry.dataset))
    if not sets:
        raise InputError(f"leave_out={name!r}: no data set is left for stage 2")
    left = align.replace(sets=sets)
    gone = set(align.vocabulary_of.values()) - set(left.vocabulary_of.values())
    pairs = tuple(entry for entry in pairs if name not in (entry.name, entry.dataset))
    if srd is not None and not pairs:
        log.warning("without %s no data set is left for stage 1: the recipe has only stage 2", name)
    return recipe.replace(
        align=left.replace(vocabulary={key: left.vocabulary[key] for key in left.vocabulary if key not in gone}),
        srd=srd.replace(pairs=pairs) if srd is not None and pairs else None,
        leave_out=None,
    )


def _check_entries(key: str, entries: Sequence[SetEntry]) -> None:
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{key}.{name}: two data sets have this name; give each its own")


def part_of(block: Config, cls: type[_STAGE]) -> _STAGE:
    """The fields of a block that ``cls`` has: a stage's settings, or how its texts become prompts."""
    return cls(**{name: getattr(block, name) for name in cls.model_fields})
