"""A recipe as it is written: YAML, overrides by dotted keys, and dataclasses made of checked values."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sattxt.errors import InputError, MissingExtraError
from sattxt.labels.sets import near

T = TypeVar("T")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: it is no YAML, no mapping, or names a key twice.
        MissingExtraError: pyyaml is not installed.
    """
    loader = _loader()
    import yaml

    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds {type(data).__name__}; a recipe is a mapping")
    return data


def parse_override(text: str) -> tuple[str, Any]:
    """``key=value`` as a dotted key and its value, typed as YAML (``align.sizes=[64, 96]``, ``srd=null``).

    Raises:
        InputError: there is no key or no ``=``, or the value is no YAML.
        MissingExtraError: pyyaml is not installed.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{text!r}: pass key=value, such as align.steps=500")
    loader = _loader()
    import yaml

    try:
        return key.strip(), yaml.load(value, Loader=loader)
    except yaml.YAMLError as error:
        raise InputError(f"{text!r}: the value cannot be read as YAML ({' '.join(str(error).split())})") from error


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
        node: Any = tree
        for depth, part in enumerate(parts[:-1]):
            node = _child(node, part, ".".join(parts[: depth + 1]))
        _put(node, parts[-1], copy.deepcopy(value), str(key))
    return tree


def _child(node: Any, part: str, key: str) -> Any:
    if isinstance(node, list):
        return node[_position(node, part, key)]
    if not isinstance(node, dict):
        raise InputError(f"{key}: {key.rpartition('.')[0]} is a value, it has no keys")
    if node.get(part) is None:
        node[part] = {}
    return node[part]


def _put(node: Any, part: str, value: Any, key: str) -> None:
    if isinstance(node, list):
        if isinstance(value, dict) and all(entry.get("name") != part for entry in node):
            node.append({"name": part, **value})
        elif value is None:
            del node[_position(node, part, key)]
        else:
            node[_position(node, part, key)] = {"name": part, **value} if isinstance(value, dict) else value
    elif not isinstance(node, dict):
        raise InputError(f"{key}: {key.rpartition('.')[0]} is a value, it has no keys")
    elif value is None:
        if part not in node:  # kept, so that an unknown key is still noticed
            node[part] = None
        else:
            del node[part]
    else:
        node[part] = value


def _position(entries: list[Any], name: str, key: str) -> int:
    names = [str(entry.get("name")) if isinstance(entry, dict) else "" for entry in entries]
    if name not in names:
        listed = [known for known in names if known]
        raise InputError(f"{key}: no entry is called {name!r}{near(name, listed) or _known(listed)}")
    return names.index(name)


def check_keys(data: Any, known: Collection[str], where: str) -> dict[str, Any]:
    """``data`` without the keys whose value is null, if it is a mapping and all of its keys are known.

    Raises:
        InputError: it is not; the message has the key's dotted name, and the nearest known one.
    """
    prefix = f"{where}." if where else ""
    if not isinstance(data, Mapping):
        raise InputError(f"{where or 'the recipe'}: {data!r}; a mapping is needed{_known(known)}")
    for key in data:
        if key not in known:
            close = near(str(key), sorted(known)) or _known(known)
            raise InputError(f"{prefix}{key}: unknown key{close}")
    return {str(key): value for key, value in data.items() if value is not None}


def build(cls: type[T], data: Any, where: str) -> T:
    """An instance of a dataclass from YAML values: lists become tuples, whole numbers floats where one is due.

    Raises:
        InputError: a key is unknown or missing, or a value has the wrong type, length or range; names the dotted key.
    """
    known: dict[str, Any] = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    given = check_keys(data, known, where)
    hints = get_type_hints(cls)
    for name, spec in known.items():
        if name not in given and spec.default is MISSING and spec.default_factory is MISSING:
            raise InputError(f"{where}.{name}: missing; it has no default")
    values = {name: typed(hints[name], value, f"{where}.{name}") for name, value in given.items()}
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def typed(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the type ``hint`` asks for; see :func:`build`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        inner = [a for a in arguments if a is not type(None)]
        if value is None and len(inner) < len(arguments):
            return None
        return typed(inner[0], value, where) if len(inner) == 1 else value
    if origin is Literal:
        if value not in arguments:
            close = near(str(value), [str(a) for a in arguments])
            raise InputError(f"{where}: {value!r}; pass one of {', '.join(map(repr, arguments))}{close}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: {value!r}; pass a list")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise InputError(f"{where}: {len(value)} values; pass {len(arguments)}")
        return tuple(typed(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else build(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    kind = origin or hint
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{where}: {value!r}; pass {_called(kind)}")
    if kind is float and value != value:
        raise InputError(f"{where}: not a number; pass a number")
    return value


def _called(kind: type) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "a mapping"}
    return names.get(kind, f"a {kind.__name__}")


def _known(known: Collection[str]) -> str:
    return f"; there are {', '.join(sorted(known))}" if known else ""


@cache
def _loader() -> Any:
    """PyYAML's safe loader, but ``1e-3`` is a number, as in YAML 1.2, and a key named twice is an error."""
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("train", "pyyaml", "reading a training recipe") from error

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there

    class Loader(base):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = [key for i, key in enumerate(keys) if key in keys[:i]]
            if twice:
                raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} is there twice", node.start_mark)
            return super().construct_mapping(node, deep)

    number = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader
