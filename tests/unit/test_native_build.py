"""Building the native kernels: with what there is, again only when sources changed, and never as a must."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pascaline.hardware import instruction_sets
from pascaline.hardware.instruction_sets import runnable
from pascaline.kernels.cpu import native

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import build_native  # noqa: E402 - found by the path above
import setup_venv  # noqa: E402 - found by the path above

AVX2 = next(each for each in build_native.INSTRUCTION_SETS if each.name == "avx2")
MACHINE = platform.machine()
# Writes what it is asked for; a library gets its build ID, and a line is added to `calls`.
COMPILES = """
import sys
out = sys.argv[sys.argv.index("-o") + 1]
ids = [bytes.fromhex(each.split("0x")[1]) for each in sys.argv if "--build-id=" in each]
open(out, "wb").write(b"built " + b"".join(ids))
open("calls", "a").write("linked\\n" if ids else "compiled\\n")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sources that are quick to compile, for one instruction set of this machine."""
    (tmp_path / "library.cpp").write_text(
        'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }\n'
    )
    monkeypatch.setattr(build_native, "FOLDER", tmp_path)
    monkeypatch.setattr(build_native, "INSTRUCTION_SETS", (replace(AVX2, machine=MACHINE, options=()),))
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path


@pytest.fixture
def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make a Python program the compiler."""

    def use(program: str) -> None:
        path = folder / "compiler"
        path.write_text(f"#!{sys.executable} -SI\n{program}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))

    return use


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("compiler", "calls", "started"))


def test_sources_are_built_once_and_again_when_they_change(
    folder: Path, use: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    use(COMPILES)
    library = folder / "kernels-avx2.so"
    assert build_native.main() == 0
    assert library.read_bytes().startswith(b"built ")
    assert "building the CPU kernels (avx2) with compiler, about 16 s" in capsys.readouterr().out

    os.utime(library, (0, 0))  # older than its sources, as a checkout leaves files
    assert build_native.main() == 0
    assert capsys.readouterr().out == ""

    (folder / "new.h").write_text("// other sources")
    os.utime(folder / "new.h", (0, 0))  # and sources may be older than the library, as archives leave them
    assert build_native.main() == 0
    assert (folder / "calls").read_text() == "compiled\nlinked\n" * 2
    assert files(folder) == ["kernels-avx2.so", "library.cpp", "new.h"]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            "import sys; sys.exit('note\\nlibrary.cpp:1: error: no such flag')",
            "library.cpp:1: error: no such flag",
        ),
        ("import sys; sys.exit(3)", "compiler failed"),
        ("import sys; sys.exit('as: No space left on device')", "as: No space left on device"),
        (
            f"import sys; sys.argv.count('-shared') and sys.exit('ld: error: out of disk')\n{COMPILES}",
            "out of disk",
        ),
        (None, "not found"),
    ],
)
def test_a_compiler_that_fails_is_one_line_and_leaves_nothing(
    folder: Path,
    use: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str | None,
    said: str,
) -> None:
    (folder / "kernels-avx2.so").write_text("of other sources")
    if program is None:
        monkeypatch.setenv("CXX", str(folder / "nothing"))
    else:
        use(program)
    assert build_native.main() == 0
    err = capsys.readouterr().err
    assert said in err
    assert "the CPU computes with plain torch" in err
    assert err.count("\n") == 1
    assert files(folder) == ["library.cpp"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_checkout_is_one_line(
    folder: Path, use: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    use(COMPILES)
    folder.chmod(0o555)
    assert build_native.main() == 0
    folder.chmod(0o755)
    assert "Permission denied" in capsys.readouterr().err


def test_a_folder_that_takes_no_files_is_one_line(
    folder: Path, use: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    use(COMPILES)
    (folder / "build").touch()  # root, too, finds no place here
    assert build_native.main() == 0
    err = capsys.readouterr().err
    assert "File exists" in err
    assert err.count("\n") == 1


def test_two_set_ups_at_once_build_once(folder: Path, use: Callable[[str], None]) -> None:
    use(f"import time; time.sleep(0.2)\n{COMPILES}")
    chosen = build_native.system_compiler()
    assert chosen is not None
    problems: list[str | None] = []
    both = [
        threading.Thread(target=lambda: problems.append(build_native.build(folder, MACHINE, chosen)))
        for _ in range(2)
    ]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert problems == [None, None]
    assert (folder / "calls").read_text() == "compiled\nlinked\n"
    assert files(folder) == ["kernels-avx2.so", "library.cpp"]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_takes_the_compiler_along(
    folder: Path, use: Callable[[str], None], sent: signal.Signals
) -> None:
    use("import os, time; open('started', 'w').write(str(os.getpid())); time.sleep(60)")
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.path.insert(0, {str(ROOT / 'scripts')!r}); import build_native as b, pathlib\n"
        f"b.FOLDER = pathlib.Path({str(folder)!r}); sys.exit(b.main())"
    )
    started = folder / "started"
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        while not (started.exists() and started.read_text()):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(sent)
        process.communicate(timeout=30)
    assert process.returncode != 0
    assert not Path("/proc", started.read_text(), "exe").exists()
    assert files(folder) == ["library.cpp"]


def test_without_a_compiler_setup_says_what_is_lost_and_what_helps(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(build_native.importlib.util, "find_spec", lambda name: None)
    assert build_native.main() == 0
    assert capsys.readouterr().err == (
        "setup: no C++ compiler: the CPU computes with plain torch, which generates several times slower; "
        f"this mends it: {sys.executable} -m pip install {build_native.ZIG}\n"
    )


def test_the_ziglang_package_stands_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "site" / "ziglang"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setenv("PATH", "")
    monkeypatch.syspath_prepend(str(folder / "site"))
    found = build_native.compiler("x86_64")
    assert found is not None
    assert found.compile[:4] == (sys.executable, "-m", "ziglang", "c++")
    assert found.link[-1] == "x86_64-linux-gnu.2.28"


def test_compilers_are_tried_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("clang++", "g++"):
        (folder / name).touch(0o755)
    monkeypatch.setenv("PATH", str(folder))
    found = build_native.system_compiler()
    assert found is not None
    assert found.compile == (str(folder / "g++"),)
    monkeypatch.setenv("CXX", "ccache g++-12")
    found = build_native.system_compiler()
    assert found is not None
    assert found.compile == ("ccache", "g++-12")
    monkeypatch.setenv("CXX", "'g++")
    found = build_native.system_compiler()
    assert found is not None
    assert found.compile == ("'g++",)


@pytest.mark.parametrize(
    ("has_compiler", "machine", "fetched"),
    [(True, "x86_64", False), (False, "x86_64", True), (False, "s390x", False)],
)
def test_set_up_fetches_a_compiler_only_where_it_is_of_use(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    has_compiler: bool,
    machine: str,
    fetched: bool,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "g++" if has_compiler else "")
    monkeypatch.setattr(setup_venv.platform, "machine", lambda: machine)
    asked: list[list[str]] = []

    def refuse(setup: setup_venv.Setup, arguments: list[str], stderr: int | None = None) -> bool:
        asked.append(arguments)
        return False

    monkeypatch.setattr(setup_venv.Setup, "_run_pip", refuse)
    setup_venv.Setup(tmp_path, None, None, "", "")._install_compiler()
    assert bool(asked) == fetched == ("nothing else needs it" in capsys.readouterr().out)
    assert all(arguments[-1].startswith("ziglang==") for arguments in asked)


def test_zig_is_asked_for_arm_in_its_own_words() -> None:
    """It refuses -march there."""
    wanted = [option for each in build_native.sets_for("aarch64") for option in each.options]
    own_words = build_native.zig("aarch64").own_words
    told = [own_words.get(option, option) for option in wanted]
    assert "-mcpu=generic+v8_2a+dotprod" in told
    assert not any(option.startswith("-march") for option in told)


@pytest.mark.skipif(build_native.compiler(MACHINE) is None, reason="no C++ compiler here")
def test_what_is_built_loads_without_torch_and_python(folder: Path) -> None:
    assert build_native.main() == 0
    assert not build_native.outdated(folder, MACHINE)  # the linker wrote the build ID
    code = f"import ctypes; print(ctypes.CDLL({str(folder / 'kernels-avx2.so')!r}).answer())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "42\n"


@pytest.mark.skipif(not runnable(), reason="no CPU kernels for this processor")
@pytest.mark.skipif(build_native.compiler(MACHINE) is None, reason="no C++ compiler here")
def test_where_there_is_a_compiler_the_library_is_built_and_loaded() -> None:
    """Otherwise the tests of native kernels skip themselves, and nobody sees it."""
    assert not build_native.outdated(build_native.FOLDER, MACHINE), "make setup builds them"
    library = native.library()
    assert not isinstance(library, str), library


def test_a_library_that_is_cut_off_is_not_loaded_but_built_anew(tmp_path: Path) -> None:
    machine = platform.machine()
    built = [each for each in build_native.sets_for(machine) if each.library.exists()]
    if not built:
        pytest.skip("no library is built here")
    content = built[0].library.read_bytes()
    whole = tmp_path / built[0].library.name
    whole.write_bytes(content)
    assert instruction_sets.fault_of(whole, tmp_path, built[0]) is None
    for share in (0.00001, 0.1, 0.9, 0.999):
        whole.write_bytes(content[: int(len(content) * share)])
        assert instruction_sets.fault_of(whole, tmp_path, built[0]) == f"{whole.name} is cut off"
        assert built[0] in build_native.outdated(tmp_path, machine)
