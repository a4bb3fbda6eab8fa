"""Layers of settings: YAML files and command lines, read as data and never as code, and merged.

Later layers win. Of the mappings in :data:`MERGED_KEYS` a layer may give single entries; other
mappings are replaced as a whole, as in RecBole. A dotted key (``--load_col.user=[age]``) reaches a
single entry of any mapping.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from recbole_choir.errors import ConfigError

#: A configuration is no larger: bytes of a file, values when every alias is written out.
LARGEST_FILE: Final = 4 << 20
MOST_VALUES: Final = 100_000

#: Mappings of which a layer may give single entries, and how many levels deep.
MERGED_KEYS: Final[Mapping[str, float]] = {"eval_args": 1, "semantic": math.inf}


class YamlLoader(yaml.SafeLoader):
    """Safe YAML with RecBole's notion of a float: ``1e-3`` is one.

    RecBole adds its resolver to ``yaml.FullLoader`` itself, which changes how the whole process
    reads YAML; a class of our own changes nothing for others. Few lines of aliases of aliases can
    stand for billions of values: they are counted before anything walks through them.
    """

    def get_single_node(self) -> yaml.Node | None:
        """The document's tree, if it is of a size that a configuration can have."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _size(node, {}) > MOST_VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST_VALUES:,} values with its aliases")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping in which no key is given twice: YAML would let the later one win unseen."""
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if key.value in seen:
                        raise yaml.MarkedYAMLError(
                            problem=f"key '{key.value}' is given twice", problem_mark=key.start_mark
                        )
                    seen.add(key.value)
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Number of values of a tree with every alias written out; one inside itself is endless."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = math.inf  # while it is open
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:
         [-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
        |\.[0-9_]+(?:[eE][-+]?[0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.X,
    ),
    list("-+0123456789."),
)


class Merge(dict):  # type: ignore[type-arg]
    """A mapping from dotted keys: it changes single entries of the mapping below it."""


def parse_value(text: str, where: str) -> Any:
    """Read one value as YAML.

    ``None`` is accepted for null, as RecBole's command lines are often written in Python's way
    (``True``, ``False``, quotes and brackets mean the same in both).

    Args:
        text: The value as written.
        where: What the error message says about its place.

    Raises:
        ConfigError: The text is not a YAML value.
    """
    if text.strip() == "None":
        return None
    try:
        return yaml.load(text, Loader=YamlLoader)
    except _NOT_YAML as error:
        shown = text if len(text) <= 80 else text[:77] + "..."
        raise ConfigError(
            f"{where}: expected a YAML value, got {shown!r} ({_reason(error)}); quote it"
        ) from error


#: What the loader raises; a date of a 13th month and a number of 5,000 digits are a ValueError.
_NOT_YAML: Final = (yaml.YAMLError, ValueError, RecursionError)


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = str(getattr(error, "problem", None) or error)
    mark = getattr(error, "problem_mark", None)
    place = f", line {mark.line + 1}" if mark is not None else ""
    return " ".join(text.split()) + place


def parse_cli(argv: Sequence[str]) -> dict[str, Any]:
    """Read ``--key=value`` arguments.

    The value is everything after the first ``=``. A dotted key reaches into a mapping:
    ``--semantic.input=behaviour`` changes that one entry and keeps the others.

    Args:
        argv: Arguments without the program's name.

    Returns:
        Key -> value; mappings made of dotted keys are :class:`Merge`.

    Raises:
        ConfigError: A word that is not ``--key=value``, a key given twice with different values,
            or a value that is not YAML.
    """
    plain: dict[str, Any] = {}
    dotted: dict[tuple[str, ...], Any] = {}
    for word in argv:
        key, equals, text = word.partition("=")
        if not word.startswith("--") or not equals:
            name = word.lstrip("-")
            hint = f"; write --{name}=true" if word.startswith("--") and name else ""
            raise ConfigError(f"command line: expected --key=value, got {word!r}{hint}")
        path = tuple(key[2:].split("."))
        if not all(re.fullmatch(r"[A-Za-z_][\w-]*", part) for part in path):
            raise ConfigError(f"command line: expected --key=value, got {word!r}")
        value = parse_value(text, key)
        given: Mapping[Any, Any] = plain if len(path) == 1 else dotted
        place: Any = path[0] if len(path) == 1 else path
        seen = given.get(place, value)
        # by its text, as NaN is not equal to itself
        if place in given and repr(seen) != repr(value):
            raise ConfigError(f"command line: {key} is given twice, as {seen!r} and {value!r}")
        if len(path) == 1:
            plain[path[0]] = value
        else:
            dotted[path] = value
    for path, value in dotted.items():
        _insert(plain, path, value)
    return plain


def _insert(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    node = values
    for depth, part in enumerate(path[:-1], start=1):
        node = node.setdefault(part, Merge())
        if not isinstance(node, dict):
            name = ".".join(path[:depth])
            raise ConfigError(
                f"command line: --{'.'.join(path)} needs a mapping in --{name}, got {node!r}"
            )
    if isinstance(node.get(path[-1]), dict) != isinstance(value, dict) and path[-1] in node:
        raise ConfigError(f"command line: --{'.'.join(path)} is given twice")
    node[path[-1]] = value


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One layer over another: what both give, ``above`` decides.

    Args:
        below, above: Key -> value; neither is changed.
    """
    out: dict[str, Any] = dict(below)
    for key, value in above.items():
        out[key] = merge(out.get(key), value, MERGED_KEYS.get(key, 0))
    return out


def merge(below: Any, above: Any, depth: float = math.inf) -> Any:
    """A value over a value.

    Args:
        below: What lies under it.
        above: A :class:`Merge` changes entries. Any other mapping does so ``depth`` levels deep
            and replaces below that; anything else replaces.
        depth: See ``above``.

    Returns:
        The result. Over nothing a :class:`Merge` stays one: it changes entries of a default that
        is not known here.
    """
    changes = isinstance(above, Merge) or (isinstance(above, Mapping) and depth > 0)
    if not changes or below is None:
        return above
    keep = isinstance(below, Merge) or not isinstance(below, Mapping)
    out: dict[str, Any] = Merge() if keep else {}
    out.update(below if isinstance(below, Mapping) else {})
    for key, value in above.items():
        out[key] = merge(out.get(key), value, depth - 1)
    return out


def read_yaml(path: str | Path, what: str = "config file") -> dict[str, Any]:
    """Read a configuration file.

    Args:
        path: The file.
        what: What it is, for messages.

    Raises:
        ConfigError: The file is missing, is not YAML or holds no mapping.
    """
    where = f"{what} {path}"
    try:
        with open(path, "rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(f"{where}: {getattr(error, 'strerror', None) or error}") from error
    if len(raw) > LARGEST_FILE:
        raise ConfigError(f"{where}: expected at most {LARGEST_FILE >> 20} MiB")
    try:
        content = yaml.load(raw.decode("utf-8-sig"), Loader=YamlLoader)
    except UnicodeDecodeError as error:
        reason = f"expected utf-8, got {raw[error.start : error.start + 1]!r}"
        raise ConfigError(f"{where}: not YAML ({reason})") from error
    except _NOT_YAML as error:
        raise ConfigError(f"{where}: not YAML ({_reason(error)})") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(k, str) for k in content):
        kind = type(content).__name__ if not isinstance(content, dict) else "keys that are no texts"
        raise ConfigError(f"{where}: expected 'key: value' lines, got {kind}")
    return content
