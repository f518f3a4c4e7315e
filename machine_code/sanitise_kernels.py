"""Our kernels on the card under compute-sanitizer: stray and racing accesses, and what was never written.

    python machine_code/sanitise_kernels.py [--tool FOLDER] [--output FILE] [--seconds 120]

compute-sanitizer is looked for on the PATH, in the toolkit and in FOLDER; the first that works is taken.
Every way to multiply runs at small sizes, none of which fills a tile: weights of several forms, 1 to 64 rows.
Each tensor is an allocation of its own, so that an access beside one is an access outside of all; what our
kernels alone compute is held against fp64. Prints one line a tool, and some of what it found; exit code 1:
there is something, or a tool did not come to an end; 2: there is no tool.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from linears.way import relative_error

from pascaline.cli.ending import run
from pascaline.core.files import write_atomically
from pascaline.core.progress import ignore_progress
from pascaline.engine.device import settle_device
from pascaline.hardware.architectures import architectures
from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.linear_product import product_of
from pascaline.kernels.cuda.linear_ways import LINEAR_WAYS
from pascaline.kernels.cuda.recipe import BoundRecipe, Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.packed_cases import PACKED_FORMS, random_packed
from pascaline.weights import Dense
from pascaline.weights.slab_layout import to_slabs
from pascaline.weights.slabbed import Slabbed

_OUTPUTS = 44  # five tiles and a half
_COLUMNS = {
    32: 352,
    64: 448,
    128: 384,
    256: 768,
}  # by the inputs that share numbers; no whole slabs if it can be
_FORMS = ("Q4_0", "Q5_0", "Q8_0", "Q3_K", "Q4_K", "Q6_K", "IQ4_XS", "MXFP4", "GPTQ 4 bits")
_FEW_FORMS = ("Q4_K", "MXFP4", "GPTQ 4 bits")
_DENSE_COLUMNS = (352, 333)
_ROWS = (1, 3, 17, 64)
_MOST_ERROR = 3e-2
_PARTS = 8
"""Processes that compile."""

_OPTIONS: dict[str, tuple[str, ...]] = {
    "memcheck": ("--report-api-errors", "no", "--destroy-on-device-error", "kernel"),
    "racecheck": (),
    "initcheck": (),
    "synccheck": (),
}
_OURS = r"regex=^(linear_|dequantise|quantise_input|scale_rows|round_rows|add_products)"
"""Kernels' names. With initcheck torch's own are watched, too, which zero memory for ours."""
_SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)")
_FOUND = re.compile(
    r"^=+ +(Invalid|Error|Warning|Uninitialized|Barrier|Program hit|Race|.*hazard|at ).*", re.M
)
_TOOLKIT = Path("/usr/local/cuda/bin")
_NAME = "compute-sanitizer"


@dataclass(frozen=True)
class _Launch:
    """One way, as it is to be launched.

    Parameters
    ----------
    weight : what it multiplies by, on the CPU; `inputs` (M, K) are, too.
    """

    name: str
    recipe: Recipe
    weight: Slabbed | Dense
    inputs: torch.Tensor


def main() -> int:
    """Compile, then run each tool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tool", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--child", choices=("compile", *_OPTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--part", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child == "compile":
        return _compile(given.part)
    if given.child:
        return _work(given.child)
    tools = [path for folder in _folders(given.tool) if (path := shutil.which(_NAME, path=str(folder)))]
    if not tools:
        folders = " or in ".join(map(str, [_TOOLKIT, *([given.tool] if given.tool else [])]))
        print(f"no {_NAME} on the PATH or in {folders}", file=sys.stderr)
        return 2
    settle_device("cuda")  # or children would all fail
    until = time.monotonic() + given.seconds
    with ExitStack() as children:  # NVRTC compiles much of a kernel in one thread of a process at a time
        for child in [children.enter_context(_Child("compile", (), part)) for part in range(_PARTS)]:
            result = child.result(until)
            print(f"{result['said']}; {result['seconds']:.0f} s", flush=True)
    results: dict[str, Any] = {"tools": tools}
    for tool in _OPTIONS:
        while True:
            results[tool] = _sanitise(tools[0], tool, until)
            if results[tool]["errors"] is not None or len(tools) == 1:
                break
            print(f"{tools[0]} does not work: {results[tool]['log'][-500:]}", flush=True)
            tools = tools[1:]
        _print(tool, results[tool])
        if given.output:
            write_atomically(given.output, (json.dumps(results, indent=1) + "\n").encode())
    return 1 if any(results[tool]["errors"] != 0 or results[tool]["code"] for tool in _OPTIONS) else 0


def _folders(given: Path | None) -> Iterator[str | Path]:
    yield os.environ.get("PATH", "")
    yield _TOOLKIT
    if given is not None:
        yield given


def _print(tool: str, result: dict[str, Any]) -> None:
    errors = "no end" if result["errors"] is None else f"{result['errors']} errors"
    print(f"{tool}: {result['said'] or 'nothing was launched'}; {errors}; {result['seconds']:.0f} s")
    for line in result["found"][:20]:
        print(f"    {line}")
    if result["errors"] is None:
        print(result["log"][-1500:])
    sys.stdout.flush()


def _sanitise(program: str, tool: str, until: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        kernels = () if tool == "initcheck" else ("--kernel-name", _OURS)
        command = (program, "--tool", tool, *_OPTIONS[tool], *kernels, "--print-limit", "200")
        with _Child(tool, (*command, "--log-file", str(log))) as child:
            result = child.result(until)
        text = log.read_text(errors="replace") if log.is_file() else result["said"]
    summary = _SUMMARY.search(text)
    return result | {
        "errors": int(summary[1]) if summary else None,
        "found": [line[0].strip("= ") for line in _FOUND.finditer(text)],
        "log": text[-20_000:],
    }


class _Child:
    """This file, run for `what` by the program that `prefix` starts; ended with the block."""

    def __init__(self, what: str, prefix: tuple[str, ...], part: int = 0) -> None:
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [*prefix, sys.executable, __file__, "--child", what, "--part", str(part)],
            env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._process.wait()

    def result(self, until: float) -> dict[str, Any]:
        """The last line that it says, its exit code and seconds; `until` then it may take."""
        try:
            said, _ = self._process.communicate(timeout=max(until - time.monotonic(), 1.0))
        except subprocess.TimeoutExpired:
            self._kill()
            said, _ = self._process.communicate()
        lines = said.strip().splitlines() or [""]
        for line in lines[:-1]:
            print(f"    {line}", flush=True)
        seconds = time.monotonic() - self._began
        return {"said": lines[-1], "code": self._process.returncode, "seconds": seconds}

    def _kill(self) -> None:
        """With what the tool has started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)


def _compile(part: int) -> int:
    """One of `_PARTS` of all kernels, kept on disk for those that launch them."""
    kernels = KernelSet(torch.device("cuda", torch.cuda.current_device()))
    wanted = list(
        dict.fromkeys(
            plan.specialisation
            for each in _launches(kernels.limits, is_whole=True)
            for plan in each.recipe.plans
        )
    )[part::_PARTS]
    kernels.build(wanted, ignore_progress)
    print(f"{len(wanted)} kernels are compiled")
    return 0


def _work(tool: str) -> int:
    """Launch one after the other: what a tool watches."""
    device = torch.device("cuda", torch.cuda.current_device())
    kernels = KernelSet(device)
    launches = list(_launches(kernels.limits, is_whole=tool == "memcheck"))
    plans = [plan for each in launches for plan in each.recipe.plans]
    wrong = 0
    for each in launches:
        try:
            reason = _run(kernels, each, device)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        if reason:
            wrong += 1
            print(f"FAILED {each.name}: {reason}", flush=True)
    kinds = len({plan.specialisation for plan in plans})
    print(f"{len(plans)} launches of {kinds} kernels, {wrong} products wrong")
    return 1 if wrong else 0


def _launches(chip: ChipLimits, *, is_whole: bool) -> Iterator[_Launch]:
    generator = torch.Generator().manual_seed(1)
    for index, name in enumerate(_FORMS if is_whole else _FEW_FORMS):
        form = PACKED_FORMS[name]
        columns = _COLUMNS[form.super_size or form.group_size]
        weight = to_slabs(random_packed(form, _OUTPUTS, columns, generator))
        for rows in _ROWS:
            dtype = torch.float16 if (index + rows // 3) % 2 else torch.float32
            yield from _ways(name, weight, rows, dtype, chip)
    for columns in _DENSE_COLUMNS:
        for kind in (torch.float16, torch.bfloat16, torch.float32):
            dense = Dense(torch.randn(_OUTPUTS, columns, generator=generator).to(kind))
            for rows in _ROWS:
                yield from _ways(str(kind), dense, rows, torch.float32, chip)


def _ways(
    name: str, weight: Slabbed | Dense, rows: int, dtype: torch.dtype, chip: ChipLimits
) -> Iterator[_Launch]:
    product = product_of(weight, rows, chip, input_dtype=dtype, output_dtype=dtype, bias_dtype=torch.float32)
    units = architectures()["{}.{}".format(*chip.compute_capability)].operations_per_clock_per_sm
    inputs = torch.randn(rows, weight.shape[1], generator=torch.Generator().manual_seed(rows)).to(dtype)
    for way in LINEAR_WAYS:
        if units.get(way.unit) and way.needs(chip) is None and way.refusal(product) is None:
            what = f"{way.name} of {name}, {rows} × {weight.shape[1]} {dtype}"
            yield _Launch(what, way.recipe(product, None), weight, inputs)


def _run(kernels: KernelSet, launch: _Launch, device: torch.device) -> str | None:
    """Launch what is ours of it; the reason why the result is wrong."""
    recipe, weight = launch.recipe, launch.weight
    ours = Recipe(recipe.plans, recipe.handed_on)
    outputs, columns = weight.shape
    bias = torch.linspace(-1, 1, outputs)
    poison = torch.full((len(launch.inputs), outputs), float("nan"), dtype=launch.inputs.dtype)
    operands = {"weight": weight.tensor} if isinstance(weight, Dense) else weight.buffers
    # Copies from the CPU's memory: initcheck is to see that they are written.
    given = {name: each.to(device) for name, each in {**operands, "bias": bias}.items()}
    x, y = launch.inputs.to(device), poison.to(device)
    handed_on = {
        name: torch.empty(shape, dtype=dtype, device=device)
        for name, (shape, dtype) in recipe.handed_on.items()
    }
    bound = BoundRecipe(kernels, ours, {**given, **handed_on, "x": x, "y": y}, ())
    bound(torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    if len(recipe.plans) < len(recipe.steps):
        return None  # the rest of it is a library's
    values = torch.empty(outputs, columns, dtype=torch.float64)
    weight.dequantise(0, outputs, values)
    error = relative_error(y.cpu(), launch.inputs.double() @ values.t() + bias.double())
    return None if error <= _MOST_ERROR else f"{error:.2g} off"


if __name__ == "__main__":
    run(main)
