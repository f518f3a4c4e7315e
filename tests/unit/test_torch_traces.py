"""Traces of torch.profiler: real ones of a transformers model on the CPU, and GPU ones by hand.

The events of the GPU traces have the fields that pytorch/kineto writes (libkineto/src/output_json.cpp): a
kernel's "correlation" is that of the call that launched it.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import LlamaConfig, LlamaForCausalLM

from pascaline.core.errors import CheckpointError
from pascaline.report import record_file
from pascaline.report.compare import compare
from pascaline.report.importers import open_record
from pascaline.report.module_names import MODULE, place_of
from pascaline.report.module_tree import leaves, total_s
from pascaline.report.run_record import Row, RunRecord, write_record
from pascaline.report.traces.attribution import Launch, Range, busy_s, innermost
from pascaline.report.traces.class_names import paths_of

ROOT = Path(__file__).parents[2]
CONFIG = LlamaConfig(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=100,
)
TOKENS = 17


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG).eval()


def modules_of(model: torch.nn.Module) -> set[str]:
    """The modules that compute: with parameters or an activation of their own."""
    lists = (torch.nn.ModuleList,)
    return {name for name, module in model.named_modules() if not isinstance(module, lists)}


def run(model: LlamaForCausalLM) -> None:
    with torch.inference_mode():
        model(torch.arange(TOKENS)[None])


def row_of(record: RunRecord, module: str, op: str | None = None) -> Row:
    [row] = [row for row in record.rows if row.module == module and op in (None, row.op)]
    return row


def write(path: Path, trace: object) -> Path:
    path.write_text(json.dumps(trace))
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_a_real_trace_with_stacks_names_every_module(
    model: LlamaForCausalLM, tmp_path: Path, suffix: str
) -> None:
    run(model)
    with profile(activities=[ProfilerActivity.CPU], with_stack=True) as profiler:
        run(model)
        about = {"config": CONFIG.to_dict(), "tokens": TOKENS, "model": "tiny"}
        profiler.add_metadata_json("pascaline", json.dumps(about))
    path = tmp_path / f"trace{suffix}"
    profiler.export_chrome_trace(str(path))
    record = open_record(path)
    assert {row.module for row in record.rows} == modules_of(model)
    assert {place_of(row.module).layer for row in record.rows} - {None} == {0, 1}
    assert record.tokens == TOKENS
    assert record.model["hidden_size"] == 64
    operators = [event for event in profiler.events() if event.device_type.name == "CPU"]
    ours = sum(event.self_cpu_time_total for event in operators if event.name.startswith("aten::"))
    assert total_s(record) == pytest.approx(ours * 1e-6, rel=0.05, abs=2e-4)
    for layer in (0, 1):
        up = row_of(record, f"model.layers.{layer}.mlp.up_proj")
        assert up.op == "linear"
        assert "aten::mm" in {kernel.name for kernel in up.kernels}
        assert sum(up.flop_by_type.values()) == 2 * TOKENS * 64 * 128
        attention = row_of(record, f"model.layers.{layer}.self_attn", "paged_attention")
        assert any("scaled_dot_product" in kernel.name for kernel in attention.kernels)
    assert record.elapsed_s is not None
    assert record.elapsed_s > (total_s(record) or 0)


@pytest.mark.filterwarnings("ignore")
def test_a_real_trace_with_ranges_and_phases(model: LlamaForCausalLM, tmp_path: Path) -> None:
    opened: list[Any] = []

    def enter(name: str) -> None:
        opened.append(record_function(name))
        opened[-1].__enter__()

    hooks = []
    for name, module in model.named_modules():
        if name and not isinstance(module, torch.nn.ModuleList):
            hooks.append(module.register_forward_pre_hook(lambda *_, name=name: enter(name)))
            hooks.append(module.register_forward_hook(lambda *_: opened.pop().__exit__(None, None, None)))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        with record_function("prefill"):
            run(model)
        with record_function("decode"):
            run(model)
            run(model)
    for hook in hooks:
        hook.remove()
    path = tmp_path / "x"
    profiler.export_chrome_trace(str(path))
    record = open_record(path)
    assert {row.module for row in record.rows} == modules_of(model)
    down = {row.phase: row for row in record.rows if row.module == "model.layers.1.mlp.down_proj"}
    assert (down["prefill"].calls, down["decode"].calls) == (1, 2)
    assert {kernel.calls for kernel in down["decode"].kernels if kernel.name == "aten::mm"} == {2}


@pytest.fixture(scope="module")
def module_times() -> Iterator[ModuleType]:
    """The script that people copy to where their model runs."""
    spec = importlib.util.spec_from_file_location(
        "module_times", ROOT / "docs" / "how-to" / "module_times.py"
    )
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_script_of_the_how_to_end_to_end(
    model: LlamaForCausalLM, module_times: ModuleType, tmp_path: Path
) -> None:
    def times(name: str, runs: int) -> RunRecord:
        module_times.attach(model)
        for _ in range(runs):
            run(model)
        path = tmp_path / name
        tree = module_times.collect(model)
        module_times.write(tree, str(path), tokens=TOKENS * runs, config=model.config.to_dict(), model="tiny")
        return open_record(path)

    one, three = times("one", 1), times("three", 3)
    assert {row.module for row in one.rows} == modules_of(model)
    assert row_of(three, "lm_head").calls == 3
    assert one.cpu is not None
    assert not model._forward_hooks  # what was attached is gone
    compared = compare(one, three, "one", "three")
    assert compared.work_ratio == pytest.approx(1 / 3)
    assert {row.module for row in compared.rows} == modules_of(model)


def gpu_trace(**changes: Any) -> dict[str, Any]:
    """A layer's call on one thread, three launches, and their work later on the GPU."""

    def event(category: str, name: str, start: float, length: float, **arguments: Any) -> dict[str, Any]:
        thread = 7 if category.startswith(("kernel", "gpu")) else 70
        place = {"pid": 0 if thread == 7 else 1, "tid": thread}
        return {
            "ph": "X",
            "cat": category,
            "name": name,
            "ts": start,
            "dur": length,
            **place,
            "args": arguments,
        }

    events = [
        {"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "python"}},
        event("kernel", "ampere_h16816gemm_128x64", 1000, 40, correlation=2, device=0, stream=7),
        event("kernel", "reconstruct", 900, 60, correlation=1, device=0, stream=7),
        event("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 990, 20, correlation=3, device=0, bytes=8192),
        event("kernel", "replayed", 1100, 5, correlation=77, device=0, stream=7),
        event("cuda_runtime", "cudaLaunchKernel", 20, 3, correlation=1),
        event("cuda_runtime", "cudaLaunchKernel", 40, 3, correlation=2),
        event("cuda_runtime", "cudaMemcpyAsync", 70, 3, correlation=3),
        event("cpu_op", "aten::mm", 80, 15),
        event("cpu_op", "aten::mm", 19, 30),
        event("python_function", "nn.Module: LlamaForCausalLM_0", 0, 100),
        event("python_function", "nn.Module: LlamaModel_0", 1, 98),
        event("python_function", "nn.Module: LlamaDecoderLayer_0", 10, 88),
        event("python_function", "nn.Module: LlamaMLP_0", 12, 50),
        event("python_function", "nn.Module: MergedColumnParallelLinear_0", 15, 40),
        event("python_function", "somebody.py(5): forward", 11, 60),
    ]
    card = {"id": 0, "name": "NVIDIA A100", "totalGlobalMem": 85 << 30, "computeMajor": 8, "computeMinor": 0}
    whole = {"schemaVersion": 1, "deviceProperties": [card], "cuda_runtime_version": 12060}
    return {**whole, "cuda_driver_version": 13000, "traceEvents": events, **changes}


def test_kernels_belong_to_the_module_that_launched_them(tmp_path: Path) -> None:
    record = open_record(write(tmp_path / "x", gpu_trace()))
    merged = row_of(record, "model.layers.0.mlp.gate_up_proj")
    assert merged.measured_s == pytest.approx(100e-6)
    assert {kernel.name for kernel in merged.kernels} == {"ampere_h16816gemm_128x64", "reconstruct"}
    copy = row_of(record, "model.layers.0", "copy_host_to_device")
    assert (copy.bytes, copy.measured_s) == (8192, pytest.approx(20e-6))
    [on_cpu] = row_of(record, "model.layers.0", "other").kernels  # launched nothing: it computed
    assert (on_cpu.name, on_cpu.s) == ("aten::mm", pytest.approx(15e-6))
    assert row_of(record, "", "kernels").measured_s == pytest.approx(5e-6)
    assert any("1 of 4 kernels" in note for note in record.notes)
    assert row_of(record, "", MODULE).measured_s == pytest.approx(135e-6)
    assert total_s(record) == pytest.approx(140e-6)
    assert record.gpu_busy_s == pytest.approx((60 + 50 + 5) * 1e-6)
    assert record.elapsed_s == pytest.approx(1105e-6)
    assert record.gpu is not None
    assert (record.gpu.name, record.gpu.compute_capability) == ("NVIDIA A100", "8.0")
    assert record.software == {"cuda_runtime": "12.6", "cuda_driver_api": "13.0"}


def test_the_array_form_and_older_names(tmp_path: Path) -> None:
    old = {"cpu_op": "Operator", "kernel": "Kernel", "gpu_memcpy": "Memcpy", "cuda_runtime": "Runtime"}
    events = [
        {**event, "cat": old.get(event.get("cat"), event.get("cat"))} for event in gpu_trace()["traceEvents"]
    ]
    record = open_record(write(tmp_path / "x", events))
    assert total_s(record) == pytest.approx(140e-6)
    assert record.gpu is None


def test_any_chunking_of_a_trace_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x", gpu_trace())
    whole = open_record(path)
    for size in (1, 7, 64):
        monkeypatch.setattr("pascaline.report.traces.json_events._CHUNK_BYTES", size)
        assert open_record(path) == whole


def test_traces_that_are_cut_off_or_hostile(tmp_path: Path) -> None:
    text = json.dumps(gpu_trace())
    packed = gzip.compress(b'{"traceEvents": [' + b" " * (40 << 20), 9)
    cases = {
        text[: len(text) // 2].encode(): "ends early",
        gzip.compress(text.encode())[:-40]: "its compression ends early",
        b"\x1f\x8b" + bytes(50): "its compression ends early",
        packed: "when it is decompressed",
        b'{"traceEvents": [' + b"[" * 100_000: "too deep",
        b'{"traceEvents": []}': "neither kernels nor operators",
        text.replace('"dur": 40', '"dur": -40').encode(): "takes -40",
        text.replace('"dur": 40', '"dur": NaN').encode(): "takes nan",
        text.replace('"ts": 1000', '"ts": "soon"').encode(): "starts at soon",
        b'{"traceEvents": [' + b"9" * 5000: "ends early",
    }
    for content, message in cases.items():
        path = tmp_path / "x"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            open_record(path)


def test_half_a_character_in_a_name_can_be_written_again(tmp_path: Path) -> None:
    """Found by fuzzing: JSON may hold half of a surrogate pair, which no encoding has."""
    trace = gpu_trace(pascaline={"model": "\ud800", "config": {"a": ["\udfff"]}})
    trace["traceEvents"][1]["name"] = "gemm \ud800"
    record = open_record(write(tmp_path / "x", trace))
    write_record(record, tmp_path / "y")
    assert open_record(tmp_path / "y") == record
    assert "gemm ?" in {kernel.name for row in record.rows for kernel in row.kernels}


def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x", gpu_trace())
    monkeypatch.setattr("pascaline.report.importers.chrome_trace._MAX_KEPT", 10)
    with pytest.raises(CheckpointError, match="more than 10 kernels"):
        open_record(path)
    monkeypatch.setattr(record_file, "MAX_STREAMED_BYTES", 1000)
    with pytest.raises(CheckpointError, match="larger than"):
        open_record(path)


def test_classes_of_vllm_become_paths() -> None:
    parents: dict[str, str | None] = {"Qwen2ForCausalLM_0": None, "Qwen2Model_0": "Qwen2ForCausalLM_0"}
    parents |= {"VocabParallelEmbedding_0": "Qwen2Model_0"}
    for layer in range(2):
        block, attention, mlp = f"Qwen2DecoderLayer_{layer}", f"Qwen2Attention_{layer}", f"Qwen2MLP_{layer}"
        parents |= {block: "Qwen2Model_0", f"RMSNorm_{2 * layer}": block, attention: block}
        parents |= {f"QKVParallelLinear_{layer}": attention, f"RotaryEmbedding_{layer}": attention}
        parents |= {f"Attention_{layer}": attention, f"RowParallelLinear_{2 * layer}": attention}
        parents |= {f"RMSNorm_{2 * layer + 1}": block, mlp: block}
        parents |= {f"MergedColumnParallelLinear_{layer}": mlp, f"SiluAndMul_{layer}": mlp}
        parents |= {f"RowParallelLinear_{2 * layer + 1}": mlp}
    parents |= {"RMSNorm_9": "Qwen2Model_0", "LogitsProcessor_0": None}
    paths = paths_of(parents)
    assert paths["Qwen2ForCausalLM_0"] == ""
    assert paths["VocabParallelEmbedding_0"] == "model.embed_tokens"
    assert paths["RMSNorm_9"] == "model.norm"
    names = {path.removeprefix("model.layers.1.") for path in paths.values() if "layers.1." in path}
    assert names == {
        *("input_layernorm", "self_attn", "self_attn.qkv_proj", "self_attn.rotary_emb", "self_attn.attn"),
        *(
            "self_attn.o_proj",
            "post_attention_layernorm",
            "mlp",
            "mlp.gate_up_proj",
            "mlp.act_fn",
            "mlp.down_proj",
        ),
    }
    assert len(set(paths.values())) == len(paths)


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_the_innermost_range_is_found(seed: int) -> None:
    """Against looking at every range for every launch."""
    generator = random.Random(seed)
    ranges: list[Range] = []

    def fill(start: int, end: int, depth: int) -> None:
        ranges.append(Range(start, end, f"{start}-{end}"))
        at = start + 1
        while depth and at + 3 < end:
            until = generator.randrange(at + 2, end)
            if generator.random() < 0.7:
                fill(at, until, depth - 1)
            at = until + 1

    fill(0, 200, 4)
    fill(210, 300, 3)
    launches = [Launch(generator.randrange(-5, 310) + 0.5, 1.0, "k") for _ in range(50)]
    generator.shuffle(ranges)
    for launch, found in innermost(ranges, launches):
        around = [one for one in ranges if one.start <= launch.at <= one.end]
        assert found == min(around, key=lambda one: one.end - one.start, default=None)


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(intervals=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=12))
def test_busy_time_counts_overlaps_once(intervals: list[tuple[int, int]]) -> None:
    starts = array("d", [start for start, _ in intervals])
    ends = array("d", [start + length for start, length in intervals])
    covered = {tick for start, length in intervals for tick in range(start, start + length)}
    assert busy_s(starts, ends) == len(covered)


def test_leaves_add_up_to_the_total(tmp_path: Path) -> None:
    record = open_record(write(tmp_path / "x", gpu_trace()))
    assert sum(row.measured_s or 0 for row in leaves(record)) == pytest.approx(total_s(record))
