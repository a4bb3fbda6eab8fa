"""docs/equations.md: the symbols exist and name their equations, the tests named exist."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "equations.md"
NUMBERED = {"ChoirRec": 12, "AKT-Rec": 12}
COMPARE = {"ChoirRec": "ChoirRec", "AKT-Rec": "AKTRec"}


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        paper: The heading above it.
        label: ``Eq. 7``, a section such as ``4.3.3``, or a row of Table 2.
        what: The second cell.
        symbols: ``module:Class.method``.
        tests: ``tests/path.py::test_name``.
        gaps: ``C9``.
    """

    paper: str
    label: str
    what: str
    symbols: list[str]
    tests: list[str]
    gaps: list[str]


def rows() -> Iterator[Row]:
    paper = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            paper = line[3:]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 5 or cells[3] in ("test", "---"):
            continue
        yield Row(
            paper,
            cells[0],
            cells[1],
            re.findall(r"`([\w.]+:[\w.]+)`", cells[2]),
            re.findall(r"`(tests/[\w/.]+::\w+)`", cells[3]),
            re.findall(r"\b[AC]\d+\b", cells[4]),
        )


ROWS = list(rows())
EQUATIONS = [row for row in ROWS if re.fullmatch(r"Eq\. \d+|\d(\.\d)+", row.label)]
TABLE_2 = [row for row in ROWS if row.label.startswith("w/")]


def named(text: str) -> set[str]:
    """Equations and sections that a docstring names: ``Eq. 4-6``, ``Eq. 9, 11``, ``4.4.3``."""
    found = set(re.findall(r"\b\d\.\d(?:\.\d)?\b", text))
    for group in re.findall(r"Eq\.\s+(\d+(?:(?:-|\s*,\s*|\s+and\s+|\s+to\s+)\d+)*)", text):
        for first, last in re.findall(r"(\d+)(?:(?:-|\s+to\s+)(\d+))?", group):
            found |= {f"Eq. {n}" for n in range(int(first), int(last or first) + 1)}
    return found


def resolve(symbol: str) -> tuple[Any, str]:
    """What ``module:Class.method`` means, and its docstring with that of its class."""
    name, _, path = symbol.partition(":")
    try:
        value: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise  # the module is there and lacks a library
        pytest.fail(f"docs/equations.md: {symbol}: there is no module {error.name}", False)
    texts = []
    for part in path.split("."):
        if not hasattr(value, part):
            where = getattr(value, "__name__", name)
            pytest.fail(f"docs/equations.md: {symbol}: {where} has no {part}", False)
        value = getattr(value, part)
        texts.append(value.__doc__ or "")
    return value, "\n".join(texts)


def test_the_reader_of_equations_sees_all_forms() -> None:
    text = "Eq. 2-3 of 4.2.2; Eq. 6 and 10; Eq. 9, 11, 12 (Eq. 7 to 8)"
    numbers = (2, 3, 6, 7, 8, 9, 10, 11, 12)
    assert named(text) == {"4.2.2", *(f"Eq. {n}" for n in numbers)}


@pytest.mark.parametrize("paper", list(NUMBERED))
def test_every_numbered_equation_has_a_row(paper: str) -> None:
    labels = {row.label for row in EQUATIONS if row.paper == paper}
    assert {f"Eq. {n}" for n in range(1, NUMBERED[paper] + 1)} - labels == set()


@pytest.mark.parametrize("row", EQUATIONS, ids=lambda r: f"{r.paper} {r.label} {r.what[:20]}")
def test_symbols_exist_and_their_docstrings_name_the_equation(row: Row) -> None:
    assert row.symbols, f"docs/equations.md: {row.paper} {row.label} names no symbol"
    silent = [s for s in row.symbols if row.label not in named(resolve(s)[1])]
    assert silent == [], f"docstrings that do not name {row.label} of {row.paper}"


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.paper} {r.label} {r.what[:20]}")
def test_the_tests_named_exist(row: Row) -> None:
    assert row.tests, f"docs/equations.md: {row.paper} {row.label} names no test"
    for test in row.tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file(), f"docs/equations.md: there is no file {path}"
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in found, f"docs/equations.md: {path} has no {name}"


def test_the_gaps_named_exist() -> None:
    page = (ROOT / "docs" / "gaps.md").read_text(encoding="utf-8")
    known = set(re.findall(r'<a id="([ac]\d+)"></a>', page))
    assert {gap.lower() for row in ROWS for gap in row.gaps} - known == set()


@pytest.mark.parametrize("paper", list(COMPARE))
def test_table_2_is_what_compare_runs(paper: str) -> None:
    path = ROOT / "properties" / "compare" / f"{COMPARE[paper]}.yaml"
    ablation = yaml.safe_load(path.read_text(encoding="utf-8"))["ablation"]
    told = {}
    for row in (row for row in TABLE_2 if row.paper == paper):
        pairs = re.findall(r"`--(\w+)=([\w.]+)`", row.what)
        told[row.label] = {key: yaml.safe_load(value) for key, value in pairs}
        (symbol,) = row.symbols
        fields = resolve(symbol)[0].model_fields
        assert set(told[row.label]) <= set(fields), f"docs/equations.md: {paper} {row.label}"
    assert told == ablation
