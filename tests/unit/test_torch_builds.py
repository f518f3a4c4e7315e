"""Which binaries run on which card, by the rules of the CUDA programming guide."""

from __future__ import annotations

import pytest

from pascaline.hardware.torch_builds import has_code_for

TORCH_2_7_1 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
TORCH_2_11 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (TORCH_2_7_1, (5, 0), True),
        (TORCH_2_7_1, (5, 2), True),
        (TORCH_2_7_1, (6, 1), True),
        (TORCH_2_7_1, (8, 9), True),
        (TORCH_2_7_1, (3, 7), False),
        (TORCH_2_7_1, (10, 0), False),
        (TORCH_2_7_1, (12, 0), False),
        (TORCH_2_11, (6, 1), False),
        (TORCH_2_11, (7, 0), False),
        (TORCH_2_11, (7, 5), True),
        (TORCH_2_11, (12, 1), True),
        (("sm_61",), (6, 0), False),
        (("compute_60",), (6, 1), True),
        (("compute_60",), (12, 0), True),
        (("compute_75",), (7, 0), False),
        (("sm_90a",), (9, 0), True),
        (("sm_100a",), (10, 3), False),
        (("compute_90a",), (10, 0), False),
        (("sm_100f",), (10, 3), True),
        (("compute_120f",), (12, 1), True),
        (("compute_100f",), (12, 0), False),
        (("gfx906", "", "sm_", "sm_x"), (9, 0), False),
        ((), (6, 1), False),
    ],
)
def test_code_runs_on_higher_minor_versions_and_ptx_on_all_newer(
    architectures: tuple[str, ...], capability: tuple[int, int], runs: bool
) -> None:
    assert has_code_for(architectures, capability) == runs
