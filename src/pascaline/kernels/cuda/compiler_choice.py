"""Which compiler serves a card, or one clear error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pascaline.core.errors import UnsupportedError
from pascaline.hardware.nvrtc import WHEEL_OF_CUDA_12, WHEEL_OF_CUDA_13, find_nvrtc
from pascaline.hardware.torch_builds import (
    OLDEST_CAPABILITY,
    Card,
    Machine,
    choose_torch,
    has_code_for,
    parse_driver,
)
from pascaline.kernels.cuda.compiler import FOLDER, Compiler

_FIRST_OF_CUDA_13 = (7, 5)


@dataclass(frozen=True)
class Surroundings:
    """What matters beside the compiler.

    Parameters
    ----------
    driver : "580.65.06", None if it is not told.
    torch : "2.11.0+cu130".
    torch_architectures : that torch has code for ("sm_75", …).
    """

    card: Card
    driver: str | None
    torch: str
    torch_architectures: Sequence[str]


def choose_compiler(here: Surroundings, folder: Path = FOLDER) -> Compiler:
    """The first NVRTC that makes code for just the card's chip; `folder` has the sources.

    Raises
    ------
    UnsupportedError : none does; says what there is, and what to install.
    """
    capability = here.card.capability
    architecture = "sm_{}{}".format(*capability)
    try:
        return Compiler(find_nvrtc(architecture), architecture, folder)
    except UnsupportedError as error:
        raise UnsupportedError(
            f"kernels cannot be compiled for {describe(here)}: {error.seen}",
            expected=f"an NVRTC that makes code for {architecture}",
            remedy=_remedy(here),
        ) from None


def describe(here: Surroundings) -> str:
    """The card, its driver and torch."""
    capability = "{}.{}".format(*here.card.capability)
    return (
        f"{here.card.name} (compute capability {capability}, driver {here.driver or 'of unknown version'}, "
        f"torch {here.torch})"
    )


def _remedy(here: Surroundings) -> str:
    card = here.card
    if card.capability < OLDEST_CAPABILITY:
        return torch_remedy(here)
    wheel = WHEEL_OF_CUDA_12 if card.capability < _FIRST_OF_CUDA_13 else WHEEL_OF_CUDA_13
    if has_code_for(here.torch_architectures, card.capability):
        return f"Install {wheel} beside this torch: pip install {wheel}"
    return f"This torch has no code for the card either: {torch_remedy(here)}"


def torch_remedy(here: Surroundings) -> str:
    """How to get a torch that has code for the card, if there is one."""
    if here.card.capability < OLDEST_CAPABILITY:
        return "Pascaline starts at compute capability {}.{}: use --device cpu".format(*OLDEST_CAPABILITY)
    driver = parse_driver(here.driver) if here.driver else None
    requirement = choose_torch(Machine((here.card,), driver), newest="torch").requirement
    return f"pip install {requirement}, which brings NVRTC with it; `pascaline doctor` checks the rest"
