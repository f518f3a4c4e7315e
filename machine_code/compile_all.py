"""Compiles whatever linears may launch: every form of weight, every number of rows, every way, on every chip.

    python machine_code/compile_all.py [--chip 6.1 …] [--form Q4_K …] [--rows 1 …] [--cuda 12.6 | 13.0]
        [--candidates] [--count]

Shapes are those of Qwen2.5-7B. All of it takes hours on two cores: `--count` says how many kernels there
are and how long they may take, and compiles nothing. `--candidates` adds the geometries that tuning tries.
Prints what does not compile or is warned of, and sums for each chip; exit code 1: there was something. Some
of it is compiled by every run of the tests (tests/machine_code/test_compilation.py).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence

import torch
from compilation import Compilation, compile_side_by_side
from compilers import NVRTC_12_6, NVRTC_13_0

from pascaline.cli.ending import run
from pascaline.cli.progress_bars import ProgressBars
from pascaline.core.progress import Stage
from pascaline.core.units import format_seconds
from pascaline.hardware.architectures import architectures
from pascaline.hardware.nvrtc import Nvrtc, find_nvrtc
from pascaline.kernels.cuda.audited import CHIPS
from pascaline.kernels.cuda.compiler import Compiler
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES, LinearCall
from pascaline.kernels.cuda.linear_product import ROW_STEPS, Product
from pascaline.kernels.cuda.linear_ways import LINEAR_WAYS
from pascaline.kernels.cuda.representatives import FORMS, chip_limits, slabbed
from pascaline.kernels.cuda.specialisation import LaunchPlan, Specialisation

SHAPES = ((4608, 3584), (3584, 3584), (37888, 3584), (3584, 18944))  # outputs, columns
ROWS = tuple(sorted({*range(1, 17), *ROW_STEPS}))
DENSE = {str(dtype).removeprefix("torch."): dtype for dtype in NUMBER_TYPES}
_KERNEL_S = 0.5
"""Of a processor's time, about."""
_FETCHED = {each.cuda: each for each in (NVRTC_12_6, NVRTC_13_0)}


def products(compute_capability: str, form: str, rows: Sequence[int]) -> Iterator[Product]:
    """Every product by weights of a form (of `FORMS` or `DENSE`), as an engine computes it: in fp32."""
    chip = chip_limits(compute_capability)
    stored = DENSE[form] if form in DENSE else slabbed(form)
    is_permuted = form in FORMS and FORMS[form].permutation
    for outputs, columns in SHAPES:
        for bias in (None, torch.float16) if (outputs, columns) == SHAPES[0] else (None,):
            for count in rows:
                call = LinearCall(count, outputs, columns, torch.float32, torch.float32, bias)
                yield Product(stored, call, chip, is_permuted)


def specialisations(
    compute_capability: str, forms: Sequence[str], rows: Sequence[int], *, has_candidates: bool
) -> list[Specialisation]:
    """What all ways of computing these products compile, each once."""
    rates = architectures()[compute_capability].operations_per_clock_per_sm
    ways = [
        way for way in LINEAR_WAYS if way.unit in rates and not way.needs(chip_limits(compute_capability))
    ]
    found: dict[Specialisation, None] = {}
    for form in forms:
        for product in products(compute_capability, form, rows):
            for way in ways:
                if way.refusal(product) is None:
                    plans: list[LaunchPlan] = [*way.recipe(product, None).plans]
                    plans += way.candidates(product) if has_candidates else []
                    found.update(dict.fromkeys(plan.specialisation for plan in plans))
    return list(found)


def compile_for(nvrtc: Nvrtc, architecture: str, wanted: Sequence[Specialisation]) -> list[Compilation]:
    """All of them, with progress on stderr."""
    compiler, made = Compiler(nvrtc, architecture), []
    expected_s = len(wanted) * _KERNEL_S / (os.cpu_count() or 1)
    title = f"compiling for {architecture}"
    with ProgressBars() as report, Stage(report, title, len(wanted), "kernels", expected_s) as stage:
        for each in compile_side_by_side([(compiler, specialisation) for specialisation in wanted]):
            made.append(each)
            stage.advance(1)
    return made


def summary(made: Sequence[Compilation], nvrtc: Nvrtc, wall_s: float) -> str:
    """One chip's line."""
    spent_s = sum(each.processor_s for each in made)
    slowest = max(made, key=lambda each: each.processor_s)
    failed = sum(each.cubin is None for each in made)
    warned = sum(each.cubin is not None and bool(each.complaints) for each in made)
    return (
        f"{made[0].architecture} by {nvrtc.identity}: {len(made)} kernels, {failed} do not compile, {warned} "
        f"are warned of; {format_seconds(spent_s)} of processors' time in {format_seconds(wall_s)}, at most "
        f"{format_seconds(slowest.processor_s)} ({slowest.specialisation.file})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compile every kernel that linears may launch")
    parser.add_argument("--chip", action="append", choices=CHIPS, help="these only")
    parser.add_argument("--form", action="append", choices=(*FORMS, *DENSE), help="weights of these only")
    parser.add_argument("--rows", action="append", type=int, help="these only")
    parser.add_argument("--cuda", choices=tuple(_FETCHED), help="an NVRTC to fetch; else that installed")
    parser.add_argument("--candidates", action="store_true", help="geometries that tuning tries, too")
    parser.add_argument("--count", action="store_true", help="compile nothing")
    given = parser.parse_args(arguments)
    if given.rows and min(given.rows) < 1:
        parser.error(f"--rows {min(given.rows)}: there are products from 1 row on")
    is_right = True
    for chip in given.chip or CHIPS:
        architecture = chip_limits(chip).architecture
        nvrtc = _FETCHED[given.cuda].fetch() if given.cuda else find_nvrtc(architecture)
        if architecture not in nvrtc.architectures:
            print(f"{architecture}: {nvrtc.identity} makes no code for it", flush=True)
            continue
        wanted = specialisations(
            chip, given.form or (*FORMS, *DENSE), given.rows or ROWS, has_candidates=given.candidates
        )
        if given.count or not wanted:
            about = format_seconds(len(wanted) * _KERNEL_S)
            print(f"{architecture}: {len(wanted)} kernels, about {about} of processors' time", flush=True)
            continue
        began = time.perf_counter()
        made = compile_for(nvrtc, architecture, wanted)
        for each in made:
            if each.complaints:
                print(each, flush=True)
        is_right = is_right and not any(each.complaints for each in made)
        print(summary(made, nvrtc, time.perf_counter() - began), flush=True)
    return 0 if is_right else 1


if __name__ == "__main__":
    run(main)
