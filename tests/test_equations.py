"""docs/equations.md: every symbol is there and names its equation, and every test is there."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| (\d+) \| [^|]+ \| `([\w.]+):([\w.]+)` \| `([^:`]+)::(\w+)` \| ([^|]*)\|", re.M
)
ROWS = ROW.findall(TEXT)
GAPS = (ROOT / "docs" / "gaps.md").read_text(encoding="utf-8")


def names(text: str, number: int) -> bool:
    """Whether a docstring names the equation, alone or in a range."""
    for first, last in re.findall(r"Eq\. (\d+)(?:-(\d+))?", text):
        if int(first) <= number <= int(last or first):
            return True
    listed = re.findall(r"Eq\. ((?:\d+(?:-\d+)?(?:, | and )?)+)", text)
    numbers = [re.findall(r"(\d+)(?:-(\d+))?", part) for part in listed]
    return any(int(a) <= number <= int(b or a) for part in numbers for a, b in part)


def test_every_equation_has_its_row() -> None:
    split = TEXT.index("## AKT-Rec")
    for part in (TEXT[:split], TEXT[split:]):
        assert [int(row[0]) for row in ROW.findall(part)] == list(range(1, 13))


@pytest.mark.parametrize(("number", "module", "symbol", "file", "test", "gaps"), ROWS)
def test_a_row_holds(
    number: str, module: str, symbol: str, file: str, test: str, gaps: str
) -> None:
    found = importlib.import_module(module)
    docs = [inspect.getdoc(found) or ""]
    for part in symbol.split("."):
        found = getattr(found, part)
        docs.append(inspect.getdoc(found) or "")
    assert any(names(doc, int(number)) for doc in docs), f"{module}:{symbol} names no Eq. {number}"
    assert re.search(rf"def {test}\(", (ROOT / file).read_text(encoding="utf-8")), test
    for gap in filter(None, map(str.strip, gaps.split(","))):
        assert f"| {gap} | " in GAPS, gap


def test_every_gap_that_is_cited_is_told() -> None:
    cited = set()
    for folder in ("recbole_choir", "properties", "tests", "dataset_adapters"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml"):
                text = path.read_text(encoding="utf-8")
                for place in re.findall(r"gaps\.md ((?:[AC]\d+(?:, | and | to )?)+)", text):
                    cited |= set(re.findall(r"[AC]\d+", place))
    assert len(cited) > 30
    assert sorted(gap for gap in cited if f"| {gap} | " not in GAPS) == []
