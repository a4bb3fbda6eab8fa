"""What the documents say is what the records say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _script() -> ModuleType:
    path = ROOT / "benchmarks" / "write_docs.py"
    spec = importlib.util.spec_from_file_location("write_docs", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", _script().PAGES, ids=lambda p: p.name)
def test_tables_are_those_of_the_committed_records(page: Path) -> None:
    text = page.read_text()
    assert text.count("<!-- table: ") == text.count("<!-- end -->") > 0
    assert _script().rendered(text) == text, "run python benchmarks/write_docs.py"


def test_every_local_link_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    missing = [
        f"{page.name}: {target}"
        for page in pages
        for part in page.read_text().split("](")[1:]
        if not (target := part.split(")")[0].split("#")[0]).startswith("http")
        if target and not (page.parent / target).exists()
    ]
    assert missing == []


def _slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip()).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def _anchors(page: Path) -> set[str]:
    text = page.read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {_slug(h) for h in headings} | set(re.findall(r'<a id="([\w-]+)"></a>', text))


def test_every_anchor_of_a_link_is_there() -> None:
    missing = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target, anchor in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", page.read_text()):
            other = (page.parent / target) if target else page
            if other.suffix == ".md" and anchor not in _anchors(other):
                missing.append(f"{page.name}: {target}#{anchor}")
    assert missing == []


def test_every_entry_that_the_code_cites_is_there() -> None:
    """``docs/gaps.md C9`` and ``docs/baselines.md 4``, in code, YAML files and tests."""
    gaps = _anchors(ROOT / "docs" / "gaps.md")
    sections = re.findall(r"^## (\d)\. ", (ROOT / "docs" / "baselines.md").read_text(), re.M)
    entries = r"[AC]\d+(?:(?:-|, | and | to )[AC]\d+)*"
    missing, seen = set(), set()
    for folder in ("recbole_choir", "properties", "tests", "benchmarks"):
        for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.yaml")]:
            text = re.sub(r"\s+", " ", path.read_text())
            for found in re.findall(rf"docs/gaps\.md,? ({entries})", text):
                cited = re.findall(r"[AC]\d+", found)
                missing |= {f"{path.name}: {i}" for i in cited if i.lower() not in gaps}
                seen |= set(cited)
            for found in re.findall(r"docs/baselines\.md (\d(?: and \d)?)", text):
                missing |= {f"{path.name}: {n}" for n in found.split(" and ") if n not in sections}
    assert sorted(missing) == []
    assert len(seen) > 30


def test_every_gap_has_an_entry() -> None:
    """Our numbers of what the papers leave open have no hole: sources of settings cite them."""
    gaps = _anchors(ROOT / "docs" / "gaps.md")
    assert {*(f"c{n}" for n in range(1, 30)), *(f"a{n}" for n in range(1, 25))} <= gaps
