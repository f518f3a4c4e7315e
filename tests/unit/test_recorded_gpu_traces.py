"""Traces that were recorded on an H100 (tests/fixtures/h100_traces/README.md says how)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pascaline.report.compare import compare
from pascaline.report.importers import open_record
from pascaline.report.module_names import MODULE, UNPLACED
from pascaline.report.module_tree import leaves, total_s

FOLDER = Path(__file__).parents[1] / "fixtures" / "h100_traces"
BY_CLASS, BY_RANGE, GRAPH, TIMES = (
    open_record(FOLDER / name)
    for name in ("modules.json.gz", "ranges.json.gz", "graph.json.gz", "module_times.json")
)


def test_names_from_classes_are_the_modules_names() -> None:
    """One trace has classes only, the other the paths: every kernel is found in the same module."""

    def kernels(index: int) -> dict[tuple[str, str], dict[str, int]]:
        record = (BY_CLASS, BY_RANGE)[index]
        return {
            (row.module, row.op): {kernel.name: kernel.calls for kernel in row.kernels}
            for row in record.rows
            if row.module
        }

    assert kernels(0) == kernels(1)
    assert len(kernels(0)) > 35


def test_the_card_and_its_time_are_known() -> None:
    for record in (BY_CLASS, BY_RANGE, GRAPH):
        assert record.gpu is not None
        assert (record.gpu.name, record.gpu.compute_capability) == ("NVIDIA H100 80GB HBM3", "9.0")
        assert record.software == {"cuda_runtime": "13.0", "cuda_driver_api": "13.0"}
        assert record.created is not None
        assert record.created.startswith("2026-11-24T18:34")
        # One stream: what ran is what was busy.
        assert record.gpu_busy_s == pytest.approx(total_s(record), rel=1e-3)
        assert sum(row.measured_s or 0 for row in leaves(record)) == pytest.approx(total_s(record))


def test_linears_have_their_work_and_their_kernels() -> None:
    assert BY_CLASS.tokens == 257
    up = next(row for row in BY_CLASS.rows if row.module == "model.layers.1.mlp.up_proj")
    assert up.flop_by_type == {"unknown": 2.0 * 257 * 512 * 1408}
    assert up.bytes is None  # the configuration did not say what the weights' elements are
    assert all(kernel.name.startswith("nvjet_sm90") for kernel in up.kernels)
    attention = next(row for row in BY_CLASS.rows if row.op == "paged_attention")
    assert any("flash" in kernel.name or "fmha" in kernel.name for kernel in attention.kernels)


def test_copies_have_their_direction_and_bytes() -> None:
    copies = {row.op: row.bytes for row in BY_RANGE.rows if row.op.startswith("copy")}
    assert copies == {"copy_device_to_host": 256 * 8, "copy_host_to_device": 256 * 8}


def test_a_graphs_kernels_are_there_without_modules() -> None:
    assert {row.op for row in GRAPH.rows} <= set(UNPLACED)
    assert any("names no modules" in note for note in GRAPH.notes)
    assert sum(kernel.calls for row in GRAPH.rows for kernel in row.kernels) == 264


def test_the_hooks_see_the_modules_of_the_trace() -> None:
    assert {row.module for row in TIMES.rows} == {row.module for row in BY_CLASS.rows}
    assert TIMES.rows[0].phase == "prefill"
    whole = next(row for row in TIMES.rows if row.module == "" and row.op == MODULE)
    assert total_s(TIMES) == whole.measured_s


def test_two_recordings_of_one_run_are_alike() -> None:
    found = compare(BY_CLASS, BY_RANGE, "a", "b")
    assert found.work_ratio == 1.0
    assert found.stands_out == ()
    assert all(0.8 < (row.ratio or 0) < 1.25 for row in found.rows)
