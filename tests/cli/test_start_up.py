"""What start-up took, as it is told."""

from __future__ import annotations

import pytest

from pascaline.cli.start_up import describe_stages, is_worth_telling
from pascaline.engine.messages import Ready


def ready(*stages: tuple[str, float | None, float]) -> Ready:
    return Ready("cuda", 4096, 32000, [2], 16, 100, 64, 512, 1 << 30, 1 << 29, 9.0, list(stages), [])


def test_each_stage_has_its_expected_and_its_real_time() -> None:
    told = describe_stages(ready(("loading weights", 2.0, 3.25), ("recording graphs", None, 0.5)))
    assert told == "loading weights 3.2 s (expected: 2.0 s), recording graphs 500.0 ms"


@pytest.mark.parametrize(("expected", "is_told"), [((0.1, None), False), ((1.5, 0.6), True), ((), False)])
def test_what_was_expected_to_be_short_is_not_told(expected: tuple[float | None, ...], is_told: bool) -> None:
    assert is_worth_telling(ready(*(("stage", each, 100.0) for each in expected))) is is_told
