"""The machine's cards as rows of the table."""

from __future__ import annotations

from dataclasses import dataclass

from pascaline.core.errors import UnknownGpuError
from pascaline.hardware.estimate import identify
from pascaline.hardware.gpus import Gpu
from pascaline.hardware.probe import installed_gpus


@dataclass(frozen=True)
class CardsHere:
    """`gpus` : what is installed, estimated where the table has it not; `reason` : why there is none."""

    gpus: tuple[Gpu, ...]
    reason: str | None

    @property
    def names(self) -> frozenset[str]:
        return frozenset(gpu.name for gpu in self.gpus)


def cards_here() -> CardsHere:
    """What is installed; a card that nothing can be said about is left out, with the reason."""
    installed = installed_gpus()
    found: list[Gpu] = []
    reason = installed.reason
    for gpu in installed.gpus:
        try:
            found.append(identify(gpu))
        except UnknownGpuError as error:
            reason = str(error)
    return CardsHere(tuple(found), reason)
