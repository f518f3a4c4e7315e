"""The machine code of all linears' kernels, for twelve chips, against what is expected of it."""

from __future__ import annotations

import re

import pytest
from audit import Result, audit
from machine_code_cases import needs_nvrtc, nvrtc_for

from pascaline.kernels.cuda.audited import CHIPS
from pascaline.kernels.cuda.representatives import chip_limits

pytestmark = needs_nvrtc

SPILLS = {
    "linear_decode int4, 1 rows": {"10.0", "12.0"},
    "linear_rows int4, 8 rows, 2 planes by tensor cores": {"8.0", "9.0", "10.0", "12.0"},
    "linear_rows int4, 8 rows, 1 planes by tensor cores": {"9.0", "10.0"},
}
"""Kernels that spill some registers, and on which chips; none in the main loop."""

_BESIDE_THE_MAIN_LOOP = re.compile(r"\d+ bytes of local memory, \d+ accesses, 0 of them in the main loop")


def _is_made(chip: str) -> bool:
    return nvrtc_for(chip_limits(chip).architecture) is not None


def _is_known(result: Result) -> bool:
    is_listed = result.compute_capability in SPILLS.get(result.case.name, ())
    return is_listed and all(_BESIDE_THE_MAIN_LOOP.fullmatch(each) for each in result.found)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("chip", CHIPS)
def test_machine_code_is_as_expected(chip: str) -> None:
    """And spills are still there: what is mended is taken off the list."""
    if not _is_made(chip):
        pytest.skip(f"no NVRTC for {chip} is installed here")
    results = list(audit([chip]))
    assert results
    assert [str(each) for each in results if each.found and not _is_known(each)] == []
    assert all(each.code is not None for each in results)
    assert {each.case.name for each in results if each.found} == {
        name for name, chips in SPILLS.items() if chip in chips
    }


def test_spills_are_of_audited_chips() -> None:
    assert set().union(*SPILLS.values()) <= set(CHIPS)
