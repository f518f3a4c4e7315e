"""The device code that reads packed weights, in the plainest product: all forms, both kinds of inputs."""

from __future__ import annotations

import functools
from pathlib import Path

import host_card
import pytest
from linear_harness import FORMS, LinearCase, check_far_outputs, check_linear, linear_cases

from pascaline.kernels.cuda.linear_bounds import Arithmetic
from pascaline.kernels.cuda.linear_call import EPILOGUE_BUFFERS, LinearCall
from pascaline.kernels.cuda.specialisation import Integer, LaunchPlan, Specialisation
from pascaline.weights.slabbed import SlabbedForm

FOLDER = Path(host_card.__file__).parent
WEIGHT = ("codes", "scales", "integers", "integers_high", "zeros", "inputs")
RUN = functools.partial(host_card.run_plan, folder=FOLDER)
QUANTISED = ("input_codes", "input_scales", "input_sums")


def _plan(form: SlabbedForm, call: LinearCall, planes: int) -> LaunchPlan:
    definitions = (*form.definitions, *call.definitions)
    definitions += (("PLANES", planes or 1), ("QUANTISED_INPUT", int(planes > 0)))
    return LaunchPlan(
        Specialisation("plain_linear.cu", "plain_linear", definitions),
        (-(-call.outputs // 8), call.rows, 1),
        (32, 1, 1),
        (
            *WEIGHT,
            *(("absent", *QUANTISED) if planes else ("x", *("absent",) * 3)),
            *EPILOGUE_BUFFERS,
            *map(Integer, (call.outputs, call.columns, call.rows)),
        ),
        shared_bytes=4 * (call.outputs + 8) if call.is_gated else 0,
    )


@pytest.mark.parametrize("case", linear_cases(rows=(1, 3)), ids=str)
def test_plain_linear(case: LinearCase) -> None:
    check_linear(functools.partial(_plan, planes=0), Arithmetic(), case, RUN)


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_plain_linear_of_quantised_inputs(form: str, planes: int) -> None:
    arithmetic = Arithmetic(planes=planes, scale_group=32 if planes == 2 else 128)
    check_linear(functools.partial(_plan, planes=planes), arithmetic, LinearCase(form, 2), RUN)


@pytest.mark.parametrize("planes", [0, 2])
def test_offsets_beyond_32_bits(planes: int) -> None:
    check_far_outputs(functools.partial(_plan, planes=planes), Arithmetic(planes=planes), rows=65, run=RUN)
