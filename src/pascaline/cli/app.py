"""The command line's entry point, and its verbs."""

from __future__ import annotations

import sys
from typing import NoReturn

try:
    from pascaline.cli.interrupts import uninterrupted

    with uninterrupted():
        import typer

        from pascaline.cli import bench, chat, compare, diagnose, doctor, generate, gpus, plan, serve
        from pascaline.cli.ending import run
except KeyboardInterrupt:  # `main`, which sees to it otherwise, is not there yet, nor is `INTERRUPTED`
    sys.exit(130)

app = typer.Typer(
    name="pascaline",
    help="LLM inference that measures the GPU you have, and says where every millisecond goes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("serve")(serve.serve)
app.command("plan")(plan.plan)
app.command("gpus")(gpus.gpus)
app.command("doctor")(doctor.doctor)
app.command("diagnose")(diagnose.diagnose)
app.command("compare")(compare.compare)
app.add_typer(bench.app, name="bench")


def main() -> NoReturn:
    """Run the command line."""
    run(app, "pascaline")


if __name__ == "__main__":
    main()
