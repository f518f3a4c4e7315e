"""Shares, medians and sentences of `bench gemm`, by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from pascaline.bench import gemm
from pascaline.bench.gemm import GemmReport, GemmRow, bench_gemm
from pascaline.bench.gemm_findings import findings
from pascaline.bench.gemm_results import as_json, as_rates, as_record, save
from pascaline.bench.library_products import torch_product
from pascaline.bench.product import Backend, Product, Rounding, Shape, parse_shape
from pascaline.bench.product import Path as WayToMultiply
from pascaline.bench.timing import Sample, Timing, alternate
from pascaline.core.errors import ConfigError, UnsupportedError
from pascaline.core.progress import Progress, ignore_progress
from pascaline.hardware.measured import load_measured
from pascaline.report.run_record import read_record


class ScriptedStopwatch:
    """Runs take what they are told to, whatever they do; notes the order."""

    sample_s = 1.0

    def __init__(self, seconds: Mapping[Callable[[], None], list[float]]) -> None:
        self._seconds = seconds
        self.order: list[Callable[[], None]] = []

    def time(self, run: Callable[[], None], times: int, _expected_s: float, /) -> Sample:
        run()
        if times > 1:  # a sample of a round
            self.order.append(run)
        left = self._seconds[run]
        return Sample(times * (left.pop(0) if times > 1 and len(left) > 1 else left[0]), 1000.0)

    def shortened(self, run: Callable[[], None], _once_s: float, /) -> Callable[[], None]:
        return run

    def bytes_per_s(self) -> float | None:
        return 5.0 + len(self.order)


def test_runs_take_turns_and_the_median_counts() -> None:
    def one() -> None: ...

    def other() -> None: ...

    # The first three are taken to find out how many runs make a sample: 8 of one, 4 of the other.
    stopwatch = ScriptedStopwatch({one: [0.125, 0.1, 0.5, 0.2], other: [0.25, 0.3, 0.3, 0.3]})
    advanced: list[None] = []
    timings, rates = alternate([one, other], stopwatch, 1e-3, lambda: advanced.append(None))
    assert stopwatch.order == [one, other] * 3
    assert [timing.median_s for timing in timings] == pytest.approx([0.125, 0.3])
    assert timings[1].clock_mhz == 1000.0
    assert [timing.rounds for timing in timings] == [3, 3]
    assert rates == [5.0, 7.0, 9.0]
    assert len(advanced) == 2


def test_the_spread_is_between_the_quartiles() -> None:
    def run() -> None: ...

    stopwatch = ScriptedStopwatch({run: [0.25, 1.0, 2.0, 3.0, 4.0, 100.0]})
    [timing], _ = alternate([run], stopwatch, 6.0, lambda: None)
    assert timing.rounds == 6
    # 0.25, 1, 2, 3, 4, 100: quartiles 1.25 and 3.75 about the median of 2.5.
    assert timing == Timing(2.5, pytest.approx(1.0), 1000.0, 6)


class ScriptedMachine:
    """A chip of known limits on which every product takes as long as its name says."""

    kind: Backend = "cpu"
    name = "a chip"
    threads: int | None = 2
    cache_bytes = 1
    sample_s = 1e-9
    shape_s = 1e-9

    def __init__(self, ways: Mapping[WayToMultiply, float]) -> None:
        self._ways = ways
        self._seconds: dict[Callable[[], None], float] = {}

    def notes(self) -> list[str]:
        return ["a note"]

    def paths(self) -> tuple[WayToMultiply, ...]:
        return tuple(self._ways)

    def warm(self, run: Callable[[], None]) -> None: ...

    def shortened(self, run: Callable[[], None], _once_s: float, /) -> Callable[[], None]:
        return run

    def time(self, run: Callable[[], None], times: int, _expected_s: float, /) -> Sample:
        [seconds] = [each for way, each in self._ways.items() if way.precision == run.__name__]
        return Sample(times * seconds, 500.0 if run.__name__ == "hot" else 2000.0)

    def operations_per_s(self, clock_mhz: float | None, /) -> Mapping[str, float]:
        clock_mhz = clock_mhz or 4000.0
        return {"fp32": 1000.0 * clock_mhz, "tensor": 8000.0 * clock_mhz}

    def bytes_per_s(self) -> float | None:
        return 1e6

    def free_bytes(self) -> int:
        return 1 << 30


def way(
    name: str,
    *,
    is_library: bool = True,
    units: tuple[str, ...] = ("fp32",),
    wrong: bool = False,
    fails: str = "",
) -> WayToMultiply:
    """A product in fp32 under another name."""
    make = torch_product(torch.device("cpu"), torch.float32, Rounding(sums=0.0 if wrong else 2.0**-24))

    def named(shape: Shape, copies: int, generator: torch.Generator) -> Product:
        if fails:
            raise UnsupportedError(fails)
        product = make(shape, copies, generator)

        def run() -> None:
            product.run()

        run.__name__ = name
        return Product(**{**vars(product), "run": run})

    return WayToMultiply(name, "F32", units, "a library", is_library, named)


def measure(
    monkeypatch: pytest.MonkeyPatch, ways: Mapping[WayToMultiply, float], *shapes: Shape
) -> Mapping[str, GemmRow]:
    monkeypatch.setattr(gemm, "machine_for", lambda _: ScriptedMachine(ways))
    report = bench_gemm(torch.device("cpu"), shapes, ignore_progress)
    assert report.notes == ("a note",)
    assert report.clock_mhz == 2000.0
    return {row.precision: row for row in report.rows}


def test_shares_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # 200 × 10 × 100: 400 000 operations, at 2 M a second 0.2 s; 4 · (20 000 + 1000 + 2000) bytes, 0.092 s.
    ways = {way("fast"): 0.25, way("slow"): 1.0, way("ours", is_library=False): 0.5}
    rows = measure(monkeypatch, ways, Shape(200, 10, 100))
    fast = rows["fast"]
    assert fast.tflops == pytest.approx(1.6e-6)
    assert fast.bytes_per_s == pytest.approx(368_000)
    assert fast.limit_tflops == pytest.approx(2e-6)
    assert fast.bound_by == "compute"
    assert fast.share_of_limit == pytest.approx(0.8)
    assert [rows[name].share_of_best_library for name in ("fast", "slow", "ours")] == pytest.approx(
        [1, 0.25, 0.5]
    )


def test_each_limit_is_at_the_clock_that_its_own_unit_had(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {way("fast"): 0.25, way("slow"): 0.5, way("hot", units=("tensor", "fp32")): 0.1}
    monkeypatch.setattr(gemm, "machine_for", lambda _: ScriptedMachine(ways))
    report = bench_gemm(torch.device("cpu"), [Shape(200, 10, 100)], ignore_progress)
    assert report.clock_mhz == 2000.0
    assert report.operations_per_s == {"fp32": 2e6, "tensor": 4e6}
    [hot] = [row for row in report.rows if row.precision == "hot"]
    assert hot.share_of_limit == pytest.approx(1.0)


def test_few_rows_are_bound_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # 1 × 100 × 100: 20 000 operations, 0.01 s; 4 · (100 + 10 000 + 100) bytes, 0.0408 s.
    [row] = measure(monkeypatch, {way("fast"): 0.0816}, Shape(1, 100, 100)).values()
    assert row.bound_by == "memory"
    assert row.share_of_limit == pytest.approx(0.5)
    assert row.limit_tflops == pytest.approx(20_000 / 0.0408 / 1e12)


def test_what_is_not_known_is_none_and_what_is_beyond_the_limit_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ways = {way("other", units=("sparse", "bf16")): 0.5, way("fast"): 0.1}
    rows = measure(monkeypatch, ways, Shape(200, 10, 100))
    assert rows["other"].arithmetic == "bf16"
    assert rows["other"].tflops is not None
    assert rows["other"].limit_tflops is rows["other"].share_of_limit is rows["other"].bound_by is None
    assert rows["fast"].share_of_limit == pytest.approx(2.0)
    assert "beyond the limit known for fp32" in (rows["fast"].note or "")


def test_a_wrong_product_is_not_timed_and_a_missing_one_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {way("right"): 0.5, way("wrong", wrong=True): 0.5, way("missing", fails="it is not there"): 0.5}
    rows = measure(monkeypatch, ways, Shape(8, 8, 64))
    assert rows["right"].tflops
    assert rows["wrong"].timing is None
    assert (rows["wrong"].note or "").startswith("wrong by ")
    assert rows["missing"].timing is None
    assert rows["missing"].note == "it is not there"


def test_what_is_too_slow_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(1024, 1024, 512)
    rows = measure(monkeypatch, {way("slow"): 2.0, way("fast"): 0.5}, shape)
    assert rows["slow"].shape == Shape(1024, 256, 512)
    assert rows["slow"].note == "256 of 1024 columns: all would take about 8.0 s"
    assert rows["fast"].shape == shape


def test_what_does_not_fit_is_not_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    for shape in (Shape(1 << 20, 1 << 20, 8), Shape(4, 1 << 20, 1 << 20)):
        with pytest.raises(
            ConfigError, match=r"no product could be measured: its operands take up to .* (Gi|Ti)B"
        ):
            measure(monkeypatch, {way("fast"): 0.5}, shape)


def test_progress_comes_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Progress] = []
    monkeypatch.setattr(gemm, "machine_for", lambda _: ScriptedMachine({way("fast"): 0.5, way("slow"): 1.0}))
    bench_gemm(torch.device("cpu"), [Shape(1, 2, 3), Shape(4, 5, 6)], told.append)
    assert told[0].expected_s
    assert told[0].expected_s > 0
    assert told[-1].finished
    assert (told[-1].done, told[-1].total) == (8, 8)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1,2",
        "1,2,3,4",
        "a,b,c",
        "0,1,1",
        "-1,2,3",
        "1.5,2,3",
        "nan,1,1",
        "1048577,1,1",
        "9" * 5000 + ",1,1",
        "١,2,3",
    ],
)
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--shape"):
        parse_shape(text)


def test_a_shape() -> None:
    assert parse_shape(" 4352, 4096,4096 ") == Shape(4352, 4096, 4096)


def row(
    precision: str,
    m: int,
    tflops: float,
    *,
    is_library: bool = True,
    arithmetic: str = "fp32",
    share: float | None = None,
) -> GemmRow:
    shape = Shape(m, 100, 100)
    return GemmRow(
        precision,
        "F32" if is_library else precision,
        arithmetic,
        "torch.mm" if is_library else "pascaline",
        is_library,
        shape,
        timing=Timing(shape.operations / tflops / 1e12, 0.01, 1911.0, 5),
        bytes_per_s=1e9,
        bytes_per_weight=0.625,
        limit_tflops=None if share is None else tflops / share,
        bound_by=None if share is None else "compute",
    )


REPORT = GemmReport(
    device="cpu",
    name="a chip",
    threads=2,
    clock_mhz=1911.0,
    shapes=(Shape(1, 100, 100), Shape(4352, 100, 100)),
    rows=(
        row("fp32", 1, 0.1),
        row("Q4_1", 1, 0.6, is_library=False, arithmetic="int8"),
        row("fp32", 4352, 9.3, share=0.68),
        row("fp16, fp16 sums", 4352, 0.197, arithmetic="fp16"),
        row("Q4_1", 4352, 30.0, is_library=False, arithmetic="int8"),
    ),
    operations_per_s={"fp32": 13.7e12},
    bytes_per_s=4.8e11,
    notes=("quiet",),
)


def test_sentences_name_what_stands_out() -> None:
    said = "\n".join(findings(REPORT))
    assert "half arithmetic runs at 1/47 of fp32 here: the policy avoids it" in said
    assert "in fp32 the library reaches 9.3 TFLOP/s, 68% of what this chip can do" in said
    assert "Q4_1 by 8-bit activations runs at 3.2 times the library's fp32 rate" in said
    assert "by one row, Q4_1 is 6.0 times as fast as the fastest library product: it reads 0.62 bytes" in said


def test_rates_for_the_planner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rates = as_rates(REPORT)
    assert rates.library_operations_per_s == pytest.approx({"fp32": 9.3e12, "fp16": 0.197e12})
    assert rates.operations_per_s == {"fp32": 13.7e12}
    assert list(rates.linears) == ["Q4_1"]
    linear = rates.linears["Q4_1"]
    assert (linear.arithmetic, linear.bytes_per_weight) == ("int8", 0.625)
    assert linear.seconds(1, 100 * 100) == pytest.approx(2 * 100 * 100 / 0.6e12)
    assert linear.seconds(4352, 100 * 100) == pytest.approx(2 * 4352 * 100 * 100 / 30e12)
    monkeypatch.setenv("PASCALINE_CACHE", str(tmp_path))
    monkeypatch.setenv("PASCALINE_THREADS", "2")
    saved, record = save(REPORT)
    assert load_measured("a chip") == rates
    assert read_record(record).notes == ["quiet"]
    described = as_json(REPORT, (saved, record))
    assert described["saved"] == str(saved)
    assert described["record"] == str(record)


def test_the_record_holds_what_was_measured() -> None:
    record = as_record(REPORT)
    assert record.kind == "bench"
    assert record.cpu is not None
    assert (record.cpu.name, record.cpu.threads) == ("a chip", 2)
    fp32 = record.rows[2]
    assert fp32.module == "fp32 4352×100×100"
    assert fp32.flop_by_type == {"fp32": 2.0 * 4352 * 100 * 100}
    assert fp32.measured_s is not None
    assert fp32.bound_s == pytest.approx(fp32.measured_s * 0.68)
    assert (fp32.bound_by, fp32.kernels[0].name) == ("compute", "torch.mm")
    assert record.rows[0].bound_s is None
