"""One coverage-guided fuzz run of one reader: see README.md.

    python fuzz/fuzz_readers.py TARGET --inputs N --seed S --output FOLDER

Findings are written to FOLDER, the smallest input of each kind and place, and the run goes on; one line of
JSON at the end says how many inputs there were. Only what crashes the interpreter ends a run early.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import atheris
import torch

with atheris.instrument_imports(include=["pascaline"]):
    from oracle import Finding, Oracle
    from targets import TARGETS

    from pascaline.core.errors import PascalineError

_MAX_INPUT_BYTES = 1 << 20
_FRESH_STARTS = 0.4
_ADDRESS_SPACE = 8 << 30
"""A net under the oracle: beyond it allocations fail, which is a finding."""


class Run:
    """The state of one run: what libFuzzer calls, and what was found."""

    def __init__(self, name: str, inputs: int, output: Path, scratch: Path) -> None:
        self._name, self._inputs, self._output, self._scratch = name, inputs, output, scratch
        self._target = TARGETS[name]
        self.seeds = list(self._target.seeds())
        self._oracle = Oracle(PascalineError)
        self._sizes: dict[tuple[str, str], int] = {}
        self._began = time.monotonic()
        self._done = 0

    def read(self, data: bytes) -> None:
        finding = self._oracle.check(lambda: self._target.read(data, self._scratch), len(data))
        self._done += 1
        if finding is not None:
            self._keep(finding, data)
        if self._done == self._inputs:
            self._tell()
            shutil.rmtree(self._scratch)

    def mutate(self, data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        # From the beginning again, often: far from the seeds hardly anything gets past the first check.
        data = random.choice(self.seeds) if random.random() < _FRESH_STARTS else data
        changed = self._target.mutate(data, random) if random.random() < 0.9 else None
        return atheris.Mutate(data, max_size) if changed is None else changed[:max_size]

    def _keep(self, finding: Finding, data: bytes) -> None:
        key = finding.kind, finding.place
        if len(data) >= self._sizes.get(key, _MAX_INPUT_BYTES + 1):
            return
        self._sizes[key] = len(data)
        stem = hashlib.sha256(repr(key).encode()).hexdigest()[:8]
        path = self._output / f"{self._name}-{stem}"
        path.with_suffix(".input").write_bytes(data)
        path.with_suffix(".txt").write_text(f"{key}\n{finding.detail}\n", errors="backslashreplace")

    def _tell(self) -> None:
        result = {
            "target": self._name,
            "inputs": self._done,
            "accepted": self._oracle.accepted,
            "refused": self._oracle.refused,
            "findings": len(self._sizes),
            "seconds": round(time.monotonic() - self._began),
        }
        print(json.dumps(result), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("fuzz-findings"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    torch.set_num_threads(1)
    in_memory = Path("/dev/shm")
    scratch = Path(tempfile.mkdtemp(dir=in_memory if in_memory.is_dir() else None))
    run = Run(arguments.target, arguments.inputs, arguments.output, scratch)
    corpus = scratch / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(run.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-runs={arguments.inputs}", f"-seed={arguments.seed}", f"-max_len={_MAX_INPUT_BYTES}"]
    options += ["-timeout=60", "-rss_limit_mb=6000", "-verbosity=0", "-len_control=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], run.read, custom_mutator=run.mutate)
    atheris.Fuzz()  # ends the process


if __name__ == "__main__":
    main()
