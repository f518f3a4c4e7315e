"""The folders for models and caches: that they can be written, and have room.

PASCALINE_CACHE holds what can be fetched or built again, HF_HUB_CACHE (or HF_HOME) models of the hub.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from pascaline.core.env import cache_dir
from pascaline.core.units import format_bytes
from pascaline.doctor.check import Check, Finding, fail, ok, warn
from pascaline.doctor.machine import Machine
from pascaline.doctor.remedies import sudo

_LITTLE_BYTES = 10 << 30
_EXPECTED = f"folders that can be written, with {format_bytes(_LITTLE_BYTES)} free or more"


def _look(machine: Machine) -> Iterator[Finding]:
    hub = _hub_cache(machine)
    for name, folder in (("PASCALINE_CACHE", cache_dir(machine.environ)), ("HF_HUB_CACHE", hub)):
        if not machine.writable(folder):
            own = sudo(machine, f"chown -R $USER {shlex.quote(str(folder))}")
            remedy = f"export {name}=/path/with/room\n# or, where it is a folder of another user:\n{own}"
            yield fail(f"{folder} ({name}) cannot be written", _EXPECTED, remedy)
            continue
        free = machine.free_bytes(folder)
        seen = f"{folder}: {'unknown room' if free is None else f'{format_bytes(free)} free'}"
        if free is not None and free < _LITTLE_BYTES:
            yield warn(seen, _EXPECTED, f"du -sh {shlex.quote(str(hub))}/*\nexport {name}=/path/with/room")
        else:
            yield ok(seen, _EXPECTED)


def _hub_cache(machine: Machine) -> Path:
    """As huggingface_hub settles it."""
    environ = machine.environ
    if environ.get("HF_HUB_CACHE"):
        return Path(environ["HF_HUB_CACHE"]).expanduser()
    home = environ.get("HF_HOME") or f"{environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(home).expanduser() / "hub"


CHECK = Check("disk", _look)
