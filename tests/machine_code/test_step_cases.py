"""Cases that tools run on cards: what they launch, and that PTX for Pascal can be made of it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import run_pascal_ptx
import sanitise_kernels
from machine_code_cases import needs_nvrtc
from pascal_ptx import missing_from, write_ptx
from step_cases import StepCase, step_cases

from pascaline.kernels.cuda.compiler import FOLDER
from pascaline.kernels.cuda.representatives import chip_limits
from pascaline.kernels.cuda.specialisation import LaunchPlan, Specialisation

CASES = {chip: list(step_cases(chip_limits(chip))) for chip in ("6.1", "8.6", "9.0")}
NOT_OF_PASCAL = {"attention_decode", "attention_prefill", "attention_wgmma"}


def stems(cases: list[StepCase]) -> set[str]:
    return {Path(plan.specialisation.file).stem for case in cases for plan in case.plans}


def test_every_kernel_but_the_linears_has_a_case() -> None:
    linears = {"add_products", "dequantise", "order_input", "scale_back"}
    all_others = {path.stem for path in FOLDER.glob("*.cu") if not path.stem.startswith("linear_")} - linears
    assert stems(CASES["9.0"]) == all_others
    assert stems(CASES["8.6"]) == all_others - {"attention_wgmma"}
    assert stems(CASES["6.1"]) == all_others - NOT_OF_PASCAL


def test_cases_have_names_of_their_own() -> None:
    for cases in CASES.values():
        assert len({case.name for case in cases}) == len(cases)


@pytest.mark.parametrize("case", CASES["9.0"], ids=lambda case: case.name)
def test_a_case_launches_what_it_says(case: StepCase) -> None:
    launched: list[Specialisation] = []

    def record(plan: LaunchPlan, *_: object, **__: object) -> None:
        launched.append(plan.specialisation)

    with contextlib.suppress(Exception):  # nothing is computed: results are wrong
        case.check(record)
    assert launched == [plan.specialisation for plan in case.plans]


def test_the_sanitiser_watches_every_kernel() -> None:
    """All have their files' names."""
    for path in FOLDER.glob("*.cu"):
        assert f"{path.stem}(" in path.read_text()
        assert path.stem in sanitise_kernels.KERNELS


def test_tools_list_their_cases(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for tool, word, chip in ((run_pascal_ptx, "list", "6.1"), (sanitise_kernels, "--list", "9.0")):
        monkeypatch.setattr("sys.argv", [tool.__name__, word])
        assert tool.main() == 0
        listed = capfd.readouterr().out.splitlines()
        assert listed[-len(CASES[chip]) :] == [case.name for case in CASES[chip]]
        assert len(listed) > 2 * len(CASES[chip]), "linears are among them"


@needs_nvrtc
def test_pascals_cases_become_ptx(tmp_path: Path) -> None:
    """A few; `prepare` makes PTX of all of them."""
    files = ("attention_simt_decode.cu", "rotate_and_store.cu", "choose_tokens.cu")
    plans = [plan for case in CASES["6.1"] for plan in case.plans]
    each = {plan.specialisation.file: plan.specialisation for plan in plans}
    path = tmp_path / "kernels.zip"
    assert write_ptx([each[file] for file in files], path) == {}
    assert missing_from(path, [each[file] for file in files]) == []
    assert missing_from(path, each.values()) == [found for file, found in each.items() if file not in files]
