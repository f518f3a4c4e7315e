"""Models in several GGUF files, NAME-00001-of-00003.gguf, which llama.cpp's gguf-split makes.

Each part is a GGUF file of its own with `split.no` (from 0), `split.count` and `split.tensors.count`;
the model's settings and vocabulary stand in the first, its tensors are spread over all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pascaline.checkpoint.checkpoint import TensorEntry
from pascaline.checkpoint.gguf import GgufFile, GgufMetadata
from pascaline.checkpoint.mapped_file import FileBytes
from pascaline.core.errors import CheckpointError

_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True)
class SplitName:
    """The name of one part: `stem` is what all parts share, `number` counts from 1."""

    stem: str
    number: int
    count: int

    @staticmethod
    def parse(path: str) -> SplitName | None:
        """None for a file that is no part of several."""
        match = _NAME.fullmatch(path)
        if match is None or not 1 <= int(match[2]) <= int(match[3]) or int(match[3]) == 1:
            return None
        return SplitName(match[1], int(match[2]), int(match[3]))

    def part(self, number: int) -> str:
        """Another part's name."""
        return f"{self.stem}-{number:05d}-of-{self.count:05d}.gguf"


class SplitGguf:
    """A GGUF model in one file or several, with the members of `GgufFile`.

    Parameters
    ----------
    path : the file, or any of its parts.
    files : all parts' bytes in order, where they are not to be mapped from the folder of `path`.

    Raises
    ------
    CheckpointError, UnsupportedError : as `GgufFile` does; parts are missing or do not belong together.
    """

    def __init__(self, path: Path, files: Sequence[FileBytes] | None = None) -> None:
        split = SplitName.parse(path.name)
        self._parts: list[GgufFile] = []
        try:
            if files is not None:
                self._parts += [GgufFile(file.path, file) for file in files]
            elif split is None:
                self._parts.append(GgufFile(path))
            else:
                for part in _part_paths(path.parent, split):
                    self._parts.append(GgufFile(part))
            for opened in self._parts:
                if split is None:
                    _refuse_renamed_part(opened)
                else:
                    _refuse_strange_part(opened)
            self.path = self._parts[0].path
            self.metadata: GgufMetadata = self._parts[0].metadata
            self._holders = _holders(self._parts)
            _refuse_lost_tensors(self._parts, len(self._holders))
        except BaseException:
            self.close()
            raise
        self.tensors: Mapping[str, TensorEntry] = {
            name: part.tensors[name] for name, part in self._holders.items()
        }

    def read(self, name: str) -> memoryview:
        """A tensor's bytes, a view of the mapped file."""
        return self._holders[name].read(name)

    def release(self, name: str) -> None:
        """Drop a tensor's pages from memory."""
        self._holders[name].release(name)

    def close(self) -> None:
        for part in self._parts:
            part.close()


def _part_paths(folder: Path, split: SplitName) -> list[Path]:
    """All parts in order; refuses a set that is not whole."""
    paths = [folder / split.part(number) for number in range(1, split.count + 1)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of the {split.count} parts of {Path(split.stem).name}: "
            f"{', '.join(missing[:5])}",
            remedy="Fetch them too: a split model needs all of its parts, in one folder",
        )
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and match[1] == split.stem and int(match[3]) == split.count and path not in paths:
            raise CheckpointError(
                f"{path} is a part too many", expected=f"parts 1 to {split.count}", remedy="Move it away"
            )
    return paths


def _refuse_strange_part(file: GgufFile) -> None:
    """A part says itself which one it is."""
    name = SplitName.parse(file.path.name)
    number, count = file.metadata.get("split.no"), file.metadata.get("split.count")
    if name is not None and (number, count) != (name.number - 1, name.count):
        said = f"part {number + 1} of {count}" if isinstance(number, int) else "no part of a split model"
        raise CheckpointError(
            f"{file.path} is {said} by what it says itself",
            expected=f"part {name.number} of {name.count}, as its name has it",
            remedy="Fetch the parts again, or give them their names back",
        )


def _refuse_renamed_part(file: GgufFile) -> None:
    count = file.metadata.get("split.count", 1)
    if isinstance(count, int) and count > 1:
        number = file.metadata.get("split.no")
        which = number + 1 if isinstance(number, int) else 1
        raise CheckpointError(
            f"{file.path} is one of {count} parts of a model, by another name",
            expected=SplitName("NAME", which, count).part(which),
            remedy="Give the parts their names back, so that they are found",
        )


def _holders(parts: list[GgufFile]) -> dict[str, GgufFile]:
    """The part that holds each tensor."""
    holders: dict[str, GgufFile] = {}
    for part in parts:
        for name in part.tensors:
            if name in holders:
                raise CheckpointError(
                    f"the tensor {name!r} is in {holders[name].path.name} and in {part.path.name}",
                    remedy="Fetch the parts again",
                )
            holders[name] = part
    return holders


def _refuse_lost_tensors(parts: list[GgufFile], found: int) -> None:
    total = parts[0].metadata.get("split.tensors.count")
    if len(parts) > 1 and isinstance(total, int) and total != found:
        raise CheckpointError(
            f"the {len(parts)} parts of {parts[0].path} have {found} tensors together",
            expected=f"{total}, as the first says",
            remedy="Fetch the parts again",
        )
