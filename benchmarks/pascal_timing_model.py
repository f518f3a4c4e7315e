"""Speeds on Pascal cards that are not at hand, modelled from machine code, and how far that can be trusted.

    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.2.29
    python benchmarks/pascal_timing_model.py --llamacpp llama_cpp_python-0.2.29.tar.gz

Without `--llamacpp` the calibration is left out; `--measured` are results of cuda_linears.py, comparisons or
sweeps, against which the model of the card that they were measured on is held, with the sources as they are
here. Takes minutes, and no GPU. What is printed is
modelled, never measured; what is measured is llama.cpp's published speed on a Tesla P40
(published_figures.toml), of which the model has the matrix products only: the rest of a prompt or of a token
is taken as the same for all formats, fitted on Q4_0, and the other formats are held out.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from harness.llamacpp_kernels import FORMATS
from harness.machine import RESULTS, now, software
from harness.modelled_attention import (
    ModelledAttention,
    model_attention_decode,
    model_attention_prefill,
)
from harness.modelled_linears import ModelledLinear, model_decode, model_rows, model_tile
from harness.modelled_llamacpp import PROMPT_TOKENS, LlamaTimes, model_llamacpp
from harness.modelled_sweep import compare_measured
from harness.published import Figure, read_figures
from timing_model import Card, Modelled

from pascaline.cli.ending import run
from pascaline.core.errors import ConfigError
from pascaline.hardware.gpus import find_gpu
from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.quantise_input import InputForm
from pascaline.report.run_record import BoundBy, Row, RunRecord, write_record

CASE = "pascal-timing-model"
_PARTS = ("calibration", "decode", "rows", "tile", "attention")
FITTED = "Q4_0"
FASTEST = 2
"""Ways of each sweep that are modelled."""

SHAPES = ((3584, 3584), (3584, 4608), (18944, 3584), (3584, 37888))
"""Qwen2.5-7B's linears: inputs, outputs."""

CARDS = (("TITAN X (Pascal)", 1417), ("Tesla P40", 1531), ("GeForce GTX 1080 Ti", 1582))
"""With the clocks that they are listed with."""

WITHOUT_DOT_PRODUCTS = (("GeForce GTX 980 Ti", 1075), ("Tesla P100 PCIe 16 GB", 1303))
"""Cards that have fp32 alone, of which a few rows are modelled."""

DECODE = ((1, 2), (1, 0))
"""Rows, and planes of int8 (0: fp32), of linear_decode."""

ROWS = ((4, 2), (8, 1))
ROWS_IN_FP32 = ((2, 0), (8, 0), (16, 0))
"""The same of linear_rows."""

TILES = ((256, 1, 64), (512, 1, 128), (512, 1, 64), (512, 2, 128))
"""Rows, planes, and inputs of a scale."""

CONTEXT = 8192
"""Of the sequence whose next token attends to it."""

PROMPT = 2048


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llamacpp", type=Path, help="llama_cpp_python-0.2.29.tar.gz")
    parser.add_argument("--measured", type=Path, nargs="+", default=[], help="by cuda_linears.py, on a card")
    names = [name for name, _ in (*CARDS, *WITHOUT_DOT_PRODUCTS)]
    parser.add_argument(
        "--cards", nargs="*", default=names, choices=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--output", type=Path, help="of the run record; under results/modelled by default")
    parser.add_argument("--only", choices=_PARTS, nargs="+", default=[])
    given = parser.parse_args(arguments)
    is_partial = bool(given.only) or set(given.cards) != set(names) or given.llamacpp is None
    if is_partial and given.output is None:
        parser.error("a part of the record needs --output: the whole one would be replaced by it")
    return _run(given)


def _run(given: argparse.Namespace) -> int:
    rows: list[Row] = []
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    wanted = set(given.only or _PARTS)
    if "calibration" in wanted and given.llamacpp is not None:
        for row, text in _calibration(given.llamacpp):
            rows += [row] if row else []
            note(text)
    for path in given.measured:
        if not path.is_file():
            raise ConfigError(f"--measured {path}", expected="a file that cuda_linears.py wrote")
        for row, text in _compared(path):
            rows += [row] if row else []
            note(text)
    for card_name, mhz in (*CARDS, *WITHOUT_DOT_PRODUCTS):
        if card_name not in given.cards:
            continue
        card = Card(find_gpu(card_name), mhz)
        note(f"{card.gpu.name} at {card.clock_mhz:g} MHz, modelled:")
        for name, results in _linears(card, has_dot_products=(card_name, mhz) in CARDS).items():
            for linear in results if name in wanted else ():
                rows.append(_row(card, name, linear))
                note(f"  {name}: {_text(linear)}")
        for attention in _attention(card) if "attention" in wanted else ():
            rows.append(_attention_row(card, attention))
            note(f"  attention: {_attention_text(attention)}")
    created = now()
    record = RunRecord(
        kind="bench", created=created, software=software("pascaline", "numpy"), rows=rows, notes=notes
    )
    path = given.output or RESULTS / "modelled" / f"{created[: len('2000-01-31')]}-{CASE}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(record, path)
    return 0


def _calibration(distribution: Path) -> Iterator[tuple[Row | None, str]]:
    """Each format's two speeds beside what was published, and the errors of those held out."""
    modelled = {form.name: model_llamacpp(distribution, form) for form in FORMATS}
    figures = [figure for figure in read_figures() if _is_of_that_version(figure)]
    for phase in ("prefill", "decode"):
        of_phase = {_format(figure): figure for figure in figures if figure.phase == phase}
        rest = _published_s(of_phase[FITTED]) - _products_s(modelled[FITTED], phase)
        errors = []
        for name, figure in sorted(of_phase.items()):
            products, published = _products_s(modelled[name], phase), _published_s(figure)
            error = (products + rest) / published - 1
            if name != FITTED:
                errors.append(abs(error))
            yield (
                Row(
                    module=f"llama.cpp {name} on Tesla P40",
                    op="matrix products",
                    phase=phase,
                    measured_s=published,
                    predicted_s=products + rest,
                ),
                f"llama.cpp {name} {phase}: matrix products {products * 1e3:.1f} ms modelled, "
                f"{products / published:.0%} of {published * 1e3:.1f} published; with the rest {error:+.1%}",
            )
        yield (
            None,
            f"{phase}: the rest is {rest * 1e3:.1f} ms (from {FITTED}); held out: median error "
            f"{statistics.median(errors):.1%}, worst {max(errors):.1%}",
        )


def _compared(path: Path) -> Iterator[tuple[Row | None, str]]:
    """What was measured beside the model, and its errors."""
    for (family, shape, rows), ways in itertools.groupby(
        compare_measured(path, FASTEST), key=lambda way: (way.family, way.shape, way.rows)
    ):
        errors = []
        for way in ways:
            errors.append(way.error)
            yield (
                Row(
                    module=f"{shape}, {rows} rows",
                    op=way.name,
                    measured_s=way.measured_s,
                    predicted_s=way.modelled_s,
                ),
                f"{family} {shape}, {rows} rows: {way.modelled_s * 1e6:.2f} µs modelled, "
                f"{way.measured_s * 1e6:.2f} measured, {way.error:+.1%}: {way.name}",
            )
        yield None, f"{family} {shape}, {rows} rows: median error {statistics.median(map(abs, errors)):.1%}"


def _is_of_that_version(figure: Figure) -> bool:
    return (
        figure.card.name == "Tesla P40"
        and figure.engine == "llama.cpp, 2024-01"
        and figure.model.name == "Llama-2-7B"
        and _format(figure) in {form.name for form in FORMATS}
    )


def _format(figure: Figure) -> str:
    return figure.format.name.removesuffix("_S")


def _published_s(figure: Figure) -> float:
    """Of the whole prompt, or of one token."""
    return (PROMPT_TOKENS if figure.phase == "prefill" else 1) / figure.tokens_per_s


def _products_s(times: LlamaTimes, phase: str) -> float:
    return times.prefill_s if phase == "prefill" else times.decode_s


def _linears(card: Card, *, has_dot_products: bool) -> dict[str, Iterator[ModelledLinear]]:
    """By the kernel."""
    if not has_dot_products:
        return {"decode": _few(model_decode, ((1, 0),), card), "rows": _few(model_rows, ROWS_IN_FP32, card)}
    return {
        "decode": _few(model_decode, DECODE, card),
        "rows": _few(model_rows, ROWS, card),
        "tile": _tiles(card),
    }


def _few(
    model: Callable[[LinearCall, InputForm, Card], ModelledLinear],
    cases: Sequence[tuple[int, int]],
    card: Card,
) -> Iterator[ModelledLinear]:
    for (columns, outputs), (rows, planes) in itertools.product(SHAPES, cases):
        inputs = InputForm(planes, 32, is_quantised=planes > 0)
        yield model(LinearCall(rows, outputs, columns), inputs, card)


def _tiles(card: Card) -> Iterator[ModelledLinear]:
    for (columns, outputs), (rows, planes, group) in itertools.product(SHAPES, TILES):
        inputs = InputForm(planes, group, is_quantised=True)
        yield model_tile(LinearCall(rows, outputs, columns), inputs, card)


def _attention(card: Card) -> Iterator[ModelledAttention]:
    """A layer's, of one sequence."""
    for dtype in (torch.float16, torch.int8):
        yield model_attention_decode(CONTEXT, dtype, card)
    yield model_attention_prefill(PROMPT, PROMPT, torch.float16, card)


def _attention_row(card: Card, attention: ModelledAttention) -> Row:
    bound_s = max(attention.read_s, attention.peak_s)
    return Row(
        module=f"{card.gpu.name}: {attention.tokens} tokens, context of {attention.context}",
        op=f"attention over {_name(attention.cache_dtype)}",
        phase="decode" if attention.tokens == 1 else "prefill",
        predicted_s=attention.modelled.time_s,
        bound_s=bound_s,
        bound_by="memory" if bound_s == attention.read_s else "compute",
    )


def _attention_text(attention: ModelledAttention) -> str:
    time_s = attention.modelled.time_s
    return (
        f"{attention.tokens} tokens, context of {attention.context}, {_name(attention.cache_dtype)}: "
        f"{time_s * 1e6:.1f} µs, {attention.read_s / time_s:.3f} of a plain read, "
        f"{attention.peak_s / time_s:.3f} of the fp32 peak, {_bound(attention.modelled)}; "
        f"{attention.registers} registers, {attention.local_bytes} bytes local, {attention.blocks} blocks"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _row(card: Card, name: str, linear: ModelledLinear) -> Row:
    bound_s = max(linear.read_s, linear.peak_s)
    bound_by: BoundBy = "memory" if bound_s == linear.read_s else "compute"
    return Row(
        module=f"{card.gpu.name}: {linear.call.columns}x{linear.call.outputs}, {linear.call.rows} rows",
        op=f"linear_{name}, {linear.inputs.planes} planes, scales of {linear.inputs.scale_group}",
        phase="prefill" if name == "tile" else "decode",
        predicted_s=linear.modelled.time_s,
        bound_s=bound_s,
        bound_by=bound_by,
    )


def _text(linear: ModelledLinear) -> str:
    time_s = linear.modelled.time_s
    unit = "dp4a" if linear.inputs.planes else "fp32"
    return (
        f"{linear.call.columns}×{linear.call.outputs}, {linear.call.rows} rows, {linear.inputs.planes} "
        f"planes, scales of {linear.inputs.scale_group}: {time_s * 1e6:.1f} µs, "
        f"{linear.read_s / time_s:.3f} of a plain read, "
        f"{linear.peak_s / time_s:.3f} of the {unit} peak, {_bound(linear.modelled)}; "
        f"{linear.registers} registers, {linear.local_bytes} bytes local, {linear.blocks} blocks"
    )


def _bound(modelled: Modelled) -> str:
    busiest = sorted(modelled.busy.items(), key=lambda item: -item[1])[:3]
    return (
        f"bound by {modelled.bound_by}; busy: {', '.join(f'{name} {share:.2f}' for name, share in busiest)}"
    )


if __name__ == "__main__":
    run(main)
