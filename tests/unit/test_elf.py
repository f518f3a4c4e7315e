"""Reading shared libraries, against binutils' readelf."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pascaline.core.elf import Needs, build_id, versions_defined


def make(folder: Path) -> Path:
    """A library that needs the C library and defines two versions of its own."""
    (folder / "source.c").write_text('#include <stdio.h>\nvoid say(void) { puts(""); }\n')
    (folder / "versions").write_text("OURS_1.0 { global: say; };\nOURS_1.1 { } OURS_1.0;\n")
    library = folder / "libours.so.1"
    command = ["gcc", "-shared", "-fPIC", f"-Wl,--version-script={folder / 'versions'}", "-o", library]
    subprocess.run([*command, folder / "source.c"], check=True)
    return library


def readelf(path: Path) -> str:
    return subprocess.run(["readelf", "-V", path], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("which", ["ours", "python"])
def test_versions_are_those_that_readelf_lists(which: str, tmp_path: Path) -> None:
    library = make(tmp_path) if which == "ours" else Path(sys.executable).resolve()
    listed = readelf(library)
    defined, _, needed = listed.partition("Version needs section")
    assert Needs.of(library).versions == set(re.findall(r"Name: (\S+)  Flags", needed))
    assert versions_defined(library) == set(re.findall(r"Name: (\S+)$", defined, re.MULTILINE))
    if which == "ours":
        assert {"OURS_1.0", "OURS_1.1"} < versions_defined(library)


def test_what_is_cut_off_or_something_else_is_refused(tmp_path: Path) -> None:
    library = make(tmp_path)
    content = library.read_bytes()
    for broken in (b"", b"not an ELF file", content[:100], content[: len(content) // 2]):
        library.write_bytes(broken)
        with pytest.raises(ValueError, match="libours"):
            versions_defined(library)


def test_a_builds_name_is_what_readelf_says(tmp_path: Path) -> None:
    library = make(tmp_path)
    for option, name in (("0x00112233445566778899", "00112233445566778899"), ("none", None)):
        command = ["gcc", "-shared", f"-Wl,--build-id={option}", "-o", library, tmp_path / "source.c"]
        subprocess.run(command, check=True)
        assert build_id(library) == name
    python = Path(sys.executable).resolve()
    notes = subprocess.run(["readelf", "-n", python], check=True, capture_output=True, text=True).stdout
    found = re.search(r"Build ID: (\w+)", notes)
    assert build_id(python) == (found[1] if found else None)
    for broken in (b"", b"not an ELF file", python.read_bytes()[:70]):
        library.write_bytes(broken)
        with pytest.raises(ValueError, match="libours"):
            build_id(library)
