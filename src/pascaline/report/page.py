"""One self-contained HTML page: style, script and data inside, nothing fetched, light and dark.

Everything that a page shows may come from a hostile file: pass it through `escaped`, `table` or
`data_island`. A page's policy forbids it to load or send anything, whatever is in it.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Cell:
    """A table's cell: what is read, and the number (or text) that its column is sorted by."""

    text: str
    sort_by: float | str | None = None
    title: str = ""


@dataclass(frozen=True)
class Column:
    """A table's column; `title` explains it to who hovers, numbers are set to the right."""

    heading: str
    title: str = ""
    is_number: bool = True


def escaped(text: object) -> str:
    """Text as HTML, safe within elements and quoted attributes."""
    return html.escape(str(text), quote=True)


def data_island(element_id: str, value: object) -> str:
    """JSON for a script to read: `JSON.parse(document.getElementById(element_id).textContent)`.

    Raises
    ------
    ValueError : a number that JSON has not (NaN, infinity).
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":  # no end tag or comment can begin in it
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{escaped(element_id)}">{text}</script>'


def table(name: str, columns: Sequence[Column], rows: Iterable[Sequence[Cell | str]]) -> str:
    """A table that is sorted by any column, with pointer or keyboard; `name` is its accessible name.

    A cell without `sort_by` is sorted by its text; empty cells go last either way.
    """
    head = "".join(
        f"<th scope='col'{_classes(column)}><button type='button' title='{escaped(column.title)}'>"
        f"{escaped(column.heading)}</button></th>"
        for column in columns
    )
    body = "".join(
        "<tr>" + "".join(map(_cell, columns, row)) + "</tr>\n" for row in (tuple(row) for row in rows)
    )
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='{escaped(name)}'>"
        f"<table class='sortable'><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _cell(column: Column, cell: Cell | str) -> str:
    if isinstance(cell, str):
        cell = Cell(cell)
    value = "" if cell.sort_by is None else f" data-sort='{escaped(cell.sort_by)}'"
    title = f" title='{escaped(cell.title)}'" if cell.title else ""
    return f"<td{_classes(column)}{value}{title}>{escaped(cell.text)}</td>"


def _classes(column: Column) -> str:
    return " class='number'" if column.is_number else ""


def page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """A whole document.

    Parameters
    ----------
    title : plain text; the page's heading, too.
    body : HTML, already escaped.
    style : CSS of this page alone, after the shared part (page.css).
    script : JavaScript of this page alone, run after the shared part (tables) is there.
    """
    scripts = [web_file("tables.js"), script]
    return (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escaped(title)}</title>\n<style>\n{web_file('page.css')}{style}</style>\n</head>\n"
        f"<body>\n<header><h1>{escaped(title)}</h1></header>\n<main>\n{body}\n</main>\n"
        + "".join(f"<script>\n{text}</script>\n" for text in scripts if text)
        + "</body>\n</html>\n"
    )


def web_file(name: str) -> str:
    """The text of a file in report/web, which the package carries."""
    return (files("pascaline.report") / "web" / name).read_text(encoding="utf-8")
