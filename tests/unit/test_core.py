"""core/: errors, environment, files, progress, units."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from pascaline.core.env import cache_dir
from pascaline.core.errors import CheckpointError, ConfigError, PascalineError
from pascaline.core.files import write_atomically
from pascaline.core.progress import Progress, Stage, StageTimes
from pascaline.core.units import format_bytes, format_number, format_seconds


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConfigError("seen"), "seen"),
        (ConfigError("seen", expected="right"), "seen (expected right)"),
        (ConfigError("seen", remedy="Do this"), "seen. Do this"),
        (CheckpointError("seen", expected="right", remedy="Do this"), "seen (expected right). Do this"),
    ],
)
def test_errors_say_what_was_seen_expected_and_helps(error: PascalineError, message: str) -> None:
    assert str(error) == message


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PASCALINE_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"PASCALINE_CACHE": "~/a"}, "/home/u/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/pascaline"),
        ({}, "/home/u/.cache/pascaline"),
    ],
)
def test_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name in ("PASCALINE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/u")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected)


def test_without_a_home_the_cache_folder_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PASCALINE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2_000_000_123)
    with pytest.raises(ConfigError, match="Set HOME, or PASCALINE_CACHE"):
        cache_dir()
    with pytest.raises(ConfigError, match="PASCALINE_CACHE is '~nobody-of-this-name/x': no home folder"):
        cache_dir({"PASCALINE_CACHE": "~nobody-of-this-name/x"})


def test_files_are_replaced_whole_with_the_users_permissions(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]
    (tmp_path / "other").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(path.read_bytes()))
    reader.start()
    write_atomically(path, b"data")
    reader.join()
    assert received == [b"data"]
    assert path.is_fifo()


def test_where_nothing_can_be_written_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"cannot write .*folder: Is a directory"):
        write_atomically(tmp_path / "folder", b"data")
    with pytest.raises(ConfigError, match="No such file or directory"):
        write_atomically(tmp_path / "nowhere" / "file", b"data")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock whose time is its only element."""
    now = [100.0]
    monkeypatch.setattr("pascaline.core.progress.time.monotonic", lambda: now[0])
    return now


def test_a_stage_reports_its_start_its_end_and_little_between(clock: list[float]) -> None:
    reports: list[Progress] = []
    with Stage(reports.append, "loading", 100.0, "bytes", expected_s=7.0) as stage:
        for _ in range(100):
            clock[0] += 0.01
            stage.advance(1.0)
    assert reports[0] == Progress("loading", 0.0, 100.0, "bytes", 0.0, 7.0)
    assert reports[-1].finished
    assert reports[-1].done == 100.0
    assert reports[-1].elapsed_s == reports[-1].expected_s == pytest.approx(1.0)
    assert 10 <= len(reports) <= 12
    assert [report.finished for report in reports[:-1]] == [False] * (len(reports) - 1)


def test_the_measured_rate_takes_over_from_the_prediction(clock: list[float]) -> None:
    reports: list[Progress] = []
    with Stage(reports.append, "loading", 10.0, "files", expected_s=1.0) as stage:
        clock[0] += 5.0
        stage.advance(2.0)
        assert reports[-1].expected_s == pytest.approx(25.0)
        stage.total = 20.0
        clock[0] += 5.0
        stage.advance(2.0)
        assert reports[-1].expected_s == pytest.approx(50.0)


def test_the_first_bytes_promise_nothing(clock: list[float]) -> None:
    """What a connection took is no rate: 1 KB of 94 MB after 0.4 s is not ten hours."""
    reports: list[Progress] = []
    with Stage(reports.append, "fetching", 94e6, "bytes") as stage:
        clock[0] += 0.4
        stage.advance(1e3)
        assert reports[-1].expected_s is None
        clock[0] += 0.6
        stage.advance(9.4e6 - 1e3)
        assert reports[-1].expected_s == pytest.approx(10.0)


def test_without_prediction_or_work_nothing_is_expected(clock: list[float]) -> None:
    reports: list[Progress] = []
    with Stage(reports.append, "waiting", 0.0, "steps") as stage:
        clock[0] += 1.0
        stage.advance(1.0)
    assert [report.expected_s for report in reports] == [None, None, 1.0]


def test_each_stage_s_expected_and_real_time_is_kept(clock: list[float]) -> None:
    reports: list[Progress] = []
    times = StageTimes(reports.append)
    with Stage(times, "loading", 2.0, "files", expected_s=1.0) as loading:
        for _ in range(2):
            clock[0] += 3.0
            loading.advance(1.0)
        with Stage(times, "compiling", 1.0, "kernels"):
            clock[0] += 0.5
    for seconds in (1.0, 2.0):
        with Stage(times, "again", 1.0, "times", expected_s=seconds / 2):
            clock[0] += seconds
    assert times.stages == [
        ("compiling", None, 0.5),
        ("loading", 1.0, 6.5),
        ("again", 0.5, 1.0),
        ("again", 1.0, 2.0),
    ]
    assert [report.stage for report in reports if report.finished] == [name for name, *_ in times.stages]


def test_a_stage_that_fails_ends_too(clock: list[float]) -> None:
    reports: list[Progress] = []
    with pytest.raises(KeyError), Stage(reports.append, "loading", 4.0, "files"):
        raise KeyError
    assert [report.finished for report in reports] == [False, True]
    assert reports[-1].failed
    assert reports[-1].done == 0.0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (-2048, "-2.0 KiB"),
        (104 << 20, "104.0 MiB"),
        (24 << 30, "24.0 GiB"),
        (3 << 40, "3.0 TiB"),
        (5000 << 40, "5000.0 TiB"),
    ],
)
def test_capacities(count: int, text: str) -> None:
    assert format_bytes(count) == text
    assert format_bytes(count, round_up=True) == text


def test_a_capacity_that_has_to_suffice_is_rounded_up() -> None:
    assert format_bytes((1 << 30) + 1) == "1.0 GiB"
    assert format_bytes((1 << 30) + 1, round_up=True) == "1.1 GiB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0032, "3.2 ms"), (1.0, "1.0 s"), (59.94, "59.9 s"), (75.0, "1 min 15 s"), (3599.6, "60 min 0 s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1790.4, 3, "1790"),
        (999.6, 3, "1000"),
        (99.96, 2, "100"),
        (4.76e3, 3, "4760"),
        (40979.2, 3, "40979"),
        (1e15, 3, "1000000000000000"),
        (69.94, 3, "69.9"),
        (100.0, 3, "100"),
        (0.21412, 3, "0.214"),
        (0.000012, 3, "0.000012"),
        (-1790.4, 3, "-1790"),
        (0.0, 3, "0"),
        (float("inf"), 3, "inf"),
    ],
)
def test_numbers_have_no_powers_of_ten(value: float, digits: int, text: str) -> None:
    assert format_number(value, digits) == text


def test_a_file_without_a_name_is_not_written() -> None:
    with pytest.raises(ConfigError, match="names a folder"):
        write_atomically(Path(""), b"")
