"""Typed reading of a checkpoint's quantization_config."""

from __future__ import annotations

from collections.abc import Mapping

from pascaline.checkpoint.checkpoint import Checkpoint, TensorEntry
from pascaline.core.errors import CheckpointError, ConfigError, UnsupportedError

INT32_BITS = 32


def whole_number(config: Mapping[str, object], *names: str, default: int | None = None) -> int:
    """The first of the fields `names` that is there.

    Raises
    ------
    ConfigError : it is no whole number, or none is there and there is no default.
    """
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"quantization_config.{name} is {value!r:.60}", expected="a whole number")
        return value
    if default is None:
        raise ConfigError(f"quantization_config has no {names[0]}", expected="a whole number")
    return default


def flag(config: Mapping[str, object], name: str, *, default: bool) -> bool:
    value = config.get(name, default)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ConfigError(f"quantization_config.{name} is {value!r:.60}", expected="true or false")
    return value


def one_of(config: Mapping[str, object], name: str, accepted: tuple[str, ...], *, default: str) -> str:
    """A name in lower case.

    Raises
    ------
    UnsupportedError : a name that is not among `accepted`.
    """
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or value.lower() not in accepted:
        raise UnsupportedError(f"quantization_config.{name} is {value!r:.60}", expected=" or ".join(accepted))
    return value.lower()


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


def group_size_of(checkpoint: Checkpoint, name: str, columns: int, groups: int, configured: int) -> int:
    """Elements of K that share a scale, from the number of groups that the tensor `name` has.

    Raises
    ------
    CheckpointError : no group size fits.
    UnsupportedError : K is no multiple of the group size.
    """
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
    return columns // groups
