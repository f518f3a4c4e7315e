"""Which device an engine computes on."""

from __future__ import annotations

import torch

from pascaline.core.errors import PascalineError, UnsupportedError
from pascaline.hardware.probe import Installed, installed_gpus
from pascaline.hardware.torch_builds import has_code_for
from pascaline.kernels.cuda.compiler_choice import describe, torch_remedy
from pascaline.kernels.cuda.kernel_set import surroundings


def settle_device(wanted: str) -> tuple[torch.device, list[str]]:
    """The device that "auto" means, or the one asked for, and notes for the user.

    Raises
    ------
    UnsupportedError : CUDA was asked for and torch cannot use it here.
    """
    cpu = torch.device("cpu")
    if wanted == "cpu":
        return cpu, []
    card = torch.device("cuda")
    if not torch.cuda.is_available():
        installed = installed_gpus()
        if wanted == "cuda":
            raise _no_device(installed)
        return cpu, [f"the CPU computes: {_no_device(installed)}"] if installed.gpus else []
    try:
        require_code(card)
    except UnsupportedError as error:
        if wanted == "cuda":
            raise
        return cpu, [f"the CPU computes: {error}"]
    return card, []


def require_code(card: torch.device) -> None:
    """See that torch's own kernels run on a card: they compute all that is not ours.

    Raises
    ------
    UnsupportedError : torch was built for other chips.
    """
    here = surroundings(card)
    if not has_code_for(here.torch_architectures, here.card.capability):
        raise UnsupportedError(
            f"this torch has no code for {describe(here)}",
            expected=f"one built for this chip, not for {', '.join(here.torch_architectures) or 'none'}",
            remedy=torch_remedy(here),
        )


def _no_device(installed: Installed) -> PascalineError:
    """Why torch has none, as far as it is told."""
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build for the CPU"
    if installed.gpus:
        cards = ", ".join(gpu.name for gpu in installed.gpus)
        there = f"the driver ({installed.driver or 'of unknown version'}) lists {cards}"
    else:
        there = f"no driver lists a card ({installed.reason})"
    remedy = "`pascaline doctor` says what is wrong and what mends it"
    if installed.gpus and not torch.version.cuda:
        remedy = f"`make setup` picks a torch for the card; {remedy}"
    return UnsupportedError(
        f"torch {torch.__version__}, {built}, finds no usable CUDA device; {there}",
        expected="an NVIDIA card, its driver and a torch that is built for both",
        remedy=remedy,
    )
