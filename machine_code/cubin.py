"""What a cubin says of its kernels, read out of the ELF file: registers, shared and local memory, parameters.

Source of the attributes' numbers: the names that `cuobjdump -elf` prints beside them (EIATTR_…).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_NOBITS = 8
_HAS_SIZE = 4  # the format of an attribute that is followed by that many bytes
_PARAMETER_BANK, _FRAME_SIZE, _PARAMETER, _REGISTER_COUNT = 0x0A, 0x11, 0x17, 0x2F
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")


@dataclass(frozen=True)
class Parameter:
    """Where a kernel's parameter lies in constant bank 0, and its bytes."""

    offset: int
    nbytes: int


@dataclass(frozen=True)
class KernelResources:
    """What one kernel takes.

    Parameters
    ----------
    shared_bytes : static; from sm_90 on with the 1024 that the system keeps for itself.
    local_bytes : a thread's stack frame: arrays that are indexed at run time, and spills.
    parameters : in the order of the kernel's arguments.
    constants : the content of each constant bank, by its number; bank 0 is zeros up to the parameters' end.
    """

    registers: int
    shared_bytes: int
    local_bytes: int
    parameters: tuple[Parameter, ...]
    constants: Mapping[int, bytes]


@dataclass(frozen=True)
class _Section:
    kind: int
    nbytes: int
    content: bytes


def read_cubin(cubin: bytes) -> dict[str, KernelResources]:
    """Each kernel's resources, by its name in the machine code.

    Raises
    ------
    ValueError : it is no ELF file of 64 bits.
    """
    if cubin[:5] != b"\x7fELF\x02":
        raise ValueError(f"no cubin: it starts with {cubin[:5]!r}")
    sections = _sections(cubin)
    symbols = _symbols(sections)
    registers: dict[str, int] = {}
    frames: dict[str, int] = {}
    for attribute, payload in _attributes(sections[".nv.info"].content):
        if attribute in (_REGISTER_COUNT, _FRAME_SIZE):
            symbol, value = struct.unpack("<II", payload)
            (registers if attribute == _REGISTER_COUNT else frames)[symbols[symbol]] = value
    kernels = (name.removeprefix(".nv.info.") for name in sections if name.startswith(".nv.info."))
    return {
        name: KernelResources(
            registers=registers[name],
            shared_bytes=_size(sections, f".nv.shared.{name}"),
            local_bytes=frames.get(name, 0),
            parameters=_parameters(sections[f".nv.info.{name}"].content),
            constants=_constants(sections, name),
        )
        for name in kernels
    }


def code_bytes(cubin: bytes, kernel: str) -> bytes:
    """A kernel's machine code as it is.

    Raises
    ------
    ValueError : there is no such kernel.
    """
    section = _sections(cubin).get(f".text.{kernel}")
    if section is None:
        raise ValueError(f"the cubin has no kernel {kernel}")
    return section.content


def _sections(cubin: bytes) -> dict[str, _Section]:
    (table,) = struct.unpack_from("<Q", cubin, 40)
    entry_bytes, count, names_at = struct.unpack_from("<HHH", cubin, 58)
    headers = [_SECTION.unpack_from(cubin, table + i * entry_bytes) for i in range(count)]
    names = headers[names_at][4]
    found = {}
    for header in headers:
        start = names + header[0]
        kind, offset, nbytes = header[1], header[4], header[5]
        content = b"" if kind == _NOBITS else cubin[offset : offset + nbytes]
        found[cubin[start : cubin.index(b"\0", start)].decode()] = _Section(kind, nbytes, content)
    return found


def _symbols(sections: Mapping[str, _Section]) -> list[str]:
    names = sections[".strtab"].content
    starts = (entry[0] for entry in _SYMBOL.iter_unpack(sections[".symtab"].content))
    return [names[start : names.index(b"\0", start)].decode() for start in starts]


def _attributes(content: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(content):
        kind, attribute, value = struct.unpack_from("<BBH", content, position)
        position += 4
        nbytes = value if kind == _HAS_SIZE else 0
        yield attribute, content[position : position + nbytes]
        position += nbytes


def _parameters(content: bytes) -> tuple[Parameter, ...]:
    base, found = 0, {}
    for attribute, payload in _attributes(content):
        if attribute == _PARAMETER_BANK:
            _, base, _ = struct.unpack("<IHH", payload)
        elif attribute == _PARAMETER:
            _, ordinal, offset, flags = struct.unpack("<IHHI", payload)
            found[ordinal] = (offset, flags >> 18)
    return tuple(Parameter(base + found[i][0], found[i][1]) for i in range(len(found)))


def _constants(sections: Mapping[str, _Section], kernel: str) -> dict[int, bytes]:
    found = {}
    for name, section in sections.items():
        prefix, _, of = name.removeprefix(".nv.constant").partition(".")
        if name.startswith(".nv.constant") and prefix.isdecimal() and of in ("", kernel):
            found[int(prefix)] = section.content
    return found


def _size(sections: Mapping[str, _Section], name: str) -> int:
    return sections[name].nbytes if name in sections else 0
