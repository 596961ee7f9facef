"""Configs of training: what is written wrongly is named with what to pass instead."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from sattxt.errors import InputError
from sattxt.training.schema import Config, Count, Decay, NotNegative, Positive, Share, Whole


class Noise(Config):
    share: Share = 0.5
    decay: Decay = 0.9
    area: tuple[float, float] = (0.0, 1.0)


class Folder(Config):
    kind: Literal["folder"]
    name: str
    path: str


class Drawn(Config):
    kind: Literal["drawn"]
    name: str
    tiles: Count


class Settings(Config):
    steps: Whole
    rate: Positive = 1.0
    loss: Literal["plain", "sigmoid"] = "plain"
    on: bool = False
    sizes: tuple[Count, ...] = Field((64,), min_length=1)
    text_rate: NotNegative | None = None
    noise: Noise = Noise()
    extra: Noise | None = None
    where: str | Folder | None = None
    words: dict[str, dict[str, list[str]]] = Field({})
    sets: tuple[Annotated[Folder | Drawn, Field(discriminator="kind")], ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.on and self.loss == "sigmoid":
            raise ValueError("on, loss: pass one of the two")
        return self


FIELDS = {"kind": "drawn", "name": "fields", "tiles": 3}


def test_values_are_taken_as_yaml_writes_them() -> None:
    values = {"steps": 3, "rate": 2, "sizes": [64, 96], "noise": {"area": [0.5, 1]}, "loss": None, "sets": [FIELDS]}
    config = Settings(**values)
    assert config == Settings(steps=3, rate=2.0, sizes=(64, 96), noise=Noise(area=(0.5, 1.0)), sets=(Drawn(**FIELDS),))
    assert config.loss == "plain"
    assert config.replace(steps=4) == Settings(**{**values, "steps": 4})
    with pytest.raises(ValidationError, match="frozen"):
        config.steps = 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"setps": 5}, "setps: unknown key; did you mean 'sets' or 'steps' or 'sizes'?"),
        (
            {"steps": 1, "q": 5},
            f"q: unknown key; there are {', '.join(sorted(Settings.model_fields))}",
        ),
        ({"steps": 1, "noise": {"shar": 1}}, "noise.shar: unknown key; did you mean 'share' or 'area'?"),
        ({"steps": 1, "extra": {"shar": 1}}, "extra.shar: unknown key; did you mean 'share' or 'area'?"),
        ({"steps": 1, "where": {"kind": "folder", "name": "a"}}, "where.path: missing; it has no default"),
        ({}, "steps: missing; it has no default"),
        ({"steps": True}, "steps=True: pass a whole number"),
        ({"steps": "5"}, "steps='5': pass a whole number"),
        ({"steps": -1}, "steps=-1: pass 0 or more"),
        ({"steps": 1, "rate": 0}, "rate=0: pass a number above 0"),
        ({"steps": 1, "rate": math.nan}, "rate=nan: pass a finite number"),
        ({"steps": 1, "text_rate": -1.5}, "text_rate=-1.5: pass 0 or more"),
        ({"steps": 1, "on": 1}, "on=1: pass true or false"),
        ({"steps": 1, "loss": "sigmoi"}, "loss='sigmoi': pass 'plain' or 'sigmoid'; did you mean 'sigmoid'?"),
        ({"steps": 1, "sizes": 64}, "sizes=64: pass a list"),
        ({"steps": 1, "sizes": []}, "sizes=[]: pass a list of 1 or more"),
        ({"steps": 1, "sizes": [64, 0]}, "sizes[1]=0: pass 1 or more"),
        ({"steps": 1, "noise": 3}, "noise=3: pass a mapping"),
        ({"steps": 1, "noise": {"share": 1.5}}, "noise.share=1.5: pass at most 1"),
        ({"steps": 1, "noise": {"decay": 1}}, "noise.decay=1: pass a number below 1"),
        ({"steps": 1, "noise": {"area": [1]}}, "noise.area[1]: missing; it has no default"),
        ({"steps": 1, "noise": {"area": [1, 1, 1]}}, "noise.area=[1, 1, 1]: pass a list of 2 or fewer"),
        ({"steps": 1, "on": True, "loss": "sigmoid"}, "on, loss: pass one of the two"),
        ({"steps": 1, "words": {"a": {"b": "c"}}}, "words.a.b='c': pass a list"),
        ({"steps": 1, "sets": [{**FIELDS, "tiles": 0}]}, "sets.fields.tiles=0: pass 1 or more"),
        ({"steps": 1, "sets": [{**FIELDS, "tile": 3}]}, "sets.fields.tile: unknown key; did you mean 'tiles'?"),
        (
            {"steps": 1, "sets": [{**FIELDS, "kind": "foldr"}]},
            "sets.fields.kind='foldr': pass one of 'folder', 'drawn'; did you mean 'folder'?",
        ),
        ({"steps": 1, "sets": [{"name": "a"}]}, "sets.a.kind: missing; it has no default"),
    ],
)
def test_an_error_names_the_key_and_what_to_pass(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        Settings(**values)
    assert str(raised.value) == message


def test_a_copy_with_changes_is_checked() -> None:
    with pytest.raises(InputError, match="share=2: pass at most 1"):
        Noise().replace(share=2)
    with pytest.raises(InputError, match="did you mean 'share'"):
        Noise().replace(shar=1)


@pytest.mark.parametrize(("module", "package"), [("pydantic", "pydantic"), ("yaml", "pyyaml")])
def test_without_its_extra_training_names_it(module: str, package: str) -> None:
    code = f"import sys; sys.modules['{module}'] = None; import sattxt.training as t; t.read_recipe"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"training needs the package '{package}': pip install 'sattxt[train]'" in done.stderr
