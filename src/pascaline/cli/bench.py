"""pascaline bench: measurements of this machine, one file each."""

from __future__ import annotations

import typer

from pascaline.cli import bench_gemm

app = typer.Typer(help="Measure this machine.", no_args_is_help=True)
app.command("gemm")(bench_gemm.gemm)


@app.callback()
def bench() -> None:
    """Measure this machine."""
