"""Reader of GGUF files, versions 2 and 3, little-endian: standard library and one mapping.

Layout: "GGUF", version u32, tensor count u64, metadata count u64; the metadata (key, type u32,
value); the tensor directory (name, number of axes u32, axes u64 innermost first, type u32, offset
u64 from the start of the data); padding to `general.alignment`; the tensors' bytes. A string is a
u64 length and UTF-8. SOURCE: the GGUF specification (ggml, docs/gguf.md).

Nothing that a file says is believed before it is held against the file's size: a count whose items
could not fit into what is left is an error, and no memory is taken by a count alone.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pascaline.checkpoint.checkpoint import TensorEntry
from pascaline.checkpoint.ggml_types import GGML_TYPES, REMOVED_GGML_TYPES
from pascaline.checkpoint.mapped_file import FileBytes, MappedFile
from pascaline.core.errors import CheckpointError, UnsupportedError

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20
_MAX_AXES = 4
_MAX_NAME_BYTES = 65535
# What a directory entry takes in memory is many times what it takes in the file.
_MAX_ENTRIES = 1 << 16
_MAX_ARRAY_ITEMS = 1 << 21
_MAX_SETTING_ITEMS = 1 << 16
_MAX_TEXT_BYTES = 1 << 20
_VOCABULARY = "tokenizer."
_MIN_METADATA_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8

_BOOL, _STRING, _ARRAY = 7, 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "?", 10: "Q", 11: "q", 12: "d"}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


@dataclass(frozen=True)
class _Value:
    """Where one metadata value lies: `count` is None for a single value, else an array's length."""

    kind: int
    count: int | None
    start: int


class _Cursor:
    """A position in the file; every step is checked against the file's end."""

    def __init__(self, file: FileBytes, position: int) -> None:
        self.file = file
        self.position = position

    def damaged(self, what: str, *, expected: str = "") -> CheckpointError:
        return CheckpointError(
            f"{self.file.path} is damaged or cut short: {what} "
            f"(read up to byte {self.position} of {self.file.nbytes})",
            expected=expected,
            remedy="Fetch the file again",
        )

    def need(self, nbytes: int, what: str) -> None:
        """The file has so many more bytes; they need not be here."""
        left = self.file.nbytes - self.position
        if nbytes > left:
            raise self.damaged(f"{what} needs {nbytes} bytes and {left} are left")

    def u32(self, what: str) -> int:
        self.need(4, what)
        self.file.require(self.position, self.position + 4)
        value: int = _U32.unpack_from(self.file.buffer, self.position)[0]
        self.position += 4
        return value

    def u64(self, what: str) -> int:
        self.need(8, what)
        self.file.require(self.position, self.position + 8)
        value: int = _U64.unpack_from(self.file.buffer, self.position)[0]
        self.position += 8
        return value

    def name(self, what: str) -> str:
        nbytes = self.u64(what)
        if not 0 < nbytes <= _MAX_NAME_BYTES:
            raise self.damaged(f"{what} is {nbytes} bytes long", expected=f"1 to {_MAX_NAME_BYTES}")
        self.need(nbytes, what)
        self.file.require(self.position, self.position + nbytes)
        raw = self.file.buffer[self.position : self.position + nbytes]
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"{what} is not UTF-8") from error
        self.position += nbytes
        return text

    def skip_strings(self, count: int, what: str) -> None:
        """Step over `count` strings; the only loop that is long in real files (a vocabulary)."""
        buffer, position, unpack = self.file.buffer, self.position, _U64.unpack_from
        last = -1  # the last position whose length is here
        try:
            for _ in range(count):
                if position > last:
                    last = self.file.require(position, position + 8) - 8
                position += 8 + unpack(buffer, position)[0]
        except (struct.error, OverflowError):
            position = self.file.nbytes + 1
        if position > self.file.nbytes:
            raise self.damaged(f"{what} runs past the file's end")
        self.position = position


class GgufMetadata(Mapping[str, object]):
    """A file's keys; a value is decoded when it is asked for (and kept), arrays as lists.

    Usable until the file is closed.
    """

    def __init__(self, file: FileBytes, values: dict[str, _Value]) -> None:
        self._file = file
        self._values = values
        self._decoded: dict[str, object] = {}

    def __getitem__(self, key: str) -> object:
        if key not in self._decoded:
            self._decoded[key] = self._decode(key, self._values[key])
        return self._decoded[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def count(self, key: str) -> int | None:
        """An array's length, without decoding it; None for an absent key or a single value."""
        value = self._values.get(key)
        return None if value is None else value.count

    def _decode(self, key: str, value: _Value) -> object:
        count = 1 if value.count is None else value.count
        if value.kind == _STRING:
            items = self._strings(key, value.start, count)
        else:
            layout = f"<{count}{_SCALARS[value.kind]}"
            self._file.require(value.start, value.start + struct.calcsize(layout))
            items = list(struct.unpack_from(layout, self._file.buffer, value.start))
        return items[0] if value.count is None else items

    def _strings(self, key: str, position: int, count: int) -> list[object]:
        buffer, unpack = self._file.buffer, _U64.unpack_from
        strings: list[object] = []
        here = 0
        try:
            for _ in range(count):
                start = position + 8
                if start > here:
                    here = self._file.require(position, start)
                position = start + unpack(buffer, position)[0]
                if position - start > _MAX_TEXT_BYTES:
                    raise CheckpointError(
                        f"{self._file.path}: a text of {key} has {position - start} bytes",
                        expected=f"at most {_MAX_TEXT_BYTES}",
                    )
                if position > here:
                    here = self._file.require(start, position)
                strings.append(buffer[start:position].decode())
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{self._file.path}: text {len(strings)} of {key} is not UTF-8",
                remedy="Convert the model again",
            ) from error
        return strings


class GgufFile:
    """An opened GGUF file: `metadata`, the directory `tensors`, and views of the tensors' bytes.

    `file` holds its bytes where they are not to be mapped from `path`.

    Raises
    ------
    CheckpointError : not a GGUF file, damaged, cut short, or contradicting itself.
    UnsupportedError : a version, byte order or tensor type that we do not read.
    """

    def __init__(self, path: Path, file: FileBytes | None = None) -> None:
        self.path = path
        self._file: FileBytes = MappedFile(path) if file is None else file
        try:
            cursor = _Cursor(self._file, 0)
            tensor_count, metadata_count = _read_header(cursor)
            self.metadata = GgufMetadata(self._file, _read_metadata(cursor, metadata_count))
            self.tensors, self._offsets = _read_directory(cursor, tensor_count, self.metadata)
        except BaseException:
            self._file.close()
            raise

    def read(self, name: str) -> memoryview:
        """A tensor's bytes, a view of the mapped file."""
        return self._file.view(self._offsets[name], self.tensors[name].nbytes)

    def release(self, name: str) -> None:
        """Drop a tensor's pages from memory."""
        self._file.release(self._offsets[name], self.tensors[name].nbytes)

    def close(self) -> None:
        self._file.close()


def _read_header(cursor: _Cursor) -> tuple[int, int]:
    path = cursor.file.path
    cursor.file.require(0, 4)
    start = bytes(cursor.file.buffer[:4])
    if start != MAGIC:
        raise CheckpointError(f"{path} is not a GGUF file: it begins with {start!r}", expected=repr(MAGIC))
    cursor.position = 4
    version = cursor.u32("the version")
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        what = f"version {swapped}, big-endian" if swapped in _VERSIONS else f"version {version}"
        raise UnsupportedError(
            f"{path} is a GGUF file of {what}",
            expected="version 2 or 3, little-endian",
            remedy="Convert the model again with llama.cpp's convert_hf_to_gguf.py",
        )
    tensor_count = cursor.u64("the tensor count")
    metadata_count = cursor.u64("the metadata count")
    least = metadata_count * _MIN_METADATA_BYTES + tensor_count * _MIN_TENSOR_BYTES
    what = f"a directory of {metadata_count} keys and {tensor_count} tensors"
    cursor.need(least, what)
    if max(tensor_count, metadata_count) > _MAX_ENTRIES:
        raise cursor.damaged(what, expected=f"at most {_MAX_ENTRIES} of each")
    return tensor_count, metadata_count


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, _Value]:
    values: dict[str, _Value] = {}
    items_left = _MAX_ARRAY_ITEMS
    for _ in range(count):
        key = cursor.name("a metadata key")
        if key in values:
            raise cursor.damaged(f"the metadata key {key!r} stands there twice")
        kind = cursor.u32(f"the type of {key}")
        length: int | None = None
        if kind == _ARRAY:
            kind = cursor.u32(f"the item type of {key}")
            length = cursor.u64(f"the length of {key}")
            most = items_left if key.startswith(_VOCABULARY) else min(items_left, _MAX_SETTING_ITEMS)
            if length > most:
                raise cursor.damaged(_extent(key, length), expected=f"at most {most}")
            items_left -= length
        if kind == _STRING:
            values[key] = _Value(kind, length, cursor.position)
            cursor.need(8 * (1 if length is None else length), _extent(key, length))
            cursor.skip_strings(1 if length is None else length, key)
        elif kind in _SCALARS:
            nbytes = struct.calcsize(_SCALARS[kind]) * (1 if length is None else length)
            cursor.need(nbytes, _extent(key, length))
            values[key] = _Value(kind, length, cursor.position)
            cursor.position += nbytes
        elif kind == _ARRAY:
            raise UnsupportedError(f"{cursor.file.path}: {key} is an array of arrays")
        else:
            raise cursor.damaged(f"{key} has the unknown type {kind}", expected="a type from 0 to 12")
    return values


def _extent(key: str, length: int | None) -> str:
    return key if length is None else f"{key} with {length} items"


def _alignment(cursor: _Cursor, metadata: GgufMetadata) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.damaged(
            f"general.alignment is {alignment!r}", expected=f"a power of two up to {_MAX_ALIGNMENT}"
        )
    return alignment


def _read_directory(
    cursor: _Cursor, count: int, metadata: GgufMetadata
) -> tuple[dict[str, TensorEntry], dict[str, int]]:
    """The tensors by name, and each one's first byte counted from the start of the file."""
    alignment = _alignment(cursor, metadata)
    tensors: dict[str, TensorEntry] = {}
    offsets: dict[str, int] = {}
    for _ in range(count):
        name = cursor.name("a tensor's name")
        if name in tensors:
            raise cursor.damaged(f"the tensor {name!r} stands there twice")
        tensors[name] = _read_entry(cursor, name)
        offset = cursor.u64(f"the offset of {name}")
        if offset % alignment:
            raise cursor.damaged(f"{name} lies at offset {offset}", expected=f"a multiple of {alignment}")
        offsets[name] = offset
    data_start = -(-cursor.position // alignment) * alignment
    end, before = 0, ""
    for name in sorted(offsets, key=offsets.__getitem__):
        if offsets[name] < end:
            raise cursor.damaged(f"the tensors {before} and {name} overlap")
        end, before = offsets[name] + tensors[name].nbytes, name
        offsets[name] += data_start
        if data_start + end > cursor.file.nbytes:
            raise cursor.damaged(f"{name} ends at byte {data_start + end}")
    return tensors, offsets


def _read_entry(cursor: _Cursor, name: str) -> TensorEntry:
    axes = cursor.u32(f"the number of axes of {name}")
    if axes > _MAX_AXES:
        raise cursor.damaged(f"{name} has {axes} axes", expected=f"at most {_MAX_AXES}")
    innermost_first = [cursor.u64(f"the shape of {name}") for _ in range(axes)]
    shape = tuple(reversed(innermost_first))
    number = cursor.u32(f"the type of {name}")
    if number not in GGML_TYPES:
        known = REMOVED_GGML_TYPES.get(number)
        raise UnsupportedError(
            f"{cursor.file.path}: tensor {name} has type {number}"
            + (f" ({known}), which GGUF no longer has" if known else ", which is not known here"),
            expected=", ".join(kind.name for kind in GGML_TYPES.values()),
            remedy="Convert the model again, to Q4_0 for instance",
        )
    kind = GGML_TYPES[number]
    columns = shape[-1] if shape else 1
    if 0 in shape or columns % kind.block_elements:
        raise cursor.damaged(
            f"{name} has shape {list(shape)}",
            expected=f"rows of a multiple of {kind.block_elements} elements for type {kind.name}",
        )
    nbytes = math.prod(shape) // kind.block_elements * kind.block_bytes
    return TensorEntry(name, kind.name, shape, nbytes)
