"""Decode's attention on the card: forms and geometries side by side, at 1, 4, 16, 64 sequences of 4 k and 32 k tokens.

    PYTHONPATH=src:benchmarks:exp_x python exp_x/decode_sweep.py [--output FILE] [--cases 16x32768,...] [--narrow]

Forms: `present` (attention_decode.cu), `second` (that of c92457f, from exp_x/form2b), `bulk` (attention_bulk_decode.cu), and
what bounds them: `stream`, which is `bulk` without products (pages are waited for and given up: what the copies themselves
take, with all shares and endings), over pages in no order and `stream, in order`; a plain read of as many bytes; cuDNN over
dense keys and values. All in one process, in turns, as CUDA graphs. Every form is held against fp64 before anything is
timed, and again at each case; what is wrong is named and not timed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from attention.cases import DECODE, HEAD_DIM, HEADS, KEY_VALUE_HEADS, LEAST_STREAMED_BYTES, SCALE
from attention.operands import Operands, copies
from attention.ways import BACKENDS, _Attended
from attention_decode_2b import AttentionDecodeGeometry as SecondGeometry
from attention_decode_2b import plan_attention_decode as plan_second
from linears.graph_timer import time_in_turns
from linears.our_ways import chip_limits
from linears.probes import Probes
from linears.way import Way, relative_error

from pascaline.core.progress import ignore_progress
from pascaline.kernels.cuda.attention_bulk_decode import BulkDecodeGeometry as Bulk
from pascaline.kernels.cuda.attention_bulk_decode import fits
from pascaline.kernels.cuda.attention_call import AttentionCall
from pascaline.kernels.cuda.attention_decode import AttentionDecodeGeometry as Present
from pascaline.kernels.cuda.attention_decode import plan_attention_decode
from pascaline.kernels.cuda.compiler import FOLDER
from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.recipe import BoundRecipe, Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits

HERE = Path(__file__).parent
MOST_ERROR = 1e-5  # fp32's arithmetic makes some 1e-6

PRESENT = [Present(8, 2), Present(8, 3), Present(4, 4), Present(4, 2, blocks=2)]
SECOND = [SecondGeometry(8, 3), SecondGeometry(8, 2)]
RINGS = [(8, 2, 1), (8, 3, 1), (6, 3, 1), (6, 4, 1), (4, 4, 1), (4, 6, 1), (4, 2, 2), (4, 3, 2), (2, 4, 2), (2, 6, 2)]
"""Warps, stages, blocks a multiprocessor: 96 to 192 KB on their way."""


def bulk_geometries(narrow: bool) -> list[Bulk]:
    found = []
    for warps, stages, blocks in RINGS:
        for heads in (1, 4) if warps % 4 == 0 else (1, 2):
            for pieces in ((2, 4),) if narrow else ((1, 1), (2, 4)):
                found.append(Bulk(warps, stages, heads, *pieces, blocks=blocks, least_pages=4 if heads > 1 else 1))
    return found


def with_waves(each: Bulk, chip: ChipLimits) -> list[Bulk]:
    more = (replace(each, waves=waves) for waves in ((1,) if each.blocks == 1 else (1, 2, 4)))
    return [one for one in more if fits(call_of(64, 32768), chip, one) and fits(call_of(1, 32768), chip, one)]


def stream_folder(parent: Path) -> Path:
    """Sources whose kernel by bulk copies only waits for its pages."""
    folder = parent / "stream"
    folder.mkdir()
    for path in FOLDER.glob("*.cu*"):
        shutil.copy(path, folder)
    path = folder / "attention_bulk_decode.cu"
    text, count = re.subn(
        r"(            stream\.wait\(\);\n).*?(            multiply_values\(own\.sums, values, scores\);\n)",
        r"\1            if (lane == 32) own.raise(factor + end + begin);\n            stream.advance(pages, page);\n",
        path.read_text(),
        flags=re.DOTALL,
    )
    assert count == 1
    path.write_text(text)
    return folder


def call_of(batch: int, context: int) -> AttentionCall:
    return AttentionCall(
        batch, batch, context // 16, HEADS, KEY_VALUE_HEADS, HEAD_DIM, HEADS * HEAD_DIM, torch.float16, scale=SCALE
    )


def way(name, kernels, plan, caches, nbytes, shared, count, device) -> Way:
    output = torch.full((count, HEADS * HEAD_DIM), float("nan"), device=device)
    bound = [BoundRecipe(kernels, Recipe((plan,)), {**each, **shared, "y": output}, ()) for each in caches]

    def launch(copy: int) -> None:
        bound[copy](torch.cuda.current_stream().cuda_stream)

    return Way(name, "ours", "exact", len(bound), nbytes, launch, output)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, default=Path("decode_sweep.json"))
    parser.add_argument("--cases", default="")
    parser.add_argument("--narrow", action="store_true", help="bulk copies in pieces alone")
    given = parser.parse_args()
    device = torch.device("cuda", 0)
    chip = chip_limits(device)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", flush=True)

    largest = call_of(64, 32768)
    bulk = [each for each in bulk_geometries(given.narrow) if fits(largest, chip, each)]
    streams = [each for each in bulk if each.value_pieces == 4]
    with tempfile.TemporaryDirectory() as temporary:
        main_set = KernelSet(device)
        second_set = KernelSet(device, HERE / "form2b")
        stream_set = KernelSet(device, stream_folder(Path(temporary)))
        forms = {  # name: (kernels, plan, geometries, what may be false)
            "present": (main_set, plan_attention_decode, PRESENT),
            "second": (second_set, plan_second, SECOND),
            "bulk": (main_set, plan_attention_decode, [one for each in bulk for one in with_waves(each, chip)]),
            "stream": (stream_set, plan_attention_decode, [one for each in streams for one in with_waves(each, chip)]),
        }
        for kernels, plan, geometries in forms.values():
            plans = [plan(call_of(batch, context), chip, each) for each in geometries for batch, context in ((1, 4096), (64, 32768))]
            kernels.build([each.specialisation for each in plans], ignore_progress)
            kernels.reserve([Recipe((each,)) for each in plans])
    say("compiled and loaded")
    began = time.monotonic()
    probes = Probes(device)
    found = {"card": torch.cuda.get_device_name(), "cases": {}}
    wrong: set[str] = set()
    wanted = [case for case in DECODE if case.width == case.context]
    wanted.sort(key=lambda case: (case.batch, case.context) != (4, 4096))  # this one first: it says who is right
    for case in wanted:
        name = f"{case.batch}x{case.context}"
        if given.cases and name not in given.cases.split(","):
            continue
        call = call_of(case.batch, case.context)
        operands = Operands.random(case.batch, 1, case.context, case.context, device)
        reference = operands.exact()
        paged = operands.paged(torch.float16)
        caches, nbytes = copies(paged)
        shared = operands.tables()
        in_order = torch.arange(operands.table.numel(), dtype=torch.int32, device=device).view_as(operands.table)
        ways: list[Way] = []
        for form, (kernels, plan, geometries) in forms.items():
            for each in geometries:
                label = f"{form} {each}".replace("AttentionDecodeGeometry", "").replace("BulkDecodeGeometry", "")
                if label in wrong:
                    continue
                made = plan(call, chip, each)
                one = way(label, kernels, made, caches, nbytes, shared, case.batch, device)
                one.launch(0)
                torch.cuda.synchronize()
                error = relative_error(one.output, reference)
                if form != "stream" and not error <= MOST_ERROR:
                    say(f"WRONG {label} at {name}: {error:.3g} off")
                    wrong.add(label)
                    continue
                ways.append(one)
                if form == "stream":
                    ordered = {**shared, "page_table": in_order}
                    ways.append(way(f"{label}, in order", kernels, made, caches, nbytes, ordered, case.batch, device))
        keys, values = operands.dense()
        dense, _ = copies({"keys": keys, "values": values})
        attended = _Attended(operands, dense, BACKENDS["cudnn"], is_packed=False)
        attended(0)
        ways.append(Way("cuDNN", "library", "half", len(dense), nbytes, attended, torch.empty(0)))
        ways.append(replace(probes.read(case.cache_bytes(2, 0), LEAST_STREAMED_BYTES), name="read"))
        for one in ways:
            one.launch(0)
        torch.cuda.synchronize()
        timed, clocks = time_in_turns(ways, 0.6, rounds=(3, 7))
        times = {label: round(each.median_s * 1e6, 2) for label, each in timed.items()}
        found["cases"][name] = {"us": times, "least_us": {k: round(v.least_s * 1e6, 2) for k, v in timed.items()}}
        cudnn, read = times["cuDNN"], times["read"]
        say(f"== {name}: cuDNN {cudnn} read {read} clocks {clocks[-1:] }")
        for form in ("present", "second", "bulk", "stream"):
            for ordered in (False, True):
                own = {k: v for k, v in times.items() if k.startswith(form) and k.endswith("in order") == ordered}
                for label, each in sorted(own.items(), key=lambda item: item[1])[: 5 if form == "bulk" else 2]:
                    print(f"   {each:8.1f} µs  {cudnn / each:5.2f} of cuDNN  {read / each:5.2f} of read  {label}")
        given.output.write_text(json.dumps(found, indent=1) + "\n")
        del ways, caches, dense, keys, values, operands, paged, reference, attended
        torch.cuda.empty_cache()
    # One geometry for all: the least product of times.
    totals: dict[str, float] = {}
    for label in forms["bulk"][2]:
        text = f"bulk {label}".replace("BulkDecodeGeometry", "")
        each = [case["us"].get(text) for case in found["cases"].values()]
        if each and all(each):
            product = 1.0
            for case, own in zip(found["cases"].values(), each, strict=True):
                product *= own / case["us"]["cuDNN"]
            totals[text] = product ** (1 / len(each))
    for text, share in sorted(totals.items(), key=lambda item: item[1])[:8]:
        print(f"   {1 / share:5.3f} of cuDNN's speed in the mean: {text}")
    say(f"done; wrong: {sorted(wrong) or 'none'}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
