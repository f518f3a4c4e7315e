"""The two sides of a comparison with llama.cpp: started on the same model, and checked to be alike."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.json_lines import Worker
from harness.texts import TEXTS
from pascaline.checkpoint.opening import open_checkpoint
from pascaline.checkpoint.reference import resolve
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import ignore_progress
from pascaline.llm.model_text import ModelText
from pascaline.models import read_config

OURS, THEIRS = "pascaline", "llama.cpp"
MIN_AGREEMENT = {"text": 0.85, "random tokens": 0.7}
"""Share of next tokens predicted alike: both sides round activations to 8 bits, which turns close calls.
Random weights make nothing but close calls; there sides of different models would agree on none."""


_WIDTHS = {"avx2": 1, "avx512": 2, "avx512-vnni": 3}


class NotComparableError(Exception):
    """The two sides do not do the same work, or llama.cpp is not there."""


@dataclass(frozen=True)
class Model:
    """What to compare: one GGUF file, or our folder and a GGUF of the same weights (FOLDER=FILE)."""

    ours: Path
    theirs: Path
    weight_bytes: int
    """That one decoded token reads, on our side: all but the table of a model with its own head."""
    vocab_size: int
    positions: int

    @classmethod
    def find(cls, name: str) -> Model:
        first, _, second = name.partition("=")
        ours = resolve(first, ignore_progress).path
        theirs = Path(second).resolve() if second else ours
        if not theirs.is_file():
            raise NotComparableError(f"{theirs} is no GGUF file, which is what llama.cpp reads")
        checkpoint = open_checkpoint(ours)
        try:
            config = read_config(checkpoint.hf_config, checkpoint.container)
            tensors = checkpoint.tensors
            own_head = {"output.weight", "lm_head.weight"} & set(tensors)
            tables = ("token_embd.weight", "model.embed_tokens.weight") if own_head else ()
            weight_bytes = sum(
                entry.nbytes
                for name, entry in tensors.items()
                if name not in tables and not name.endswith(".g_idx")
            )
            return cls(ours, theirs, weight_bytes, config.vocab_size, config.max_position_embeddings)
        finally:
            checkpoint.close()

    @property
    def name(self) -> str:
        own = self.ours.name if self.ours.is_file() else self.ours.resolve().name
        return own if self.ours == self.theirs else f"{own}={self.theirs.name}"

    def tokenizer(self) -> ModelText | None:
        """None for a model without one (random weights)."""
        try:
            return ModelText.load(self.ours)
        except CheckpointError:
            return None


@dataclass(frozen=True)
class Setting:
    """How both sides are run."""

    peer_python: str
    threads: int
    instructions: str | None

    @property
    def environment(self) -> dict[str, str]:
        """Of our workers."""
        chosen = {"PASCALINE_CPU_INSTRUCTIONS": self.instructions} if self.instructions else {}
        return {"PASCALINE_THREADS": str(self.threads), **chosen}

    def require_peer(self) -> None:
        remedy = (
            "`python3 -m venv peer && peer/bin/pip install llama-cpp-python` (it compiles for some minutes, "
            "and needs a C++ compiler), then --peer-python peer/bin/python"
        )
        try:
            found = subprocess.run(
                [self.peer_python, "-c", "import llama_cpp"], capture_output=True, check=False
            )
        except OSError as error:
            raise NotComparableError(
                f"{self.peer_python}: {error.strerror}. llama-cpp-python: {remedy}"
            ) from None
        if found.returncode:
            raise NotComparableError(f"{self.peer_python} has no llama-cpp-python. {remedy}")


@contextmanager
def both_sides(
    model: Model, setting: Setting, context: int, sequences: int
) -> Iterator[Mapping[str, Worker]]:
    """A worker of each side with the model loaded, ended afterwards."""
    numbers = (str(context), str(sequences))
    threads = str(setting.threads)
    with (
        Worker(
            sys.executable, "pascaline_worker", str(model.ours), *numbers, environment=setting.environment
        ) as ours,
        Worker(setting.peer_python, "llamacpp_worker", str(model.theirs), threads, *numbers) as theirs,
    ):
        sides = {OURS: ours, THEIRS: theirs}
        _check_hellos(model, sides, setting)
        yield sides


def _check_hellos(model: Model, sides: Mapping[str, Worker], setting: Setting) -> None:
    hellos = {name: side.hello for name, side in sides.items()}
    if model.ours == model.theirs and hellos[OURS]["sha256"] != hellos[THEIRS]["sha256"]:
        raise NotComparableError("the sides read different files: their sha256 differ")
    for name, hello in hellos.items():
        if hello["threads"] != setting.threads:
            raise NotComparableError(f"{name} runs {hello['threads']} threads, not {setting.threads}")
    ours, theirs = (hellos[name]["instructions"] for name in (OURS, THEIRS))
    if _WIDTHS.get(theirs, 0) < _WIDTHS.get(ours, 0):
        raise NotComparableError(
            f"{OURS} runs {ours}, and {THEIRS} was compiled for {theirs} only: --instructions chooses ours, "
            "and benchmarks/README.md says how to compile llama.cpp"
        )


def agreement(model: Model, sides: Mapping[str, Worker], numbers: random.Random) -> float:
    """Share of a text's positions at which both sides find the same token likeliest.

    Of random tokens, if the model has no tokenizer.

    Raises
    ------
    NotComparableError : it is too small for sides that compute the same model.
    """
    text = model.tokenizer()
    if text is None:
        kind, token_ids = "random tokens", [numbers.randrange(model.vocab_size) for _ in range(256)]
    else:
        kind, token_ids = "text", [token for item in TEXTS.values() for token in text.encode(item)][:256]
    ours, theirs = (side.ask("predict", token_ids=token_ids)["token_ids"] for side in sides.values())
    if not len(ours) == len(theirs) == len(token_ids) - 1:
        raise NotComparableError(f"{len(ours)} and {len(theirs)} predictions for {len(token_ids)} tokens")
    alike: float = sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)
    if alike < MIN_AGREEMENT[kind]:
        raise NotComparableError(f"the sides predict the same token at only {alike:.1%} of the positions")
    return alike
