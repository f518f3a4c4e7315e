"""A specialisation's machine code: its source, what that includes, and the compiler's options.

Sources include nothing of CUDA's headers: NVRTC alone compiles them.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pascaline.core.errors import CompileError
from pascaline.hardware.nvrtc import Compiled, Nvrtc
from pascaline.kernels.cuda.specialisation import Specialisation

FOLDER = Path(__file__).parent
"""Of the sources."""

OPTIONS = ("--std=c++17", "--device-as-default-execution-space")

_WITH_ITS_OWN = {"sm_90": "sm_90a"}
"""Chips with instructions that only code for just them may have."""

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """A source file with all that it includes, directly or not.

    Parameters
    ----------
    name : the file's.
    headers : texts by the names that they are included by.
    """

    name: str
    text: str
    headers: Mapping[str, str]

    @functools.cached_property
    def digest(self) -> bytes:
        """Of every text in it."""
        digest = hashlib.sha256()
        for name, text in ((self.name, self.text), *sorted(self.headers.items())):
            _add(digest, name)
            _add(digest, text)
        return digest.digest()


@functools.cache
def source_of(file: str, folder: Path = FOLDER) -> Source:
    """Read a source and what it includes.

    A name that is no file in `folder` is left to the compiler: sources include the stand-in for a card where
    they are compiled for the CPU.

    Raises
    ------
    CompileError : there is no such source.
    """
    try:
        text = (folder / file).read_text()
    except OSError as error:
        raise CompileError(
            f"the kernels' source {folder / file} cannot be read: {error.strerror}",
            remedy="Install Pascaline anew",
        ) from None
    headers: dict[str, str] = {}
    wanted = _INCLUDE.findall(text)
    while wanted:
        name = wanted.pop()
        if name not in headers and (folder / name).is_file():
            headers[name] = (folder / name).read_text()
            wanted += _INCLUDE.findall(headers[name])
    return Source(file, text, headers)


class Compiler:
    """NVRTC for one architecture ("sm_61")."""

    def __init__(self, nvrtc: Nvrtc, architecture: str, folder: Path = FOLDER) -> None:
        """`folder` has the sources."""
        self.nvrtc = nvrtc
        self.architecture = architecture
        self._target = _WITH_ITS_OWN.get(architecture, architecture)
        self._folder = folder
        self._identity = nvrtc.identity

    def key(self, specialisation: Specialisation) -> str:
        """A name for its machine code, other than that of any that may differ from it, in hexadecimal digits.

        Kernels of one source with equal definitions are compiled together, and have one key.
        """
        digest = hashlib.sha256(source_of(specialisation.file, self._folder).digest)
        for text in (self._identity, self._target, *OPTIONS, *specialisation.options):
            _add(digest, text)
        return digest.hexdigest()

    def compile(self, specialisation: Specialisation) -> bytes:
        """A cubin.

        Raises
        ------
        CompileError : as `compiled`.
        """
        return self.compiled(specialisation).cubin

    def compiled(self, specialisation: Specialisation) -> Compiled:
        """A cubin, and what the compiler warns of.

        Raises
        ------
        CompileError : it does not compile; names the definitions, and has the compiler's log.
        """
        source = source_of(specialisation.file, self._folder)
        options = (*OPTIONS, *specialisation.options)
        try:
            return self.nvrtc.compile(
                source.text,
                self._target,
                options=options,
                headers=source.headers,
                file_name=source.name,
            )
        except CompileError as error:
            given = " ".join(specialisation.options)
            raise CompileError(
                f"{error.seen} ({self.nvrtc.identity}; {given})",
                log=error.log,
                remedy="This is a fault of Pascaline: please report it with this message",
            ) from None


def _add(digest: hashlib._Hash, text: str) -> None:
    """Texts in a row, so that no two rows of texts look alike."""
    data = text.encode()
    digest.update(len(data).to_bytes(8, "little"))
    digest.update(data)
