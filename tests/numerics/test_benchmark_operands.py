"""What benchmarks of a card measure on, and what they make of it, where that needs no card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy
import pytest
import torch
from attention.cases import SCALE
from attention.operands import Operands, copies
from attention.ways import BACKENDS, library_ways
from harness.kernel_trace import summed
from harness.random_model import QWEN_7B
from harness.random_q4_0 import Pools, write
from linears.way import relative_error

from pascaline.kernels import paged_attention


@pytest.mark.parametrize(
    ("sequences", "tokens", "context", "width"), [(3, 1, 48, 96), (1, 20, 48, 48), (2, 32, 32, 32)]
)
def test_pages_and_dense_caches_hold_the_same(sequences: int, tokens: int, context: int, width: int) -> None:
    """Pages in fp16 and in int8, by the op's own reference, give what dense keys and values give."""
    operands = Operands.random(sequences, tokens, context, width, torch.device("cpu"))
    exact = operands.exact()
    tables, half, codes = operands.tables(), operands.paged(torch.float16), operands.paged(torch.int8)
    caches = []
    for name in ("key", "value"):
        cache, quantised, scales = half[f"{name}_cache"], codes[f"{name}_cache"], codes[f"{name}_scales"]
        assert cache is not None
        assert quantised is not None
        assert scales is not None
        assert torch.equal(cache.float(), quantised.float() * scales[..., None])
        caches.append(cache.double().transpose(1, 2))
    query, *rest = (tables[name] for name in ("query", "page_table", "query_start", "context_lengths"))
    assert query is not None
    assert all(each is not None for each in rest)
    expected = paged_attention.reference(query.double(), *caches, *rest, scale=SCALE)
    # Both are fp64: some roundings of sums of at most 128 terms.
    assert relative_error(expected.flatten(1), exact) < 1e-13


def test_library_is_held_against_fp64() -> None:
    """torch's attention on the CPU passes, and a backend that is not there is named with its reason."""
    operands = Operands.random(2, 1, 64, 64, torch.device("cpu"))
    refused: dict[str, str] = {}
    ways = list(library_ways(operands, operands.exact(), refused))
    assert "torch flash, heads as queries" in [way.name for way in ways]
    assert len(ways) + len(refused) == 2 * len(BACKENDS)
    wrong: dict[str, str] = {}
    assert not list(library_ways(operands, operands.exact() * 1.1, wrong))
    assert wrong["torch flash, heads as queries"].startswith("wrong: ")


def test_copies_are_more_than_caches_hold() -> None:
    buffers = {"keys": torch.zeros(64 << 20, dtype=torch.uint8), "values": None}
    every, nbytes = copies(buffers)
    assert nbytes == 64 << 20
    assert len(every) * nbytes >= 320 << 20
    assert len({each["keys"].data_ptr() for each in every if each["keys"] is not None}) == len(every)


def test_overlapping_launches_count_once() -> None:
    trace = summed([(0.0, 10.0, "a"), (5.0, 12.0, "b"), (6.0, 7.0, "a"), (20.0, 30.0, "a")])
    assert trace.span_s == pytest.approx(30e-6)
    assert trace.busy_s == pytest.approx(22e-6)
    assert trace.by_name == {"a": (pytest.approx(21e-6), 3), "b": (pytest.approx(7e-6), 1)}
    with pytest.raises(RuntimeError, match="no kernel"):
        summed([])


@pytest.mark.parametrize("has_fp16_head", [True, False])
def test_made_up_gguf_is_sane(tmp_path: Path, *, has_fp16_head: bool) -> None:
    """Shapes and types are as said, and all weights are numbers of some hundredths."""
    shape = replace(QWEN_7B, hidden=256, intermediate=512, layers=1, heads=2, key_value_heads=1, vocab=300)
    write(shape, tmp_path / "m.gguf", Pools(), has_fp16_head=has_fp16_head)
    tensors = {each.name: each for each in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert tensors["output.weight"].tensor_type.name == ("F16" if has_fp16_head else "Q6_K")
    assert tensors["token_embd.weight"].tensor_type.name == ("F16" if has_fp16_head else "Q4_0")
    for _, name, outputs, inputs in shape.linears():
        tensor = tensors[f"blk.0.{name}.weight"]
        assert tensor.tensor_type.name == "Q4_0"
        assert [*tensor.shape] == [inputs, outputs]
    for name in ("output.weight", "blk.0.ffn_down.weight"):
        values = gguf.dequantize(tensors[name].data, tensors[name].tensor_type)
        assert numpy.isfinite(values).all()
        assert 0.005 < values.std() < 0.05
