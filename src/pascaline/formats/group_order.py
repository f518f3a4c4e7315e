"""g_idx: the group of each input feature, and the order that makes groups neighbours."""

from __future__ import annotations

import torch

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.core.errors import CheckpointError
from pascaline.formats.word_packing import tensor_of


def permutation_of(
    checkpoint: Checkpoint, name: str, columns: int, group_size: int
) -> tuple[int, ...] | None:
    """Input features in the order of their groups; None where that is their own order.

    `name` is an int32 tensor (K,) of the directory.

    Raises
    ------
    CheckpointError : its groups are not all of `group_size` inputs.
    """
    group_of_input = tensor_of(checkpoint.read(name), "I32", (columns,)).long()
    in_order = torch.arange(columns) // group_size
    if torch.equal(group_of_input, in_order):
        return None
    permutation = group_of_input.argsort(stable=True)
    if not torch.equal(group_of_input[permutation], in_order):
        raise CheckpointError(
            f"{checkpoint.path.name}: tensor {name!r} does not deal {columns} inputs to groups "
            f"of {group_size}",
            remedy="Fetch the file again, or quantise the model again",
        )
    return tuple(permutation.tolist())
