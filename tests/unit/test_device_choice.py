"""Which device is computed on, and what is said where torch cannot use the card that is there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pascaline.core.errors import UnsupportedError
from pascaline.engine import device
from pascaline.hardware.probe import Installed, InstalledGpu
from pascaline.hardware.torch_builds import Card
from pascaline.kernels.cuda.compiler_choice import Surroundings

PASCAL = "NVIDIA TITAN X (Pascal)"
WITHOUT_CODE = (
    r"^this torch has no code for NVIDIA TITAN X \(Pascal\) \(compute capability 6\.1, driver 580\.65\.06, "
    r"torch 2\.11\.0\+cu130\) \(expected one built for this chip, not for sm_75, sm_90\)\. pip install "
    r"torch==2\.7\.1, which brings"
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with a Pascal card, and what torch is there; attributes may be set."""
    here = SimpleNamespace(
        is_available=True,
        cuda="13.0",
        architectures=("sm_75", "sm_90"),
        installed=Installed((InstalledGpu(0, PASCAL),), None, driver="580.65.06"),
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: here.is_available)
    monkeypatch.setattr(device, "installed_gpus", lambda: here.installed)
    monkeypatch.setattr(
        device,
        "surroundings",
        lambda _: Surroundings(Card(PASCAL, (6, 1)), "580.65.06", "2.11.0+cu130", here.architectures),
    )
    return here


def test_a_torch_without_code_for_the_card_is_an_error_before_anything_is_loaded(
    machine: SimpleNamespace,
) -> None:
    with pytest.raises(UnsupportedError, match=WITHOUT_CODE):
        device.settle_device("cuda")
    settled, notes = device.settle_device("auto")
    assert settled.type == "cpu"
    assert len(notes) == 1
    assert notes[0].startswith("the CPU computes: this torch has no code for NVIDIA TITAN X (Pascal)")


def test_a_torch_with_code_for_the_card_takes_it(machine: SimpleNamespace) -> None:
    machine.architectures = ("sm_50", "sm_60", "sm_70")
    for wanted in ("auto", "cuda"):
        settled, notes = device.settle_device(wanted)
        assert (settled.type, notes) == ("cuda", [])
    assert device.settle_device("cpu") == (torch.device("cpu"), [])


def test_a_card_that_torch_does_not_see_is_named(
    machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.is_available = False
    monkeypatch.setattr(torch.version, "cuda", None)
    expected = (
        r"torch \S+, a build for the CPU, finds no usable CUDA device; the driver \(580\.65\.06\) lists "
        r"NVIDIA TITAN X \(Pascal\) .*`make setup` picks a torch for the card"
    )
    with pytest.raises(UnsupportedError, match=expected):
        device.settle_device("cuda")
    settled, notes = device.settle_device("auto")
    assert settled.type == "cpu"
    assert "lists NVIDIA TITAN X (Pascal)" in notes[0]


def test_without_a_card_the_cpu_is_taken_and_nothing_is_said(machine: SimpleNamespace) -> None:
    machine.is_available = False
    machine.installed = Installed((), "NVML: no library")
    assert device.settle_device("auto") == (torch.device("cpu"), [])
    with pytest.raises(UnsupportedError, match=r"no driver lists a card \(NVML: no library\)"):
        device.settle_device("cuda")
