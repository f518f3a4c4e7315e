"""Reading a checkpoint's quantization_config."""

from __future__ import annotations

from collections.abc import Mapping

from pascaline.checkpoint.config_fields import ConfigFields
from pascaline.core.errors import UnsupportedError

_MAX_BITS = 64
# Any number: the tensors' shapes say it, and this only stands in messages.
_ANY = 1 << 31


def fields_of(config: Mapping[str, object], inside: str = "") -> ConfigFields:
    """The settings, or a group of settings inside them, read by type."""
    return ConfigFields(config, f"quantization_config.{inside}")


def bits_of(fields: ConfigFields, name: str, method: str, accepted: tuple[int, ...]) -> int:
    """Bits of a code.

    Raises
    ------
    UnsupportedError : a number that is not among `accepted`.
    """
    bits = fields.integer(name, 1, _MAX_BITS)
    if bits not in accepted:
        raise UnsupportedError(f"{method} with {bits} bits", expected=", ".join(map(str, accepted)))
    return bits


def group_size_in(fields: ConfigFields, name: str, default: int) -> int:
    """What the settings say of the group size, −1 for one group a row."""
    return fields.integer(name, -_ANY, _ANY, default=default)


def one_of(fields: ConfigFields, name: str, accepted: tuple[str, ...]) -> str:
    """A name in lower case; the first of `accepted` where none is given.

    Raises
    ------
    UnsupportedError : a name that is not among `accepted`.
    """
    value = fields.text(name, default=accepted[0]).lower()
    if value not in accepted:
        raise UnsupportedError(f"{fields.prefix}{name} is {value!r:.60}", expected=" or ".join(accepted))
    return value


def names_in(fields: ConfigFields, name: str) -> tuple[str, ...]:
    """A list of names; empty where it is absent.

    Raises
    ------
    ConfigError : it is something else.
    """
    value = fields.values.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise fields.wrong(name, "a list of names")
    return tuple(value)
