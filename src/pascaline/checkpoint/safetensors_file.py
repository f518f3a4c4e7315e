"""Reader of one .safetensors file: standard library and one mapping.

Layout: header length u64; the header, JSON: {name: {dtype, shape, data_offsets: [begin, end]}} with
offsets from the end of the header; the tensors' bytes, without gaps. SOURCE: the format section of
the safetensors README.
"""

from __future__ import annotations

import math
import reprlib
from pathlib import Path
from typing import TypeGuard

from pascaline.checkpoint.checkpoint import TensorEntry
from pascaline.checkpoint.json_file import parse_json
from pascaline.checkpoint.mapped_file import FileBytes, MappedFile
from pascaline.checkpoint.pickled import is_pickled, pickled
from pascaline.core.errors import CheckpointError, UnsupportedError

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 8 << 20
_MAX_NAME_CHARACTERS = 65535
_MAX_AXES = 16
_MAX_SIZE = 1 << 64
ELEMENT_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}


class SafetensorsFile:
    """One opened file: the directory `tensors` and views of the tensors' bytes.

    `file` holds its bytes where they are not to be mapped from `path`.

    Raises
    ------
    CheckpointError : not a safetensors file, damaged, cut short, or contradicting itself.
    UnsupportedError : an element type that we do not read.
    """

    def __init__(self, path: Path, file: FileBytes | None = None) -> None:
        self.path = path
        self.tensors: dict[str, TensorEntry] = {}
        self._offsets: dict[str, int] = {}
        self._file: FileBytes = MappedFile(path) if file is None else file
        try:
            self._read_directory()
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

    def _damaged(self, what: str, expected: str = "") -> CheckpointError:
        return CheckpointError(
            f"{self.path} is not a sound safetensors file: {what}",
            expected=expected,
            remedy="Fetch the file again",
        )

    def _read_directory(self) -> None:
        header, data_start = self._read_header()
        for name, fields in header.items():
            if name != "__metadata__":
                self._add(name, fields, data_start)
        end = data_start
        for name in sorted(self._offsets, key=lambda name: (self._offsets[name], self.tensors[name].nbytes)):
            if self._offsets[name] != end:
                overlap = self._offsets[name] < end
                raise self._damaged(
                    f"{name} {'overlaps' if overlap else 'does not follow'} the tensor before it",
                    f"byte {end - data_start}, seen {self._offsets[name] - data_start}",
                )
            end += self.tensors[name].nbytes
        if end != self._file.nbytes:
            raise self._damaged(f"it has {self._file.nbytes} bytes", f"{end} by its header")

    def _read_header(self) -> tuple[dict[str, object], int]:
        nbytes = self._file.nbytes
        self._file.require(0, _LENGTH_BYTES)
        length = int.from_bytes(self._file.buffer[:_LENGTH_BYTES], "little")
        if nbytes < _LENGTH_BYTES or not 2 <= length <= min(nbytes - _LENGTH_BYTES, _MAX_HEADER_BYTES):
            if is_pickled(bytes(self._file.buffer[:_LENGTH_BYTES])):
                raise pickled(self.path)
            raise self._damaged(f"a header of {length} bytes in a file of {nbytes}")
        data_start = _LENGTH_BYTES + length
        try:
            self._file.require(_LENGTH_BYTES, data_start)
            header = parse_json(bytes(self._file.buffer[_LENGTH_BYTES:data_start]), unique_keys=True)
        except ValueError as error:
            raise self._damaged(f"its header is not valid JSON ({error})") from error
        if not isinstance(header, dict):
            raise self._damaged("its header is not a JSON object")
        return header, data_start

    def _add(self, name: str, fields: object, data_start: int) -> None:
        if len(name) > _MAX_NAME_CHARACTERS:
            raise self._damaged(f"a tensor's name has {len(name)} characters")
        if not isinstance(fields, dict):
            raise self._damaged(f"the header's entry of {name} is {reprlib.repr(fields)}")
        dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
        if (
            not isinstance(dtype, str)
            or not _are_sizes(shape)
            or not _are_sizes(offsets)
            or len(offsets) != 2
        ):
            raise self._damaged(
                f"the header's entry of {name} is {reprlib.repr(fields)}",
                "a dtype, a shape and two data_offsets",
            )
        if dtype not in ELEMENT_BYTES:
            raise UnsupportedError(
                f"{self.path}: tensor {name} has element type {dtype}", expected=", ".join(ELEMENT_BYTES)
            )
        nbytes = math.prod(shape) * ELEMENT_BYTES[dtype]
        begin, end = offsets
        if end - begin != nbytes:
            raise self._damaged(f"{name} spans {end - begin} bytes", f"{nbytes} for {dtype} of shape {shape}")
        if data_start + end > self._file.nbytes:
            raise self._damaged(
                f"{name} ends at byte {data_start + end} of {self._file.nbytes}: the file is cut short"
            )
        self.tensors[name] = TensorEntry(name, dtype, tuple(shape), nbytes)
        self._offsets[name] = data_start + begin


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) <= _MAX_AXES
        and all(
            isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= _MAX_SIZE for item in value
        )
    )
