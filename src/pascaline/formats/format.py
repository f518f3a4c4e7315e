"""What a format of quantised or dense tensors is, and what a model asks of one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray

from pascaline.core.errors import CheckpointError
from pascaline.formats.destination import IN_MEMORY, Destination
from pascaline.weights import Packed, Weight
from pascaline.workload.weight_form import TENSOR_FORMS, WeightForm

Items = TypeVar("Items", NDArray[Any], torch.Tensor)


@dataclass(frozen=True)
class StoredRows:
    """A tensor of a file, unread: rows of a weight.

    `read` gives its bytes, `shape` is in elements, outermost first. With `interleaved_heads` the
    two halves of each of so many heads are interleaved in the file (row 2i is row i of the weight's
    head, row 2i + 1 is row i + D / 2), and are to be put one after the other.
    """

    read: Callable[[], memoryview]
    shape: tuple[int, ...]
    interleaved_heads: int | None = None

    def arranged(self, items: Items) -> Items:
        """Items (N, …) in the weight's order of rows, not copied: (N, …), or (heads, 2, D / 2, …)."""
        if self.interleaved_heads is None:
            return items
        return items.reshape(self.interleaved_heads, -1, 2, *items.shape[1:]).swapaxes(1, 2)


@dataclass(frozen=True)
class Format:
    """How one element type on disk becomes a `Weight`: a weight is one tensor, or several below each other.

    `type_name` is the name in the file's directory. `load(parts, to)` takes the tensors; what it
    returns owns its memory (nothing refers to the file afterwards, so that it can be unmapped).
    """

    type_name: str
    load: Callable[[Sequence[StoredRows], Destination], Weight]


@dataclass(frozen=True)
class StoredWeight(ABC):
    """One weight of a model where its checkpoint keeps it, found and checked but not read.

    Parameters
    ----------
    file : the checkpoint's name, for messages.
    names : the checkpoint's tensors that it is made of.
    shape : in elements.
    form : what `load()` makes of it; of a linear that should have one zero throughout, and has not, the
        zeros come on top.
    """

    file: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    form: WeightForm

    @abstractmethod
    def load(self, to: Destination = IN_MEMORY) -> Weight:
        """The weight, which owns its memory there.

        Raises
        ------
        CheckpointError : a scale is infinite or not a number, or tensors contradict each other.
        """

    def checked(self, weight: Weight) -> Weight:
        """What was loaded, if its scales are all finite numbers; errors as `load`."""
        if isinstance(weight, Packed) and not weight.is_finite:
            raise CheckpointError(
                f"{self.file}: the scales of {self.names[0]!r} are not all finite numbers",
                remedy="The file is damaged or was quantised badly: fetch it again, or another one",
            )
        return weight

    @property
    def resident_bytes(self) -> int:
        """What `load()` keeps in memory."""
        return self.form.packed_bytes(math.prod(self.shape[:-1]), self.shape[-1])

    @abstractmethod
    def joined(self, other: StoredWeight) -> StoredWeight | None:
        """This weight's rows, then the other's, read as one; None where they are stored differently."""


@dataclass(frozen=True)
class StoredTensors(StoredWeight):
    """A weight that is one tensor, or several below each other, of one format."""

    format: Format
    parts: tuple[StoredRows, ...]

    @classmethod
    def of(
        cls, file: str, names: tuple[str, ...], item: Format, parts: tuple[StoredRows, ...]
    ) -> StoredTensors:
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        return cls(file, names, shape, TENSOR_FORMS[item.type_name], item, parts)

    def load(self, to: Destination = IN_MEMORY) -> Weight:
        return self.checked(self.format.load(self.parts, to))

    def joined(self, other: StoredWeight) -> StoredTensors | None:
        if not isinstance(other, StoredTensors) or self.format is not other.format:
            return None
        if self.parts[0].shape[1:] != other.parts[0].shape[1:]:
            return None
        return self.of(self.file, self.names + other.names, self.format, self.parts + other.parts)
