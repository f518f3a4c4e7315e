"""What a card's steps are launched with: sizes, and inputs at the same addresses in every step."""

from __future__ import annotations

import itertools
from dataclasses import fields

import pytest
import torch

from pascaline.engine.card_runner import (
    buckets_for,
    graph_for,
    graph_sizes,
    most_tokens,
    padded_tokens,
    representative_sizes,
)
from pascaline.engine.step_inputs import Sizes, StepInputs
from pascaline.kernels.cuda.attention_call import AttentionCall
from pascaline.kernels.cuda.attention_prefill import plan_attention_prefill
from pascaline.kernels.cuda.attention_simt_prefill import plan_attention_simt_prefill
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.kv.step_batch import StepBatch

CPU = torch.device("cpu")


@pytest.mark.parametrize("most", [1, 5, 8, 9, 64, 100, 256])
def test_buckets_rise_to_the_most(most: int) -> None:
    buckets = buckets_for(most)
    assert buckets == sorted(set(buckets))
    assert (buckets[0], buckets[-1]) == (1, most)
    assert all(after <= 1.26 * before or after - before == 1 for before, after in itertools.pairwise(buckets))


def test_tokens_are_padded_to_few_numbers() -> None:
    assert [padded_tokens(tokens, 2048) for tokens in (1, 8, 9, 1024, 1025, 2047)] == [
        8,
        8,
        16,
        1024,
        1088,
        2048,
    ]
    assert padded_tokens(500, 500) == 500


def test_graphs_of_drafts() -> None:
    most = Sizes(512, 64, 64)
    plain, drafts = graph_sizes(most, drafts=False), graph_sizes(most, drafts=True)
    assert plain == [Sizes(each, each, each) for each in buckets_for(64)]
    assert {(each.sequences, each.tokens) for each in set(drafts) - set(plain)} == {
        (sequences, sequences * rows) for sequences in (1, 2, 3, 4) for rows in (2, 4, 8)
    }
    # No more rows than are sampled from, nor graphs for more sequences than there are.
    few = set(graph_sizes(Sizes(512, 2, 8), drafts=True)) - set(graph_sizes(Sizes(512, 2, 8), drafts=False))
    assert {(each.sequences, each.tokens) for each in few} == {(1, 2), (1, 4), (1, 8), (2, 4), (2, 8)}
    assert graph_sizes(Sizes(1, 1, 1), drafts=True) == [Sizes(1, 1, 1)]


@pytest.mark.parametrize("drafts", [False, True])
def test_the_graph_of_a_step(drafts: bool) -> None:
    graphs = graph_sizes(Sizes(512, 24, 24), drafts=drafts)
    for count in range(1, 25):
        bucket = next(each for each in buckets_for(24) if each >= count)
        assert graph_for(graphs, Sizes(count, count, count), 1) == Sizes(bucket, bucket, bucket)
    assert graph_for(graphs, Sizes(25, 25, 25), 1) is None

    def found(*rows: int) -> tuple[int, int] | None:
        graph = graph_for(graphs, Sizes(sum(rows), len(rows), sum(rows)), max(rows))
        return None if graph is None else (graph.sequences, graph.tokens)

    of_drafts = {
        (2,): (1, 2),
        (3,): (1, 4),
        (8,): (1, 8),
        (1, 2): (2, 4),
        (8, 1): (3, 12),
        (1, 1, 8, 1): (4, 16),
    }
    for rows, graph in of_drafts.items():
        assert found(*rows) == (graph if drafts else None)
    for rows in ((9,), (1, 9), (1, 1, 1, 1, 2), (8, 8, 8, 8)):
        assert found(*rows) is None


def test_most_tokens_of_a_sequence() -> None:
    assert most_tokens(_batch(7, [[0], [0], [0]], 3)) == 3


def _batch(tokens: int, table: list[list[int]], logit_rows: int) -> StepBatch:
    sequences = len(table)
    return StepBatch(
        token_ids=torch.arange(100, 100 + tokens),
        positions=torch.arange(tokens),
        slots=torch.arange(tokens),
        page_table=torch.tensor(table, dtype=torch.int32),
        query_start=torch.linspace(0, tokens, sequences + 1).int(),
        context_lengths=torch.full((sequences,), tokens, dtype=torch.int32),
        logit_rows=torch.arange(logit_rows),
    )


def test_inputs_are_padded_and_stay_where_they_are() -> None:
    inputs = StepInputs(Sizes(16, 4, 4), 6, CPU)
    views = inputs.views(Sizes(8, 3, 2))
    tables = ([[1, 2], [3, 0]], [[1, 2, 5], [3, 4, 0]], [[7]], [[1, 2], [3, 0]], [[1, 2], [3, 0]])
    for tokens, table in zip((5, 3, 8, 5, 4), tables, strict=True):
        batch = _batch(tokens, table, 1)
        inputs.put(batch, Sizes(8, 3, 2))
        for item in fields(batch):
            if item.name == "page_table":
                continue
            given, found = getattr(batch, item.name), getattr(views, item.name)
            assert torch.equal(found[: len(given)], given), item.name
        assert (views.slots[tokens:] == -1).all()
        assert (views.token_ids[tokens:] == 0).all()
        assert (views.query_start[len(table) + 1 :] == tokens).all()
        assert (views.context_lengths[len(table) :] == 0).all()
        rows = torch.tensor(table, dtype=torch.int32)
        assert torch.equal(views.page_table[: len(rows), : rows.shape[1]], rows)


@pytest.mark.parametrize(
    ("plan", "chip"),
    [
        (plan_attention_prefill, ChipLimits((9, 0), 132, 227 << 10)),
        (plan_attention_prefill, ChipLimits((8, 6), 28, 99 << 10)),
        (plan_attention_simt_prefill, ChipLimits((6, 1), 28)),
    ],
    ids=["9.0", "8.6", "6.1"],
)
def test_no_prompt_needs_a_kernel_that_was_not_compiled(plan: object, chip: ChipLimits) -> None:
    largest = Sizes(2048, 16, 16)

    def made(tokens: int, sequences: int) -> object:
        call = AttentionCall(tokens, sequences, 128, 28, 4, 128, 4608, torch.float16, 0, 0.0, 0.1)
        launch: LaunchPlan = plan(call, chip)  # type: ignore[operator]
        return launch.specialisation

    compiled = {
        made(sizes.tokens, sizes.sequences)
        for sizes in representative_sizes(largest)
        if sizes.tokens > sizes.sequences
    }
    for tokens in range(8, 2049, 8):
        for sequences in (1, 2, 5, 16):
            if tokens > sequences:
                assert made(tokens, sequences) in compiled, (tokens, sequences)
