"""One case: its ways made, each checked against fp64 before it is timed and after, and timed in turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import torch
from harness.card_session import PoisonedError

from linears.cases import MOST_ERROR_TIMED
from linears.graph_timer import time_in_turns
from linears.way import Way, relative_error

Maker = Callable[[], Way]


class Case:
    """Ways of one product that are compared in one run.

    Parameters
    ----------
    announce : told what is about to run, so that a crash or a hang has a name.
    """

    def __init__(
        self,
        reference: torch.Tensor,
        announce: Callable[[str], None],
        most_error: float = MOST_ERROR_TIMED,
    ) -> None:
        self._reference = reference
        self._announce = announce
        self._most_error = most_error
        self._ways: list[Way] = []
        self.errors: dict[str, float] = {}
        self.failed: dict[str, str] = {}

    def add(self, name: str, maker: Maker) -> None:
        """Make a way, run it once and check what it computed.

        Raises
        ------
        PoisonedError : it has broken the context.
        """
        self._announce(name)
        try:
            way = maker()
            torch.cuda.synchronize()  # linears read weights before they wait for launches before them
            way.launch(0)
            torch.cuda.synchronize()
            self._accept(way)
        except Exception as error:
            self.failed[name] = f"{type(error).__name__}: {error}"
            self._check_alive(name, error)

    def add_all(self, makers: Iterable[tuple[str, Maker]], skip: Iterable[str]) -> None:
        """`add` each whose name is not among those to `skip`."""
        left_out = set(skip)
        for name, maker in makers:
            if name not in left_out:
                self.add(name, maker)

    def time(self, extra: Iterable[Way], budget_s: float, rounds: tuple[int, int]) -> dict[str, Any]:
        """Times of all ways, `extra` ones too, whose outputs are not checked.

        Raises
        ------
        PoisonedError : the context broke.
        """
        ways = [*self._ways, *extra]
        if not ways:
            return {"ways": {}, "clocks_mhz": [], "failed": self.failed}
        for way in self._ways:
            way.output.fill_(float("nan"))
        culprit = ""

        def announce(what: str) -> None:
            nonlocal culprit
            culprit = what
            self._announce(what)

        try:
            timed, clocks = time_in_turns(ways, budget_s, rounds, announce)
        except Exception as error:
            raise PoisonedError(culprit, f"{type(error).__name__}: {error}") from error
        found: dict[str, Any] = {}
        for way in ways:
            measured = asdict(timed[way.name])
            if way.name in self.errors:
                last = relative_error(way.output, self._reference)
                if not last <= self._most_error:
                    self.failed[way.name] = f"right at first, {last:.2g} off after it was timed"
                    continue
                measured["error"] = max(self.errors[way.name], last)
            details = {
                name: value for name, value in way.details.items() if not isinstance(value, torch.Tensor)
            }
            found[way.name] = measured | {
                "side": way.side,
                "accuracy": way.accuracy,
                "weight_bytes": way.weight_bytes,
                "copies": way.copies,
                "details": details,
            }
        return {"ways": found, "clocks_mhz": clocks, "failed": self.failed}

    def _accept(self, way: Way) -> None:
        error = relative_error(way.output, self._reference)
        if not way.is_intact():
            self.failed[way.name] = "writes beside its output"
        elif math.isnan(error):
            self.failed[way.name] = "not every output is a number"
        elif error > self._most_error:
            self.failed[way.name] = f"wrong: {error:.2g} off"
        else:
            self._ways.append(way)
            self.errors[way.name] = error

    def _check_alive(self, name: str, error: Exception) -> None:
        try:
            torch.cuda.synchronize()
            torch.zeros(1, device=self._reference.device).item()
        except RuntimeError:
            raise PoisonedError(name, f"{type(error).__name__}: {error}") from error
