"""What other tools recorded becomes a record: by content, with nothing invented.

The tables and columns of the Nsight Systems fixtures are those of its user guide (SQLite Schema Reference),
the CSV headers those that its versions print; times in them are chosen so that sums can be checked by hand.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from pascaline.core.errors import CheckpointError
from pascaline.report import importers
from pascaline.report.compare import compare
from pascaline.report.importers import IMPORTERS, open_record
from pascaline.report.module_names import MODULE, Place, copy_op, op_of, place_of, sibling_pattern
from pascaline.report.module_tree import leaves, total_s
from pascaline.report.run_record import Row, RunRecord, read_record, write_record

CASE = Path(__file__).parents[1] / "fixtures" / "case_study"
HALF = CASE / "pascal_12gb_half_arithmetic.json"
REPAIRED = CASE / "pascal_12gb_fp32_accumulate.json"
A6000 = CASE / "rtx_a6000_half_arithmetic.json"


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def row_of(record: RunRecord, module: str, op: str | None = None) -> Row:
    [row] = [row for row in record.rows if row.module == module and op in (None, row.op)]
    return row


def test_every_importer_is_listed() -> None:
    folder = Path(importers.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "importer"}
    assert {importer.read.__module__.rpartition(".")[2] for importer in IMPORTERS} == files


def test_the_case_is_read_whole() -> None:
    record = open_record(HALF)
    raw = json.loads(HALF.read_text())
    assert record.kind == "imported"
    assert record.gpu is not None
    assert (record.gpu.name, record.gpu.compute_capability) == ("12 GB Pascal card", "6.1")
    assert record.tokens == 2048
    assert record.model["quantization_config"]["bits"] == 4  # type: ignore[index]
    assert total_s(record) == pytest.approx(raw["modules"]["model"] / 1e3)
    for module, milliseconds in raw["modules"].items():
        assert row_of(record, module).measured_s == pytest.approx(milliseconds / 1e3), module
    assert {row.module for row in record.rows if row.op == MODULE} == {
        *("model", "model.layers", "model.layers.0", "model.layers.0.self_attn", "model.layers.0.mlp")
    }
    assert {place_of(row.module).layer for row in record.rows} - {None} == {0}


def test_the_case_says_what_its_code_decided() -> None:
    for path, choice in ((HALF, "fp16"), (REPAIRED, "fp32"), (A6000, "fp16")):
        decided = {
            row.module.rpartition(".")[2]: row.decision for row in leaves(open_record(path)) if row.decision
        }
        assert set(decided) == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
        assert {decision.choice for decision in decided.values() if decision} == {choice}


def test_work_follows_from_configuration_and_tokens() -> None:
    record = open_record(HALF)
    gate_up = row_of(record, "model.layers.0.mlp.gate_up_proj")
    assert gate_up.flop_by_type == {"fp16": 2.0 * 2048 * 3584 * 37888}
    # Codes, one fp16 scale for 128 of them (the zeros are all alike), and fp16 in and out.
    assert gate_up.bytes == 3584 * 37888 // 2 + 3584 * 37888 // 128 * 2 + 2 * 2048 * (3584 + 37888)
    qkv = row_of(record, "model.layers.0.self_attn.qkv_proj")
    assert sum(qkv.flop_by_type.values()) == 2.0 * 2048 * 3584 * (3584 + 2 * 512)
    linears = [row for row in leaves(record) if row.op == "linear"]
    assert 28 * sum(sum(row.flop_by_type.values()) for row in linears) == pytest.approx(26.7e12, rel=2e-3)
    for row in open_record(A6000).rows:  # its tokens were not recorded
        assert row.flop_by_type == {}
        assert row.bytes is None


@pytest.mark.parametrize(
    ("unit", "size"), [("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9), ("seconds", 1.0)]
)
def test_units(tmp_path: Path, unit: str, size: float) -> None:
    path = write_json(tmp_path / "x", {"unit": unit, "model.norm": 3, "lm_head": 4.0, "model": 5})
    record = open_record(path)
    assert total_s(record) == pytest.approx(9 * size)  # "model" holds the norm
    assert row_of(record, "lm_head").op == "linear"


def test_what_a_container_does_itself_is_its_own_row(tmp_path: Path) -> None:
    modules = {
        "model": 10.0,
        "model.layers.0": 9.0,
        "model.layers.0.self_attn": 6.0,
        "model.layers.0.self_attn.q_proj": 2.0,
        "model.layers.0.mlp": 3.0,
        "model.layers.0.mlp.up_proj": 2.99,
    }
    tree = {"unit": "s", "modules": modules}
    complete = {**tree, "config": {"num_hidden_layers": 1}}
    record = open_record(write_json(tmp_path / "x", complete))
    own = {row.module: row.measured_s for row in leaves(record) if row.module in modules}
    assert own["model.layers.0.self_attn"] == pytest.approx(4.0)
    assert row_of(record, "model.layers.0.self_attn", "paged_attention").measured_s == pytest.approx(4.0)
    assert "model.layers.0.mlp" not in own  # 0.3 % are not work but the time between kernels
    assert own["model"] == pytest.approx(1.0)
    assert total_s(record) == 10.0
    partial = open_record(write_json(tmp_path / "x", {**tree, "config": {"num_hidden_layers": 2}}))
    assert [row.op for row in partial.rows if row.module == "model"] == [MODULE]  # the rest may be the layer


def test_unknown_times_stay_unknown(tmp_path: Path) -> None:
    record = open_record(write_json(tmp_path / "x", {"unit": "s", "modules": {"a.b": None, "a": 1.0}}))
    assert row_of(record, "a.b").measured_s is None
    assert record.gpu is None
    assert record.created is None


def test_our_own_records_stay_as_they_are(tmp_path: Path) -> None:
    record = open_record(HALF)
    path = tmp_path / "record"
    write_record(record, path)
    assert open_record(path) == record == read_record(path)


OLD_CSV = """\
"Time(%)","Total Time (ns)","Instances","Average","Minimum","Maximum","Name"
90.0,"1,800,000",4,450000.0,1,2,"void reconstruct_exllama(int, half*)"
10.0,200000,8,25000.0,1,2,maxwell_hgemm_128x128_tn
"""
NEW_CSV = """\
Generating SQLite file report1.sqlite from report1.nsys-rep
Processing [report1.sqlite] with [cuda_gpu_kern_sum.py]...

 ** CUDA GPU Kernel Summary (cuda_gpu_kern_sum):

"Time (%)","Total Time (us)","Instances","Avg (us)","Med (us)","Min (us)","Max (us)","StdDev (us)","Name"
"90.0","1800.0","4","450.0","450.0","1","2","0.0","void reconstruct_exllama(int, half*)"
"10.0","200.0","8","25.0","25.0","1","2","0.0","maxwell_hgemm_128x128_tn"

 ** CUDA GPU MemOps Summary (by Time) (cuda_gpu_mem_time_sum):

"Time (%)","Total Time (us)","Count","Avg (us)","Med (us)","Min (us)","Max (us)","StdDev (us)","Operation"
"100.0","300.0","3","100.0","1","1","1","0.0","[CUDA memcpy Host-to-Device]"

 ** CUDA API Summary (cuda_api_sum):

"Time (%)","Total Time (us)","Num Calls","Avg (us)","Med (us)","Min (us)","Max (us)","StdDev (us)","Name"
"100.0","9000.0","12","1","1","1","1","0.0","cudaLaunchKernel"
"""
LATEST_CSV = """\
Time (%),Total Time (ns),Instances,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),GridXYZ,BlockXYZ,Name
90.0,1800000,4,450000.0,1,1,1,1,   1    1    1,   8    1    1,"void reconstruct_exllama(int, half*)"
10.0,200000,8,25000.0,1,1,1,1,   1    1    1,   8    1    1,maxwell_hgemm_128x128_tn
"""


@pytest.mark.parametrize("text", [OLD_CSV, NEW_CSV, LATEST_CSV], ids=["2020", "2023", "by grid"])
def test_kernel_summaries_of_all_versions(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kernels"
    path.write_text(text)
    record = open_record(path)
    kernels = row_of(record, "", "kernels")
    assert kernels.measured_s == pytest.approx(2e-3)
    assert [(kernel.name, kernel.calls) for kernel in kernels.kernels] == [
        ("void reconstruct_exllama(int, half*)", 4),
        ("maxwell_hgemm_128x128_tn", 8),
    ]
    copies = [row for row in record.rows if row.op == "copy_host_to_device"]
    assert [row.measured_s for row in copies] == ([pytest.approx(3e-4)] if text is NEW_CSV else [])
    assert not any("cudaLaunch" in kernel.name for row in record.rows for kernel in row.kernels)


NSYS_TABLES = """
CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE TARGET_INFO_GPU (id INTEGER NOT NULL, name TEXT, busLocation TEXT, totalMemory INTEGER,
  clockRate INTEGER, smCount INTEGER, chipName TEXT, computeMajor INTEGER, computeMinor INTEGER);
CREATE TABLE TARGET_INFO_SESSION_START_TIME (utcEpochNs INTEGER, utcTime TEXT, localTime TEXT);
CREATE TABLE NVTX_EVENTS (start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL, rangeId INTEGER,
  category INTEGER, color INTEGER, text TEXT, globalTid INTEGER, endGlobalTid INTEGER, textId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER,
  globalTid INTEGER, correlationId INTEGER, nameId INTEGER, returnValue INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER,
  contextId INTEGER, streamId INTEGER, correlationId INTEGER, globalPid INTEGER, demangledName INTEGER,
  shortName INTEGER, mangledName INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER,
  contextId INTEGER, streamId INTEGER, correlationId INTEGER, globalPid INTEGER, bytes INTEGER,
  copyKind INTEGER);
INSERT INTO StringIds VALUES (1, 'reconstruct'), (2, 'maxwell_hgemm_128x64_tn'), (3, 'model.layers.0.mlp');
INSERT INTO TARGET_INFO_GPU VALUES (0, 'NVIDIA TITAN X (Pascal)', '', 12774539264, 0, 28, 'GP102', 6, 1);
INSERT INTO TARGET_INFO_SESSION_START_TIME VALUES (1700000000000000000, '', '');
INSERT INTO NVTX_EVENTS VALUES
  (0, 1000, 59, NULL, NULL, NULL, 'prefill', 7, NULL, NULL),
  (10, 100, 59, NULL, NULL, NULL, NULL, 7, NULL, 3),
  (20, 90, 59, NULL, NULL, NULL, '{''Module'': ''model.layers.0.mlp.down_proj''}', 7, NULL, NULL),
  (15, 95, 59, NULL, NULL, NULL, 'model.layers.1.mlp', 8, NULL, NULL),
  (20, 25, 34, NULL, NULL, NULL, 'a.mark', 7, NULL, NULL);
INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES
  (30, 31, 0, 7, 1, 0, 0), (40, 41, 0, 7, 2, 0, 0), (95, 96, 0, 7, 3, 0, 0), (50, 51, 0, 8, 4, 0, 0);
INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES
  (5000, 7000, 0, 1, 7, 1, 0, 1, 1, 1), (7000, 12000, 0, 1, 7, 2, 0, 2, 2, 2),
  (20000, 20500, 0, 1, 7, 4, 0, 1, 1, 1), (30000, 31000, 0, 1, 7, 99, 0, 1, 1, 1);
INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (11000, 14000, 0, 1, 7, 3, 0, 4096, 1);
"""


def write_export(path: Path, script: str) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path


def test_an_export_of_nsight_systems(tmp_path: Path) -> None:
    record = open_record(write_export(tmp_path / "odd name?.db", NSYS_TABLES))
    assert record.gpu is not None
    assert (record.gpu.name, record.gpu.compute_capability) == ("NVIDIA TITAN X (Pascal)", "6.1")
    assert record.created == "2023-11-14T22:13:20+00:00"
    down = row_of(record, "model.layers.0.mlp.down_proj")
    assert down.phase == "prefill"
    assert {kernel.name: kernel.s for kernel in down.kernels} == {
        "reconstruct": pytest.approx(2e-6),
        "maxwell_hgemm_128x64_tn": pytest.approx(5e-6),
    }
    copy = row_of(record, "model.layers.0.mlp", "copy_host_to_device")
    assert (copy.measured_s, copy.bytes) == (pytest.approx(3e-6), 4096)
    assert row_of(record, "model.layers.0.mlp", MODULE).measured_s == pytest.approx(10e-6)
    assert row_of(record, "model.layers.1.mlp").measured_s == pytest.approx(0.5e-6)  # its own thread's range
    assert row_of(record, "", "kernels").measured_s == pytest.approx(1e-6)  # no launch is recorded
    assert total_s(record) == pytest.approx(11.5e-6)
    assert record.elapsed_s == pytest.approx(26e-6)
    assert record.gpu_busy_s == pytest.approx((9 + 0.5 + 1) * 1e-6)  # the copy overlaps a kernel by 1 µs


def test_an_export_without_ranges_and_with_old_columns(tmp_path: Path) -> None:
    script = """
    CREATE TABLE StringIds (id INTEGER, value TEXT);
    CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, end INTEGER, shortName INTEGER);
    INSERT INTO StringIds VALUES (5, 'gemm');
    INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (0, 1000, 5);
    """
    record = open_record(write_export(tmp_path / "x", script))
    assert [(row.module, row.op, row.kernels[0].name) for row in record.rows] == [("", "kernels", "gemm")]
    assert record.gpu is None


def damaged_export(change: str) -> Callable[[Path], Path]:
    return lambda folder: write_export(folder / "x", NSYS_TABLES + change)


ENDLESS = (
    "DROP TABLE CUPTI_ACTIVITY_KIND_KERNEL; CREATE VIEW CUPTI_ACTIVITY_KIND_KERNEL AS WITH RECURSIVE "
    "r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT x AS start, x AS end FROM r;"
)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("DROP TABLE CUPTI_ACTIVITY_KIND_KERNEL;", "has no table CUPTI_ACTIVITY_KIND_KERNEL"),
        (ENDLESS, "has no table CUPTI_ACTIVITY_KIND_KERNEL"),
        ("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET end = 1;", "runs from 5000 to 1"),
        ("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET start = 'then';", "runs from then to 7000"),
    ],
)
def test_exports_that_cannot_be_right(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_record(damaged_export(script)(tmp_path))


def test_names_say_place_and_op() -> None:
    assert place_of("transformer.h.11.attn.c_attn") == Place("", 11, "attn.c_attn")
    assert place_of("language_model.model.layers.3.mlp") == place_of("model.layers.3.mlp")
    assert place_of("model.vision_tower.layers.3.mlp").stack == "vision_tower"
    assert place_of("model.norm") == place_of("transformer.norm") == Place("", None, "norm")
    assert place_of("model.a.norm") != place_of("model.norm")
    assert place_of("model.layers").name == place_of("transformer.h").name == "layers"
    assert sibling_pattern("model.layers.3.mlp.down_proj") == "model.layers.*.mlp.down_proj"
    ops = {
        "q_proj": "linear",
        "post_attention_layernorm": "rms_norm",
        "rotary_emb": "rotary",
        "norm": "rms_norm",
    }
    ops |= {
        "embed_tokens": "embedding",
        "self_attn": "paged_attention",
        "act_fn": "silu_and_mul",
        "mlp": "other",
    }
    assert {name: op_of(f"model.layers.0.{name}") for name in ops} == ops
    assert copy_op("Memcpy DtoH (Device -> Pageable)") == "copy_device_to_host"
    assert copy_op("void gemm()") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x00\xff\x01" * 99, "is of no kind"),
        (b"hello, world\n", "is of no kind"),
        (b"[1, 2]", "is of no kind"),
        (b'{"a": 1}', "is of no kind"),
        (b'{"unit": "s", "modules": {"a": NaN}}', "is not valid JSON"),
        (b'{"unit": "s", "modules": {"a": -1}}', "time of 'a' is -1"),
        (b'{"unit": "s", "modules": {"a": 1e999}}', "is not valid JSON"),
        (b'{"unit": "s", "modules": {"a": true}}', "time of 'a' is True"),
        (b'{"unit": "s", "modules": {"a": [1]}}', r"time of 'a' is \[1\]"),
        (b'{"unit": "s", "modules": {}}', "0 modules"),
        (b'{"unit": "s", "modules": 5}', "modules is 5"),
        (b'{"unit": "fortnight", "modules": {"a": 1}}', "unit is 'fortnight'"),
        (b'{"modules": {"a": 1}}', "unit is None"),
        (b'{"unit": "s", "tokens": 0, "modules": {"a": 1}}', "tokens is 0"),
        (b'{"unit": "s", "phase": "warm", "modules": {"a": 1}}', "phase is 'warm'"),
        (b'{"unit": "s", "gpu": 5, "modules": {"a": 1}}', "gpu is 5"),
        (b'{"unit": "s", "modules": ' + b'{"a": ' * 5000, "is not valid JSON"),
        (b'{"schema": 1, "kind": "plan", "created": "", "rows": []}', "holds no measurement"),
        (b'"Time (%)","Total Time (ns)","Instances","Avg (ns)","Name"\n1,x,1,2,k\n', "a line with '1, x"),
        (b'"Time (%)","Total Time (ns)","Instances","Avg (ns)","Name"\n1,-5,1,2,k\n', "a line with '1, -5"),
        (b'"Time (%)","Total Time (ns)","Instances","Avg (ns)","Name"\n1,nan,1,2,k\n', "a line with '1, nan"),
        (b'"Time (%)","Total Time (ns)","Instances","Avg (ns)","Name"\n', "lists no kernel"),
        (b"SQLite format 3\x00" + b"\x07" * 500, "cannot be read as an export"),
    ],
)
def test_what_is_no_record_is_refused_in_words(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_record(path)


def test_own_records_with_impossible_times_are_refused(tmp_path: Path) -> None:
    record = RunRecord(kind="plan", created=None, rows=[Row(module="a", op="linear", measured_s=-1.0)])
    path = tmp_path / "x"
    path.write_bytes(msgspec.json.encode(record))
    with pytest.raises(CheckpointError, match=r"a took -1\.0 s"):
        open_record(path)


def test_other_things_than_files_are_refused(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "nowhere", "cannot read"),
        (Path("/dev/zero"), "no regular file"),
        (Path("a\0b"), "no file can have that name"),
    ):
        with pytest.raises(CheckpointError, match=message):
            open_record(path)


def test_a_million_modules_are_refused(tmp_path: Path) -> None:
    path = write_json(tmp_path / "x", {"unit": "s", "modules": dict.fromkeys(map(str, range(1_000_000)), 1)})
    with pytest.raises(CheckpointError, match="1000000 modules"):
        open_record(path)


def test_what_plan_prints_is_a_record_of_predictions(tmp_path: Path) -> None:
    """Two plans are compared as runs are: by their predicted times, with the work that both state."""
    row = {"module": "model.layers.*.mlp.down_proj", "op": "linear", "phase": "prefill", "predicted_s": 0.5}
    plan = {"model": "demo", "gpu": "Tesla P40", "fits": True, "predicted": {"prompt_tokens": 512}}
    slow = open_record(write_json(tmp_path / "slow", {**plan, "rows": [row]}))
    fast = open_record(
        write_json(tmp_path / "fast", {**plan, "gpu": "cpu", "rows": [{**row, "predicted_s": 0.1}]})
    )
    assert slow.gpu is not None
    assert slow.gpu.name == "Tesla P40"
    assert fast.gpu is None
    comparison = compare(slow, fast, "slow", "fast")
    assert comparison.work_ratio == 1.0
    assert [item.module for item in comparison.stands_out] == [row["module"]]
    with pytest.raises(CheckpointError, match="plan --json"):
        open_record(write_json(tmp_path / "wrong", {**plan, "rows": [{"module": 3}]}))
