"""The memory of recorded programs is what is told from configuration and directory, to the byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_libraries import NEEDS_LIBRARY
from tiny_checkpoints import random_model, write_gguf

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.checkpoint.opening import open_checkpoint
from pascaline.core.progress import ignore_progress
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.runner import RecordedRunner
from pascaline.engine.start import start
from pascaline.models import FAMILIES
from pascaline.workload.arena import ALIGNMENT, Life, arena_bytes, places
from pascaline.workload.holdings import held_weights

TINY = {name: family.tiny for name, family in FAMILIES.items()}
WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}


def agree(path: Path, config: ModelConfig, tokens: int = 512) -> None:
    checkpoint = open_checkpoint(path)
    told = arena_bytes(config, tokens, tokens, held_weights(checkpoint, config))
    checkpoint.close()
    settings = EngineConfig(str(path), device="cpu", pages=64, max_batch_tokens=tokens, max_sequences=4)
    runner = start(settings, ignore_progress).runner
    assert isinstance(runner, RecordedRunner)
    assert runner.program.activation_bytes == told


@NEEDS_LIBRARY
@pytest.mark.parametrize("tokens", [512, 33])
@pytest.mark.parametrize("family", TINY)
def test_arena_of_each_family(family: str, tokens: int, tmp_path: Path) -> None:
    random_model(TINY[family]).save_pretrained(tmp_path)
    agree(tmp_path, TINY[family], tokens)


@NEEDS_LIBRARY
@pytest.mark.parametrize(
    "others", [{}, {"v_proj": "Q6_K"}, {"k_proj": "Q8_0"}, {"up_proj": "Q8_0", "1.v_proj": "Q5_K"}]
)
@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3"])
def test_arena_of_mixed_files(family: str, others: dict[str, str], tmp_path: Path) -> None:
    config = replace(TINY[family], **WIDE)
    write_gguf(tmp_path / "model.gguf", random_model(config), "Q4_K", others=others)
    agree(tmp_path / "model.gguf", config)


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 40), st.integers(0, 10)), max_size=60))
def test_places_of_one_time_never_overlap(drawn: list[tuple[int, int, int]]) -> None:
    lives = [
        Life(nbytes, first, first + length) for nbytes, first, length in sorted(drawn, key=lambda x: x[1])
    ]
    placed = places(lives)
    for index, (life, place) in enumerate(zip(lives, placed, strict=True)):
        assert place.start % ALIGNMENT == 0
        assert place.stop - place.start >= life.nbytes
        for other, there in zip(lives[:index], placed[:index], strict=True):
            assert not (place.overlaps(there) and other.first <= life.last and life.first <= other.last)
