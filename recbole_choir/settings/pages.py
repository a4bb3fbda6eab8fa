"""What is written from the classes of settings: YAML files, documentation, a JSON schema, a table.

``python -m recbole_choir.settings.pages`` in the root of a checkout writes all of them again; a
test holds the files to it.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel

from recbole_choir.arguments import CommandParser
from recbole_choir.settings import catalogue
from recbole_choir.settings.base import Settings, expected, plain
from recbole_choir.settings.recipe import Recipe, part_of
from recbole_choir.settings.run import RunSettings

WIDTH: Final = 100
DOCS: Final = "docs/configuration.md"
SCHEMA: Final = "docs/settings.schema.json"
_BLOCK: Final = r"(<!-- settings: {name} -->\n).*?(<!-- end -->)"


def main(argv: Sequence[str] | None = None) -> int:
    """``recbole-choir settings``: the settings of a model, or of every run."""
    parser = CommandParser(
        prog="recbole-choir settings",
        description="Every setting with its type, default, source and meaning.",
    )
    parser.add_argument(
        "model", nargs="?", help="a model of this package; none: the run's own keys"
    )
    parser.add_argument("--schema", action="store_true", help="a JSON schema for YAML editors")
    arguments = parser.parse_args(argv)
    if arguments.schema:
        print(json.dumps(schema(), indent=1))
        return 0
    cls: type[Settings] | None = RunSettings
    if arguments.model:
        catalogue.check_model(arguments.model)
        cls = catalogue.settings_class(arguments.model)
    if cls is None:
        print(f"{arguments.model} is RecBole's own: its keys are in RecBole's documentation")
        return 0
    print("\n".join(_lines(cls)))
    return 0


def _lines(cls: type[Settings]) -> Iterator[str]:
    yield inspect.cleandoc(cls.__doc__ or "")
    for key, field in cls.model_fields.items():
        yield ""
        yield f"{key} = {_yaml(cls, key)}    ({expected(field)}; {_more(cls, key)['source']})"
        yield textwrap.indent(textwrap.fill(str(field.description), WIDTH - 4), "    ")
        if key in cls.searched():
            yield f"    searched: {_inline(cls.searched()[key])}"
        for variant, values in cls.variants.items():
            if key in values:
                yield f"    {variant}: {_inline(values[key])}"


def _more(cls: type[Settings], key: str) -> dict[str, Any]:
    found = cls.model_fields[key].json_schema_extra
    return dict(found) if isinstance(found, dict) else {"source": ""}


def _inline(value: Any) -> str:
    """A value as YAML in one line."""
    if value is None:
        return "~"
    text = yaml.safe_dump(plain(value), default_flow_style=True, width=10_000, sort_keys=False)
    return text.strip().removesuffix("...").strip()


def _yaml(cls: type[Settings], key: str) -> str:
    return _inline(cls.model_fields[key].default)


# --- properties/model ----------------------------------------------------------------------------


def model_yaml(name: str) -> str:
    """``properties/model/<name>.yaml``: what a person would want to see and change."""
    cls = catalogue.settings_class(name) or catalogue.shared_settings()
    lines = [f"# {line}".rstrip() for line in inspect.cleandoc(cls.__doc__ or "").splitlines()]
    lines += ["#", f"# All settings, with what they mean: recbole-choir settings {name}", ""]
    elsewhere = cls.decided_elsewhere()
    for key, field in cls.model_fields.items():
        if _more(cls, key).get("shown") and key not in elsewhere:
            lines += _entry(f"{key}: {_yaml(cls, key)}", str(field.description))
    for key, value in getattr(cls, "of_run", {}).items():
        meaning = str(RunSettings.model_fields[key].description)
        nested = isinstance(value, Mapping) and any(isinstance(v, Mapping) for v in value.values())
        if nested:
            text = yaml.safe_dump({key: plain(value)}, sort_keys=False).rstrip()
            lines += [*_comment(meaning), *text.splitlines()]
        else:
            lines += _entry(f"{key}: {_inline(value)}", meaning)
    if elsewhere:
        names = ", ".join(key for key in cls.model_fields if key in elsewhere)
        lines += [
            "",
            *_comment(f"Set by the variant, or by one another; a value here wins: {names}"),
        ]
    return "\n".join(lines) + "\n"


def _entry(text: str, meaning: str) -> list[str]:
    first = f"{text:<33} # {meaning}"
    return [first] if len(first) <= 120 else [*_comment(meaning), text]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ")


# --- docs/configuration.md -----------------------------------------------------------------------


def sections() -> dict[str, list[str]]:
    """Heading -> keys of the run's settings, as the comments of the class group them."""
    found: dict[str, list[str]] = {}
    heading = ""
    for line in inspect.getsource(RunSettings).splitlines():
        if match := re.match(r"    # ([A-Z][^.]*)$", line):
            heading = match[1]
        elif (match := re.match(r"    (\w+): .*= ?setting\(|    (\w+): ", line)) is not None:
            key = match[1] or match[2]
            if key in RunSettings.model_fields:
                found.setdefault(heading, []).append(key)
    return found


def table(cls: type[Settings], keys: Sequence[str]) -> str:
    """Settings as a Markdown table."""
    rows = ["| key | default | takes | source | meaning |", "| --- | --- | --- | --- | --- |"]
    for key in keys:
        field = cls.model_fields[key]
        default = f"`{_yaml(cls, key)}`"
        others = [f"{v} `{_inline(x[key])}`" for v, x in cls.variants.items() if key in x]
        cells = (
            f"`{key}`",
            "; ".join([default, *others]),
            expected(field),
            str(_more(cls, key)["source"]),
            str(field.description),
        )
        rows.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(rows) + "\n"


def recipe_tables(cls: type[BaseModel], heading: str = "") -> Iterator[str]:
    """A recipe's part as a Markdown table, then those of its parts; docstrings say the meaning."""
    meanings = _meanings(cls)
    rows = ["| key | default | takes | meaning |", "| --- | --- | --- | --- |"]
    parts = []
    for key, field in cls.model_fields.items():
        part = part_of(field)
        if part is not None:
            parts.append((f"{heading}{key}", part))
        default = field.get_default(call_default_factory=True)
        shown = "" if isinstance(default, BaseModel) else f"`{_inline(default)}`"
        takes = "a mapping" if part is not None else expected(field)
        meaning = meanings.get(key, str(field.description or ""))
        cells = (f"`{key}`", shown, takes, meaning)
        rows.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    if heading:
        yield f"Entries of `{heading.rstrip('.')}`:\n"
    yield "\n".join(rows) + "\n"
    for name, part in parts:
        yield from recipe_tables(part, f"{name}.")


def _meanings(cls: type[BaseModel]) -> dict[str, str]:
    """Field -> its text in the ``Args`` of the docstrings; a line may be about several fields."""
    found: dict[str, str] = {}
    for base in reversed([c for c in cls.__mro__ if issubclass(c, BaseModel)]):
        found |= _arguments(inspect.cleandoc(base.__doc__ or ""))
    return found


def _arguments(docstring: str) -> dict[str, str]:
    _, _, arguments = docstring.partition("Args:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in arguments.splitlines():
        if not line.startswith("    "):
            break
        match = re.match(r"    ([\w, ]+): (.*)", line)
        if match and not line.startswith("     "):
            names = match[1].split(", ")
            text = match[2]
        else:
            text = " " + line.strip()
        for name in names:
            found[name] = found.get(name, "") + text
    return {
        k: re.sub(r":class:`~?[\w.]*?(\w+)`", r"`\1`", v).replace("``", "`")
        for k, v in found.items()
    }


def own_keys(name: str) -> list[str]:
    """The settings of a model that it does not share with all others."""
    cls = catalogue.settings_class(name)
    shared = catalogue.shared_settings().model_fields
    return [] if cls is None else [key for key in cls.model_fields if key not in shared]


def blocks() -> dict[str, str]:
    """Name of a marked block of :data:`DOCS` -> its text."""
    found = {heading: table(RunSettings, keys) for heading, keys in sections().items()}
    shared = catalogue.shared_settings()
    found["shared"] = table(shared, list(shared.model_fields))
    parts = []
    for name in sorted(catalogue.own_models()):
        cls = catalogue.settings_class(name)
        keys = own_keys(name)
        if cls is None or not keys:
            continue
        head = inspect.cleandoc(cls.__doc__ or "").replace("``", "`")
        parts.append(f"### {name}\n\n{head}\n\n{table(cls, keys)}")
    found["recipe"] = "\n".join(recipe_tables(Recipe))
    found["models"] = "\n".join(parts)
    return found


def documentation(text: str) -> str:
    """The page with its marked blocks written again."""
    for name, block in blocks().items():
        pattern = re.compile(_BLOCK.format(name=re.escape(name)), re.S)
        if not pattern.search(text):
            raise ValueError(f"{DOCS}: no block <!-- settings: {name} -->")
        text = pattern.sub(lambda m, b=block: f"{m[1]}\n{b}\n{m[2]}", text)  # type: ignore[misc]
    return text


# --- the schema ----------------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    """A JSON schema of the YAML files of a run; RecBole's own keys are let through."""
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for cls in (RunSettings, *map(catalogue.settings_class, catalogue.own_models())):
        if cls is None:
            continue
        made = cls.model_json_schema()
        for key, value in made["properties"].items():
            value = {k: v for k, v in value.items() if k not in ("search", "shown", "title")}
            old = properties.setdefault(key, value)
            if old != value and key == "variant":
                old["enum"] = [*dict.fromkeys([*old["enum"], *value["enum"]])]
    recipe = Recipe.model_json_schema()
    definitions = recipe.pop("$defs", {})
    definitions["Recipe"] = recipe | {"required": []}
    properties["semantic"] = {
        "description": properties["semantic"]["description"],
        "$ref": "#/$defs/Recipe",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "recbole-choir",
        "type": "object",
        "properties": dict(sorted(properties.items())),
        "$defs": definitions,
    }


def files(root: Path) -> dict[Path, str]:
    """Every file that is written from the classes -> its text."""
    out = {
        root / "properties" / "model" / f"{name}.yaml": model_yaml(name)
        for name in catalogue.own_models()
    }
    out[root / DOCS] = documentation((root / DOCS).read_text(encoding="utf-8"))
    out[root / SCHEMA] = json.dumps(schema(), indent=1, sort_keys=True) + "\n"
    return out


if __name__ == "__main__":
    for path, text in files(Path.cwd()).items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(Path.cwd()), file=sys.stderr)
