"""What a format of quantised or dense tensors is, and what a model asks of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.weights import Weight


@dataclass(frozen=True)
class Format:
    """How one element type on disk becomes a `Weight`: a weight is one tensor.

    `type_name` is the name in the file's directory. `load(data, shape)` takes the tensor's bytes
    and its shape in elements, outermost first; what it returns owns its memory (nothing refers
    to `data` afterwards, so that the file can be unmapped). `bytes_per_row(columns)` is what the
    loaded weight keeps resident, for the planner.
    """

    type_name: str
    load: Callable[[memoryview, tuple[int, ...]], Weight]
    bytes_per_row: Callable[[int], int]


@dataclass(frozen=True)
class StoredWeight:
    """One weight of a model where its checkpoint keeps it, found and checked but not read.

    Parameters
    ----------
    names : the checkpoint's tensors that it is made of.
    resident_bytes : what `load()` keeps in memory; at most, where act-order is folded away.
    load : reads and packs it; what it returns owns its memory.
    """

    names: tuple[str, ...]
    resident_bytes: int
    load: Callable[[], Weight]


class Scheme(Protocol):
    """A way of quantising in which a weight is several tensors, as a checkpoint declares it."""

    def locate(self, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> StoredWeight | None:
        """The weight of `module`, (N, K), or None where this module was not quantised.

        Raises
        ------
        CheckpointError : tensors are missing, or their shapes contradict the model's or each other.
        UnsupportedError : a variant of the scheme that we do not read.
        """
        ...


SchemeParser = Callable[[Mapping[str, object]], Scheme]
"""quantization_config of config.json -> its scheme; Config- and UnsupportedErrors name the field."""
