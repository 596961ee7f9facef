"""How recipes are written and checked: YAML with values replaced by dotted keys, and the base of every config of
training, a strict pydantic model whose errors say what to pass.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from sattxt.errors import InputError, near

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]

_Self = TypeVar("_Self", bound="Config")

#: What to pass instead, by pydantic's name of an error.
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "string_pattern_mismatch": "a text that matches {pattern}",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "multiple_of": "a multiple of {multiple_of:g}",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} or fewer",
    "literal_error": "{expected}",
    "union_tag_invalid": "one of {expected_tags}",
}


class Config(BaseModel):
    """A frozen config. Values have the types that the fields name: no text for a number, no ``True`` for 1, no NaN; a
    list is taken for a tuple, and ``None`` for a field's default.

    Raises:
        InputError: a key is unknown or missing, or a value is of the wrong type or out of range. The message has the
            key's path (entries of a list by their ``name``), what was found, and what to pass; a validator's own
            ValueError keeps its words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(_explain(values, error)) from None

    # Pydantic then makes the configs inside this one by itself, so that one error has the whole path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def replace(self: _Self, **changes: Any) -> _Self:
        """A copy with other values, checked like new ones."""
        return type(self)(**{name: getattr(self, name) for name in self.model_fields_set} | changes)

    @model_validator(mode="before")
    @classmethod
    def _take_keys(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        for key in values:
            if key not in cls.model_fields:
                hint = near(str(key), sorted(cls.model_fields)) or f"; there are {', '.join(sorted(cls.model_fields))}"
                raise PydanticCustomError("unknown_key", "{key}: unknown key{hint}", {"key": str(key), "hint": hint})
        return {key: _as_tuple(value) for key, value in values.items() if value is not None}


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _explain(values: Any, error: ValidationError) -> str:
    """One of the errors in our words: an unknown key before others, what lies deep before its surroundings."""
    errors = error.errors(include_url=False)
    found = min(errors, key=lambda item: (item["type"] != "unknown_key", -len(item["loc"])))
    kind, context = found["type"], found.get("ctx", {})
    place, value = _follow(found["loc"], values, kind)
    path = place
    if kind.startswith("union_tag"):  # the key that tells which of several configs it is
        path, value = f"{path}.{context['discriminator'][1:-1]}".removeprefix("."), context.get("tag")
    if kind == "unknown_key":
        return f"{path}.{found['msg']}".removeprefix(".")
    if kind in ("missing", "union_tag_not_found"):
        return f"{path}: missing; it has no default"
    if kind == "value_error":
        return f"{path}: {context['error']}".removeprefix(": ")
    tried = [item for item in errors if _follow(item["loc"], values, item["type"])[0] == place]
    texts = [_EXPECTED.get(item["type"], item["msg"]).format(**item.get("ctx", {})) for item in tried]
    expected = " or ".join(dict.fromkeys(texts))
    choices = re.findall("'([^']*)'", expected) if kind in ("literal_error", "union_tag_invalid") else []
    return f"{path}={value!r}: pass {expected}{near(str(value), choices)}"


def _follow(place: Sequence[int | str], values: Any, kind: str) -> tuple[str, Any]:
    """The path of a place that pydantic names, and the value there."""
    path = ""
    for number, part in enumerate(place):
        last = number == len(place) - 1
        if isinstance(values, Mapping) and (part in values or (last and kind == "missing")):
            values = values.get(part)
            path += f".{part}"
        elif isinstance(values, list | tuple) and isinstance(part, int):
            values = values[part] if part < len(values) else None
            name = values.get("name") if isinstance(values, Mapping) else None
            path += f".{name}" if name else f"[{part}]"
        # Else pydantic names which choice of a union it tried, which is no key.
    return path.removeprefix("."), values


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: it is no YAML, no mapping, or names a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    data = _parse(text, str(path))
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds {type(data).__name__}; a recipe is a mapping")
    return data


def parse_override(text: str) -> tuple[str, Any]:
    """``key=value`` as a dotted key and its value, typed as YAML (``align.sizes=[64, 96]``, ``srd=null``).

    Raises:
        InputError: there is no key or no ``=``, or the value is no YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{text!r}: pass key=value, such as align.steps=500")
    return key.strip(), _parse(value, repr(text))


def override(tree: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``tree`` with values replaced, one dotted key after the other; nothing is checked beyond the way there.

    An entry of a list goes by its ``name`` (``align.sets.eurosat.count``). ``None`` takes a key, or an entry, out.

    Raises:
        InputError: a key leads through a value, or to an entry that is not there.
    """
    tree = copy.deepcopy(tree)
    for key, value in overrides.items():
        parts = str(key).split(".")
        if not all(parts):
            raise InputError(f"{key!r}: an empty part; pass a key such as align.steps")
        _put(tree, parts, copy.deepcopy(value), str(key))
    return tree


def _put(node: Any, parts: list[str], value: Any, key: str) -> None:
    """Replace, add or take out what ``parts`` lead to below ``node``."""
    part, *rest = parts
    if isinstance(node, list):  # its entries go by their names
        names = [str(entry.get("name")) if isinstance(entry, dict) else "" for entry in node]
        if part not in names and (rest or not isinstance(value, dict)):
            hint = near(part, names) or f"; there are {', '.join(sorted(filter(None, names)))}"
            raise InputError(f"{key}: no entry is called {part!r}{hint}")
        place = names.index(part) if part in names else len(node)
        found = dict(zip([part], node[place:], strict=False))
        _put(found, parts, value, key)
        node[place : place + 1] = [{"name": part, **new} if isinstance(new, dict) else new for new in found.values()]
    elif not isinstance(node, dict):
        raise InputError(f"{key}: what stands before {part!r} is a value, it has no keys")
    elif rest:
        if node.get(part) is None:
            node[part] = {}
        _put(node[part], rest, value, key)
    elif value is None and part in node:
        del node[part]
    else:
        node[part] = value  # a None stays, so that an unknown key is still noticed


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # C's is ten times as fast
    """PyYAML's safe loader, but ``1e-3`` is a number, as in YAML 1.2, and a key named twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for i, key in enumerate(keys) if key in keys[:i]]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


_NUMBER = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{where}: cannot be read as YAML ({' '.join(str(error).split())})") from error
