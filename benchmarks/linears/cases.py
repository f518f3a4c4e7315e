"""Which products are timed, and what is wanted of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A linear: y (M, outputs) = x (M, inputs) · wᵀ."""

    name: str
    inputs: int
    outputs: int

    @property
    def label(self) -> str:
        """K×N, as matrix products are named."""
        return f"{self.inputs}×{self.outputs}"


SHAPES = (  # Qwen2.5-7B's
    Shape("qkv", 3584, 4608),
    Shape("o", 3584, 3584),
    Shape("gate_up", 3584, 37888),
    Shape("down", 18944, 3584),
)
LARGE_SHAPES = ("gate_up", "down")
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048, 4352)
GROUP_SIZE = 128
DENSE, DENSE_ROWS = "linear_dense_decode", (1, 2, 4, 8)
FORMATS = ("8 bits", "6 bits", "5 bits", "3 bits", "2 bits", "Q4_K", "Q6_K", "IQ4_NL", "MXFP4")

LEAST_STREAMED_BYTES = 300_000_000
"""Of a weight's copies together, which take turns: no cache holds one until its next."""

READ_SHARES = {"gate_up": 0.90, "o": 0.62, "qkv": 0.65, "down": 0.74}
"""Wanted at M = 1: the time of a plain read of as many bytes over ours."""


@dataclass(frozen=True)
class Target:
    """Ours is to be so many times as fast as a peer.

    Parameters
    ----------
    accuracies : of ours, any of which counts.
    """

    peer: str
    least: float
    accuracies: tuple[str, ...]


ANY = ("exact", "fast", "half")


def targets(rows: int) -> tuple[Target, ...]:
    """What is wanted at M = `rows`."""
    if rows == 1:
        return Target("exllama", 1.4, ("exact",)), Target("marlin", 1.5, ("exact",))
    if rows == 8:
        return Target("exllama", 1.4, ("exact",)), Target("marlin", 1.0, ("fast",))
    if 16 <= rows <= 256:
        return (Target("marlin", 0.9, ANY),)
    if rows >= 512:
        return (Target("marlin", 1.2, ANY),)
    return ()


MOST_ERROR = {"exact": 3e-4, "fast": 1.3e-2}
"""‖y − y₆₄‖ / ‖y₆₄‖ on log-normal inputs, wanted of ours."""

MOST_ERROR_TIMED = 3e-2
"""What is further off than this is wrong: it is not timed, whoever made it."""
