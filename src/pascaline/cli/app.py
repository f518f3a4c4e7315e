"""The command line's entry point: verbs, and errors turned into exit codes.

Exit codes: 0 done; 1 a check failed, or something broke (the reader of our output left, too: Typer sees
to that); 2 a user's mistake, told in one message; 130 interrupted.
"""

from __future__ import annotations

import sys

import typer

from pascaline.cli import chat, generate, serve
from pascaline.core.errors import EngineError, PascalineError

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


def main() -> None:
    """Run the command line."""
    try:
        app()
    except PascalineError as error:
        sys.stderr.write(f"pascaline: {error}\n")
        sys.exit(1 if isinstance(error, EngineError) else 2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
