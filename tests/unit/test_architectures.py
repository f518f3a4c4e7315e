"""What an SM does in a clock: the table's shape, and the relations that sources state outright."""

from __future__ import annotations

from typing import get_args

import pytest

from pascaline.hardware.architectures import Architecture, Arithmetic, architectures


@pytest.mark.parametrize("chip", architectures().values(), ids=lambda chip: chip.compute_capability)
def test_every_number_is_positive_and_has_its_source(chip: Architecture) -> None:
    rates = chip.operations_per_clock_per_sm
    assert set(rates) <= set(get_args(Arithmetic))
    assert set(rates) == set(chip.sources)
    assert all(rate > 0 and rate == int(rate) for rate in rates.values())
    assert all("http" in source for source in chip.sources.values())
    assert {"fp32", "fp64"} <= set(rates)
    assert 48 <= chip.shared_memory_kib_per_block <= 227


def test_oldest_first_from_maxwell_to_blackwell() -> None:
    versions = [tuple(map(int, capability.split("."))) for capability in architectures()]
    assert versions == sorted(versions)
    assert versions[0] == (5, 0)
    assert versions[-1][0] == 12


@pytest.mark.parametrize(
    ("capability", "arithmetic", "multiple_of_fp32"),
    [
        ("6.0", "fp16", 2),  # P100 white paper: 21.2 against 10.6 TFLOPS
        ("6.1", "fp16", 1 / 64),
        ("6.1", "fp64", 1 / 32),
        ("6.1", "int8", 4),  # P40 data sheet: 47 TOPS against 12 TFLOPS
        ("6.0", "fp64", 1 / 2),
        ("5.2", "fp64", 1 / 32),
        ("7.0", "fp16", 2),
        ("7.0", "tensor_fp16", 8),  # V100 white paper: 125 against 15.7 TFLOPS
        ("7.5", "fp64", 1 / 32),
        ("8.0", "fp16", 4),  # A100 white paper: 78 against 19.5 TFLOPS
        ("8.0", "bf16", 2),
        ("8.6", "fp16", 1),
        ("8.6", "fp64", 1 / 64),
        ("9.0", "fp64", 1 / 2),
        ("8.0", "tensor_fp64", 1),  # A100 white paper: 19.5 TFLOPS each
        ("9.0", "tensor_fp64", 1),  # H100 white paper: 66.9 TFLOPS each
        ("10.3", "fp64", 1 / 64),
        ("12.0", "fp16", 1),
    ],
)
def test_rates_as_multiples_of_fp32(capability: str, arithmetic: Arithmetic, multiple_of_fp32: float) -> None:
    rates = architectures()[capability].operations_per_clock_per_sm
    assert rates[arithmetic] == multiple_of_fp32 * rates["fp32"]


@pytest.mark.parametrize(
    ("arithmetic", "first_with", "without"),
    [
        ("int8", "6.1", {"5.0", "5.2", "5.3", "6.0"}),
        ("fp16", "5.3", {"5.0", "5.2"}),
        ("tensor_fp16", "7.0", {"5.0", "5.2", "6.0", "6.1"}),
        ("bf16", "8.0", {"6.1", "7.0", "7.5"}),
        ("tensor_int8", "7.2", {"6.1", "7.0"}),
        ("tensor_fp8", "8.9", {"8.0", "8.6"}),
    ],
)
def test_units_that_are_absent_are_absent(arithmetic: Arithmetic, first_with: str, without: set[str]) -> None:
    having = [key for key, chip in architectures().items() if arithmetic in chip.operations_per_clock_per_sm]
    assert having[0] == first_with
    assert not without & set(having)
