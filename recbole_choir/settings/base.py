"""One class holds a setting: its type, bounds, default, meaning, source and search range.

Everything else about settings is derived from such classes: what a run accepts, the errors, the
YAML files in ``properties/model``, docs/configuration.md, the JSON schema and the search spaces.
Nothing here imports torch or RecBole, so that a wrong setting is refused at once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Literal,
    Protocol,
    Union,
    get_args,
    get_origin,
)

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from typing_extensions import Self

from recbole_choir.errors import ConfigError, nearest

#: Whose choice a default is, where the paper is silent.
OURS: Final = "ours"


class ConfigLike(Protocol):
    """What is needed of a configuration: RecBole's ``Config`` and a plain dict both fit."""

    def __getitem__(self, key: str) -> Any: ...

    def __contains__(self, key: object) -> bool: ...


def read(config: ConfigLike, key: str, default: Any = None) -> Any:
    """The value of ``key``, or ``default`` where the key is absent or null."""
    # RecBole's Config has no get().
    value = config[key] if key in config else None  # noqa: SIM401
    return default if value is None else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


#: Types of settings. A whole number is no bool, a list of widths holds positive whole numbers.
Size = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Widths = Annotated[tuple[Size, ...], Field(min_length=1), BeforeValidator(_tuple)]
Names = Annotated[tuple[str, ...], BeforeValidator(_tuple)]
#: A gate that is learned, or held at a constant.
Gate = Literal["learned"] | Share


def setting(
    default: Any,
    meaning: str,
    source: str = OURS,
    *,
    search: Mapping[str, Any] | None = None,
    shown: bool = False,
) -> Any:
    """One setting of a :class:`Settings` class.

    Args:
        default: Its value where nobody says otherwise.
        meaning: What it does, in one or two sentences, for the documentation.
        source: Where the default is from: a section of the paper, an entry of docs/gaps.md
            ("C9"), the code of the authors, or :data:`OURS`.
        search: The range that ``recbole-choir compare`` searches, in the form of
            ``properties/search/default.yaml``, which has the ranges of RecBole's keys.
        shown: Whether the model's YAML shows it.
    """
    more: dict[str, Any] = {"source": source}
    if search:
        more["search"] = dict(search)
    if shown:
        more["shown"] = True
    return Field(default, description=meaning, json_schema_extra=more)


@dataclass(frozen=True)
class Implied:
    """What one setting implies of others.

    Attributes:
        cause: The setting, as an error quotes it.
        values: Setting -> the value that follows.
        firm: Whether asking for another value is an error; otherwise that value wins.
    """

    cause: str
    values: Mapping[str, Any]
    firm: bool = True


class Settings(BaseModel):
    """Base of all classes of settings: resolved once, checked, frozen.

    A class has a field ``variant`` and says :attr:`variants` where some settings come in sets. A
    value that is null is not given, so that the variant's holds, or the default; unless null is
    among the values of the setting.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    #: Variant -> the settings in which it differs from the defaults.
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})

    #: Settings that no variant sets but that may follow from another (:meth:`implied`).
    follows: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def from_config(cls, config: ConfigLike) -> Self:
        """Resolve the settings from a configuration; keys of others are left alone.

        Raises:
            ConfigError: Wrong values or contradictions, all of them, in one line.
        """
        return cls.resolve({key: config[key] for key in cls.model_fields if key in config})

    @classmethod
    def resolve(cls, given: Mapping[str, Any]) -> Self:
        """The variant's values, what is implied, and every value that is not null.

        Raises:
            ConfigError: Wrong values or contradictions, all of them, in one line.
        """
        given = {
            key: value for key, value in given.items() if value is not None or cls._takes_null(key)
        }
        variant = given.get("variant")
        values = {**cls.variants.get(variant, {})} if isinstance(variant, str) else {}
        values.update(given)
        problems: list[str] = []
        for implied in cls.implied(_WithDefaults(values, cls)):
            for key, value in implied.values.items():
                asked = given.get(key)
                if asked is not None and asked != value:
                    if implied.firm:
                        problems.append(
                            f"{key}: {implied.cause} expects {value} or null, got {asked!r}"
                        )
                    continue
                values[key] = value
        try:
            resolved = cls.model_validate(values)
        except ValidationError as error:
            problems = [*lines_of(error, cls, values), *problems]
        else:
            problems += resolved.contradictions()
        if problems:
            raise ConfigError.of(problems)
        return resolved

    @classmethod
    def _takes_null(cls, key: str) -> bool:
        """Whether null is a value of its own, not "as the variant or the default says"."""
        field = cls.model_fields.get(key)
        return field is not None and "null" in kinds(field.annotation)

    @classmethod
    def implied(cls, values: Mapping[str, Any]) -> Iterator[Implied]:
        """What follows from settings; ``values`` are live, so that one may follow from another."""
        return iter(())

    def contradictions(self) -> Iterable[str]:
        """One line for each pair of settings that do not go together."""
        return ()

    @classmethod
    def decided_elsewhere(cls) -> frozenset[str]:
        """The settings that some variant sets or that may follow from others."""
        return cls.follows | {key for values in cls.variants.values() for key in values}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Setting -> default as a configuration holds it: null where another setting decides."""
        elsewhere = cls.decided_elsewhere()
        return {
            key: None if key in elsewhere else plain(field.default)
            for key, field in cls.model_fields.items()
        }

    @classmethod
    def searched(cls) -> dict[str, dict[str, Any]]:
        """Setting -> the range that a search takes its values from."""
        found = {}
        for key, field in cls.model_fields.items():
            more = field.json_schema_extra
            if isinstance(more, dict) and isinstance(more.get("search"), dict):
                search: dict[str, Any] = more["search"]  # type: ignore[assignment]
                found[key] = search
        return found

    def plain(self) -> dict[str, Any]:
        """The settings as YAML and JSON hold them."""
        return {key: plain(getattr(self, key)) for key in type(self).model_fields}


class _WithDefaults(dict[str, Any]):
    """Values so far, the class's defaults behind them; writes go to the values themselves."""

    def __init__(self, values: dict[str, Any], cls: type[Settings]) -> None:
        super().__init__()
        self._values, self._fields = values, cls.model_fields

    def __getitem__(self, key: str) -> Any:
        return self._values[key] if key in self._values else self._fields[key].default


def plain(value: Any) -> Any:
    """Tuples as lists, at every depth."""
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return value


# --- errors: what was expected is read off the field ---------------------------------------------


def lines_of(
    error: ValidationError, cls: type[BaseModel], values: Mapping[str, Any], where: str = ""
) -> list[str]:
    """One line a wrong setting: where, expected, got."""
    lines: dict[str, str] = {}
    for found in error.errors():
        if not found["loc"]:
            # a validator of the whole class says itself where
            lines[str(found["msg"])] = str(found["msg"]).removeprefix("Value error, ")
            continue
        key = str(found["loc"][0])
        if found["type"] == "extra_forbidden":
            hint = nearest(key, cls.model_fields)
            lines.setdefault(key, f"{where}{key}: no such setting{hint}")
            continue
        wrong = refusal(cls.model_fields[key], values[key])
        if found["type"] == "value_error":  # a validator of its own says what it takes
            wants = str(found["msg"]).removeprefix("Value error, ")
            wrong = f"expected {wants}, got {values[key]!r}"
        lines.setdefault(key, f"{where}{key}: {wrong}")
    return list(lines.values())


def refusal(field: FieldInfo, got: Any) -> str:
    """``expected .., got ..`` of a value that a field does not take."""
    hint = nearest(str(got), map(str, choices(field.annotation)))
    return f"expected {expected(field)}, got {got!r}{hint}"


def choices(annotation: Any) -> tuple[Any, ...]:
    """The names that a type admits."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return tuple(c for part in get_args(annotation) for c in choices(part))
    return ()


@functools.singledispatch
def expected(field: Any) -> str:
    """What a field takes, in words."""
    return _words(field, ())


@expected.register
def _(field: FieldInfo) -> str:
    return _words(field.annotation, field.metadata)


def _words(annotation: Any, metadata: Iterable[Any]) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        more = [m for a in args[1:] for m in getattr(a, "metadata", [a])]
        return _words(args[0], [*metadata, *more])
    if origin in (Union, UnionType):
        parts = sorted(args, key=lambda a: a is NoneType)
        return " or ".join(_words(part, metadata) for part in parts)
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(map(str, args))
    bounds = {name: getattr(m, name) for m in metadata for name in _BOUNDS if hasattr(m, name)}
    if annotation is bool:
        return "True or False"
    if annotation is int:
        if "le" in bounds:
            return f"a whole number in [{bounds.get('ge', '-inf')}, {bounds['le']}]"
        return "a whole number" + (f" of at least {bounds['ge']}" if "ge" in bounds else "")
    if annotation is float:
        return f"a number{_range(bounds)}"
    if origin is tuple and Ellipsis not in args:
        return f"a list of {len(args)} numbers"
    if origin is tuple and args[0] is not str:
        return f"a list of at least {bounds.get('min_length', 0)} positive widths"
    if origin is list and choices(args[0]):
        return f"a list of any of {', '.join(map(str, choices(args[0])))}"
    return _TYPES.get(origin or annotation, "another value")


_BOUNDS: Final = ("ge", "gt", "le", "lt", "min_length")
_TYPES: Final[Mapping[Any, str]] = MappingProxyType(
    {str: "a text", dict: "a mapping", list: "a list", tuple: "a list of names", NoneType: "null"}
)


def _range(bounds: Mapping[str, Any]) -> str:
    if not bounds:
        return ""
    low = f"[{bounds['ge']:g}" if "ge" in bounds else f"({bounds.get('gt', float('-inf')):g}"
    high = f"{bounds['le']:g}]" if "le" in bounds else f"{bounds.get('lt', float('inf')):g})"
    return f" in {low}, {high}"


def kinds(annotation: Any) -> frozenset[str]:
    """Names of the YAML kinds that a type admits, for reading texts as values."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kinds(args[0])
    if origin in (Union, UnionType):
        return frozenset().union(*(kinds(a) for a in args))
    if origin is Literal:
        return frozenset(_KINDS[type(a)] for a in args)
    return frozenset({_KINDS[origin or annotation]})


_KINDS: Final[Mapping[Any, str]] = MappingProxyType(
    {
        NoneType: "null",
        bool: "bool",
        int: "int",
        float: "float",
        str: "str",
        list: "list",
        tuple: "list",
        dict: "dict",
    }
)
