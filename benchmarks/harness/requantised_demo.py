"""The demo model in other types, written by llama.cpp's quantiser.

    cd benchmarks && python -m harness.requantised_demo FOLDER PEER_PYTHON

Writes what cpu_vs_llamacpp.py is to be run on besides the demo itself: all of it in Q4_0; and, padded
to widths that 256 divides, the Q4_K_M mixture, and all of it in Q6_K and in Q8_0.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gguf import LlamaFileType

from harness.json_lines import Worker, WorkerError
from harness.machine import physical_cores
from harness.padded_demo import write_fp32
from pascaline.checkpoint.reference import resolve
from pascaline.core.progress import ignore_progress

_FILES = (
    ("demo-Q4_0.gguf", LlamaFileType.MOSTLY_Q4_0, True, False),
    ("demo-padded-Q4_K_M.gguf", LlamaFileType.MOSTLY_Q4_K_M, False, True),
    ("demo-padded-Q6_K.gguf", LlamaFileType.MOSTLY_Q6_K, True, True),
    ("demo-padded-Q8_0.gguf", LlamaFileType.MOSTLY_Q8_0, True, True),
)
"""Name; type; whether every matrix has it, or llama.cpp's usual mixture; whether padded."""


def write_all(folder: Path, peer_python: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    source = resolve("demo", ignore_progress).path
    fp32 = folder / "demo-fp32.gguf"
    with Worker(peer_python, "llamacpp_judge", str(physical_cores())) as worker:
        for name, file_type, pure, padded in _FILES:
            write_fp32(source, fp32, padded=padded)
            answer = worker.ask(
                "quantise", source=str(fp32), target=str(folder / name), file_type=int(file_type), pure=pure
            )
            if answer["status"]:
                raise WorkerError(f"llama.cpp cannot write {name}: status {answer['status']}")
    fp32.unlink()


if __name__ == "__main__":
    write_all(Path(sys.argv[1]).resolve(), sys.argv[2])
