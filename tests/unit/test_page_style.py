"""The page that reports are put on: whole, and safe whatever is put on it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from pascaline.report.page import Cell, Column, data_island, escaped, page, table

HOSTILE = "</script><script>alert(1)</script><!--\"'&\x00"


class Tags(HTMLParser):
    """The names of all elements, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)


def test_nothing_that_is_shown_becomes_markup() -> None:
    shown = table(HOSTILE, [Column(HOSTILE, HOSTILE)], [[Cell(HOSTILE, HOSTILE, title=HOSTILE)], [HOSTILE]])
    document = page(HOSTILE, f"<p>{escaped(HOSTILE)}</p>{shown}{data_island('data', [HOSTILE])}")
    tags = Tags(document).seen
    assert tags.count("script") == 2  # tables.js, and the data
    assert "alert(1)</script>" not in document.replace(escaped("alert(1)</script>"), "")


def test_data_comes_back_as_it_was() -> None:
    value = {"names": [HOSTILE, "é\u2028"], "rate": 1.5, "none": None}
    island = data_island("data", value)
    assert json.loads(re.sub(r"</?script[^>]*>", "", island)) == value


def test_data_that_json_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        data_island("data", float("nan"))


def test_a_page_fetches_nothing() -> None:
    document = page("Title", "<p>body</p>", script="const x = 1;")
    assert "default-src 'none'" in document
    assert not re.search(r"(src|href)\s*=|url\(|@import|fetch\(", document)
    assert document.index("table.sortable") < document.index("const x = 1;")
