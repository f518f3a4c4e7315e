"""`make setup`: which torch a machine gets, what an unsuitable Python prints, when work is repeated."""

from __future__ import annotations

import ast
import http.server
import os
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import setup as entry  # noqa: E402
import setup_torch  # noqa: E402
from setup_torch import Card, Machine, choose_torch  # noqa: E402
from setup_venv import STAMP, Setup, Stamp, work_needed  # noqa: E402

NEWEST = "torch>=2.7.1"
GTX_1080 = Card("NVIDIA GeForce GTX 1080", (6, 1))
V100 = Card("Tesla V100-SXM2-16GB", (7, 0))
T4 = Card("Tesla T4", (7, 5))
H100 = Card("NVIDIA H100 80GB HBM3", (9, 0))
RTX_5090 = Card("NVIDIA GeForce RTX 5090", (12, 0))
K80 = Card("Tesla K80", (3, 7))


@pytest.mark.parametrize(
    ("cards", "driver", "requirement"),
    [
        ((Card("NVIDIA GeForce GTX 750 Ti", (5, 0)),), (580, 65, 6), "torch==2.7.1"),
        ((GTX_1080,), (580, 65, 6), "torch==2.7.1"),
        ((GTX_1080,), (535, 183, 1), "torch==2.7.1"),
        ((Card("Tesla P100-PCIE-16GB", (6, 0)),), None, "torch==2.7.1"),
        ((V100,), (580, 65, 6), "torch==2.10.0"),
        ((V100,), (550, 54, 14), "torch==2.10.0"),
        ((T4,), (579, 99), "torch==2.10.0"),
        ((T4,), (580,), NEWEST),
        ((T4,), None, "torch==2.10.0"),
        ((H100,), (570, 124, 6), "torch==2.10.0"),
        ((H100,), (595, 10), NEWEST),
        ((RTX_5090,), (575, 57, 8), "torch==2.10.0"),
        ((RTX_5090,), (580, 65, 6), NEWEST),
        ((H100, GTX_1080), (580, 65, 6), "torch==2.7.1"),
        ((RTX_5090, V100), (580, 65, 6), "torch==2.10.0"),
        ((K80, T4), (580, 65, 6), NEWEST),
        ((K80,), (470, 256, 2), "torch==2.13.0"),
        ((), None, "torch==2.13.0"),
        ((), (580, 65, 6), "torch==2.13.0"),
    ],
)
def test_torch_follows_the_lowest_capability_and_the_driver(
    cards: tuple[Card, ...], driver: tuple[int, ...] | None, requirement: str
) -> None:
    choice = choose_torch(Machine(cards, driver), NEWEST)
    assert choice.requirement == requirement
    assert choice.for_cpu == (requirement == "torch==2.13.0")


def test_the_choice_says_what_decided_it() -> None:
    pascal = choose_torch(Machine((H100, GTX_1080), (580, 65, 6)), NEWEST)
    assert "GTX 1080 (compute capability 6.1)" in pascal.reason
    assert pascal.newest_python == (3, 13)
    hopper = choose_torch(Machine((H100,), (570, 124, 6)), NEWEST)
    assert "driver 570.124.6" in hopper.reason
    assert "580" in hopper.reason


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (Machine((K80, T4), (580, 65, 6)), "Tesla K80 (compute capability 3.7) is not used"),
        (Machine((GTX_1080, RTX_5090), (580, 65, 6)), "RTX 5090 (compute capability 12.0) is not used"),
        (Machine((GTX_1080,), (470, 256, 2)), "driver 470.256.2 is too old"),
        (Machine((), (580, 65, 6), trouble="CUDA cannot use it"), "CUDA cannot use it"),
    ],
)
def test_what_cannot_be_used_is_said(machine: Machine, words: str) -> None:
    assert any(words in note for note in choose_torch(machine, NEWEST).notes)


def test_the_override_beats_every_rule() -> None:
    choice = choose_torch(Machine((GTX_1080,), (580, 65, 6)), NEWEST, override="torch==2.9.1")
    assert choice.requirement == "torch==2.9.1"
    assert choice.newest_python is None
    assert "PASCALINE_TORCH" in choice.reason


def test_the_project_itself_allows_every_torch_that_is_chosen() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert NEWEST in dependencies


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("580.65.06", (580, 65, 6)),
        ("535.183.01", (535, 183, 1)),
        ("550.90", (550, 90)),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 14:37:44 UTC 2024",
            (470, 256, 2),
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (dvs)",
            (570, 124, 6),
        ),
        ("no version", None),
    ],
)
def test_driver_versions_are_read_in_all_their_forms(text: str, version: tuple[int, ...] | None) -> None:
    assert setup_torch.parse_driver(text) == version


def test_asking_this_machine_leaves_its_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    setup_torch.detect_machine()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert setup_torch.hardware_fingerprint() == setup_torch.hardware_fingerprint()


@pytest.fixture
def index() -> Iterator[Callable[[str], str]]:
    """Serve one page as a package index on this machine; gives its address."""
    servers = []

    def serve(page: str) -> str:
        class Page(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(page.encode())

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Page)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_cpu_index_counts_only_if_it_lists_the_release(
    index: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = '<a href="/whl/cpu/torch-2.13.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl">torch</a>'
    monkeypatch.setattr(setup_torch, "CPU_INDEX", index(listing))
    assert setup_torch.cpu_index_has("torch==2.13.0")
    assert not setup_torch.cpu_index_has("torch==2.14.0")
    monkeypatch.setattr(setup_torch, "CPU_INDEX", index("Please log in to this network"))
    assert not setup_torch.cpu_index_has("torch==2.13.0")
    monkeypatch.setattr(setup_torch, "CPU_INDEX", "http://127.0.0.1:9")
    assert not setup_torch.cpu_index_has("torch==2.13.0", timeout_s=1.0)


def test_an_old_python_can_read_the_entry() -> None:
    source = (ROOT / "scripts" / "setup.py").read_text()
    ast.parse(source, feature_version=(3, 6))
    assert "from __future__ import annotations" not in source  # Python 3.6 does not know it
    assert source.isascii()  # printed in a C locale by Python 3.6


def python(version: tuple[int, int], *, has_venv: bool = True, path: str = "/opt/python") -> entry.Python:
    return entry.Python(path, version, has_venv)


def test_a_suitable_python_is_looked_for_before_giving_up() -> None:
    old, new, newer = python((3, 8)), python((3, 12)), python((3, 14))
    assert entry.choose(old, [new], None) == (new, None)
    assert entry.choose(newer, [new], None) == (newer, None)
    assert entry.choose(newer, [new], (3, 13)) == (new, None)
    assert entry.choose(old, [], None) == (None, None)
    bare = python((3, 11), has_venv=False)
    assert entry.choose(bare, [], None) == (None, bare)
    assert entry.choose(bare, [new], None) == (new, None)


def test_pythons_are_asked_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, answer in (("python3.12", "echo 3 12 0"), ("python3.13", "exit 127")):
        fake = tmp_path / name
        fake.write_text(f"#!/bin/sh\n{answer}\n")
        fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [(found.version, found.has_venv) for found in entry.other_pythons()] == [((3, 12), False)]
    running = entry.examine(sys.executable)
    assert running is not None
    assert running.version == sys.version_info[:2]


@pytest.mark.parametrize(
    ("running", "without_venv", "newest", "package", "wrong", "mend"),
    [
        ((3, 8), None, None, "python3.11-venv", "this is 3.8", "apt install python3.11-venv"),
        ((3, 8), None, None, None, "this is 3.8", "uv python install 3.13"),
        (
            (3, 14),
            None,
            (3, 13),
            "python3.13-venv",
            "no build for Python 3.14",
            "apt install python3.13-venv",
        ),
        ((3, 14), None, (3, 13), None, "no build for Python 3.14", "uv python install 3.13"),
        ((3, 12), python((3, 12), has_venv=False), None, None, "no venv module", "uv python install 3.13"),
    ],
)
def test_an_unsuitable_python_prints_the_one_line_that_mends_it(
    running: tuple[int, int],
    without_venv: entry.Python | None,
    newest: tuple[int, int] | None,
    package: str | None,
    wrong: str,
    mend: str,
) -> None:
    line = entry.one_line(python(running), without_venv, newest, package)
    assert "\n" not in line
    assert wrong in line
    assert line.split("this mends it: ")[1].endswith(mend)


@pytest.mark.skipif(not Path("/usr/bin/apt-get").exists(), reason="only Debian and Ubuntu split venv off")
def test_debians_python_without_venv_names_its_package() -> None:
    bare = python((3, 11), has_venv=False, path="/usr/bin/python3")
    line = entry.one_line(bare, bare, None, None)
    assert line.endswith("apt install python3.11-venv")
    assert ("sudo " in line) == (os.geteuid() != 0)


STAMPED = Stamp(
    finished=True, root="/home/ada/pascaline", python="3.11.2", torch=NEWEST, torch_inputs="a", pyproject="b"
)


@pytest.mark.parametrize(
    ("found", "work"),
    [
        (STAMPED, "nothing"),
        (None, "rebuild"),
        (replace(STAMPED, finished=False), "rebuild"),
        (replace(STAMPED, root="/home/ada/elsewhere"), "rebuild"),
        (replace(STAMPED, python="3.12.1"), "rebuild"),
        (replace(STAMPED, torch="torch==2.13.0"), "rebuild"),
        (replace(STAMPED, pyproject="c"), "update"),
        (replace(STAMPED, torch_inputs="other card, same torch"), "nothing"),
    ],
)
def test_only_what_changed_is_done_again(found: Stamp | None, work: str) -> None:
    assert work_needed(found, STAMPED) == work


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a repository with a finished environment, stamped as a set-up without any override leaves it."""
    monkeypatch.delenv("PASCALINE_TORCH", raising=False)
    root = tmp_path / "a repository"
    root.mkdir()
    (root / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
    setup = Setup.inspect(root)
    setup.wanted(setup.torch.requirement).write(root / ".venv" / STAMP)
    return root


def test_a_finished_set_up_is_recognised(repository: Path) -> None:
    assert Setup.inspect(repository).is_ready()
    assert Setup.inspect(repository).run() == 0


def work_in(root: Path) -> str:
    setup = Setup.inspect(root)
    assert not setup.is_ready()
    return work_needed(setup.stamp, setup.wanted(setup.torch.requirement))


def test_a_changed_project_is_brought_up_to_date(repository: Path) -> None:
    with (repository / "pyproject.toml").open("a") as file:
        file.write("\n# another dependency\n")
    assert work_in(repository) == "update"


def test_an_override_is_noticed_when_it_comes_and_goes(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASCALINE_TORCH", "torch==2.9.1")
    assert work_in(repository) == "rebuild"
    monkeypatch.setenv("PASCALINE_TORCH", "")
    assert Setup.inspect(repository).is_ready()


def test_a_moved_repository_is_set_up_again(repository: Path) -> None:
    moved = repository.rename(repository.with_name("moved"))
    assert work_in(moved) == "rebuild"


def test_an_environment_whose_python_is_gone_is_set_up_again(repository: Path) -> None:
    link = repository / ".venv" / "bin" / "python"
    link.unlink()
    link.symlink_to("/nowhere/python3.11")
    assert work_in(repository) == "rebuild"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"finished": true}'])
def test_a_damaged_stamp_is_no_stamp(repository: Path, text: str) -> None:
    (repository / ".venv" / STAMP).write_text(text)
    assert Setup.inspect(repository).stamp is None


def test_an_environment_made_by_hand_is_left_alone(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / ".venv" / STAMP).unlink()
    assert Setup.inspect(repository).run() == 1
    assert (repository / ".venv" / "bin" / "python").exists()
    assert "mv .venv .venv.old" in capsys.readouterr().err


def test_a_full_disk_is_said_before_anything_is_fetched(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("setup_venv.REST_DISK_MB", 10**12)
    monkeypatch.setenv("PASCALINE_TORCH", "torch==2.9.1")
    assert Setup.inspect(repository).run() == 1
    assert "make room there" in capsys.readouterr().err
    # What was begun is not trusted, and still known to be ours.
    assert [path.name for path in (repository / ".venv").iterdir()] == [STAMP]
    assert work_in(repository) == "rebuild"
