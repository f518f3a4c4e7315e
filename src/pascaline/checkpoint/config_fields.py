"""Typed reading of settings from a JSON mapping; every value is checked and named when it is wrong."""

from __future__ import annotations

from collections.abc import Mapping

from pascaline.core.errors import ConfigError


class ConfigFields:
    """Typed reading of a mapping; None counts as absent. `prefix` leads to it in error messages."""

    def __init__(self, values: Mapping[str, object], prefix: str) -> None:
        self.values = values
        self.prefix = prefix

    def wrong(self, name: str, expected: str) -> ConfigError:
        field = f"the model configuration's {self.prefix}{name}"
        value = self.values.get(name)
        if value is None:
            return ConfigError(f"{field} is missing", expected=expected)
        shown = repr(value)
        return ConfigError(f"{field} is {shown if len(shown) <= 60 else shown[:60] + '…'}", expected=expected)

    def integer(self, name: str, low: int, high: int, *, default: int | None = None) -> int:
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(name, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float, *, default: float | None = None) -> float:
        """A finite number above `low`, or equal to it, up to `high`; zero itself is never valid."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if (
            not isinstance(value, (int, float))
            or isinstance(value, bool)
            or not low <= value <= high
            or value == 0
        ):
            above = f"from {low:g}" if low else "above 0"
            raise self.wrong(name, f"a number {above}, up to {high:g}")
        return float(value)

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        return None if self.values.get(name) is None else self.integer(name, low, high)

    def optional_number(self, name: str, low: float, high: float) -> float | None:
        return None if self.values.get(name) is None else self.number(name, low, high)

    def boolean(self, name: str, *, default: bool) -> bool:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, *, default: str | None = None) -> str:
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value:
            raise self.wrong(name, "a name")
        return value

    def token_ids(self, name: str, vocab_size: int) -> tuple[int, ...]:
        """One id or a list of ids, each once; empty when absent."""
        value = self.values.get(name)
        if value is None:
            return ()
        ids = value if isinstance(value, list) else [value]
        for item in ids:
            if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < vocab_size:
                raise self.wrong(name, f"token ids from 0 to {vocab_size - 1}")
        return tuple(dict.fromkeys(ids))

    def numbers(self, name: str, count: int, low: float, high: float) -> tuple[float, ...]:
        """A list of `count` numbers, each as `number` takes them."""
        value = self.values.get(name)
        if not isinstance(value, list) or len(value) != count:
            raise self.wrong(name, f"a list of {count} numbers")
        entries = ConfigFields(
            {str(index): item for index, item in enumerate(value)}, f"{self.prefix}{name}."
        )
        return tuple(entries.number(str(index), low, high) for index in range(count))

    def section(self, name: str) -> ConfigFields | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.wrong(name, "a group of settings")
        return ConfigFields(value, f"{self.prefix}{name}.")
