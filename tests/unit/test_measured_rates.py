"""Saved rates come back as they were, and are passed over where they are damaged or no longer true."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pascaline.core.errors import ConfigError
from pascaline.core.threads import compute_threads
from pascaline.hardware.measured import (
    LinearRates,
    MeasuredRates,
    load_measured,
    measured_path,
    save_measured,
    software_here,
)
from pascaline.hardware.processor import last_cache_bytes, processor_name

RATES = MeasuredRates(
    name="a Processor (R) 3.1",
    kind="cpu",
    clock_mhz=3100.0,
    operations_per_s={"fp32": 2e11, "int8": 8e11},
    library_operations_per_s={"fp32": 1.5e11},
    bytes_per_s=4e10,
    linears={
        "Q4_1": LinearRates(
            arithmetic="int8", bytes_per_weight=0.625, rows=((1, 2e-11), (16, 5e-11), (512, 1e-9))
        ),
        "F16": LinearRates(arithmetic="fp32", bytes_per_weight=2.0, rows=((1, 6e-11),)),
    },
    threads=compute_threads(),
    created="2026-01-31T12:00:00+00:00",
    software=software_here("cpu"),
)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PASCALINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_rates_survive_the_disk(cache: Path) -> None:
    told: list[str] = []
    assert load_measured(RATES.name, told.append) is None
    path = save_measured(RATES)
    assert path == cache / "measured" / "a-processor-r-3-1.json"
    assert load_measured(RATES.name, told.append) == RATES
    assert told == []


@pytest.mark.parametrize(
    ("rows", "expected_s"),
    [(1, 2.0), (16, 5.0), (2, 2.2), (8.5, 3.5), (512, 100.0), (1024, 200.0), (0, 2.0)],
)
def test_times_lie_on_the_line_between_measured_row_counts(rows: float, expected_s: float) -> None:
    assert RATES.linears["Q4_1"].seconds(rows, 10**11) == pytest.approx(expected_s)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "it is of schema 2"),
        ({"name": "another\x1b[2J"}, r"it is of 'another\x1b[2J'"),
        ({"software": {"pascaline": "0.0.1"}}, "it was measured with pascaline 0.0.1"),
        (
            {"software": dict(RATES.software) | {"torch": "1.0"}},
            "it was measured with torch 1.0, and this is",
        ),
        ({"software": dict(RATES.software) | {"driver": "999.1"}}, "driver 999.1, and this is none"),
        ({"threads": 1000}, "it was measured with 1000 threads"),
        ({"bytes_per_s": -1.0}, "not a positive number"),
        ({"operations_per_s": {"fp32": 0}}, "not a positive number"),
        ({"operations_per_s": {"fp32": "fast"}}, "Expected `float`"),
        ({"linears": {"Q4_1": {"arithmetic": "int8", "bytes_per_weight": 1, "rows": []}}}, "do not rise"),
        (
            {"linears": {"Q4_1": {"arithmetic": "int8", "bytes_per_weight": 1, "rows": [[2, 1], [2, 1]]}}},
            "do not rise",
        ),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_is_no_longer_true_is_passed_over(change: dict[str, object], said: str) -> None:
    path = save_measured(RATES)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    told: list[str] = []
    assert load_measured(RATES.name, told.append) is None
    [sentence] = told
    assert said in sentence
    assert "bench gemm --save" in sentence
    assert sentence.isprintable()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"schema": 1}',
        b'{"schema": NaN}',
        b" " * (2 << 20),
    ],
    ids=["empty", "binary", "a list", "cut off", "deep", "bare", "NaN", "long"],
)
def test_damaged_files_are_passed_over(content: bytes) -> None:
    path = save_measured(RATES)
    path.write_bytes(content)
    told: list[str] = []
    assert load_measured(RATES.name, told.append) is None
    assert len(told) == 1


def test_a_folder_in_the_files_place_is_passed_over() -> None:
    measured_path(RATES.name).mkdir(parents=True)
    told: list[str] = []
    assert load_measured(RATES.name, told.append) is None
    assert "it is no file" in told[0]


def test_a_cache_that_cannot_be_made_is_named(cache: Path) -> None:
    cache.write_text("no folder")
    with pytest.raises(ConfigError, match=r"cannot make .*cache/measured"):
        save_measured(RATES)
    assert load_measured(RATES.name) is None


def test_a_cache_that_cannot_be_written_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda _path, _mode: False)  # root may write everywhere
    with pytest.raises(ConfigError, match=r"cache/measured cannot be written to\. Point PASCALINE_CACHE"):
        save_measured(RATES)


def test_any_name_is_a_file_in_the_folder(cache: Path) -> None:
    for name in ("../../etc/passwd", "", "Ω" * 500, "x" * 500):
        path = measured_path(name)
        assert path.parent == cache / "measured"
        assert len(path.name) < 100


def test_this_processor_has_a_name_and_a_cache() -> None:
    assert processor_name()
    assert 1 << 15 <= last_cache_bytes() <= 1 << 32


def test_torch_is_not_imported() -> None:
    code = (
        "import sys, pascaline.hardware.measured, pascaline.hardware.processor; print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
