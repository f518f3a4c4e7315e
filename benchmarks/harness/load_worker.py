"""One timed pass over a model's file: `python -m harness.load_worker read|load MODEL_FILE`.

`read` reads the file into fresh memory in one call, which is the least that loading can be; `load`
fills the model's weights from it as the engine does at start. Prints one JSON object: seconds,
bytes (of the file, or of the tensors that were loaded), what stays resident of them, and by how many
bytes the process's peak memory grew.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy
import torch

from pascaline.checkpoint.opening import open_checkpoint
from pascaline.core.progress import ignore_progress
from pascaline.engine.loader import find_weights, load_weights
from pascaline.kernels import KERNELS, Chip, Launcher, Policy
from pascaline.kernels.kernel import as_it_is
from pascaline.layers.decoder import build
from pascaline.models import read_config

KIBIBYTE = 1024


def main() -> None:
    mode, name = sys.argv[1:]
    passes = {"read": read, "load": load}
    print(json.dumps(passes[mode](Path(name))))


def read(path: Path) -> dict[str, float]:
    nbytes = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        before = peak_bytes()
        began = time.perf_counter()
        memory = numpy.empty(nbytes, numpy.uint8).data
        done = file.readinto(memory)
        seconds = time.perf_counter() - began
    if done != nbytes:
        raise OSError(f"{path}: {done} of {nbytes} bytes read")
    return {"seconds": seconds, "bytes": nbytes, "resident": nbytes, "peak": peak_bytes() - before}


def load(path: Path) -> dict[str, float]:
    began = time.perf_counter()
    checkpoint = open_checkpoint(path)
    opened = time.perf_counter() - began
    device = torch.device("cpu")
    config = read_config(checkpoint.hf_config, checkpoint.container)
    model = build(config, Launcher(Policy(Chip(device), KERNELS)))
    weights = find_weights(model, checkpoint)
    nbytes = sum(checkpoint.tensors[name].nbytes for item in weights for name in item.names)
    before = peak_bytes()
    began = time.perf_counter()
    resident = load_weights(model, checkpoint, weights, device, as_it_is, ignore_progress)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "bytes": nbytes,
        "resident": resident,
        "peak": peak_bytes() - before,
        "open_seconds": opened,
    }


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE


if __name__ == "__main__":
    main()
