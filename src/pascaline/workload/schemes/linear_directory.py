"""The tensors of a quantised linear in a checkpoint's directory: found, and held against each other."""

from __future__ import annotations

import math

from pascaline.checkpoint.checkpoint import Checkpoint, TensorEntry
from pascaline.checkpoint.safetensors_file import ELEMENT_BYTES
from pascaline.core.errors import CheckpointError, UnsupportedError
from pascaline.workload.stored_weight import SCALE_BYTES

INT32_BITS = 32


def told(name: str, type_name: str, shape: tuple[int, ...]) -> TensorEntry:
    """The entry that a safetensors directory would have of a tensor."""
    return TensorEntry(name, type_name, shape, math.prod(shape) * ELEMENT_BYTES[type_name])


def groups_of(module: str, columns: int, group_size: int) -> int:
    """How many groups `columns` inputs have, −1 being one for all.

    Raises
    ------
    UnsupportedError : they do not make whole groups.
    """
    size = columns if group_size == -1 else group_size
    if size < 1 or columns % size:
        raise UnsupportedError(
            f"{module!r} has {columns} inputs, and quantization_config says groups of {group_size}",
            expected="groups of equal size",
        )
    return columns // size


def entry_of(
    checkpoint: Checkpoint, name: str, types: tuple[str, ...], shape: tuple[int, ...]
) -> TensorEntry:
    """The directory's entry of a tensor, of one of these types and exactly this shape.

    Raises
    ------
    CheckpointError : it is missing or differs.
    """
    entry = checkpoint.tensors.get(name)
    if entry is None:
        raise CheckpointError(
            f"{checkpoint.path.name} has no tensor {name!r}",
            expected="all tensors of a quantised weight",
            remedy="The files may be incomplete: fetch them again",
        )
    if entry.type_name not in types or entry.shape != shape:
        raise CheckpointError(
            f"{checkpoint.path.name}: tensor {name!r} is {entry.type_name} of shape {list(entry.shape)}",
            expected=f"{' or '.join(types)} of shape {list(shape)} from the model's configuration",
        )
    return entry


def bits_from_shape(
    checkpoint: Checkpoint, name: str, axis: int, columns: int, accepted: tuple[int, ...]
) -> int:
    """Bits of a code, from the length of the axis along which K codes fill 32-bit words.

    Raises
    ------
    CheckpointError : no accepted number fits.
    """
    shape = checkpoint.tensors[name].shape
    bits, remainder = divmod(shape[axis] * INT32_BITS if shape else 0, columns)
    if remainder or bits not in accepted:
        raise CheckpointError(
            f"{checkpoint.path.name}: tensor {name!r} has shape {list(shape)}",
            expected=f"{columns} · bits / 32 {'columns' if axis else 'rows'}, bits one of "
            + ", ".join(map(str, accepted)),
        )
    return bits


def scales_of(
    checkpoint: Checkpoint, name: str, rows: int, columns: int, *, groups_first: bool, configured: int = -1
) -> tuple[TensorEntry, int]:
    """The scales' entry, (groups, rows) or (rows, groups), and the elements of K that share a scale.

    The group size follows from the number of groups; `configured` is what the settings say of it.

    Raises
    ------
    CheckpointError : the tensor is missing or has another shape, or no group size fits.
    UnsupportedError : K is no multiple of the group size.
    """
    entry = checkpoint.tensors.get(name)
    shape = entry.shape if entry is not None else ()
    groups = shape[0 if groups_first else -1] if shape else 0
    entry = entry_of(checkpoint, name, tuple(SCALE_BYTES), (groups, rows) if groups_first else (rows, groups))
    if groups < 1 or groups > columns:
        raise CheckpointError(
            f"{checkpoint.path.name}: tensor {name!r} has {groups} groups for {columns} input features"
        )
    if columns % groups:
        raise UnsupportedError(
            f"{checkpoint.path.name}: tensor {name!r} has {groups} groups for {columns} input features "
            f"(group_size {configured})",
            expected="groups of equal size",
        )
    return entry, columns // groups
