"""What the documents show is what happens: commands are run, code is executed, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
FENCE = re.compile(r"^```(\S*)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = ".venv/bin/pascaline "


@dataclass(frozen=True)
class Shown:
    """A command in a document and the output shown below it."""

    document: str
    command: str
    output: str


def _blocks(language: str, mark: str = "") -> list[tuple[str, str]]:
    return [
        (document.name, match[3])
        for document in DOCUMENTS
        for match in FENCE.finditer(document.read_text())
        if match[1] == language and (match[2] or "") == mark
    ]


def _commands() -> list[Shown]:
    found = []
    for document, block in _blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append(Shown(document, command, output.strip("\n")))
    return found


COMMANDS = _commands()


def test_the_readme_shows_commands_and_code() -> None:
    assert sum(shown.command.startswith(COMMAND) for shown in COMMANDS) >= 3
    assert _blocks("python")
    assert _blocks("python", "server")


@pytest.mark.parametrize(
    "shown",
    [shown for shown in COMMANDS if shown.command.startswith(COMMAND)],
    ids=lambda shown: shown.command.removeprefix(COMMAND)[:40],
)
def test_commands_print_what_is_shown(shown: Shown, demo_path: Path) -> None:
    arguments = shlex.split(shown.command.removeprefix(COMMAND))
    run = subprocess.run(
        [sys.executable, "-m", "pascaline.cli.app", *arguments], capture_output=True, text=True, check=False
    )
    printed = run.stdout if run.returncode == 0 else run.stderr
    assert printed.strip("\n") == shown.output


@pytest.mark.parametrize("shown", [s for s in COMMANDS if s.command.startswith("make")], ids=str)
def test_make_targets_exist(shown: Shown) -> None:
    target = shown.command.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("code", [code for _, code in _blocks("python")])
def test_python_examples_run(code: str, demo_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


@pytest.mark.parametrize("code", [code for _, code in _blocks("python", "server")])
def test_client_examples_run_against_the_server(code: str, server_url: str) -> None:
    code = code.replace("http://127.0.0.1:8000", server_url)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "The capital of Japan is Tokyo."


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
