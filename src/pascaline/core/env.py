"""The environment variables that Pascaline reads; there are no others.

| variable | meaning | default |
| --- | --- | --- |
| PASCALINE_CACHE | folder for models and kernels | $XDG_CACHE_HOME/pascaline, else ~/.cache/pascaline |
| PASCALINE_THREADS | threads that compute on the CPU | OMP_NUM_THREADS, else one a physical core |
| PASCALINE_CPU_INSTRUCTIONS | CPU kernels: avx512-vnni, avx2, neon-dotprod | the fastest that run here |

`PASCALINE_TORCH`, read by `make setup` only, replaces its choice of torch (a pip requirement).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pascaline.core.errors import ConfigError

MOST_THREADS = 4096


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Folder for everything that can be fetched or built again; not created here.

    Raises
    ------
    ConfigError : no home folder is known, or it begins with "~" and the name of nobody.
    """
    configured = environ.get("PASCALINE_CACHE")
    if configured:
        try:
            return Path(configured).expanduser()
        except RuntimeError:
            raise ConfigError(
                f"PASCALINE_CACHE is {configured!r:.200}: no home folder of that name is known",
                remedy="Set it to a folder that you may write to",
            ) from None
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "pascaline"
    except RuntimeError as error:  # no HOME, and no such user: a container with a user id of its own
        raise ConfigError("no home folder is known", remedy="Set HOME, or PASCALINE_CACHE") from error


def threads() -> int | None:
    """The number of compute threads that the user set.

    Raises
    ------
    ConfigError : it is no number, or less than 1.
    """
    for name in ("PASCALINE_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "").partition(",")[0].strip()
        if value:
            if not value.isdecimal() or not 1 <= int(value) <= MOST_THREADS:
                raise ConfigError(f"{name} is {value!r:.40}", expected=f"1 to {MOST_THREADS} threads")
            return int(value)
    return None


def cpu_instructions() -> str | None:
    """The instruction set that the CPU kernels are to use; None means the fastest."""
    return os.environ.get("PASCALINE_CPU_INSTRUCTIONS") or None
