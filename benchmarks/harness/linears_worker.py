"""Measures linears on request, in a process of its own: what breaks the card's context ends it alone.

    python -m harness.linears_worker PEERS_LIBRARY ANNOUNCEMENTS

ANNOUNCEMENTS is a file that always names what runs at the moment.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from linears.dense_cases import DenseCases
from linears.format_cases import measure_format
from linears.int4_cases import Int4Cases
from linears.measure import PoisonedError
from linears.probes import Probes

from harness.json_lines import Answer, serve
from pascaline.cli.ending import run


def main() -> None:
    library, announcements = sys.argv[1:]
    if not torch.cuda.is_available():
        raise SystemExit("there is no card here that torch can use; `pascaline doctor` says why")
    device = torch.device("cuda", torch.cuda.current_device())
    properties = torch.cuda.get_device_properties(device)

    def announce(what: str) -> None:
        Path(announcements).write_text(what)

    announce("start")
    dense = functools.cache(lambda: DenseCases(device, announce))
    cases = Int4Cases(device, Path(library), announce)
    hello = {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "torch": str(torch.__version__),
    }
    answers: Mapping[str, Callable[..., dict[str, Any]]] = {
        "rates": lambda: dict(Probes(device).rates()),
        "compare": cases.compare,
        "sweep": cases.sweep,
        "dense": lambda **given: dense().measure(**given),
        "format": lambda **given: measure_format(device=device, announce=announce, **given),
    }
    serve(hello, {name: _guarded(answer) for name, answer in answers.items()})


def _guarded(answer: Callable[..., dict[str, Any]]) -> Callable[..., Answer]:
    """An answer also where something fails: "culprit" is None where the context still works."""

    def guarded(**given: object) -> Answer:
        try:
            return answer(**given)
        except PoisonedError as error:
            return {"culprit": error.culprit, "reason": error.reason}
        except Exception as error:
            return {"culprit": None, "reason": f"{type(error).__name__}: {error}"}

    return guarded


if __name__ == "__main__":
    run(main)
