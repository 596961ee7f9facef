"""The base of every config of training: strict pydantic models whose errors say what to pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from sattxt.errors import InputError
from sattxt.labels.sets import near

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]

_Self = TypeVar("_Self", bound="Config")
_WORDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text", dict: "a mapping"}


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
            _explain(type(self), values, error)

    # Pydantic then makes the configs inside this one by itself, so that one error has the whole path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def parse(cls: type[_Self], values: Any, where: str = "") -> _Self:
        """A config of the mapping ``values``; errors name keys as keys of ``where``."""
        prefix = f"{where}: " if where else ""
        if not isinstance(values, Mapping):
            raise InputError(f"{prefix}{values!r}: pass a mapping with keys of {', '.join(sorted(cls.model_fields))}")
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            _explain(cls, values, error, where)

    def replace(self: _Self, **changes: Any) -> _Self:
        """A copy with other values, checked like new ones."""
        return type(self)(**{name: getattr(self, name) for name in self.model_fields_set} | changes)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = {key: value for key, value in values.items() if value is not None or key not in cls.model_fields}
        return {key: _as_tuple(value) for key, value in given.items()}


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _explain(cls: type[Config], values: Any, error: ValidationError, where: str = "") -> NoReturn:
    """Raise one of the errors as InputError: an unknown key before others, what lies deep before its surroundings."""
    errors = error.errors(include_url=False)
    found = min(errors, key=lambda item: (item["type"] != "extra_forbidden", -len(item["loc"])))
    kind, place, context = found["type"], list(found["loc"]), found.get("ctx", {})
    missing_item = kind == "missing" and isinstance(place[-1], int)  # a list of fixed length is too short
    if kind == "extra_forbidden" or missing_item:
        key = place.pop()
    path, annotation, value = _follow(cls, place, values)
    path = where + path if where else path.removeprefix(".")
    if kind == "extra_forbidden":
        known = sorted(_plain_type(annotation).model_fields)
        hint = near(str(key), known) or f"; there are {', '.join(known)}"
        message = f"{path + '.' if path else ''}{key}: unknown key{hint}"
    elif kind == "missing" and not missing_item:
        message = f"{path}: missing; pass {_expected(annotation)}"
    elif kind == "value_error":
        message = f"{path}: {context['error']}" if path else str(context["error"])
    elif kind.startswith("union_tag"):
        key = str(context["discriminator"]).strip("'")
        kinds = [tag for member in _members(annotation) for tag in _tags(member)]
        given = value.get(key) if isinstance(value, Mapping) else value
        message = f"{path}.{key}={given!r}: pass one of {', '.join(map(repr, kinds))}{near(str(given), kinds)}"
    else:
        message = f"{path}={value!r}: pass {_expected(annotation)}"
        if kind == "literal_error":
            message += near(str(value), [str(choice) for choice in get_args(_plain_type(annotation))])
    raise InputError(message) from None


def _follow(cls: type[Config], place: Sequence[int | str], values: Any) -> tuple[str, Any, Any]:
    """Path, annotation and value at a place that pydantic names."""
    path = ""
    annotation: Any = cls
    for part in place:
        members = _members(annotation)
        choices = members if len(members) > 1 else []
        tagged = next((member for member in choices if part in (*_tags(member), _name(member))), None)
        if tagged is not None:  # pydantic names a union's choice, which is no key
            annotation = tagged
            continue
        if len(members) > 1:  # of plain types, of which it names the one tried
            break
        plain = _plain_type(annotation)
        arguments = get_args(plain)
        if isinstance(plain, type) and issubclass(plain, Config):
            field = plain.model_fields.get(str(part))
            annotation = Annotated[field.annotation, field] if field else Any
        elif get_origin(plain) is dict:
            annotation = arguments[1]
        else:
            annotation = arguments[0 if arguments[-1] is Ellipsis else int(part)] if arguments else Any
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError, AttributeError):
            values = getattr(values, str(part), None)
        named = isinstance(part, int) and isinstance(values, Mapping) and values.get("name")
        path += f".{named}" if named else f"[{part}]" if isinstance(part, int) else f".{part}"
    return path, annotation, values


def _members(annotation: Any) -> list[Any]:
    """The types of a union without ``None``, or the one type."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) if part is not type(None) for member in _members(part)]
    return [annotation]


def _name(member: Any) -> str:
    return member.__name__ if isinstance(member, type) else str(member)


def _plain_type(annotation: Any) -> Any:
    return _members(annotation)[0]


def _tags(member: Any) -> list[str]:
    """The values of a config's field ``kind``, by which a union is told apart."""
    field = member.model_fields.get("kind") if isinstance(member, type) and issubclass(member, Config) else None
    return list(get_args(_plain_type(field.annotation))) if field else []


def _expected(annotation: Any) -> str:
    """What a value has to be, in words: its type and range."""
    members = _members(annotation)
    if len(members) > 1:
        return " or ".join(dict.fromkeys(map(_expected, members)))
    plain = _plain_type(annotation)
    arguments, origin = get_args(plain), get_origin(plain) or plain
    limits = _limits(annotation)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin in (tuple, list):
        count = f" of {len(arguments)}" if origin is tuple and arguments[-1] is not Ellipsis else ""
        fewest = f" of at least {limits['min_length']}" if "min_length" in limits else ""
        return f"a list{count}{fewest}"
    words = _WORDS.get(origin) or ("a mapping" if isinstance(origin, type) and issubclass(origin, Config) else "")
    words = words or f"a {_name(origin)}"
    if "ge" in limits and "le" in limits:
        return f"{words}, {limits['ge']:g} to {limits['le']:g}"
    shown = {
        "ge": "{:g} or more",
        "gt": "above {:g}",
        "le": "at most {:g}",
        "lt": "below {:g}",
        "multiple_of": "a multiple of {:g}",
    }
    return ", ".join([words, *(text.format(limits[key]) for key, text in shown.items() if key in limits)])


def _limits(annotation: Any) -> dict[str, Any]:
    """``ge``, ``gt``, ``le``, ``lt``, ``min_length`` and ``multiple_of`` of an annotation and what it wraps."""
    if get_origin(annotation) in (Union, UnionType):
        return _limits(next(part for part in get_args(annotation) if part is not type(None)))
    if get_origin(annotation) is not Annotated:
        return {}
    inner, *notes = get_args(annotation)
    flat = [part for note in notes for part in (note.metadata if isinstance(note, FieldInfo) else [note])]
    found = _limits(inner)
    for part in flat:
        for key in ("ge", "gt", "le", "lt", "min_length", "multiple_of"):
            if hasattr(part, key):
                found[key] = getattr(part, key)
    return found
