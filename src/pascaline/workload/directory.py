"""Weights in a checkpoint's directory: found by name, and held against the shape that a model wants."""

from __future__ import annotations

from dataclasses import dataclass

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.core.errors import CheckpointError, UnsupportedError
from pascaline.workload.schemes import Scheme, scheme_of
from pascaline.workload.stored_weight import StoredTensor, StoredWeightEntry
from pascaline.workload.weight_form import TENSOR_FORMS


@dataclass(frozen=True)
class WeightDirectory:
    """Finds weights, whatever form each is stored in; reads no tensor."""

    checkpoint: Checkpoint
    scheme: Scheme | None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> WeightDirectory:
        """Of the scheme that the checkpoint declares, if it declares one; errors as `scheme_of`."""
        return cls(checkpoint, scheme_of(checkpoint))

    def locate(self, name: str, shape: tuple[int, ...]) -> StoredWeightEntry:
        """The weight that the checkpoint knows as `name` ("….q_proj.weight", "blk.0.attn_q.weight").

        Raises
        ------
        CheckpointError : it is missing, or its tensors contradict the shape that the model wants.
        UnsupportedError : it is stored in a way that we do not read.
        """
        module, _, attribute = name.rpartition(".")
        if self.scheme is not None and attribute == "weight" and len(shape) == 2:
            stored = self.scheme.locate(self.checkpoint, module, (shape[0], shape[1]))
            if stored is not None:
                return stored
        return self._one_tensor(name, shape)

    def _one_tensor(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        checkpoint = self.checkpoint
        entry = checkpoint.tensors.get(name)
        if entry is None:
            raise CheckpointError(
                f"{checkpoint.path.name} has no tensor {name!r}",
                expected="every tensor of the layers that the model's configuration counts",
                remedy="The file may be incomplete: fetch it again",
            )
        if entry.shape != shape:
            raise CheckpointError(
                f"{checkpoint.path.name}: tensor {name!r} has shape {list(entry.shape)}",
                expected=f"{list(shape)} from the model's configuration",
            )
        if entry.type_name not in TENSOR_FORMS:
            raise UnsupportedError(
                f"{checkpoint.path.name}: tensor {name!r} is stored as {entry.type_name}",
                expected=", ".join(TENSOR_FORMS),
                remedy="Use a file in one of these formats",
            )
        return StoredTensor(name, entry.type_name, shape)
