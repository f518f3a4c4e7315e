"""Measurements of linears by a worker process that a kernel may end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.card_session import CardSession

from linears.graph_timer import ALL_WAYS

_LIBRARY = "libvllm_linears.so"


class Session(CardSession):
    """Use as a context manager; raises `WorkerError` where there is no card at all."""

    def __init__(self, peers: Path) -> None:
        super().__init__(
            "linears_worker", str((peers / _LIBRARY).resolve()), not_ways=("compiling", ALL_WAYS)
        )

    def rates(self) -> dict[str, Any]:
        """Of the card's arithmetic."""
        return self.ask("rates", {})

    def compare(self, shape: str, rows: int) -> dict[str, Any]:
        """All sides at one shape and M."""
        return self.measured("compare", {"shape": shape, "rows": rows})

    def sweep(self, shape: str, rows: int, family: str) -> dict[str, Any]:
        """All candidates of a family of kernels."""
        return self.measured("sweep", {"shape": shape, "rows": rows, "family": family})

    def dense(self, shape: str, rows: int, *, is_sweep: bool) -> dict[str, Any]:
        """A dense weight, in fp16."""
        return self.measured("dense", {"shape": shape, "rows": rows, "is_sweep": is_sweep})

    def format(self, shape: str, name: str, family: str | None = None) -> dict[str, Any]:
        """Another form of weights; with all candidates of `family`."""
        return self.measured("format", {"shape": shape, "format": name, "family": family})
