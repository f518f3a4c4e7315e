"""How far each side's distribution of the next token is from what fp32 arithmetic gives."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy
from numpy.typing import NDArray

from harness.agreement import log_probabilities
from harness.json_lines import Worker
from harness.sides import OURS, THEIRS, Model, Setting
from harness.texts import MORE_TEXTS, TEXTS

CONTEXT = 512
REFERENCE = (
    'Pascaline with arithmetic="fp32", which gguf_types_vs_llamacpp.py holds against llama.cpp\'s fp32'
)


@dataclass(frozen=True)
class Divergences:
    """Kullback and Leibler's, in nats, of the reference from both sides, as they are benchmarked.

    By side: of the next token after every position of the prompts, which end at `ends`.
    """

    by_side: Mapping[str, NDArray[numpy.float64]]
    ends: list[int]

    def mean(self, side: str) -> float:
        return float(self.by_side[side].mean())

    def lines(self) -> list[str]:
        """For people to read. Positions differ more than sides do, so the sides' difference is paired."""
        lines = []
        for side, values in self.by_side.items():
            at_ends = values[[end - 1 for end in self.ends]]
            lines.append(
                f"KL of {side} from fp32: mean {values.mean():.3e}, median {numpy.median(values):.3e} over "
                f"{len(values)} positions; after {len(at_ends)} whole prompts mean {at_ends.mean():.3e}, "
                f"median {numpy.median(at_ends):.3e}"
            )
        difference = self.by_side[OURS] - self.by_side[THEIRS]
        error = difference.std(ddof=1) / len(difference) ** 0.5
        return [
            *lines,
            f"KL of {OURS} less that of {THEIRS}: mean {difference.mean():+.1e}, standard error {error:.1e}",
            f"fp32 of these: {REFERENCE}",
        ]


def divergences(model: Model, setting: Setting) -> Divergences | None:
    """Of both sides; None for a model without a tokenizer."""
    text = model.tokenizer()
    if text is None:
        return None
    prompts = [text.encode(passage) for passage in (*TEXTS.values(), *MORE_TEXTS.values())]
    ends = list(accumulate(map(len, prompts)))
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / f"{name}.npy") for name in ("fp32", OURS, THEIRS)}
        with Worker(
            sys.executable, "pascaline_logits", str(model.ours), environment=setting.environment
        ) as ours:
            ours.ask("logits", prompts=prompts, arithmetic="fp32", target=files["fp32"])
            ours.ask("logits", prompts=prompts, arithmetic="auto", target=files[OURS])
        with Worker(
            setting.peer_python, "llamacpp_worker", str(model.theirs), str(setting.threads), str(CONTEXT), "1"
        ) as theirs:
            theirs.ask("logits", prompts=prompts, target=files[THEIRS])
        logits = {name: numpy.load(file, mmap_mode="r") for name, file in files.items()}
        return Divergences(
            {side: _per_position(logits["fp32"], logits[side], ends) for side in (OURS, THEIRS)}, ends
        )


def _per_position(
    exact: NDArray[numpy.float32], rounded: NDArray[numpy.float32], ends: list[int]
) -> NDArray[numpy.float64]:
    parts = []
    for begin, end in pairwise([0, *ends]):  # a prompt at a time: in one, it takes a GB
        judge, other = log_probabilities(exact[begin:end]), log_probabilities(rounded[begin:end])
        parts.append(numpy.einsum("tv,tv->t", numpy.exp(judge), judge - other, dtype=numpy.float64))
    result: NDArray[numpy.float64] = numpy.concatenate(parts)
    return result
