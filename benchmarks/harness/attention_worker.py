"""Measures attention on request, in a process of its own; ANNOUNCEMENTS always names what runs.

python -m harness.attention_worker ANNOUNCEMENTS
"""

from __future__ import annotations

import functools
import sys

import torch
from attention.measure import AttentionCases

from harness.card_session import announcing, serve_measurements
from pascaline.cli.ending import run


def main() -> None:
    announce = announcing(sys.argv[1])
    cases = functools.cache(lambda: AttentionCases(torch.device("cuda", 0), announce))
    serve_measurements(
        {
            "decode": lambda **given: cases().decode(**given),
            "prefill": lambda **given: cases().prefill(**given),
        }
    )


if __name__ == "__main__":
    run(main)
