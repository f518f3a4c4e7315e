"""The command line's entry point: verbs, and errors turned into exit codes.

Exit codes: 0 done; 1 a check failed, or something broke (the reader of our output left, too: Typer sees
to that); 2 a user's mistake, told in one message; 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
from io import TextIOWrapper

from pascaline.cli.interrupts import uninterrupted
from pascaline.core.errors import EngineError, PascalineError

try:
    with uninterrupted():
        import typer

        from pascaline.cli import bench, chat, compare, diagnose, doctor, generate, gpus, plan, serve
except KeyboardInterrupt:  # `main`, which sees to it otherwise, is not there yet
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


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 lacks "±" and bars
    try:
        app()
    except PascalineError as error:
        sys.stderr.write(f"pascaline: {error}\n")
        sys.exit(1 if isinstance(error, EngineError) else 2)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.stderr.write(f"pascaline: cannot write the output: {error.strerror}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        _flush()


def _flush() -> None:
    """What is left for a reader that has gone would be complained of when Python ends."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
