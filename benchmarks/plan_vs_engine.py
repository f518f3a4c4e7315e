"""Memory that a plan predicts against what the engine takes, for models at contexts and concurrencies.

    python benchmarks/plan_vs_engine.py MODEL@CONTEXTxSEQUENCES …

for example `demo@8192x4 folder@2048x1 model.gguf@32768x2`. The plan is made of the checkpoint's headers
alone; the engine is a process of its own for each case, whose cache is filled and which computes the
largest step that it takes (`harness/memory_worker.py`). Exits with 1 where the total, or a part that
is at least a twentieth of it, is more than 3 % away.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.json_lines import BENCHMARKS
from harness.machine import measured_cpu, now, physical_cores, software, write_result

from pascaline.checkpoint.opening import open_checkpoint
from pascaline.checkpoint.reference import resolve
from pascaline.cli.ending import run
from pascaline.core.errors import ConfigError
from pascaline.core.progress import ignore_progress
from pascaline.core.threads import compute_threads
from pascaline.engine.engine_config import EngineConfig
from pascaline.kernels.cpu import native
from pascaline.kv.pages import pages_for
from pascaline.models import read_config
from pascaline.plan.memory import MemoryPlan, MemoryRequest, divide
from pascaline.report.run_record import Row, RunRecord
from pascaline.workload.holdings import held_weights, resident_bytes, settled_tying

CASE = "plan-vs-engine"
MOST_ERROR = 0.03
PARTS = ("weights", "kv", "activations", "total")
"""The rest is the runtime, which is a constant in the plan."""
COUNTS = 0.05
"""Of the total: smaller parts may err."""


@dataclass(frozen=True)
class Case:
    """A model with as many pages as its sequences need at the context."""

    model: str
    path: Path
    context: int
    sequences: int

    @classmethod
    def of(cls, text: str) -> Case:
        model, _, size = text.rpartition("@")
        context, _, sequences = size.partition("x")
        if not model or not context.isdigit() or not sequences.isdigit():
            raise ConfigError(f"the case {text!r}", expected="MODEL@CONTEXTxSEQUENCES")
        return cls(model, resolve(model, ignore_progress).path, int(context), int(sequences))

    @property
    def name(self) -> str:
        return f"{self.path.name} at {self.context} x {self.sequences}"

    def plan(self) -> MemoryPlan:
        checkpoint = open_checkpoint(self.path)
        try:
            config = settled_tying(read_config(checkpoint.hf_config, checkpoint.container), checkpoint)
            held = held_weights(checkpoint, config)
        finally:
            checkpoint.close()
        is_native = not isinstance(native.library(), str)
        return divide(
            config,
            MemoryRequest(
                device_kind="cpu",
                available_bytes=1 << 60,
                utilization=1.0,
                weights_bytes=resident_bytes(held, "tiled" if is_native else "packed"),
                max_batch_tokens=EngineConfig.max_batch_tokens,
                max_sequences=self.sequences,
                max_model_len=self.context,
                pages=pages_for(self.context) * self.sequences,
                key_value_element_bytes=2 if is_native else 4,
                held=held,
                native_threads=compute_threads() if is_native else 0,
            ),
        )

    def measured(self) -> dict[str, int]:
        command = [sys.executable, "-m", "harness.memory_worker", str(self.path)]
        command += [str(self.context), str(self.sequences)]
        done = subprocess.run(command, cwd=BENCHMARKS, check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, int] = json.loads(done.stdout)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="MODEL@CONTEXTxSEQUENCES")
    return _run([Case.of(text) for text in parser.parse_args().cases])


def _run(cases: list[Case]) -> int:
    rows: list[Row] = []
    notes: list[str] = []
    worst = 0.0
    for case in cases:
        planned, measured = _parts(case.plan()), case.measured()
        measured["runtime"] = measured["total"] - sum(measured[part] for part in PARTS[:-1])
        errors = {part: planned[part] / max(measured[part], 1) - 1 for part in planned}
        counted = [part for part in PARTS if measured[part] >= COUNTS * measured["total"]]
        worst = max(worst, *(abs(errors[part]) for part in counted))
        notes.append(f"{case.name}: " + _line(planned, measured, errors))
        print(notes[-1], flush=True)
        for part, nbytes in measured.items():
            rows.append(Row(module=case.name, op=f"{part}, measured", bytes=nbytes))
            rows.append(Row(module=case.name, op=f"{part}, planned", bytes=planned[part]))
    notes.append(
        f"largest error of a total, or a part of {COUNTS:.0%} of it: {worst:.1%} (goal: {MOST_ERROR:.0%})"
    )
    print(notes[-1])
    cpu = measured_cpu(physical_cores())
    record = RunRecord(
        kind="bench",
        created=now(),
        software=software("pascaline", "torch", "numpy"),
        cpu=cpu,
        rows=rows,
        notes=notes,
    )
    print(f"written to {write_result(record, cpu, CASE)}")
    return int(worst > MOST_ERROR)


def _parts(plan: MemoryPlan) -> dict[str, int]:
    return {
        "weights": plan.weights_bytes,
        "kv": plan.kv_bytes,
        "activations": plan.activation_bytes,
        "runtime": plan.runtime_bytes,
        "total": plan.total_bytes,
    }


def _line(planned: Mapping[str, int], measured: Mapping[str, int], errors: Mapping[str, float]) -> str:
    return "; ".join(
        f"{part} {planned[part] / 2**20:.1f} MiB planned, {measured[part] / 2**20:.1f} taken "
        f"({errors[part]:+.1%})"
        for part in planned
    )


if __name__ == "__main__":
    run(main)
