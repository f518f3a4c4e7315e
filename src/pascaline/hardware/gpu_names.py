"""How cards are called: by drivers, shops and people, with and without brand and memory."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

_LONGEST = 120
_TELLING = 2
"""Characters that so many cards share that they tell nothing: "gt", "rt", "p1"."""
_MEMORY = re.compile(r"(?<![a-z0-9.])(\d{1,4})[\s_-]*g(?:i?b)?(?![a-z0-9])")
_DROPPED = re.compile(r"nvidia|graphics|generation|founders|edition|design|with|\(r\)|\(tm\)|®|™")
_LAPTOP = re.compile(r"laptop\s*gpu|mobile|notebook|laptop")
_SUPER = re.compile(r"(?<=\d{4})\s?s(?![a-z0-9])")
_BRAND = re.compile(r"geforce|tesla|quadro")
_SERIES = re.compile(r"^(?:gtx|rtx|gt)(?=[a-z]?\d|titan)")


class HasMemory(Protocol):
    """A card, as far as names tell."""

    @property
    def memory_gib(self) -> float: ...


@dataclass(frozen=True)
class GpuName:
    """A name in the forms that are compared, from the strictest to the loosest.

    Parameters
    ----------
    exact : letters and digits, without "NVIDIA", with memory: "geforcertx308010".
    plain : without memory: "geforcertx3080".
    bare : without brand and series, too: "3080".
    memory_gib : the memory that the name states.
    """

    exact: str
    plain: str
    bare: str
    memory_gib: int | None

    @classmethod
    def of(cls, name: str) -> GpuName:
        text = _LAPTOP.sub("laptop", _DROPPED.sub(" ", name[:_LONGEST].casefold()))
        text = _SUPER.sub(" super", text)
        stated = _MEMORY.search(text)
        plain = _letters_and_digits(_MEMORY.sub(" ", text))
        return cls(
            exact=_letters_and_digits(_MEMORY.sub(r" \1 ", text)),
            plain=plain,
            bare=_SERIES.sub("", _BRAND.sub("", plain)),
            memory_gib=int(stated.group(1)) if stated else None,
        )

    def has_memory_of(self, gpu: HasMemory) -> bool:
        """Whether the name states no memory, or that card's."""
        return self.memory_gib is None or abs(self.memory_gib - gpu.memory_gib) < 0.5


def nearest(wanted: GpuName, names: Sequence[str], count: int = 4) -> list[str]:
    """Those of `names` that look most like the wanted one; first those that begin it, or that it begins."""
    by_bare = {GpuName.of(name).bare: name for name in names}
    similar = difflib.get_close_matches(wanted.bare, by_bare, len(by_bare), 0.5)
    kin = [bare for bare in by_bare if _are_kin(bare, wanted.bare)]
    first = sorted(kin, key=lambda bare: abs(len(bare) - len(wanted.bare)))
    return [by_bare[bare] for bare in dict.fromkeys([*first, *similar])][:count]


def _are_kin(one: str, other: str) -> bool:
    """Whether the shorter, if it says more than a letter and a digit, begins the longer."""
    shorter, longer = sorted((one, other), key=len)
    return len(shorter) > _TELLING and longer.startswith(shorter)


def _letters_and_digits(text: str) -> str:
    return "".join(character for character in text if character.isalnum())
