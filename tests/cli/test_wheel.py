"""A wheel, installed where there is no checkout, computes natively; and is named after what it needs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from pascaline.core.elf import Needs
from pascaline.hardware.instruction_sets import runnable

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import build_native  # noqa: E402 - found by the path above
import build_wheel  # noqa: E402 - found by the path above
from hatch_build import platform_tag  # noqa: E402 - found by the path above

can_build = pytest.mark.skipif(
    build_native.system_compiler() is None or not build_native.sets_for(platform.machine()),
    reason="no C++ compiler here, or no CPU kernels for this processor",
)
GENERATE = """
import json
from pascaline import LLM, SamplingParams
from pascaline.kernels.cpu import native
steps = []
run = native.Library.run
native.Library.run = lambda *arguments: (steps.append(1), run(*arguments))[1]
result = LLM("demo").generate(["The capital of France is"], SamplingParams(max_tokens=3, temperature=0))[0]
print(json.dumps([result.completions[0].text, len(steps), native.__file__, native.loaded().name]))
"""


def build(source: Path, output: Path, **environment: str) -> Path:
    """Build a wheel as pip does, but with the build tools that are here."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(output)]
    done = subprocess.run(
        command, cwd=source, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = output.iterdir()
    return wheel


@can_build
@pytest.mark.skipif(not runnable(), reason="no CPU kernels for this processor")
def test_an_installed_wheel_computes_natively(tmp_path: Path, demo_path: Path) -> None:
    """In an environment that shares the dependencies, and does not see the checkout."""
    wheel = build(ROOT, tmp_path / "wheel")
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    packages = environment / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    install = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([sys.executable, *install, str(wheel)], check=True)
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib"))
    done = subprocess.run([python, "-I", "-c", GENERATE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text, steps, file, name = json.loads(done.stdout)
    assert text.startswith(" Paris")
    assert steps > 0
    assert Path(file).is_relative_to(packages)
    assert name == runnable()[0].name


@can_build
def test_a_wheel_carries_all_kernels_of_a_machine_and_is_named_after_it(tmp_path: Path) -> None:
    wheel = build(ROOT, tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "content")
    libraries = sorted((tmp_path / "content").rglob("*.so"))
    expected = sorted(each.library.name for each in build_native.sets_for(platform.machine()))
    assert [library.name for library in libraries] == expected
    for library in libraries:
        needs = Needs.of(library)
        assert needs.machine == platform.machine()
        assert all(name.startswith(("libc.", "libm.", "libpthread.")) for name in needs.libraries)
    assert wheel.name.endswith(f"-py3-none-{platform_tag(libraries)}.whl")


@pytest.mark.parametrize(
    "environment",
    [{"_PYTHON_HOST_PLATFORM": "linux-s390x"}, {"CXX": "/nowhere/c++"}],
    ids=["no kernels for the machine", "no compiler"],
)
def test_without_kernels_the_wheel_is_pure(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "source").mkdir()
    build_wheel.copy_sources(tmp_path / "source")
    wheel = build(tmp_path / "source", tmp_path / "wheel", **environment)
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".so", ".cpp", ".h"))]


def library(path: Path, code: str, *options: str) -> Path:
    """Compile a library of one line."""
    chosen = build_native.system_compiler()
    assert chosen is not None
    source = path.with_suffix(".cpp")
    source.write_text(code)
    subprocess.run([*chosen.compile, "-shared", "-fPIC", str(source), "-o", str(path), *options], check=True)
    return path


@can_build
def test_what_needs_more_than_the_c_library_is_for_this_system_alone(tmp_path: Path) -> None:
    plain = library(tmp_path / "plain.so", 'extern "C" int f() { return 1; }')
    more = library(
        tmp_path / "more.so", "#include <string>\nstd::string f() { return std::string(99, 'a'); }"
    )
    machine = platform.machine()
    assert platform_tag([plain]) == f"manylinux_2_28_{machine}"
    assert platform_tag([plain, more]) == f"linux_{machine}"


@can_build
def test_a_newer_c_library_is_named(tmp_path: Path) -> None:
    path = library(
        tmp_path / "newer.so",
        '#include <stdlib.h>\nextern "C" void* f() { return aligned_alloc(64, 64); }',
        "-nostdlib",
        "-lc",
    )
    assert Needs.of(path).versions == {"GLIBC_2.16" if platform.machine() == "x86_64" else "GLIBC_2.17"}
    content = path.read_bytes()
    # The same file, asking for a version of the future.
    path.write_bytes(
        content.replace(b"GLIBC_2.16\0", b"GLIBC_2.91\0").replace(b"GLIBC_2.17\0", b"GLIBC_2.91\0")
    )
    assert platform_tag([path]) == f"manylinux_2_91_{platform.machine()}"


@pytest.mark.parametrize("content", [b"", b"\x7fELF\x01\x01", b"\x7fELF\x02\x01" + bytes(12) + b"\x08\0"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="file"):
        Needs.of(tmp_path / "file")
