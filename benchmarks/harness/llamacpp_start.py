"""llama.cpp's library, started."""

from __future__ import annotations

import sys

import llama_cpp

_LOG_ERROR = 4


def _log_errors(level: int, text: bytes, _: object) -> None:
    """llama.cpp writes hundreds of lines while it loads: only errors are passed on."""
    if level == _LOG_ERROR:
        sys.stderr.write(text.decode(errors="replace"))


_LOG_CALLBACK = llama_cpp.llama_log_callback(_log_errors)  # C keeps a pointer to it


def start_quietly() -> None:
    """Once a process, before anything else of it."""
    llama_cpp.llama_log_set(_LOG_CALLBACK, None)
    llama_cpp.llama_backend_init()
