"""A recipe as it is written: YAML, and values replaced by dotted keys."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sattxt.errors import InputError, near


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
