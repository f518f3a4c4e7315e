"""What verbs write: one JSON object, a page, or lines of text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pascaline.core.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_json(value: object) -> None:
    """One object on stdout, in ASCII: any encoding can write it.

    Raises
    ------
    ValueError : a number that JSON has not (NaN, infinity).
    """
    json.dump(value, sys.stdout, allow_nan=False)
    sys.stdout.write("\n")


def write_page(path: Path, document: str) -> None:
    """The file, whole or not at all; on stderr that it is there."""
    from pascaline.core.files import write_atomically

    write_atomically(path, document.encode())
    sys.stderr.write(f"page written to {printable(str(path))}\n")


def open_console(plain_width: int) -> Console:
    """Stdout: as wide as the terminal and in colour; plain and `plain_width` wide where there is none."""
    from rich.console import Console

    console = Console(file=sys.stdout)
    return console if console.is_terminal else Console(file=sys.stdout, width=plain_width, color_system=None)


def say(console: Console, text: str = "", style: str | None = None) -> None:
    """Lines as they are: what they quote may look like markup, or would steer a terminal."""
    console.print(
        printable(text), style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal
    )


def new_table(console: Console) -> Table:
    """Columns without rules, under bold headings; on a terminal with a line below those."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, header_style="bold")
