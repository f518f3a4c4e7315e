"""What a file format of one tensor is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pascaline.weights import Weight


@dataclass(frozen=True)
class Format:
    """How one element type on disk becomes a `Weight`.

    `type_name` is the name in the file's directory. `load(data, shape)` takes the tensor's bytes
    and its shape in elements, outermost first; what it returns owns its memory (nothing refers
    to `data` afterwards, so that the file can be unmapped). `bytes_per_row(columns)` is what the
    loaded weight keeps resident, for the planner.
    """

    type_name: str
    load: Callable[[memoryview, tuple[int, ...]], Weight]
    bytes_per_row: Callable[[int], int]
