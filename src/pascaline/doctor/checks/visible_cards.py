"""Cards that an environment variable hides.

CUDA_VISIBLE_DEVICES chooses which cards CUDA shows. Empty, -1 or a number that no card has hides all of
them, without a word.
"""

from __future__ import annotations

from collections.abc import Iterator

from pascaline.doctor.check import Check, Finding, ok, warn
from pascaline.doctor.machine import Machine

_NAME = "CUDA_VISIBLE_DEVICES"
_EXPECTED = f"{_NAME} not set, or naming cards that are there"


def _look(machine: Machine) -> Iterator[Finding]:
    value, count = machine.environ.get(_NAME), len(machine.gpus().gpus)
    if value is None or not count:
        yield ok(f"{_NAME} is not set" if value is None else "no card to hide", _EXPECTED)
        return
    entries = [entry.strip() for entry in value.split(",")]
    if not value.strip() or entries[0] == "-1":
        yield warn(f"{_NAME}={value!r} hides all {count} cards", _EXPECTED, f"unset {_NAME}")
        return
    missing = [entry for entry in entries if entry.isdecimal() and int(entry) >= count]
    if missing:
        # CUDA stops reading at the first entry that names no card.
        seen = f"{_NAME}={value!r}, but there is no card {missing[0]}: it and all behind it are hidden"
        remedy = f"export {_NAME}={','.join(str(index) for index in range(count))}"
        yield warn(seen, _EXPECTED, remedy)
        return
    yield ok(f"{_NAME}={value!r}", _EXPECTED)


CHECK = Check("visible_cards", _look)
