"""Measures linears on request, in a process of its own: what breaks the card's context ends it alone.

    python -m harness.linears_worker PEERS_LIBRARY ANNOUNCEMENTS

ANNOUNCEMENTS is a file that always names what runs at the moment.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch
from linears.dense_cases import DenseCases
from linears.format_cases import measure_format
from linears.int4_cases import Int4Cases
from linears.probes import Probes

from harness.card_session import announcing, serve_measurements
from pascaline.cli.ending import run


def main() -> None:
    library, announcements = sys.argv[1:]
    device = torch.device("cuda", 0)
    announce = announcing(announcements)
    dense = functools.cache(lambda: DenseCases(device, announce))
    int4 = functools.cache(lambda: Int4Cases(device, Path(library), announce))
    serve_measurements(
        {
            "rates": lambda: dict(Probes(device).rates()),
            "compare": lambda **given: int4().compare(**given),
            "sweep": lambda **given: int4().sweep(**given),
            "dense": lambda **given: dense().measure(**given),
            "format": lambda **given: measure_format(device=device, announce=announce, **given),
        }
    )


if __name__ == "__main__":
    run(main)
