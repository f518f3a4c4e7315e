"""Predicted times of a prompt and a token, against sums done by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pascaline.hardware.gpus import find_gpu
from pascaline.hardware.roofline import Roofline
from pascaline.models import llama
from pascaline.plan.chips import gpu_chip
from pascaline.plan.latency import Model, predict_decode, predict_prefill
from pascaline.workload.arithmetic import Chip, Way
from pascaline.workload.holdings import held_matrix, held_vector
from pascaline.workload.places import weight_places
from pascaline.workload.weight_form import TENSOR_FORMS

CONFIG = replace(
    llama.FAMILY.tiny,
    vocab_size=1000,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=8192,
    tie_word_embeddings=False,
)
# Rates that no two parts of a sum share; nothing is fused, each launch costs 1 s.
CHIP = Chip(
    roofline=Roofline("a chip", "cuda", "6.1", {"fp32": 1e6}, 1e6, 1 << 40, 0.0),
    ways=(Way("fp32", "fp32", 1e30, 1e5),),
    scalar_operations_per_s=1e30,
    attention_arithmetic="fp32",
    attention_operations_per_s=1e3,
    bytes_per_s=1e30,
    launch_s=1.0,
    step_s=100.0,
    spread=0.2,
    source="by hand",
    fuses=False,
)
LINEARS = 64 * (64 + 2 * 32) + 64 * 64 + 64 * 256 + 128 * 64
"""Elements of a layer."""
LAUNCHES = 3 * 14 + 4
"""Of a layer: norm, qkv, 2 rotations, 2 stores, attention, o, addition, norm, gate and up, gate, down, sum;
beside them embedding, selection, norm and head."""


def model(form: str = "F16") -> Model:
    held = []
    for place in weight_places(CONFIG):
        if place.is_vector:
            held.append(held_vector(place.module, place.parts))
        else:
            held.append(held_matrix(place.module, place.parts, TENSOR_FORMS[form]))
    return Model(CONFIG, held, key_value_element_bytes=2)


def by_hand(tokens: int, pairs: int, logit_rows: int, launches: int) -> float:
    """Linears by memory, attention by arithmetic, launches, and the step."""
    weights = 2 * 3 * LINEARS + 2 * 64 * 1000 * (logit_rows > 0)
    activations = 3 * tokens * (64 + 128 + 64 + 64 + 64 + 256 + 128 + 64) + logit_rows * (64 + 1000)
    attention = 3 * 4 * 4 * 16 * pairs
    return (weights + 4 * activations) / 1e5 + attention / 1e3 + launches + 100.0


@pytest.mark.parametrize(("sequences", "context"), [(1, 1), (1, 777), (5, 40)])
def test_a_decode_step(sequences: int, context: int) -> None:
    found = predict_decode(model(), CHIP, sequences, context)
    assert found.seconds == pytest.approx(by_hand(sequences, sequences * context, sequences, LAUNCHES))
    assert found.tokens_per_s == pytest.approx(sequences / found.seconds)


def test_a_prompt_in_steps() -> None:
    """Steps before the last give no logits: the head is not computed."""
    found = predict_prefill(model(), CHIP, 10, 4)
    steps = [
        by_hand(4, 1 + 2 + 3 + 4, 0, LAUNCHES - 1),
        by_hand(4, 5 + 6 + 7 + 8, 0, LAUNCHES - 1),
        by_hand(2, 9 + 10, 1, LAUNCHES),
    ]
    assert found.seconds == pytest.approx(sum(steps))
    assert found.tokens == 10


def test_a_long_prompt_is_told_from_a_few_of_its_steps() -> None:
    whole = predict_prefill(model(), CHIP, 64 * 40, 64).seconds
    parts = sum(
        predict_prefill(model(), CHIP, 64 * (n + 1), 64).seconds
        - (predict_prefill(model(), CHIP, 64 * n, 64).seconds if n else 0.0)
        for n in range(40)
    )
    assert whole == pytest.approx(parts, rel=1e-9)
    attention = 3 * 4 * 4 * 16 * (64 * 40) * (64 * 40 + 1) / 2 / 1e3
    [row] = [
        each for each in predict_prefill(model(), CHIP, 64 * 40, 64).rows if each.op == "paged_attention"
    ]
    assert row.calls == 3 * 40
    assert row.predicted_s == pytest.approx(attention + 3 * 40)


def test_rows_are_one_a_kind_of_module_and_sum_up() -> None:
    found = predict_decode(model(), CHIP, 2, 100)
    assert sum(row.predicted_s or 0.0 for row in found.rows) + 100.0 == pytest.approx(found.seconds)
    linears = {row.module: row for row in found.rows if row.op == "linear"}
    assert set(linears) == {
        "model.layers.*.self_attn.qkv_proj",
        "model.layers.*.self_attn.o_proj",
        "model.layers.*.mlp.gate_up_proj",
        "model.layers.*.mlp.down_proj",
        "lm_head",
    }
    down = linears["model.layers.*.mlp.down_proj"]
    assert down.calls == 3
    assert down.flop_by_type == {"fp32": 3 * 2.0 * 2 * 128 * 64}
    assert down.bytes == 3 * (2 * 128 * 64 + 4 * 2 * (128 + 64))
    assert down.bound_s == pytest.approx(max(down.bytes / 1e6, 3 * 2.0 * 2 * 128 * 64 / 1e6))
    assert down.decision is not None
    assert down.decision.choice == "fp32"


def test_a_rows_alternatives_are_for_all_of_its_launches() -> None:
    half = Way("half", "fp16", 10.0, 1e30)
    found = predict_decode(model(), replace(CHIP, ways=(*CHIP.ways, half)), 2, 100)
    [down] = [row for row in found.rows if row.module.endswith("down_proj")]
    assert down.decision is not None
    [alternative] = down.decision.alternatives
    assert (alternative.choice, alternative.predicted_s) == ("half", pytest.approx(3 * 2 * 2 * 128 * 64 / 10))


def test_parts_of_neighbours_cost_no_launch_where_an_engine_fuses() -> None:
    fused = predict_decode(model(), replace(CHIP, fuses=True), 1, 10)
    single = predict_decode(model(), CHIP, 1, 10)
    # Left of a layer: 2 norms, 4 linears, a rotation, attention, the gate; beside them embedding, norm, head.
    assert single.seconds - fused.seconds == pytest.approx(LAUNCHES - (3 * 9 + 3))


def test_a_card_with_twice_the_bandwidth_decodes_up_to_twice_as_fast() -> None:
    gpu = find_gpu("Tesla P40")
    slow = predict_decode(model("Q4_0"), gpu_chip(gpu), 1, 512).seconds
    fast = predict_decode(
        model("Q4_0"), gpu_chip(replace(gpu, bandwidth_gb_per_s=2 * gpu.bandwidth_gb_per_s)), 1, 512
    ).seconds
    assert slow / 2 <= fast < slow
