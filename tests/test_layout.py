"""Rules that can be read off the source: what imports what, and what YAML files hold."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "recbole_choir"
LIBRARY = [
    *sorted((ROOT / PACKAGE).rglob("*.py")),
    *sorted((ROOT / "dataset_adapters").rglob("*.py")),
    ROOT / "run_recbole_choir.py",
]
PROPERTIES = sorted((ROOT / "properties").rglob("*.yaml"))


def module_name(path: Path) -> str:
    """The dotted name a file is imported by; dataset_adapters belongs to the package."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "dataset_adapters":
        parts.insert(0, PACKAGE)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def imports(tree: ast.AST, module: str, is_package: bool = False) -> Iterator[str]:
    """Full names of everything a module imports, relative imports resolved.

    ``from a import b`` counts as ``a.b``: b may be a module. ``import_module("a")`` counts too.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                keep = len(parents) - node.level + int(is_package)
                base = ".".join([*parents[:keep], *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield str(first.value)


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return set(imports(tree, module_name(path), path.name == "__init__.py"))


def within(name: str, *packages: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


def offenders(part: str, forbidden: tuple[str, ...], allowed: tuple[str, ...] = ()) -> list[str]:
    """``module -> import`` for every import under ``part`` that is forbidden and not allowed."""
    found = []
    for path in LIBRARY:
        module = module_name(path)
        if within(module, f"{PACKAGE}.{part}"):
            found += [
                f"{module} -> {name}"
                for name in sorted(imports_of(path))
                if within(name, *forbidden) and not within(name, *allowed)
            ]
    return found


def ours(*names: str) -> tuple[str, ...]:
    return tuple(f"{PACKAGE}.{name}" for name in names)


def test_the_reader_of_imports_sees_all_forms() -> None:
    source = (
        "import a.b\nfrom a import c\nfrom . import d\nfrom ..e import f\n"
        "def g():\n    importlib.import_module('h.i')\n"
    )
    tree = ast.parse(source)
    assert set(imports(tree, "p.q.r")) == {"a.b", "a.c", "p.q.d", "p.e.f", "h.i"}
    assert set(imports(ast.parse("from .x import y"), "p.q", is_package=True)) == {"p.q.x.y"}
    assert (
        module_name(ROOT / "dataset_adapters" / "base.py") == "recbole_choir.dataset_adapters.base"
    )
    assert within("recbole.data", "recbole")
    assert not within("recbole_choir.data", "recbole")


def test_all_parts_are_looked_at() -> None:
    parts = {module_name(p).split(".")[1] for p in LIBRARY if "." in module_name(p)}
    assert {"data", "dataset_adapters", "evaluator", "integration", "model", "semantic"} <= parts


#: Parts from bottom to top: a module imports parts below its own, or its own, and none above.
LEVELS = (
    ("errors", "paths", "prefix_groups", "processes", "table_format"),
    ("files", "arguments", "table_seal"),
    ("evaluator", "dataset_adapters"),
    ("datasets",),
    ("settings", "record", "data"),
    ("model", "semantic", "file_findings"),
    ("integration", "table_source", "console"),
    ("quick_start", "tables_command"),
    ("experiments",),
    ("report",),
    ("cli",),
)
LEVEL = {part: i for i, parts in enumerate(LEVELS) for part in parts}
#: The settings of the models stand next to the models and are read by what checks a run.
SETTINGS_OF_MODELS = f"{PACKAGE}.model.settings"


def part_of(name: str) -> str:
    """The part that a dotted name belongs to; the settings of models count as settings."""
    if within(name, SETTINGS_OF_MODELS):
        return "settings"
    return name.split(".")[1] if name.startswith(f"{PACKAGE}.") else ""


def test_every_part_has_its_level() -> None:
    assert {part_of(module_name(p)) for p in LIBRARY} - {""} == set(LEVEL)


def test_nothing_is_imported_upwards_or_sideways() -> None:
    found = []
    for path in LIBRARY:
        here = part_of(module_name(path))
        for name in sorted(imports_of(path)):
            there = part_of(name)
            if here and there and there != here and LEVEL[there] >= LEVEL[here]:
                found.append(f"{module_name(path)} -> {name}")
    assert found == []


def test_no_circle() -> None:
    modules = {module_name(p): p for p in LIBRARY}

    def home(name: str) -> str:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name

    graph = {
        m: sorted({home(n) for n in imports_of(p)} - {m, "", PACKAGE}) for m, p in modules.items()
    }
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module in done:
            return
        for name in graph[module]:
            walk(name, (*trail, module))
        done.add(module)

    for module in graph:
        walk(module, ())


def test_semantic_takes_of_the_data_path_only_what_both_must_agree_on() -> None:
    allowed = ours("data.asof", "data.table.parquet", "data.counting")
    assert offenders("semantic", ours("data"), allowed=allowed) == []


def test_settings_load_nothing_heavy() -> None:
    heavy = ("torch", "recbole", "pandas", "numpy", "scipy", "sklearn")
    assert offenders("settings", heavy) == []
    assert offenders("model.settings", heavy) == []


def test_evaluator_is_numpy() -> None:
    forbidden = ("recbole", "torch", "pandas", "sklearn", "scipy", PACKAGE)
    assert offenders("evaluator", forbidden, allowed=ours("evaluator", "errors")) == []


def test_adapters_know_neither_recbole_nor_models() -> None:
    forbidden = ("recbole", "torch", PACKAGE)
    assert (
        offenders("dataset_adapters", forbidden, ours("dataset_adapters", "errors", "arguments"))
        == []
    )


def test_recbole_is_imported_in_integration_and_model_alone() -> None:
    found = [
        f"{module_name(path)} -> {name}"
        for path in LIBRARY
        for name in sorted(imports_of(path))
        if within(name, "recbole") and not within(module_name(path), *ours("integration", "model"))
    ]
    assert found == []


def test_models_take_only_recbole_classes_meant_for_them() -> None:
    # Interaction is the type of a batch
    allowed = ("recbole.model", "recbole.utils", "recbole.data.interaction")
    assert offenders("model", ("recbole",), allowed) == []


def test_ray_and_recbole_quick_start_are_never_imported() -> None:
    found = [
        f"{module_name(path)} -> {name}"
        for path in LIBRARY
        for name in imports_of(path)
        if within(name, "ray", "recbole.quick_start")
    ]
    assert found == []


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_assert_and_no_broad_except(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    asserts = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    broad = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (
            node.type is None
            or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))
        )
        # cleaning up and raising again hides nothing
        and not (node.body and isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None)
    ]
    assert (asserts, broad) == ([], [])


@pytest.mark.parametrize("path", PROPERTIES, ids=lambda p: str(p.relative_to(ROOT)))
def test_properties_parse_to_a_mapping(path: Path) -> None:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    # YAML 1.1 reads 2e-3 as text: what looks like a number must be one.
    number = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?", re.IGNORECASE)
    texts = [k for k, v in values.items() if isinstance(v, str) and number.fullmatch(v)]
    assert texts == []


def keys_without_comment(text: str) -> list[str]:
    """Top-level keys with neither a comment on a line of theirs nor one right above."""
    missing = []
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r"[A-Za-z_][\w-]*\s*:", line)]
    for i in starts:
        own = [lines[i]]
        for line in lines[i + 1 :]:
            if not line.startswith((" ", "\t")):
                break
            own.append(line)
        above = lines[i - 1].startswith("#") if i else False
        if not above and not any(re.search(r"(^|\s)#\s*\S", line) for line in own):
            missing.append(lines[i].split(":")[0].strip())
    return missing


def test_the_finder_of_comments_finds() -> None:
    text = "# about a\na: 1\nb: 2  # why\nc: 3\nd:\n  e: 4  # because\nf: 'x#y'\n"
    assert keys_without_comment(text) == ["c", "f"]


MODEL_PROPERTIES = [p for p in PROPERTIES if p.parent.name == "model"]


def test_every_key_of_a_model_has_a_comment() -> None:
    found = {
        path.name: keys_without_comment(path.read_text(encoding="utf-8"))
        for path in MODEL_PROPERTIES
    }
    assert {name: keys for name, keys in found.items() if keys} == {}


def test_every_default_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(\w+)`", text))
    for name in ("overall.yaml", "semantic/embedded.yaml"):
        values = yaml.safe_load((ROOT / "properties" / name).read_text(encoding="utf-8"))
        assert sorted(set(values) - documented) == [], name


@pytest.mark.parametrize("name", ["ml-100k", "ml-1m"])
def test_roles_of_a_dataset_are_loaded_columns(name: str) -> None:
    path = ROOT / "properties" / "dataset" / f"{name}.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    columns = values["load_col"]
    assert set(values["user_attr_fields"]) <= set(columns["user"])
    assert set(values["item_attr_fields"]) <= set(columns["item"])
    assert values["category_field"] in columns["item"]
    assert set(values["threshold"]) <= set(columns["inter"])


def test_tests_have_unique_names() -> None:
    names = [p.name for p in (ROOT / "tests").rglob("test_*.py")]
    assert sorted({n for n in names if names.count(n) > 1}) == []


def test_documentation_stays_small() -> None:
    files = [p for p in (ROOT / "docs").rglob("*") if p.is_file()]
    assert len(files) < 60
    assert sum(p.stat().st_size for p in files) < 3e6
    loose = {".csv", ".db", ".lock", ".npz"}
    assert [p.name for p in files if p.suffix in loose or p.name == ".lock"] == []
    # records are packed: `recbole-choir records pack FOLDER`
    assert list((ROOT / "docs" / "records").rglob("*.json")) == []
