"""What a scheme of quantising is: a way in which a weight is several tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from pascaline.checkpoint.checkpoint import Checkpoint, TensorEntry
from pascaline.workload.stored_weight import StoredLinear


class Scheme(Protocol):
    """As a checkpoint declares it."""

    def locate(self, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> StoredLinear | None:
        """The weight of `module`, (N, K), or None where this module was not quantised.

        Raises
        ------
        CheckpointError : tensors are missing, or their shapes contradict the model's or each other.
        UnsupportedError : a variant of the scheme that we do not read.
        """
        ...

    def tensors(self, module: str, shape: tuple[int, int], scale_type: str) -> list[TensorEntry] | None:
        """What a checkpoint of these settings has for `module`, (N, K), or None where it is left as it is.

        Raises
        ------
        UnsupportedError : the settings alone do not say it.
        """
        ...


SchemeParser = Callable[[Mapping[str, object]], Scheme]
"""quantization_config of config.json -> its scheme; Config- and UnsupportedErrors name the field."""
