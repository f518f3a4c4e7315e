"""`pascaline bench gemm` as a user runs it, on products that take no time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from outcome import Run

from pascaline.bench import cpu_machine, gemm
from pascaline.bench.cpu_machine import CpuMachine
from pascaline.hardware import native_loops
from pascaline.hardware.measured import load_measured
from pascaline.hardware.processor import processor_name
from pascaline.kernels.cpu import native
from pascaline.report.run_record import read_record

SHAPES = ("--shape", "2,64,256", "--shape", "17,128,256")
FIELDS = {
    *("precision", "storage", "arithmetic", "algorithm", "m", "n", "k", "median_s", "tflops", "bytes_per_s"),
    *("share_of_limit", "share_of_best_library", "limit_tflops", "note"),
}

FORMS = {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q4_K", "Q6_K", "Q8_0", "GPTQ-4"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(CpuMachine, "shape_s", 0.0)
    monkeypatch.setattr(CpuMachine, "sample_s", 1e-3)
    monkeypatch.setattr(gemm, "MOST_COPIES", 4)
    monkeypatch.setattr(cpu_machine, "PASSES", 2)
    monkeypatch.setattr(native_loops, "MOST_BYTES", 8 << 20)
    monkeypatch.setenv("PASCALINE_CACHE", str(tmp_path / "cache"))


def test_one_json_object_and_what_was_saved(run: Run, tmp_path: Path) -> None:
    outcome = run("bench", "gemm", "--device", "cpu", *SHAPES, "--save", "--json")
    assert outcome.code == 0, outcome.stderr
    report = json.loads(outcome.stdout)
    assert outcome.stdout.count("\n") == 1
    assert (report["device"], report["name"]) == ("cpu", processor_name())
    assert report["shapes"] == [[2, 64, 256], [17, 128, 256]]
    measured = [row for row in report["rows"] if row["median_s"] is not None]
    assert len(measured) == len(report["rows"]) == 2 * 15
    for row in measured:
        assert row.keys() >= FIELDS
        operations = 2 * row["m"] * row["n"] * row["k"]
        assert row["tflops"] == pytest.approx(operations / row["median_s"] / 1e12)
        if row["limit_tflops"] is not None:
            assert row["share_of_limit"] == pytest.approx(row["tflops"] / row["limit_tflops"])
    for shape in report["shapes"]:
        rows = [row for row in measured if [row["m"], row["n"], row["k"]] == shape]
        best = max(row["tflops"] for row in rows if not row["algorithm"].startswith("pascaline"))
        for row in rows:
            assert row["share_of_best_library"] == pytest.approx(row["tflops"] / best)
    # The planner finds it, and so does whoever reads run records.
    assert report["saved"].startswith(str(tmp_path))
    rates = load_measured(processor_name())
    assert rates is not None
    # Beside other programs a limit may be measured too low: what is beyond it has a note, and is not kept.
    ours = [row for row in measured if row["algorithm"].startswith("pascaline")]
    assert {row["storage"] for row in ours} == FORMS
    for form in FORMS:
        kept = [row["m"] for row in ours if row["storage"] == form and row["note"] is None]
        assert [rows for rows, _ in rates.linears[form].rows] == kept if kept else form not in rates.linears
    record = read_record(Path(report["record"]))
    assert (record.kind, len(record.rows)) == ("bench", 30)
    if not isinstance(native.library(), str):
        assert report["clock_mhz_measured"] > 100
        assert {"fp32", "fp64", "int8"} == set(report["limits"]["operations_per_s"])
        assert rates.bytes_per_s > 1e8
        assert {each["arithmetic"] for each in ours if each["storage"] == "Q4_K"} == {"int8"}


def test_without_save_nothing_is_written(run: Run, tmp_path: Path) -> None:
    outcome = run("bench", "gemm", "--device", "cpu", "--shape", "1,32,256", "--json")
    assert json.loads(outcome.stdout)["saved"] is None
    assert not (tmp_path / "cache").exists()


def test_without_native_kernels_limits_are_unknown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: "there is none")
    outcome = run("bench", "gemm", "--device", "cpu", "--shape", "2,32,256", "--json")
    report = json.loads(outcome.stdout)
    assert report["limits"] == {"operations_per_s": {}, "bytes_per_s": None}
    assert "limits are not known, because no native library measures them: there is none" in report["notes"]
    for row in report["rows"]:
        assert row["tflops"] > 0
        assert row["share_of_limit"] is row["limit_tflops"] is None
    assert {row["algorithm"] for row in report["rows"] if row["storage"] == "Q4_0"} == {
        "pascaline torch.linear"
    }


@pytest.mark.parametrize("columns", [80, 120])
def test_no_line_is_wider_than_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    outcome = run("bench", "gemm", "--device", "cpu", "--shape", "17,64,256")
    lines = outcome.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert sum(line.startswith("Q4_K ") for line in lines) == 1
    rows = outcome.stdout.partition("•")[0].splitlines()  # the sentences below name kernels, too
    assert sum(line.split()[1:2] in (["cpu.linear"], ["torch.linear"]) for line in rows) == 9


def test_the_table(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    outcome = run("bench", "gemm", "--device", "cpu", "--shape", "1,32,96", "--shape", "17,32,96")
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.startswith(processor_name())
    assert "17×32×96 (M×N×K)" in outcome.stdout
    assert re.search(r"fp32 +numpy\.matmul +[\d.]+ (µs|ms) +[\d.e-]+ +[\d.]+ ", outcome.stdout)
    assert "Q4_K needs a K that is a multiple of 256" in outcome.stdout
    assert "• half arithmetic" in outcome.stdout or "• in fp32 the library" in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--shape", "1,2"), "--shape '1,2' (expected M,N,K, each from 1 to 1048576). For example"),
        (("--shape", "0,2,3"), "--shape '0,2,3'"),
        (("--shape", "1048576,1048576,1048576"), "no product could be measured: its operands take up to"),
        (("--device", "tpu"), "--device"),
        (("--shape",), "--shape"),
    ],
)
def test_mistakes_are_one_message(run: Run, arguments: tuple[str, ...], said: str) -> None:
    outcome = run("bench", "gemm", *arguments)
    assert outcome.code == 2
    assert outcome.stdout == ""
    assert "Traceback" not in outcome.stderr
    assert said in " ".join(outcome.stderr.replace("│", " ").split())


def test_a_cache_that_cannot_be_written_is_one_message(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    outcome = run("bench", "gemm", "--device", "cpu", "--shape", "1,32,256", "--save", "--json")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("pascaline: cannot make")  # before anything is measured


def test_ctrl_c_ends_it_without_a_traceback() -> None:
    command = (sys.executable, "-m", "pascaline.cli.app", "bench", "gemm", "--device", "cpu")
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first.startswith("measuring products: 0 of ")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert re.fullmatch(r"measuring products: stopped after .*\n", stderr)
