"""What a card gives, on request: plain reads, and cuBLAS for all linears of a step.

    python -m harness.limits_worker ANNOUNCEMENTS

In a process of its own, which ends before others need the memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from linears.graph_timer import time_in_turns
from linears.library_ways import dense
from linears.probes import Probes

from harness.card_session import announcing, serve_measurements
from harness.json_lines import Answer
from harness.random_model import QWEN_7B
from harness.seven_billion import LINEARS
from pascaline.cli.ending import run

_STREAMED_BYTES = 320 << 20


def read(nbytes: int) -> Answer:
    """Seconds to read so many bytes, median and least."""
    way = Probes(torch.device("cuda", 0)).read(nbytes, _STREAMED_BYTES)
    timed, _ = time_in_turns([way], 0.2)
    return {"bytes": nbytes, "seconds": timed[way.name].median_s, "least_s": timed[way.name].least_s}


def cublas(rows: int) -> Answer:
    """Seconds of the products of a step of `rows` tokens in bf16, by `torch.mm`, with one head for all rows.

    q, k and v are one product, and gate and up are one, as engines multiply them.
    """
    (hidden, _), (key_value, _) = LINEARS[0], LINEARS[1]
    (intermediate, _), layers = LINEARS[4], QWEN_7B.layers
    shapes = {
        "qkv": (hidden + 2 * key_value, hidden, layers),
        "o": (hidden, hidden, layers),
        "gate_up": (2 * intermediate, hidden, layers),
        "down": (hidden, intermediate, layers),
        "head": (QWEN_7B.vocab, hidden, 1),
    }
    seconds = {}
    for name, (outputs, inputs, times) in shapes.items():
        weight = torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16)
        x = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
        way = dense(name, "half", weight, x, _STREAMED_BYTES)
        way.launch(0)
        torch.cuda.synchronize()
        timed, _ = time_in_turns([way], 0.1)
        seconds[name] = timed[name].median_s * times
    return {"rows": rows, "by_linear_s": seconds, "seconds": sum(seconds.values())}


def main() -> None:
    announcing(sys.argv[1])
    answers: dict[str, Callable[..., Answer]] = {"read": read, "cublas": cublas}
    serve_measurements(answers)


if __name__ == "__main__":
    run(main)
