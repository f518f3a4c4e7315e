"""Find the fastest geometries of linears on the card here, and keep them.

    PYTHONPATH=src python benchmarks/tune_linears.py [--copy-to FOLDER] [--forms int4 Q4_K …] [--shapes N×K …]
        [--rows 1 2 …] [--budget-s 240]
    PYTHONPATH=src python benchmarks/tune_linears.py --forms "2 bits" "3 bits" MXFP4 IQ4_NL --rows 1
    PYTHONPATH=src python benchmarks/tune_linears.py --forms bf16 --rows 1 2 4 8

Measures, for each form and shape, the ways that a model of the chip thinks well of, with the geometries that
their planners like. All are compiled first. The result goes to the user's cache, where engines and
cuda_linears.py find it at their start, and to FOLDER: files in src/pascaline/kernels/cuda/tuned come with
the package. What was found before is kept. Shapes are Qwen2.5-7B's unless they are given; after the budget
the rest is left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from linears import format_cases

from pascaline.cli.ending import run
from pascaline.core.files import writable_folder
from pascaline.core.progress import Progress
from pascaline.engine.card import settle_chip
from pascaline.engine.device import settle_device
from pascaline.kernels.cuda.autotune import ROWS, CardTimer, build_candidates, products_of, tune_product
from pascaline.kernels.cuda.tuned import tuned_folder
from pascaline.kernels.packed_cases import PACKED_FORMS, PackedForm, random_packed
from pascaline.weights import Dense, Slabbed
from pascaline.weights.slab_layout import to_slabs
from pascaline.workload.slab_form import SLAB, TILE_OUTPUTS

FORMS = {"int4": PackedForm(4, 128, (2,), zero=8), **PACKED_FORMS, **format_cases.FORMS}
DENSE = {"fp16": torch.float16, "bf16": torch.bfloat16}
SHAPES = ("37888×3584", "3584×18944", "4608×3584", "3584×3584")


def random_slabbed(form: PackedForm, outputs: int, columns: int, device: torch.device) -> Slabbed:
    """A weight that repeats a small one's codes and scales: times do not depend on them."""
    generator = torch.Generator().manual_seed(0)
    super_size = max(form.super_size or form.group_size, SLAB)
    small = to_slabs(random_packed(form, TILE_OUTPUTS, 2 * super_size, generator)).buffers
    packed = to_slabs(random_packed(form, TILE_OUTPUTS, 2 * super_size, generator))
    slabs = columns // SLAB
    buffers: dict[str, torch.Tensor] = {}
    for name, tensor in small.items():
        if name == "inputs":
            buffers[name] = torch.arange(slabs * SLAB, dtype=torch.int32, device=device)
            continue
        along = -(-slabs * tensor.shape[0] // packed.slabs)
        repeats = [-(-along // tensor.shape[0]), outputs // TILE_OUTPUTS, *[1] * (tensor.dim() - 2)]
        buffers[name] = tensor.to(device).repeat(repeats)[:along].contiguous()
    return Slabbed((outputs, columns), packed.form, **buffers)


def random_weight(form: str, outputs: int, columns: int, device: torch.device) -> Dense | Slabbed:
    if form not in DENSE:
        return random_slabbed(FORMS[form], outputs, columns, device)
    numbers = torch.randn(outputs, columns, device=device, dtype=DENSE[form])
    return Dense(numbers.mul_(columns**-0.5))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--copy-to", type=Path, nargs="+", default=[], metavar="FOLDER", help="also write it there"
    )
    parser.add_argument("--forms", nargs="+", default=["int4"], choices=[*FORMS, *DENSE])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), help="N×K, multiples of 8 and 256")
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--budget-s", type=float, default=240.0)
    options = parser.parse_args()
    began = time.monotonic()
    folders = [writable_folder(each) for each in (tuned_folder(), *options.copy_to)]
    device, _ = settle_device("cuda")
    chip, kernels, notes = settle_chip(device)
    for note in notes:
        print(note, file=sys.stderr)
    if kernels is None or chip.roofline is None:
        return 2
    card, tuned, failed = torch.cuda.get_device_name(device), chip.tuned, False

    def report(progress: Progress) -> None:
        if progress.finished:
            print(f"{progress.stage}: {progress.done:.0f} in {progress.elapsed_s:.1f} s", flush=True)

    path: Path | None = None
    weights: dict[str, Dense | Slabbed] = {}
    for form in options.forms:
        for shape in options.shapes:
            outputs, columns = (int(each) for each in shape.replace("x", "×").split("×"))
            weights[f"{form} {shape}"] = random_weight(form, outputs, columns, device)
    build_candidates(weights.values(), kernels, chip.roofline, report, options.rows)
    for name, weight in weights.items():
        timer, started = CardTimer(kernels, weight), time.monotonic()
        for product in products_of(weight, kernels, options.rows):
            if time.monotonic() - began > options.budget_s:
                print(f"{name}, M = {product.call.rows}: left out, the budget is spent", flush=True)
                continue
            try:
                tuned = tune_product(product, weight.resident_bytes, chip.roofline, tuned, timer)
            except Exception as error:
                print(f"{name}, M = {product.call.rows}: {type(error).__name__}: {error}", flush=True)
                torch.cuda.synchronize(device)  # raises where the card's context is lost
                failed = True
            for folder in folders:
                path = tuned.write(card, folder)
        print(f"{name}: {time.monotonic() - started:.1f} s; {len(tuned)} entries in {path}", flush=True)
        del timer
        torch.cuda.empty_cache()
    return int(failed)


if __name__ == "__main__":
    run(main)
