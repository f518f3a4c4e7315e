"""The page of `pascaline compare --html` in a real Chromium, offline: it is whole, folds, sorts, and fits."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from pascaline.report.compare import compare
from pascaline.report.compare_page import compare_page
from pascaline.report.importers import open_record

CASE = Path(__file__).parents[1] / "fixtures" / "case_study"
LINEARS = ["gate_up_proj", "down_proj", "qkv_proj", "o_proj"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = (
        open_record(CASE / f"{name}.json")
        for name in ("pascal_12gb_half_arithmetic", "rtx_a6000_half_arithmetic")
    )
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(compare_page(compare(*records, "pascal.json", "a6000.json")), encoding="utf-8")
    return path


def opened(
    browser: Browser, file: Path, *, scheme: str = "light", width: int = 1200
) -> tuple[Page, list[str]]:
    color = "dark" if scheme == "dark" else "light"
    context = browser.new_context(color_scheme=color, viewport={"width": width, "height": 900}, offline=True)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text))
    page.on("request", lambda request: faults.append(request.url) if request.url != file.as_uri() else None)
    page.goto(file.as_uri())
    return page, faults


def test_the_work_is_said_and_the_linears_stand_out(browser: Browser, file: Path) -> None:
    page, faults = opened(browser, file)
    expect(page.locator("main")).to_contain_text("1/7.82 of the work of B")
    names = page.locator(".tree .slow").all_inner_texts()
    assert sorted(names) == sorted(LINEARS)
    bars = page.locator(".leaf:has(.slow) .bar > .a").evaluate_all("bars => bars.map(b => b.offsetWidth)")
    others = page.locator(".leaf:has(.slow) .bar > .b").evaluate_all("bars => bars.map(b => b.offsetWidth)")
    assert all(a > 10 * b for a, b in zip(bars, others, strict=True))
    assert faults == []
    page.context.close()


def test_modules_fold_and_the_table_sorts(browser: Browser, file: Path) -> None:
    page, faults = opened(browser, file)
    leaf = page.locator(".tree .leaf", has_text="gate_up_proj")
    expect(leaf).to_be_visible()
    page.locator(".tree summary").first.click()
    expect(leaf).to_be_hidden()
    page.locator(".tree summary").first.press("Enter")
    expect(leaf).to_be_visible()
    page.get_by_role("button", name="Same work").click()
    first = page.locator("tbody tr td:first-child").first
    before = first.inner_text()
    page.get_by_role("button", name="Same work").click()
    assert {before, first.inner_text()} == {
        *("model.layers.0.post_attention_layernorm", "model.layers.0.mlp.gate_up_proj")
    }
    assert faults == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_it_fits_and_is_readable(browser: Browser, file: Path, scheme: str, width: int) -> None:
    page, faults = opened(browser, file, scheme=scheme, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert ink != paper
    assert faults == []
    page.context.close()
