"""pascaline plan: will it fit, and how fast."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pascaline.cli.options import JsonOption, KeyValueType, ModelArgument
from pascaline.cli.output import print_json


def plan(
    model: ModelArgument,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME|cpu", help="card, yours or not; by default the installed one")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(metavar="N", help="tokens of each sequence; by default the model's, or what fits"),
    ] = None,
    concurrency: Annotated[int, typer.Option(metavar="N", help="sequences at once")] = 1,
    kv_dtype: Annotated[KeyValueType, typer.Option(help="what if keys and values were")] = KeyValueType.auto,
    weight_format: Annotated[
        str | None,
        typer.Option("--format", metavar="TYPE", help="what if the linears were in Q4_K, Q8_0, F16, …"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether MODEL fits, how fast it will be, and why. Weights are not downloaded."""
    from pascaline.checkpoint.remote import open_described
    from pascaline.cli.progress_bars import ProgressBars
    from pascaline.plan.planning import Question, make_plan

    question = Question(
        gpu=gpu,
        context=context,
        concurrency=concurrency,
        key_value_dtype=kv_dtype.value,
        weight_format=weight_format,
    )
    with ProgressBars() as report:
        checkpoint = open_described(model, report)
    try:
        made = make_plan(checkpoint, question, _tell)
    finally:
        checkpoint.close()
    if as_json:
        from pascaline.plan.description import describe

        print_json(describe(model, made))
    else:
        from pascaline.cli.plan_screen import show

        show(model, made)
    if not made.fits:
        raise typer.Exit(1)


def _tell(said: str) -> None:
    sys.stderr.write(f"{said}\n")
