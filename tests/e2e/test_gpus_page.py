"""The page of cards in a real Chromium, from a file, with no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from pascaline.hardware.gpus import gpus
from pascaline.report.gpus_page import gpus_page

FIRST = "#cards tbody tr:not([hidden]) >> nth=0"


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    file = tmp_path / "cards.html"
    file.write_text(gpus_page(gpus(), {"Tesla P40"}), encoding="utf-8")
    context = browser.new_context(offline=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if request.url != file.as_uri() else None)
    page.goto(file.as_uri())
    yield page
    assert not problems
    context.close()


def heading(page: Page, name: str) -> None:
    page.get_by_role("columnheader").get_by_role("button", name=name, exact=True).click()


def test_every_card_is_there_and_the_installed_one_is_marked(page: Page) -> None:
    expect(page.locator("#cards tbody tr")).to_have_count(len(gpus()))
    expect(page.locator("#cards td", has_text="●")).to_have_text("● Tesla P40")


def test_numbers_sort_from_the_largest_and_back_and_absent_units_go_last(page: Page) -> None:
    heading(page, "Half")
    fastest = max(gpus(), key=lambda gpu: gpu.listed_tflops("fp16") or 0)
    expect(page.locator(FIRST)).to_contain_text(fastest.name)
    expect(page.locator("th[aria-sort=descending]")).to_have_text("Half")
    expect(page.locator("#cards tbody tr").last.locator("td").nth(11)).to_have_text("")
    heading(page, "Half")
    slowest = min(
        (gpu for gpu in gpus() if gpu.listed_tflops("fp16")), key=lambda gpu: gpu.listed_tflops("fp16") or 0
    )
    expect(page.locator(FIRST)).to_contain_text(slowest.name)
    expect(page.locator("#cards tbody tr").last.locator("td").nth(11)).to_have_text("")


def test_every_column_sorts_with_the_keyboard(page: Page) -> None:
    buttons = page.locator("thead button")
    for index in range(buttons.count()):
        buttons.nth(index).focus()
        page.keyboard.press("Enter")
        expect(page.locator("th").nth(index)).to_have_attribute(
            "aria-sort", "descending" if index not in (0, 1, 16) else "ascending"
        )
        first = page.locator(FIRST).inner_text()
        page.keyboard.press("Space")
        expect(page.locator(FIRST)).not_to_have_text(first)


def test_the_filter_takes_words_in_any_order(page: Page) -> None:
    page.fill("input[type=search]", "pascal 24")
    rows = page.locator("#cards tbody tr:visible")
    names = rows.locator("td:first-child").all_inner_texts()
    assert sorted(names) == ["Quadro P6000", "● Tesla P40"]
    page.fill("input[type=search]", "no such card")
    expect(rows).to_have_count(0)


def test_marks_are_named_and_precisions_are_switched(page: Page) -> None:
    mark = page.locator("path.fp32[data-card='Tesla P40']")
    mark.dispatch_event("pointerover", {"bubbles": True})
    expect(page.locator("#pointed")).to_contain_text("Tesla P40: 11.8 TFLOPS fp32, 347.1 GB/s")
    expect(page.locator("path.int8[data-card='Tesla P40']")).to_be_hidden()
    page.get_by_label("int8 (dp4a)").check()
    expect(page.locator("path.int8[data-card='Tesla P40']")).to_be_visible()
    page.get_by_label("fp32", exact=True).uncheck()
    expect(mark).to_be_hidden()


def test_the_price_of_half_tells_6_0_from_6_1(page: Page) -> None:
    drawing = page.get_by_role("img", name="Half arithmetic as a multiple of fp32")
    slow = drawing.locator("rect.slow")
    expect(slow).to_have_count(1)
    expect(slow.locator("title")).to_have_text("6.1 Pascal: half at 1/64 fp32")
    expect(drawing.locator("rect.fast title", has_text="6.0 Pascal: half at 2×")).to_have_count(1)
    tensor = drawing.locator("path.mark title").all_text_contents()
    assert not [text for text in tensor if text.startswith(("5.", "6."))]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.scrollingElement.scrollWidth") == 400
    paper, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    darkness = [sum(map(int, colour.strip("rgb()").split(","))) for colour in (paper, ink)]
    assert (darkness[0] < darkness[1]) == (scheme == "dark")
