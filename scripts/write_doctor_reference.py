"""Write docs/reference/doctor.md from the checks' own docstrings."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from pathlib import Path

from pascaline.core.files import write_atomically
from pascaline.doctor.checks import CHECKS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "doctor.md"

INTRODUCTION = """\
# pascaline doctor

<!-- Written by scripts/write_doctor_reference.py from the checks' docstrings; a test keeps it current. -->

`pascaline doctor` examines what a model runs on: card, driver, torch, compilers, memory, disk, network. It
changes nothing, takes some seconds, and works without a card, without a network and with a torch that does
not import: that one, and a kernel that is compiled and run for trial, have processes of their own.

Each check is `ok`, `warn` (it works, but slowly or by luck) or `fail` (something does not work). What is not
`ok` comes with what was seen, what was expected, and the commands that mend it, in the words of this machine:
its Python, its distribution, with `sudo` only where it is needed. Lines that begin with `#` are for people.

The exit code is 0 if no check fails, 1 if one does. `--json` prints one object:
`{"checks": [{"name", "status", "seen", "expected", "remedy"}]}`; `remedy` is empty where the status is `ok`,
and has one command a line.

## Checks
"""


def page() -> str:
    """The whole document."""
    return INTRODUCTION + "".join(_section(check.name) for check in CHECKS)


def _section(name: str) -> str:
    module = importlib.import_module(f"pascaline.doctor.checks.{name}")
    title, _, rest = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    paragraphs = (textwrap.fill(each, 110, break_on_hyphens=False) for each in rest.split("\n\n"))
    return f"\n### {name}\n\n**{title}**\n\n" + "\n\n".join(paragraphs) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(PAGE, page().encode())
