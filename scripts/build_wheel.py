"""Build the wheel that others install: the CPU kernels of one machine, for every Linux that torch runs on.

    python scripts/build_wheel.py [--machine x86_64] [--output dist]

The kernels are built by the ziglang package against an old C library, for any machine on any machine, in a
copy of the sources: the libraries of the checkout stay as they are.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import build_native

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("pyproject.toml", "README.md", "src", "scripts")


def copy_sources(stage: Path) -> None:
    """Copy all that a wheel is made from, without what was built from it."""
    for name in PARTS:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("*.so", "build", "__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, stage / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, stage / name)


def main() -> int:
    """Build it; 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--machine", choices=build_native.machines(), default=platform.machine())
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    arguments = parser.parse_args()
    for module, package in (("ziglang", build_native.ZIG), ("hatchling", "hatchling")):
        if not importlib.util.find_spec(module):
            print(f"wheel: {module} is needed: {sys.executable} -m pip install {package}", file=sys.stderr)
            return 1
    with tempfile.TemporaryDirectory() as temporary:
        stage = Path(temporary)
        copy_sources(stage)
        folder = stage / build_native.FOLDER.relative_to(ROOT)
        problem = build_native.build(folder, arguments.machine, build_native.zig(arguments.machine))
        if problem:
            print(f"wheel: {problem}", file=sys.stderr)
            return 1
        return subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", arguments.output.resolve()],
            cwd=stage,
            env={**os.environ, "_PYTHON_HOST_PLATFORM": f"linux-{arguments.machine}"},
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
