"""What the documents say is what the records say."""

from __future__ import annotations

import importlib.util
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
