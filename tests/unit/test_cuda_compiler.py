"""CUDA kernels' machine code: compiled by the real NVRTC, kept on real disks, by processes that die."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from itertools import takewhile
from pathlib import Path
from typing import cast

import pytest
from cubin_processes import ENTRY_BYTES, Other, Said, build, churn, entry

from pascaline.core.errors import CompileError, UnsupportedError
from pascaline.core.progress import Progress, ignore_progress
from pascaline.hardware import nvrtc as nvrtc_module
from pascaline.hardware.nvrtc import find_nvrtc, nvrtc_libraries
from pascaline.hardware.torch_builds import Card
from pascaline.kernels.cuda.compiler import FOLDER, Compiler, source_of
from pascaline.kernels.cuda.compiler_choice import Surroundings, choose_compiler
from pascaline.kernels.cuda.cubin_cache import CubinCache
from pascaline.kernels.cuda.cubins import Cubins
from pascaline.kernels.cuda.specialisation import Specialisation

pytestmark = pytest.mark.skipif(not nvrtc_libraries(), reason="no NVRTC is installed here")

ARCHITECTURE = "sm_75"
"""That every NVRTC makes code for."""
KERNEL = """
#include "scale.cuh"
#if defined(NOWHERE)
#include "stand_in.h"
#endif
extern "C" __global__ void scale(float* x) { x[threadIdx.x] = scaled(x[threadIdx.x]); }
extern "C" __global__ void negate(float* x) { x[threadIdx.x] = -x[threadIdx.x]; }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sources: a kernel, a header, and a header of that."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "scale.cu").write_text(KERNEL)
    (folder / "scale.cuh").write_text(
        '#pragma once\n#include "offset.cuh"\ninline float scaled(float x) { return FACTOR * x + OFFSET; }\n'
    )
    (folder / "offset.cuh").write_text('#pragma once\n#include "scale.cuh"\n#define OFFSET 1.0f\n')
    return folder


def scale(factor: int, entry: str = "scale") -> Specialisation:
    return Specialisation("scale.cu", entry, (("FACTOR", factor),))


def compiler(folder: Path, architecture: str = ARCHITECTURE) -> Compiler:
    source_of.cache_clear()
    return Compiler(find_nvrtc(architecture), architecture, folder)


def cubins(folder: Path, cache: Path | None = None) -> Cubins:
    return Cubins(compiler(folder), CubinCache(cache or folder.parent / "cache"))


def test_a_key_is_that_of_everything_the_machine_code_depends_on(folder: Path) -> None:
    first = compiler(folder).key(scale(2))
    assert compiler(folder).key(scale(2)) == first
    assert compiler(folder).key(scale(2, "negate")) == first
    seen = {first, compiler(folder).key(scale(3)), compiler(folder, "sm_86").key(scale(2))}
    for path in nvrtc_libraries():
        seen.add(Compiler(nvrtc_module.Nvrtc(path), ARCHITECTURE, folder).key(scale(2)))
    for name in ("scale.cu", "scale.cuh", "offset.cuh"):
        file = folder / name
        before = file.read_text()
        file.write_text(before + "\n")
        seen.add(compiler(folder).key(scale(2)))
        file.write_text(before)
    (folder / "other.cu").write_text(KERNEL)
    seen.add(compiler(folder).key(Specialisation("other.cu", "scale", (("FACTOR", 2),))))
    # One NVRTC is the first key's own.
    assert len(seen) == 7 + len(nvrtc_libraries()) - 1
    assert compiler(folder).key(scale(2)) == first


@pytest.mark.skipif(
    not any("sm_61" in nvrtc_module.Nvrtc(path).architectures for path in nvrtc_libraries()),
    reason="no NVRTC of CUDA 12 is installed here",
)
def test_a_virtual_architecture_gives_ptx_that_newer_chips_compile(folder: Path) -> None:
    made = Compiler(find_nvrtc("sm_61"), "compute_61", folder).compile(scale(2))
    assert made.startswith(b"//")
    assert b".target sm_61" in made
    assert b".visible .entry scale(" in made
    assert made.endswith(b"\0")


def test_definitions_do_not_run_into_each_other(folder: Path) -> None:
    made = compiler(folder)
    keys = {
        made.key(Specialisation("scale.cu", "scale", definitions))
        for definitions in ((("A", 1), ("B", 2)), (("A", 12),), (("A", 1), ("B2", 2)), (("A", 1),))
    }
    assert len(keys) == 4


def test_sources_and_definitions_reach_the_compiler(folder: Path) -> None:
    code = compiler(folder).compile(scale(2))
    assert code[:4] == b"\x7fELF"
    assert code != compiler(folder).compile(scale(3))
    (folder / "offset.cuh").write_text("#define OFFSET 2.0f\n")
    assert code != compiler(folder).compile(scale(2))
    (folder / "offset.cuh").unlink()
    with pytest.raises(CompileError, match=r"offset\.cuh.*-DFACTOR=2.*report it") as caught:
        compiler(folder).compile(scale(2))
    assert "offset.cuh" in caught.value.log
    with pytest.raises(CompileError, match=r"missing\.cu cannot be read: No such file"):
        compiler(folder).compile(Specialisation("missing.cu", "scale", ()))


def test_a_kernel_is_compiled_once_and_then_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Progress] = []
    wanted = [scale(1), scale(2), scale(3), scale(3, "negate")]
    first = cubins(folder)
    first.build(wanted, reports.append)
    assert {report.stage for report in reports} == {"compiling CUDA kernels"}
    assert (reports[-1].done, reports[-1].total, reports[-1].unit) == (3, 3, "kernels")
    assert reports[-1].finished
    assert not reports[-1].failed
    assert reports[0].expected_s is not None
    codes = [first.cubin(each) for each in wanted]
    assert len(set(codes)) == 3
    assert codes[2] == compiler(folder).compile(scale(3))

    monkeypatch.setattr(Compiler, "compile", None)
    again = cubins(folder)
    again.build(wanted, lambda report: pytest.fail("nothing is left to compile"))
    assert [again.cubin(each) for each in wanted] == codes
    assert [cubins(folder).cubin(each) for each in wanted] == codes
    assert again.notes == []


def test_a_mistake_ends_the_build_and_keeps_what_was_compiled(folder: Path) -> None:
    (folder / "wrong.cu").write_text("#error on purpose\n")
    wrong = Specialisation("wrong.cu", "wrong", ())
    reports: list[Progress] = []
    with pytest.raises(CompileError, match="on purpose"):
        cubins(folder).build([scale(1), wrong, *(scale(factor) for factor in range(2, 9))], reports.append)
    assert reports[-1].failed
    kept = len(list((folder.parent / "cache").iterdir()))
    assert 0 < kept < 9
    cubins(folder).build([scale(factor) for factor in range(1, 9)], ignore_progress)
    assert len(list((folder.parent / "cache").iterdir())) == 8


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:40],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
        lambda content: bytes(len(content)),
        lambda content: content[50:],
    ],
    ids=["empty", "header", "cut off", "longer", "a bit", "zeros", "no header"],
)
def test_what_was_damaged_is_compiled_again(folder: Path, damage: object) -> None:
    code = cubins(folder).cubin(scale(1))
    (entry,) = (folder.parent / "cache").iterdir()
    content = entry.read_bytes()
    entry.write_bytes(damage(content))  # type: ignore[operator]
    assert CubinCache(entry.parent).get(entry.stem) is None
    assert cubins(folder).cubin(scale(1)) == code
    assert entry.read_bytes() == content


def test_an_entry_under_another_name_is_none(folder: Path) -> None:
    cubins(folder).build([scale(1), scale(2)], ignore_progress)
    one, two = (folder.parent / "cache").iterdir()
    shutil.copy(one, two)
    assert CubinCache(one.parent).get(one.stem) is not None
    assert CubinCache(one.parent).get(two.stem) is None


def test_what_was_not_used_the_longest_goes_first(tmp_path: Path) -> None:
    cache = CubinCache(tmp_path, most_bytes=10_500)
    for index in range(10):
        cache.put(f"key{index}", bytes(1000 - 50))  # 1000 with what stands before
        os.utime(tmp_path / f"key{index}.cubin", (index * 1e5, index * 1e5))
    (tmp_path / ".key3.cubin.abandoned").write_bytes(bytes(1000))
    os.utime(tmp_path / ".key3.cubin.abandoned", (0, 0))
    (tmp_path / ".key4.cubin.written").write_bytes(bytes(1000))
    (tmp_path / "someone else's").write_bytes(bytes(10**5))
    os.utime(tmp_path / "someone else's", (0, 0))
    cache.prune()
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"key{index}.cubin" for index in range(10)),
        ".key4.cubin.written",
        "someone else's",
    }
    assert cache.get("key0") is not None  # the oldest, but used now
    cache.put("key10", bytes(1000 - 50))
    cache.prune()
    kept = {path.stem for path in tmp_path.glob("*.cubin")}
    assert kept == {"key0", "key10", *(f"key{index}" for index in range(5, 10))}
    CubinCache(tmp_path / "nowhere").prune()


def built(folder: Path, cache: Path, before: str = "", processes: int = 1) -> list[Said]:
    """What so many processes say that build at once."""
    others = [Other(build, ARCHITECTURE, folder, cache, before) for _ in range(processes)]
    said = [cast(Said, other.said()) for other in others]
    for other in others:
        other.end()
    return said


def test_processes_that_start_at_once_get_the_same(folder: Path) -> None:
    cache = folder.parent / "cache"
    first, *others = built(folder, cache, processes=4)
    assert len(set(first[0])) == 6
    assert first[1] == []
    assert others == [first] * 3
    assert len(list(cache.iterdir())) == 6


def test_processes_write_read_and_remove_the_same_entries(tmp_path: Path) -> None:
    most_bytes = 3 * ENTRY_BYTES + 1000
    others = [Other(churn, tmp_path, most_bytes, 10) for _ in range(4)]
    for other in others:
        assert [other.said(), other.said()] == ["begins", None]
        other.end()
    CubinCache(tmp_path, most_bytes).prune()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= most_bytes


def test_a_process_killed_at_any_moment_leaves_nothing_half_there(tmp_path: Path) -> None:
    moments = random.Random(3)
    for _ in range(8):
        other = Other(churn, tmp_path, 10**9, 10**6)
        assert other.said() == "begins"
        time.sleep(moments.uniform(0.0, 0.1))
        other.process.kill()
        other.end()
        for path in tmp_path.glob("[!.]*"):
            assert CubinCache(tmp_path).get(path.stem) == entry(int(path.stem[3:]))
    assert list(tmp_path.glob("*.cubin"))
    for path in tmp_path.glob(".*"):
        os.utime(path, (0, 0))
    CubinCache(tmp_path).prune()
    assert not list(tmp_path.glob(".*"))


def test_what_cannot_be_kept_is_compiled_every_time_and_said_once(folder: Path, tmp_path: Path) -> None:
    """A folder without rights, a disk that takes a part of each file, and a file where a folder should be."""
    ((codes, _),) = built(folder, tmp_path / "whole")
    # pytest's own folders are for their owner alone.
    above = takewhile(lambda parent: parent != Path(tempfile.gettempdir()), folder.parents)
    for parent in (folder, *above):
        parent.chmod(0o755)
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    a_file = tmp_path / "a file"
    a_file.write_bytes(b"")
    for cache, before, expected in (
        (locked, "without rights", "Permission denied"),
        (tmp_path / "limited", "with small files", "File too large"),
        (a_file / "cubins", "", "Not a directory"),
    ):
        ((others, notes),) = built(folder, cache, before)
        assert others == codes
        assert len(notes) == 1
        assert notes[0].startswith("kernels are compiled anew at every start: cannot ")
        assert expected in notes[0]
        assert not cache.is_dir() or not list(cache.iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_a_full_and_a_read_only_disk(folder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", disk], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this root may not mount")
    try:
        cache = disk / "cubins"
        made = cubins(folder, cache)
        made.build([scale(factor) for factor in range(1, 9)], ignore_progress)
        assert "No space left on device" in made.notes[0]
        kept = list(cache.iterdir())
        assert 0 < len(kept) < 8
        assert all(path.suffix == ".cubin" and CubinCache(cache).get(path.stem) for path in kept)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        again = cubins(folder, cache)
        again.build([scale(factor) for factor in range(1, 9)], ignore_progress)
        assert "Read-only file system" in again.notes[0]
        assert again.cubin(scale(8)) == made.cubin(scale(8))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_sources_of_the_package_need_nothing_of_cuda() -> None:
    for path in [*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh")]:
        assert "#include <" not in path.read_text(), path.name


TITAN_X = Card("NVIDIA TITAN X (Pascal)", (6, 1))


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (
            Surroundings(TITAN_X, "580.65.06", "2.11.0+cu130", ("sm_75", "sm_80", "sm_90")),
            r"kernels cannot be compiled for NVIDIA TITAN X \(Pascal\) \(compute capability 6\.1, driver "
            r"580\.65\.06, torch 2\.11\.0\+cu130\): no NVRTC for sm_61: none is installed \(expected an "
            r"NVRTC that makes code for sm_61\)\. This torch has no code for the card either: pip install "
            r"torch==2\.7\.1, which brings NVRTC with it; `pascaline doctor` checks the rest$",
        ),
        (
            Surroundings(TITAN_X, "535.1.2", "2.7.1+cu126", ("sm_50", "sm_60", "sm_70")),
            r"Install (\S+) beside this torch: pip install nvidia-cuda-nvrtc-cu12==12\.6\.77$",
        ),
        (
            Surroundings(Card("H200", (9, 0)), None, "2.11.0+cu130", ("sm_75", "sm_80", "sm_90")),
            r"driver of unknown version.*beside this torch: pip install nvidia-cuda-nvrtc$",
        ),
        (
            Surroundings(Card("RTX 5090", (12, 0)), "550.2.3", "2.7.1+cu126", ("sm_80", "sm_90")),
            r"no code for the card either: pip install torch==2\.10\.0,",
        ),
        (
            Surroundings(Card("Tesla K80", (3, 7)), "470.1.2", "2.7.1+cu126", ("sm_50", "sm_60")),
            r"Pascaline starts at compute capability 5\.0: use --device cpu$",
        ),
    ],
    ids=["Pascal with CUDA 13", "Pascal without", "Hopper without", "Blackwell with an old one", "Kepler"],
)
def test_one_error_says_card_driver_torch_and_remedy(
    here: Surroundings, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvrtc_module, "nvrtc_libraries", tuple)
    with pytest.raises(UnsupportedError, match=expected):
        choose_compiler(here)


def test_a_compiler_of_the_wrong_age_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = [path for path in nvrtc_libraries() if nvrtc_module.Nvrtc(path).version >= (13, 0)]
    if not newer:
        pytest.skip("no NVRTC 13 here")
    monkeypatch.setattr(nvrtc_module, "nvrtc_libraries", lambda: newer)
    with pytest.raises(UnsupportedError, match=r"for sm_61: NVRTC 13\.\d makes code for sm_75 to sm_\d+ \("):
        choose_compiler(Surroundings(TITAN_X, "580.65.06", "2.11.0+cu130", ("sm_75",)))


def test_a_compiler_that_does_not_know_a_newer_chip_yet_is_named() -> None:
    here = Surroundings(Card("a newer card", (19, 9)), "700.1.2", "2.11.0+cu130", ("sm_75", "compute_120"))
    with pytest.raises(UnsupportedError, match=r"NVRTC 1\d\.\d+ makes code for sm_\d+ to sm_\d+"):
        choose_compiler(here)
