"""A training recipe: a YAML file that names data, prompts, encoders, teacher and settings of both stages."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, Field, model_validator

from sattxt.config import CLIP_MEAN, CLIP_STD, IMAGE_PRESETS, SMALLEST_WINDOW, ImageConfig
from sattxt.errors import InputError
from sattxt.labels.sets import near
from sattxt.training.objectives.align.config import AlignConfig
from sattxt.training.objectives.srd.config import SRDConfig
from sattxt.training.prompts import PromptConfig, find_phrases
from sattxt.training.recipe_yaml import override, read_yaml
from sattxt.training.schema import Config, Count, Positive
from sattxt.training.sets import SetEntry, entry_config
from sattxt.training.teachers.registry import TeacherSource
from sattxt.training.text_start import LLMSource, SentenceSource
from sattxt.training.vision_start import VisionSource, find_path

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

    def config(self) -> ImageConfig:
        """The same for a model's config."""
        return ImageConfig(**dict(self))


class HeadBlock(Config):
    """Sizes of the vision head, see :class:`sattxt.config.HeadConfig`."""

    dim: Count  # width; embeddings have twice as many numbers
    depth: Count  # transformer blocks
    heads: Count  # attention heads; dim is a multiple of them
    ffn_dim: Count  # width inside a block

    @model_validator(mode="after")
    def _check(self) -> HeadBlock:
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim}: pass a multiple of heads, {self.heads}")
        return self


class DataSet(SetEntry):
    """A data set of a stage: these keys, and those of its kind's reader."""

    model_config = ConfigDict(extra="allow")
    pairs: ClassVar[bool]  # whether it is of stage 1

    name: Annotated[str, Field(pattern=r"^[^.]+$")]  # without a dot: it is part of keys such as align.sets.NAME.count
    count: Count  # its tiles in a batch, for each device

    @model_validator(mode="after")
    def _check_kind(self) -> DataSet:
        entry_config(self.kind, pairs=self.pairs).parse(self.model_dump(exclude_unset=True))
        return self

    def entry(self) -> dict[str, Any]:
        """What the reader takes."""
        return self.model_dump(exclude_none=True, exclude={"dataset"})


class TileEntry(DataSet):
    """RGB tiles with classes, captions or both."""

    pairs = False
    vocabulary: str | None = None  # of align.vocabulary: phrases for its classes; None: their names


class PairEntry(DataSet):
    """RGB beside multispectral tiles."""

    pairs = True


class SRDBlock(SRDConfig):
    """Stage 1: settings, data and teacher."""

    pairs: tuple[PairEntry, ...] = Field(min_length=1)  # data sets of RGB beside multispectral tiles
    teacher: TeacherSource

    @model_validator(mode="before")
    @classmethod
    def _count(cls, values: Any) -> Any:
        return _with_counts(values, "pairs")

    @property
    def settings(self) -> SRDConfig:
        """What the objective takes."""
        return _part(self, SRDConfig)


class AlignBlock(AlignConfig, PromptConfig):
    """Stage 2: settings, prompts and data."""

    sets: tuple[TileEntry, ...] = Field(min_length=1)  # data sets of RGB tiles with classes, captions or both
    vocabulary: dict[str, dict[str, Annotated[list[Text], Field(min_length=1)]]] = Field({})  # set, class, phrases

    @model_validator(mode="before")
    @classmethod
    def _count(cls, values: Any) -> Any:
        return _with_counts(values, "sets")

    @model_validator(mode="after")
    def _check_vocabularies(self) -> AlignBlock:
        known = list(self.vocabulary)
        for entry in self.sets:
            if entry.vocabulary is not None and entry.vocabulary not in known:
                hint = near(entry.vocabulary, known) or f"; there are {', '.join(known) or 'none'}"
                raise ValueError(f"sets.{entry.name}.vocabulary={entry.vocabulary!r}: no such vocabulary{hint}")
        return self

    @property
    def settings(self) -> AlignConfig:
        """What the objective takes."""
        return _part(self, AlignConfig)

    @property
    def prompting(self) -> PromptConfig:
        """How texts become prompts."""
        return _part(self, PromptConfig)

    def phrases(self, name: str, classes: Sequence[str]) -> list[tuple[str, ...]]:
        """For each class of the data set ``name``, what stands for it: its vocabulary, or else the class's own name.

        Raises:
            InputError: the vocabulary lacks a class.
        """
        vocabulary = next(entry for entry in self.sets if entry.name == name).vocabulary
        return find_phrases(classes, None if vocabulary is None else self.vocabulary[vocabulary], f"align.sets.{name}")


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


def shipped_recipes() -> list[str]:
    """The names that :func:`read_recipe` knows."""
    return sorted(item.name.removesuffix(".yaml") for item in _RECIPES.iterdir() if item.name.endswith(".yaml"))


def read_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe: a YAML file, or a shipped one by name (``mini``, ``sattxt-vitl16``).

    Args:
        path: ends in ``.yaml`` or ``.yml``, or is a shipped recipe's name.
        overrides: dotted keys to values, as :func:`sattxt.training.recipe_yaml.parse_override` makes them of text:
            ``align.steps``, ``align.sets.eurosat.count``. ``None`` takes a key or an entry out, so that its default
            holds.

    Raises:
        InputError: no such recipe; a key is unknown (with the nearest known one) or missing; a value is unfit.
        MissingExtraError: pyyaml is not installed.
    """
    source = Path(path)
    if source.suffix not in (".yaml", ".yml"):
        source = Path(str(_RECIPES / f"{path}.yaml"))
    if not source.is_file():
        known = shipped_recipes()
        raise InputError(f"{path}: no such recipe; pass a .yaml file or one of {known}{near(str(path), known)}")
    tree = override(read_yaml(source), overrides or {})
    try:
        for key in tree:
            if key in AlignBlock.model_fields and key not in Recipe.model_fields:
                raise InputError(f"{key}: unknown key; did you mean 'align.{key}'?")
        align = tree.get("align")
        if isinstance(align, dict) and isinstance(align.get("vocabulary"), str):
            align["vocabulary"] = _read_beside(align["vocabulary"], source.parent)
        recipe = Recipe.parse(tree)
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
    gone = {entry.vocabulary for entry in align.sets} - {entry.vocabulary for entry in sets}
    vocabulary = {key: phrases for key, phrases in align.vocabulary.items() if key not in gone}
    pairs = tuple(entry for entry in pairs if name not in (entry.name, entry.dataset))
    if srd is not None and not pairs:
        log.warning("without %s no data set is left for stage 1: the recipe has only stage 2", name)
    return recipe.replace(
        align=align.replace(sets=sets, vocabulary=vocabulary, counts=None),
        srd=srd.replace(pairs=pairs, counts=None) if srd is not None and pairs else None,
        leave_out=None,
    )


def _with_counts(values: Any, key: str) -> Any:
    """A block's values with ``counts``, the ``count`` of each data set."""
    if not isinstance(values, Mapping):
        return values
    if values.get("counts") is not None:
        raise ValueError(f"counts: unknown key; each of {key} has its own count")
    listed: Any = values.get(key)
    several = listed if isinstance(listed, list | tuple) else ()
    entries = [dict(entry) for entry in several if isinstance(entry, Mapping | Config)]
    names = [entry.get("name") for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{key}.{name}: two data sets have this name; give each its own")
    counts = [entry.get("count") for entry in entries]
    return {**values, "counts": tuple(count for count in counts if type(count) is int)}


def _part(block: Config, cls: type[_STAGE]) -> _STAGE:
    """The fields of a block that ``cls`` has."""
    return cls(**{name: getattr(block, name) for name in cls.model_fields})


def _read_beside(named: str, folder: Path) -> Any:
    """What a vocabulary's JSON or YAML file holds; its path is relative to the recipe, or to where we are."""
    path = find_path(named, folder)
    if path is None:
        raise InputError(f"align.vocabulary: {folder / named}: no such file")
    if path.suffix != ".json":
        return read_yaml(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"align.vocabulary: {path}: cannot be read as JSON ({error})") from error
