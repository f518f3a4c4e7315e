"""What a shared library needs and has: the part of an ELF file that decides on which systems it loads.

Standard library only: the build reads this too.

Source: the ELF-64 object file format; the GNU symbol versions of the Linux Standard Base, chapter "Symbol
Versioning". Only little-endian 64-bit files, which is what our kernels are built for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_GLIBC = ("libc.so.", "libm.so.", "libpthread.so.", "ld-linux")
_MACHINES = {62: "x86_64", 183: "aarch64"}
_DYNAMIC, _VERSIONS_DEFINED, _VERSIONS_NEEDED = 6, 0x6FFFFFFD, 0x6FFFFFFE  # types of sections
_NEEDED = 1  # a tag in the dynamic section
_NOTES = 4  # a type of segments
_BUILD_ID = 3  # a type of GNU's notes


@dataclass(frozen=True)
class Needs:
    """A library's machine, the libraries it is linked to and the symbol versions it takes from them."""

    machine: str
    libraries: frozenset[str]
    versions: frozenset[str]

    @classmethod
    def of(cls, path: Path) -> Needs:
        """Read them from a file.

        Raises
        ------
        ValueError : it is no ELF file of a machine known here.
        """
        data = _read(path)
        machine = struct.unpack_from("<H", data, 18)[0]
        if machine not in _MACHINES:
            raise ValueError(f"{path} is for machine {machine}")
        libraries: set[str] = set()
        versions: set[str] = set()
        for kind, start, size, strings in _sections(data):
            if kind == _DYNAMIC:
                pairs = struct.iter_unpack("<qQ", data[start : start + size])
                libraries |= {_text(data, strings + value) for tag, value in pairs if tag == _NEEDED}
            elif kind == _VERSIONS_NEEDED:
                versions |= {_text(data, strings + name) for name in _version_names(data, start)}
        return cls(_MACHINES[machine], frozenset(libraries), frozenset(versions))

    @property
    def glibc(self) -> tuple[int, int] | None:
        """The oldest GNU C library that has all it needs; None if it needs something else as well."""
        if not all(name.startswith(_GLIBC) for name in self.libraries):
            return None
        wanted = [version.removeprefix("GLIBC_").split(".") for version in self.versions]
        if not all(part.isdecimal() for version in wanted for part in version):
            return None
        return max(((int(version[0]), int(version[1])) for version in wanted), default=(2, 0))


def versions_defined(path: Path) -> frozenset[str]:
    """The symbol versions that a library has: "GLIBCXX_3.4.30" among those of libstdc++.

    Raises
    ------
    OSError, ValueError : it cannot be read, or is no whole ELF file.
    """
    data = _read(path)
    try:
        return frozenset(
            _text(data, strings + name)
            for kind, start, _, strings in _sections(data)
            if kind == _VERSIONS_DEFINED
            for name in _version_definitions(data, start)
        )
    except struct.error as error:
        raise ValueError(f"{path} is cut off") from error


def build_id(path: Path) -> str | None:
    """What the linker names a build by, in hexadecimal digits; None if it did not. Reads but the notes.

    Raises
    ------
    OSError, ValueError : it cannot be read, or is no whole ELF file.
    """
    with path.open("rb") as file:
        header = _checked(path, file.read(64))
        try:
            (table,) = struct.unpack_from("<Q", header, 32)
            entry, count = struct.unpack_from("<HH", header, 54)
            file.seek(table)
            segments = file.read(entry * count)
            for index in range(count):
                kind, start, size = struct.unpack_from("<I4xQ16xQ", segments, index * entry)
                if kind == _NOTES:
                    file.seek(start)
                    for owner, note, content in _notes(file.read(size)):
                        if (owner, note) == (b"GNU\0", _BUILD_ID):
                            return content.hex()
        except struct.error as error:
            raise ValueError(f"{path} is cut off") from error
    return None


def _notes(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Owner, type and content of each note; both texts are padded to words of four bytes."""
    at = 0
    while at < len(data):
        name_size, size, kind = struct.unpack_from("<III", data, at)
        start = at + 12 + -(-name_size // 4) * 4
        yield data[at + 12 : at + 12 + name_size], kind, data[start : start + size]
        at = start + -(-size // 4) * 4


def _read(path: Path) -> bytes:
    return _checked(path, path.read_bytes())


def _checked(path: Path, data: bytes) -> bytes:
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"{path} is no little-endian 64-bit ELF file")
    return data


def _sections(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Type, start, size, and the start of the linked string table, of each section."""
    (table,) = struct.unpack_from("<Q", data, 40)
    entry, count = struct.unpack_from("<HH", data, 58)
    for index in range(count):
        kind, start, size, link = struct.unpack_from("<4xI16xQQI", data, table + index * entry)
        (strings,) = struct.unpack_from("<Q", data, table + link * entry + 24)
        yield kind, start, size, strings


def _version_names(data: bytes, start: int) -> Iterator[int]:
    """Offsets of the names in a section of needed versions: a chain of libraries, each with its chain."""
    while True:
        _, count, _, first, following = struct.unpack_from("<HHIII", data, start)
        at = start + first
        for _ in range(count):
            name, next_at = struct.unpack_from("<8xII", data, at)
            yield name
            at += next_at
        if not following:
            return
        start += following


def _version_definitions(data: bytes, start: int) -> Iterator[int]:
    """Offsets of the names in a section of defined versions: a chain, each with its name first."""
    while True:
        first, following = struct.unpack_from("<12xII", data, start)
        (name,) = struct.unpack_from("<I", data, start + first)
        yield name
        if not following:
            return
        start += following


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
