"""Launches of a step beside its linears and attention, on the card: several in turn, and one for all of them.

    PYTHONPATH=src python benchmarks/cuda_step_kernels.py [--output FILE] [--rows 1,8,4096]

Shapes are Qwen2.5-7B's. Each way is a CUDA graph of many launches in a row, of operands that stay in the
second cache where they fit; medians. Prints microseconds, and terabytes a second of what it moves.

A way that fails says why, and the others go on. Exit code 1: one did.
"""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from linears.graph_timer import time_in_turns
from linears.way import Way

from pascaline.cli.ending import run
from pascaline.kernels.cuda.elementwise import Operation, plan_elementwise
from pascaline.kernels.cuda.gated_input import plan_gated_input
from pascaline.kernels.cuda.gather_rows import plan_gather_rows
from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.quantise_input import InputForm, plan_quantise_input, quantised_shapes
from pascaline.kernels.cuda.rms_norm import plan_rms_norm
from pascaline.kernels.cuda.rotary import plan_rotary
from pascaline.kernels.cuda.rotate_and_store import plan_rotate_and_store
from pascaline.kernels.cuda.specialisation import LaunchPlan
from pascaline.kernels.cuda.store_rows import plan_store_rows

HIDDEN, INNER, VOCABULARY = 3584, 18944, 152064
HEADS, KEY_HEADS, HEAD_DIM, PAGE_SIZE = 28, 4, 128, 16
FORM = InputForm(2, 128)
BUDGET_S = 1.0

Buffers = dict[str, torch.Tensor]
Launches = list[tuple[LaunchPlan, Buffers]]


def ways(rows: int, device: torch.device) -> Iterator[tuple[str, int, Callable[[], Launches]]]:
    """Name, bytes that have to move, and the launches."""

    def full(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, device=device).to(dtype)

    x, residual, y, gain = full(rows, HIDDEN), full(rows, HIDDEN), full(rows, HIDDEN), full(HIDDEN)
    both, gated = full(rows, 2 * INNER), full(rows, INNER)
    gate, up = both[:, :INNER], both[:, INNER:]
    qkv = full(rows, (HEADS + 2 * KEY_HEADS) * HEAD_DIM)
    heads = [HEADS, KEY_HEADS, KEY_HEADS]
    query, key, value = torch.split(qkv.view(rows, -1, HEAD_DIM), heads, dim=1)
    pages = -(-rows // PAGE_SIZE) + 1
    caches = [
        full(pages, KEY_HEADS, PAGE_SIZE, HEAD_DIM, dtype=torch.float16).transpose(1, 2) for _ in range(2)
    ]
    tables: Buffers = {
        "positions": torch.arange(rows, device=device),
        "slots": torch.randperm(pages * PAGE_SIZE, device=device)[:rows],
        "cosine": full(rows, HEAD_DIM // 2),
        "sine": full(rows, HEAD_DIM // 2),
    }
    rotated = full(rows, HEADS, HEAD_DIM), full(rows, KEY_HEADS, HEAD_DIM)

    def quantised(columns: int) -> Buffers:
        shapes = quantised_shapes(rows, columns, FORM.planes)
        return {
            name: torch.zeros(shape, dtype=dtype, device=device) for name, (shape, dtype) in shapes.items()
        }

    def quantising(source: torch.Tensor) -> tuple[LaunchPlan, Buffers]:
        plan = plan_quantise_input(len(source), source.shape[1], torch.float32, FORM.planes, FORM.scale_group)
        return plan, {"x": source} | quantised(source.shape[1])

    norm = plan_rms_norm(x, torch.float32, 1e-6), {"x": x, "gain": gain, "y": y}
    add = plan_elementwise(Operation.ADD, x, residual, names=("x", "residual", "y"))
    silu = plan_elementwise(Operation.SILU_AND_MUL, gate, up, names=("gate", "up", "y"))
    summed = {"x": x, "residual": residual, "gain": gain, "y": y}
    row, integers = rows * HIDDEN * 4, rows * HIDDEN * 2
    yield "norm", 2 * row, lambda: [norm]
    yield "add, norm", 4 * row, lambda: [(add, {"x": x, "residual": residual, "y": y}), norm]
    yield "add+norm", 4 * row, lambda: [(plan_rms_norm(x, torch.float32, 1e-6, residual=residual), summed)]
    yield (
        "add+norm, quantise",
        3 * row + integers,
        lambda: [
            (plan_rms_norm(x, torch.float32, 1e-6, residual=residual), summed),
            quantising(y),
        ],
    )
    yield (
        "add+norm+quantise",
        3 * row + integers,
        lambda: [
            (
                plan_rms_norm(x, torch.float32, 1e-6, residual=residual, form=FORM),
                summed | quantised(HIDDEN),
            )
        ],
    )
    yield "silu", rows * INNER * 12, lambda: [(silu, {"gate": gate, "up": up, "y": gated})]
    yield (
        "silu, quantise",
        rows * INNER * 10,
        lambda: [
            (silu, {"gate": gate, "up": up, "y": gated}),
            quantising(gated),
        ],
    )
    yield (
        "silu+quantise",
        rows * INNER * 10,
        lambda: [
            (
                plan_gated_input(Operation.SILU_AND_MUL, gate, up, FORM),
                {"gate": gate, "up": up} | quantised(INNER),
            )
        ],
    )
    moved = rows * HEAD_DIM * (8 * HEADS + 2 * KEY_HEADS * 6)
    yield (
        "rotate q, rotate k, store k, store v",
        moved,
        lambda: [
            (plan_rotary(query, tables["cosine"]), tables | {"x": query, "y": rotated[0]}),
            (plan_rotary(key, tables["cosine"]), tables | {"x": key, "y": rotated[1]}),
            (plan_store_rows(rotated[1], caches[0]), tables | {"rows": rotated[1], "cache": caches[0]}),
            (plan_store_rows(value, caches[1]), tables | {"rows": value, "cache": caches[1]}),
        ],
    )
    yield (
        "rotate+store",
        moved,
        lambda: [
            (
                plan_rotate_and_store(query, key, value, tables["cosine"], caches[0]),
                tables
                | {"query": query, "key": key, "value": value, "y": rotated[0]}
                | {"key_cache": caches[0], "value_cache": caches[1]},
            )
        ],
    )
    table = full(VOCABULARY, HIDDEN, dtype=torch.float16)
    token_ids = torch.randint(0, VOCABULARY, (rows,), device=device)
    yield (
        "embedding of fp16",
        rows * HIDDEN * 6,
        lambda: [
            (
                plan_gather_rows(rows, table, names=("table", "token_ids")),
                {"table": table, "token_ids": token_ids, "y": y},
            )
        ],
    )


def bound(kernels: KernelSet, launches: Launches) -> Callable[[int], None]:
    """All launches, on torch's current stream."""
    calls = []
    for plan, buffers in launches:
        names = (name for name in plan.arguments if isinstance(name, str))
        addresses: dict[str, int | None] = dict.fromkeys(names)
        addresses |= {name: tensor.data_ptr() for name, tensor in buffers.items() if name in addresses}
        calls.append(kernels.bind(plan, addresses))

    def launch(_copy: int) -> None:
        stream = torch._C._cuda_getCurrentRawStream(kernels.ordinal)
        for call in calls:
            call(stream)

    return launch


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    parser.add_argument("--rows", default="1,8,4096", help="numbers of tokens (%(default)s)")
    options = parser.parse_args()
    device = torch.device("cuda")
    kernels = KernelSet(device)
    found: dict[str, dict[str, Any]] = {}
    failed = False
    for rows in map(int, options.rows.split(",")):
        for name, nbytes, make in ways(rows, device):
            try:
                launch = bound(kernels, make())
                launch(0)
                torch.cuda.synchronize()
                way = Way(name, "ours", "exact", 1, 0, launch, torch.empty(0))
                timed = time_in_turns([way], BUDGET_S)[0][name]
                found[f"{rows} rows: {name}"] = asdict(timed) | {"bytes": nbytes}
                rate = nbytes / timed.median_s / 1e12
                print(
                    f"{rows:5} rows  {name:40} {timed.median_s * 1e6:8.2f} µs  {rate:6.3f} TB/s", flush=True
                )
            except Exception as error:
                failed = True
                traceback.print_exc()
                found[f"{rows} rows: {name}"] = {"error": f"{type(error).__name__}: {error}"}
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return int(failed)


if __name__ == "__main__":
    run(main)
