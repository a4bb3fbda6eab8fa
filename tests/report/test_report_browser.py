"""The page in a real browser, without a window: it runs, draws every plot and fits a laptop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.report.page import write_report

selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

WIDTH = 1366
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no chromium and chromedriver here (Debian: chromium, chromium-driver)",
    ),
]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--window-size={WIDTH},900", f"--user-data-dir={tmp_path / 'profile'}"),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def _requests_of_the_page(browser: Any, url: str) -> set[str]:
    """What the page asked for; the browser's own start page asks for things as well."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {
        e["params"]["request"]["url"]
        for e in events
        if e["method"] == "Network.requestWillBeSent" and e["params"].get("documentURL") == url
    }


def test_the_page_in_a_browser(study: Path, table: Path, tmp_path: Path, browser: Any) -> None:
    fingerprint = SemanticTable.load(table).fingerprint
    for path in study.glob("*ChoirRec*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "table": {"fingerprint": fingerprint}}))
    page = write_report(study, tmp_path / "report.html", semantic=[table]).resolve()
    browser.get(page.as_uri())

    assert browser.get_log("browser") == [], "nothing on the console"
    asked = _requests_of_the_page(browser, page.as_uri())
    assert {url.split(":")[0] for url in asked} <= {"file", "data", "blob"}, "no network"

    def script(text: str) -> Any:
        return browser.execute_script(f"return {text}")

    assert script("innerWidth") == WIDTH
    assert script("document.documentElement.scrollWidth") <= WIDTH, "no scrolling sideways"
    beyond = script(
        "[...document.querySelectorAll('.wide')].filter(t => t.scrollWidth > t.clientWidth)"
        ".map(t => t.previousElementSibling.textContent)"
    )
    assert beyond == [], "every table fits a laptop"
    plots = script(
        "[...document.querySelectorAll('.js-plotly-plot')].map(p => [p.id, p.data.length, "
        "p.querySelectorAll('.scatterlayer .trace').length, p.getBoundingClientRect().width])"
    )
    assert [name for name, *_ in plots] == [
        f"d--plot--{plot}" for plot in ("gain", "gates", "norms", "curves", "map", "sizes")
    ]
    for name, n_series, n_drawn, width in plots:
        assert n_series == n_drawn > 0, name
        assert 900 < width < WIDTH, name
    smallest = script(
        "Math.min(...[...document.querySelectorAll('td, figcaption, code, .xtick text')]"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 12, "letters that can be read"
    buttons = script("[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)")
    assert buttons
    assert not [title for title in buttons if "cloud" in title.lower()]

    browser.find_element("css selector", "tbody a").click()
    assert script("location.hash") == "#d--Base"
    assert script("document.querySelector(':target').textContent") == "Base"
    assert browser.get_log("browser") == []
