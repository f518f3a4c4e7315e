"""Attention over pages on the card against torch's over dense keys and values, and against plain reads.

    PYTHONPATH=src python benchmarks/cuda_attention.py [--output FILE] [--only decode,prefill]

Heads are Qwen2.5-7B's: 28 of queries, 4 of keys and values, 128 wide. Ours reads pages in no order, in fp16
and in int8; torch's attention (in fp16, by the fastest of its backends, with shared heads or with a group's
heads as queries) reads keys and values that lie dense. All sides hold the same numbers and are measured in
one process, in turns, as CUDA graphs over at least 320 MB of caches; medians. Each is held against fp64.

Prints ratios, what is wanted, and what reading as many bytes takes; writes all figures to FILE. Exit code 1:
something failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attention import report
from attention.cases import DECODE, PREFILL
from harness.card_session import CardSession
from harness.json_lines import WorkerError
from harness.machine import card_result_path
from linears.graph_timer import ALL_WAYS

from pascaline.cli.ending import run

CASE = "cuda-attention"
PARTS = ("decode", "prefill")


def main() -> int:
    """Measure and print."""
    given = _arguments()
    began = time.monotonic()
    found: dict[str, Any] = {"decode": [], "prefill": []}
    try:
        with CardSession("attention_worker", not_ways=(ALL_WAYS,)) as session:
            found["card"] = session.hello
            for decode in DECODE if "decode" in given.only else ():
                answer = session.measured("decode", asdict(decode)) | {"case": decode.name}
                found["decode"].append(answer)
                print(report.decode_text(decode, answer), flush=True)
            for prefill in PREFILL if "prefill" in given.only else ():
                answer = session.measured("prefill", asdict(prefill)) | {"case": prefill.name}
                found["prefill"].append(answer)
                print(report.prefill_text(prefill, answer), flush=True)
    except WorkerError as error:
        print(f"no measurements: {error}", file=sys.stderr)
        return 2
    finally:
        found["wall_s"] = round(time.monotonic() - began, 1)
        if "card" in found:
            output = given.output or card_result_path(found["card"]["gpu"], CASE)
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
            print(f"{found['wall_s']} s; figures in {output}")
    failed = report.failures([*found["decode"], *found["prefill"]])
    for name, reason in failed.items():
        print(f"FAILED {name}: {reason:.300}", file=sys.stderr)
    return int(bool(failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help=f"by default results/<card>/<date>-{CASE}.json")
    parser.add_argument("--only", type=lambda text: tuple(text.split(",")), default=PARTS)
    given = parser.parse_args()
    if unknown := set(given.only) - set(PARTS):
        parser.error(f"--only {', '.join(sorted(unknown))}: not among {', '.join(PARTS)}")
    return given


if __name__ == "__main__":
    run(main)
