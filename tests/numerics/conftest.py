"""Fixtures of the kernels' tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import host_card
import pytest
from emulated_card import emulate
from gpu_card import GpuCard
from linear_harness import Execute
from native_libraries import Use, load

from pascaline.kernels.cpu import native

# Errors of fp32 are measured in those of torch's products (transformers_reference.py), which MKL computes in
# an order of its own on each kind of processor, in some more exactly. Here it is the same everywhere.
os.environ["MKL_CBWR"] = "AVX2"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    """See `native_libraries.Use`."""
    loaded: dict[str, native.Library] = {}

    def use_library(name: str, threads: int) -> None:
        if name not in loaded:
            loaded[name] = load(name)
        loaded[name].use_threads(threads)
        monkeypatch.setattr(native, "library", lambda: loaded[name])

    yield use_library
    for library in loaded.values():
        library.use_threads(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `execute` runs in the stand-in for a card; with options elsewhere.

    With --gpu on the card, with --emulator as machine code of sm_61: some cases are emulated anyway, see
    test_emulated_linears.py.
    """
    if "execute" in metafunc.fixturenames:
        options = {"--gpu": "card", "--emulator": "emulator"}
        names = ["stand-in", *(name for option, name in options.items() if metafunc.config.getoption(option))]
        metafunc.parametrize("execute", names, indirect=True)


@pytest.fixture(scope="session")
def gpu_card() -> Execute:
    return GpuCard()


@pytest.fixture
def execute(request: pytest.FixtureRequest) -> Execute:
    """What launches a `LaunchPlan`."""
    if request.param == "stand-in":
        return host_card.run_plan
    if request.param == "emulator":
        return emulate
    card: Execute = request.getfixturevalue("gpu_card")
    return card
