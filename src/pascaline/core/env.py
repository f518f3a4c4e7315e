"""The environment variables that Pascaline reads; there are no others.

| variable | meaning | default |
| --- | --- | --- |
| PASCALINE_CACHE | folder for downloaded models | $XDG_CACHE_HOME/pascaline, else ~/.cache/pascaline |

`PASCALINE_TORCH`, read by `make setup` only, replaces its choice of torch (a pip requirement).
"""

from __future__ import annotations

import os
from pathlib import Path

from pascaline.core.errors import ConfigError


def cache_dir() -> Path:
    """Folder for everything that can be fetched or built again; not created here."""
    configured = os.environ.get("PASCALINE_CACHE")
    if configured:
        return Path(configured).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "pascaline"
    except RuntimeError as error:  # no HOME, and no such user: a container with a user id of its own
        raise ConfigError("no home folder is known", remedy="Set HOME, or PASCALINE_CACHE") from error
