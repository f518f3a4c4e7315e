"""Quantised linears on the card: ours against vLLM's exllama and Marlin, and against what the card gives.

    python benchmarks/cuda_linears.py [--peers FOLDER] [--output FILE] [--only rates,compare,dense,formats]
        [--shapes qkv,o,gate_up,down] [--rows 1,8,512] [--formats Q4_K,…]
    python benchmarks/cuda_linears.py --sweep linear_decode [--rows 1] [--shapes …] [--formats …]

Shapes are Qwen2.5-7B's, weights int4 in groups of 128, inputs and outputs fp16. All sides of a case are
measured in one process, in turns, as CUDA graphs over at least 300 MB of copies of the weight; medians. Ours
quantise their inputs within what is timed; peers run all that they launch. Everything is held against fp64
first (log-normal inputs), and what is wrong is not timed. FOLDER has the library of `peers/build_vllm.py`;
without it ours are measured alone.

Prints ratios, what is wanted, and the card's limits; writes all figures to FILE. --sweep times every
candidate geometry of a family of kernels, or of a way ("decode_two_planes"), instead, and prints a table;
with --formats of those, at M = 1. Exit code 1: something failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from harness.json_lines import WorkerError
from harness.machine import card_result_path
from linears import report
from linears.cases import DENSE, DENSE_ROWS, FORMATS, LARGE_SHAPES, ROWS, SHAPES
from linears.session import Session

from pascaline.cli.ending import run

_PARTS = ("rates", "compare", "dense", "formats")


def main() -> int:
    """Measure and print."""
    given = _arguments()
    began = time.monotonic()
    found: dict[str, Any] = {"compare": [], "formats": [], "dense": [], "sweep": []}
    try:
        with Session(given.peers) as session:
            found["card"] = session.hello
            if given.sweep:
                for family in given.sweep:
                    for shape in given.shapes:
                        for name in given.formats or ():
                            found["sweep"].append(session.format(shape, name, family))
                            print(report.sweep_table(found["sweep"][-1]), flush=True)
                        for rows in () if given.formats else given.rows:
                            if family == DENSE:
                                case = session.dense(shape, rows, is_sweep=True) | {"family": family}
                            else:
                                case = session.sweep(shape, rows, family)
                            found["sweep"].append(case)
                            print(report.sweep_table(found["sweep"][-1]), flush=True)
            else:
                _standard(session, given, found)
    except WorkerError as error:
        print(f"no measurements: {error}", file=sys.stderr)
        return 2
    finally:
        found["wall_s"] = round(time.monotonic() - began, 1)
        if "card" in found:
            name = "cuda-linears-sweep" if given.sweep else "cuda-linears"
            output = given.output or card_result_path(found["card"]["gpu"], name)
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
            print(f"{found['wall_s']} s; figures in {output}")
    return 1 if report.print_failures(found) else 0


def _standard(session: Session, given: argparse.Namespace, found: dict[str, Any]) -> None:
    if "rates" in given.only:
        found["rates"] = session.rates()
        print(report.rates_text(found["rates"]), flush=True)
    if "compare" in given.only:
        for shape in given.shapes:
            for rows in given.rows:
                found["compare"].append(session.compare(shape, rows))
                print(report.comparison_text(found["compare"][-1], found.get("rates", {})), flush=True)
        print(report.summary(found["compare"], found.get("rates", {})), flush=True)
    if "dense" in given.only:
        for shape in given.shapes:
            for rows in [each for each in given.rows if each in DENSE_ROWS]:
                found["dense"].append(session.dense(shape, rows, is_sweep=False))
                print(report.comparison_text(found["dense"][-1], {}), flush=True)
    if "formats" in given.only:
        for shape in given.shapes:
            if shape in LARGE_SHAPES:
                found["formats"] += [session.format(shape, each) for each in given.formats or FORMATS]
        print(report.formats_table(found["formats"]), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = tuple(shape.name for shape in SHAPES)
    parser.add_argument("--peers", type=Path, default=Path(".device-peers"), help="folder of vLLM's kernels")
    parser.add_argument("--output", type=Path, help="by default results/<card>/<date>-cuda-linears.json")
    parser.add_argument("--only", type=_among(_PARTS), default=_PARTS)
    parser.add_argument("--shapes", type=_among(names), default=names)
    parser.add_argument("--rows", type=lambda text: tuple(map(int, text.split(","))), default=None)
    parser.add_argument("--formats", type=_among(FORMATS))
    parser.add_argument("--sweep", type=lambda text: tuple(text.split(",")), default=())
    given = parser.parse_args()
    given.rows = given.rows or ((1,) if given.sweep else ROWS)
    return given


def _among(known: tuple[str, ...]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not among {', '.join(known)}")
        return chosen

    return parse


if __name__ == "__main__":
    run(main)
