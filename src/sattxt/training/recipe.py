"""A training recipe: a YAML file that names data, prompts, encoders, teacher and hyper-parameters of both stages."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from sattxt.config import IMAGE_PRESETS, SMALLEST_WINDOW, HeadConfig, ImageConfig, VisionConfig
from sattxt.errors import InputError
from sattxt.labels.sets import near
from sattxt.training import prompts
from sattxt.training.objectives.align.config import AlignConfig
from sattxt.training.objectives.srd.config import SRDConfig
from sattxt.training.prompts import PromptConfig, phrases_of
from sattxt.training.recipe_tree import build, check_keys, override, parse_override, read_yaml, typed
from sattxt.training.sources.entry import ENGINE_KEYS
from sattxt.training.sources.registry import PAIR_KINDS, TILE_KINDS, Kind

__all__ = ["Recipe", "leave_out", "parse_override", "read_recipe", "shipped_recipes"]

log = logging.getLogger(__name__)

_RECIPES = resources.files("sattxt.training") / "recipes"
_BLOCKS = ("name", "image", "vision", "head", "text_encoder", "srd", "align", "leave_out")
_VISION = {
    "path": str, "revision": str, "random": bool, "model_type": str, "options": dict, "output_stride": int,
    "num_heads": int,
}  # fmt: skip
_ANY_TEXT = {"kind": str, "random": bool, "hidden_size": int, "max_length": int, "template": str, "instruction": str}
_TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    "sentence": {**_ANY_TEXT, "package": str, "folder": str, "path": str, "int8": bool},
    "llm2vec": {
        **_ANY_TEXT, "base": Any, "adapters": tuple[Any, ...], "max_text_tokens": int, "device_map": str,
        "padding_side": Literal["left", "right"], "dtype": Literal["float32", "bfloat16"],
    },
}  # fmt: skip
_TEACHERS: dict[str, dict[str, Any]] = {
    "galileo": {"kind": str, "path": str, "patch_size": int, "month": int, "metres": float},
    "spectralgpt": {"kind": str, "path": str, "heads": int, "missing": Literal["error", "mean"]},
    "random": {"kind": str, "bands": tuple[str, ...], "width": int, "patch": int},
}
#: Lists of prompts.py that a recipe takes by this word.
_DEFAULT = "default"


@dataclass
class Recipe:
    """A parsed recipe; ``recipes/mini.yaml`` and ``docs/training.md`` say what each key means.

    backbone: the block ``vision``, see :func:`sattxt.training.vision_start.load_vision`. head: its head's sizes.
    text_encoder: see :func:`sattxt.training.text_start.start_text`. sets, pairs: the data sets of stage 2 and stage 1,
    as ``open_set`` and ``open_pairs`` take them, with their ``count``. vocabulary: data set to class to phrases.
    srd, teacher: of stage 1; ``None`` and empty where the recipe has no such stage. tree: all of it as written,
    overrides included, the vocabulary read.
    """

    name: str
    image: ImageConfig
    backbone: dict[str, Any]
    head: dict[str, int]
    text_encoder: dict[str, Any]
    sets: list[dict[str, Any]]
    vocabulary: dict[str, dict[str, list[str]]]
    prompting: PromptConfig
    align: AlignConfig
    srd: SRDConfig | None = None
    pairs: list[dict[str, Any]] = field(default_factory=list)
    teacher: dict[str, Any] = field(default_factory=dict)
    tree: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def templates(self) -> list[str]:
        """Where a class's phrase goes into a prompt."""
        return list(self.prompting.templates)

    @property
    def instructions(self) -> list[str]:
        """What is put before a prompt; empty: nothing."""
        return list(self.prompting.instructions)

    @property
    def vision(self) -> VisionConfig:
        """The vision tower's config, where the recipe states ``vision.model_type`` and ``options``.

        Raises:
            InputError: it does not; ``load_vision(recipe, data).config`` has it from the checkpoint.
        """
        from sattxt.training.vision_start import described_vision

        return described_vision(self)

    def phrases(self, name: str, classes: Sequence[str]) -> list[tuple[str, ...]]:
        """For each class of the data set ``name``, what stands for it: its vocabulary, or else the class's own name.

        Raises:
            InputError: the vocabulary lacks a class.
        """
        entry = next(entry for entry in self.sets if entry["name"] == name)
        vocabulary = self.vocabulary[entry["vocabulary"]] if "vocabulary" in entry else None
        return phrases_of(classes, vocabulary, f"align.sets.{name}")


def shipped_recipes() -> list[str]:
    """The names that :func:`read_recipe` knows."""
    return sorted(item.name.removesuffix(".yaml") for item in _RECIPES.iterdir() if item.name.endswith(".yaml"))


def read_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe: a YAML file, or a shipped one by name (``mini``, ``sattxt-vitl16``).

    Args:
        path: ends in ``.yaml`` or ``.yml``, or is a shipped recipe's name.
        overrides: dotted keys to values, as :func:`parse_override` makes them of text: ``align.steps``,
            ``align.sets.eurosat.count``. ``None`` takes a key or an entry out, so that its default holds.

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
        return _recipe(tree, source.parent)
    except InputError as error:
        raise InputError(f"{source.name}: {error}") from error


def leave_out(recipe: Recipe, name: str) -> Recipe:
    """The recipe without a data set: pictures, labels, captions and vocabulary, of both stages.

    An entry belongs to the data set of its ``name``, or to the one that its key ``dataset`` names.

    Raises:
        InputError: there is no such data set, or no other.
    """
    return _recipe(_without(recipe.tree, name), Path())


def _recipe(tree: dict[str, Any], folder: Path) -> Recipe:
    for key in tree:
        if key not in _BLOCKS and key in _align_keys():
            raise InputError(f"{key}: unknown key; did you mean 'align.{key}'?")
    tree = copy.deepcopy(check_keys(tree, _BLOCKS, ""))
    for key in ("name", "image", "vision", "head", "text_encoder", "align"):
        if key not in tree:
            raise InputError(f"{key}: missing; see the shipped recipes ({', '.join(shipped_recipes())})")
    align = check_keys(tree["align"], _align_keys(), "align")
    align["vocabulary"] = _vocabulary(align.get("vocabulary"), folder)
    tree["align"] = align
    gone = tree.pop("leave_out", [])
    for name in [gone] if isinstance(gone, str) else typed(tuple[str, ...], gone, "leave_out"):
        tree = _without(tree, name)
    align = tree["align"]
    sets = _entries(align.get("sets"), TILE_KINDS, "align.sets")
    vocabulary: dict[str, dict[str, list[str]]] = align["vocabulary"]
    for entry in sets:
        named = entry.get("vocabulary")
        if named is not None and named not in vocabulary:
            hint = near(str(named), list(vocabulary)) or f"; there are {', '.join(vocabulary) or 'none'}"
            raise InputError(f"align.sets.{entry['name']}.vocabulary: there is none called {named!r}{hint}")
    given = {key: value for key, value in align.items() if key not in ("sets", "vocabulary")}
    srd, pairs, teacher = _stage_one(tree.get("srd"))
    return Recipe(
        name=typed(str, tree["name"], "name"),
        image=_image(tree["image"]),
        backbone=_block(tree["vision"], _VISION, "vision"),
        head=_head(tree["head"]),
        text_encoder=_of_kind(tree["text_encoder"], _TEXT_ENCODERS, "text_encoder"),
        sets=sets,
        vocabulary=vocabulary,
        prompting=_prompting(given),
        align=build(AlignConfig, {"counts": _counts(sets), **_only(given, AlignConfig)}, "align"),
        srd=srd,
        pairs=pairs,
        teacher=teacher,
        tree=tree,
    )


def _align_keys() -> set[str]:
    return {f.name for cls in (AlignConfig, PromptConfig) for f in fields(cls)} - {"counts"} | {"sets", "vocabulary"}


def _only(given: Mapping[str, Any], cls: type) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    return {key: value for key, value in given.items() if key in names}


def _prompting(given: Mapping[str, Any]) -> PromptConfig:
    values = _only(given, PromptConfig)
    for key, ours in (("templates", prompts.TEMPLATES), ("instructions", prompts.INSTRUCTIONS)):
        if values.get(key) == _DEFAULT:
            values[key] = list(ours)
        elif isinstance(values.get(key), str):
            raise InputError(
                f"align.{key}: {values[key]!r}; pass a list of texts, or {_DEFAULT!r} for the shipped ones"
            )
    return build(PromptConfig, values, "align")


def _stage_one(block: Any) -> tuple[SRDConfig | None, list[dict[str, Any]], dict[str, Any]]:
    if block is None:
        return None, [], {}
    known = {f.name for f in fields(SRDConfig)} - {"counts"} | {"pairs", "teacher"}
    given = check_keys(block, known, "srd")
    if "teacher" not in given:
        raise InputError(f"srd.teacher: missing; pass a mapping with kind, one of {', '.join(_TEACHERS)}")
    teacher = _of_kind(given["teacher"], _TEACHERS, "srd.teacher")
    if teacher["kind"] != "random" and not teacher.get("path"):
        raise InputError(f"srd.teacher.path: missing; a teacher of kind {teacher['kind']!r} is read from there")
    pairs = _entries(given.get("pairs"), PAIR_KINDS, "srd.pairs")
    values = {"counts": _counts(pairs), **_only(given, SRDConfig)}
    return build(SRDConfig, values, "srd"), pairs, teacher


def _entries(listed: Any, kinds: Mapping[str, Kind[Any]], where: str) -> list[dict[str, Any]]:
    """Checked entries, without ``dataset``, which only :func:`leave_out` reads."""
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{where}: {'missing' if listed is None else repr(listed)}; pass a list of data sets")
    entries: list[dict[str, Any]] = []
    for number, item in enumerate(listed):
        name = item.get("name") if isinstance(item, Mapping) else None
        if not isinstance(name, str) or not name or "." in name:
            raise InputError(f"{where}[{number}].name: {name!r}; pass a name without a dot")
        if name in [entry["name"] for entry in entries]:
            raise InputError(f"{where}.{name}: two data sets are called so; give each its own name")
        kind = item.get("kind")
        if kind not in kinds:
            hint = near(str(kind), list(kinds)) or f"; there are {', '.join(sorted(kinds))}"
            raise InputError(f"{where}.{name}.kind: {kind!r}{hint}")
        keys = {*kinds[kind].keys, *ENGINE_KEYS, "dataset"} - (set() if kinds is TILE_KINDS else {"vocabulary"})
        entry = check_keys(item, keys, f"{where}.{name}")
        count = entry.get("count")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"{where}.{name}.count: {count!r}; pass how many of its tiles a batch has, 1 or more")
        entry.pop("dataset", None)
        entries.append(entry)
    return entries


def _counts(entries: list[dict[str, Any]]) -> list[int]:
    return [entry["count"] for entry in entries]


def _without(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """A copy of a tree (whose vocabulary is read) without a data set."""
    tree = copy.deepcopy(tree)
    align, srd = tree["align"], tree.get("srd") or {}
    lists = [block[key] for block, key in ((align, "sets"), (srd, "pairs")) if isinstance(block.get(key), list)]
    known = sorted({str(e[key]) for entries in lists for e in entries for key in ("name", "dataset") if key in e})
    if name not in known:
        hint = near(name, known) or f"; there are {', '.join(known)}"
        raise InputError(f"leave_out: no data set is called {name!r}{hint}")
    spoken = {entry.get("vocabulary") for entry in align["sets"] if name in (entry.get("name"), entry.get("dataset"))}
    for entries in lists:
        entries[:] = [entry for entry in entries if name not in (entry.get("name"), entry.get("dataset"))]
    spoken -= {entry.get("vocabulary") for entry in align["sets"]}
    align["vocabulary"] = {key: value for key, value in align["vocabulary"].items() if key not in spoken}
    if not align["sets"]:
        raise InputError(f"leave_out: without {name!r} no data set is left for stage 2")
    if srd and not srd["pairs"]:
        log.warning("without %s no data set is left for stage 1: the recipe has only stage 2", name)
        del tree["srd"]
    return tree


def _vocabulary(given: Any, folder: Path) -> dict[str, dict[str, list[str]]]:
    """Data set to class to phrases, from the recipe itself or the JSON or YAML file that it names."""
    if given is None:
        return {}
    where = "align.vocabulary"
    given = _beside(given, folder, where)
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: {type(given).__name__}; pass a file, or a mapping of data set to class to phrases")
    for name, classes in given.items():
        if not isinstance(classes, Mapping):
            raise InputError(f"{where}.{name}: {classes!r}; pass a mapping of class to a list of phrases")
        for label, phrases in classes.items():
            good = isinstance(phrases, list) and phrases
            if not good or not all(isinstance(phrase, str) and phrase.strip() for phrase in phrases):
                raise InputError(f"{where}.{name}.{label}: {phrases!r}; pass a list of phrases, none of them empty")
    return {str(name): {str(label): list(phrases) for label, phrases in c.items()} for name, c in given.items()}


def _beside(given: Any, folder: Path, where: str) -> Any:
    """What a JSON or YAML file holds that a recipe names, seen from the recipe's folder; anything else as it is."""
    if not isinstance(given, str):
        return given
    path = next((p for p in (folder / given, Path(given).expanduser()) if p.is_file()), None)
    if path is None:
        raise InputError(f"{where}: {folder / given}: no such file")
    if path.suffix != ".json":
        return read_yaml(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{where}: {path}: cannot be read as JSON ({error})") from error


def _image(block: Any) -> ImageConfig:
    given = check_keys(block, {f.name for f in fields(ImageConfig)}, "image")
    preset = given.pop("preset", None)
    if preset is not None and preset not in IMAGE_PRESETS:
        hint = near(str(preset), list(IMAGE_PRESETS)) or f"; there are {', '.join(IMAGE_PRESETS)}"
        raise InputError(f"image.preset: {preset!r}{hint}")
    named: dict[str, Any] = IMAGE_PRESETS.get(preset, {})
    image = build(ImageConfig, {**named, **given}, "image")
    if image.size < 1 or min(image.std) <= 0 or image.rescale <= 0:
        raise InputError("image: size, std and rescale must be above 0")
    if image.window is not None and image.window < SMALLEST_WINDOW:
        raise InputError(f"image.window: {image.window}; pass at least {SMALLEST_WINDOW} pixels, or leave it out")
    return replace(image, preset="custom" if preset is None or set(named) & set(given) else preset)


def _head(block: Any) -> dict[str, int]:
    known = {f.name: int for f in fields(HeadConfig) if f.name != "input_dim"}
    given = _block(block, known, "head")
    for key in known:
        if given.get(key, 0) < 1:
            raise InputError(f"head.{key}: {given.get(key)!r}; pass a whole number of at least 1")
    if given["dim"] % given["heads"]:
        raise InputError(f"head.dim: {given['dim']} is no multiple of head.heads, {given['heads']}")
    return given


def _of_kind(block: Any, kinds: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, Any]:
    kind = str(block.get("kind")) if isinstance(block, Mapping) else ""
    if kind not in kinds:
        hint = near(kind, list(kinds)) or f"; there are {', '.join(kinds)}"
        raise InputError(f"{where}.kind: {kind!r}{hint}")
    return _block(block, kinds[kind], where)


def _block(block: Any, known: Mapping[str, Any], where: str) -> dict[str, Any]:
    given = check_keys(block, known, where)
    return {key: typed(known[key], value, f"{where}.{key}") for key, value in given.items()}
