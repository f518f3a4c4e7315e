"""Every error that a user can meet.

    PascalineError
    ├── ConfigError         a setting, flag or request field is wrong
    ├── CheckpointError     a model's files are missing, damaged or contradict each other
    ├── UnsupportedError    the thing is well-formed, but we do not do it
    ├── ShapeError          tensors or axes do not fit together
    ├── OutOfMemoryError    it does not fit; says what would
    ├── CompileError        a kernel does not compile; carries the compiler's log
    ├── CudaError           the CUDA driver refused a call
    ├── UnknownGpuError     no card of that name is in the table
    └── EngineError         the engine process failed or went away

Each says what was seen, what was expected and what to do.
"""

from __future__ import annotations

_MAX_CHARACTERS = 2000


class PascalineError(Exception):
    """Base of all errors that are shown to users as one message, without a traceback.

    What a message quotes may come from a hostile file: characters that would steer a terminal, or that
    no encoding can write, are spelled out, and a very long text is cut.

    Parameters
    ----------
    seen : what was found, naming the thing (a full sentence without its full stop).
    expected : what would have been right; left out when `seen` already says it.
    remedy : what the user can do about it; a command where there is one.
    """

    def __init__(self, seen: str, *, expected: str = "", remedy: str = "") -> None:
        self.seen = printable(seen)
        self.expected = printable(expected)
        self.remedy = printable(remedy)
        super().__init__(self.seen)

    def __str__(self) -> str:
        message = self.seen
        if self.expected:
            message += f" (expected {self.expected})"
        if self.remedy:
            message += f". {self.remedy}"
        return message


def printable(text: str) -> str:
    """`text` without characters that steer a terminal or that no encoding can write, and cut if very long."""
    start = text[:_MAX_CHARACTERS]
    if not start.isprintable():
        start = "".join(
            character if character.isprintable() or character == "\n" else ascii(character)[1:-1]
            for character in start
        )[:_MAX_CHARACTERS]
    return start if len(text) <= _MAX_CHARACTERS else f"{start}…"


class ConfigError(PascalineError):
    """A setting, flag or request field is wrong."""


class CheckpointError(PascalineError):
    """A model's files are missing, damaged or contradict each other."""


class UnsupportedError(PascalineError):
    """Well-formed, but not something this version does."""


class ShapeError(PascalineError):
    """Tensors or axes do not fit together."""


class OutOfMemoryError(PascalineError):
    """It does not fit in memory; the message says what would."""


class EngineError(PascalineError):
    """The engine process failed or went away."""


class UnknownGpuError(PascalineError):
    """No card of that name is in the table."""


class CompileError(PascalineError):
    """A kernel does not compile; `log` is the compiler's."""

    def __init__(self, seen: str, *, log: str = "", expected: str = "", remedy: str = "") -> None:
        self.log = log
        super().__init__(seen, expected=expected, remedy=remedy)


class CudaError(PascalineError):
    """The CUDA driver refused a call; `code` is its CUresult, None where there is no driver."""

    def __init__(self, seen: str, *, code: int | None = None, expected: str = "", remedy: str = "") -> None:
        self.code = code
        super().__init__(seen, expected=expected, remedy=remedy)
