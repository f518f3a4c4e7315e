"""pascaline gpus: table, JSON and page."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
from outcome import Run

from pascaline.hardware.gpus import gpus
from running_server import command

FIELDS = {
    "name": str,
    "aliases": list,
    "architecture": str,
    "compute_capability": str,
    "sms": int,
    "boost_mhz": int,
    "max_mhz": int,
    "memory_gib": (int, float),
    "bandwidth_gb_per_s": (int, float),
    "l2_mib": (int, float),
    "fp32_tflops": float,
    "fp16_tflops": (float, type(None)),
    "fp64_tflops": float,
    "int8_tops": (float, type(None)),
    "tensor_fp16_tflops": (float, type(None)),
    "power_w": (int, float),
    "source": str,
}


def test_json_is_one_object_with_every_field(run: Run) -> None:
    done = run("gpus", "--json")
    assert done.code == 0
    cards = json.loads(done.stdout)["gpus"]
    assert len(cards) >= len(gpus())
    for card in cards:
        assert list(card) == list(FIELDS)
        for field, kind in FIELDS.items():
            assert isinstance(card[field], kind), (card["name"], field)


def test_names_choose_cards_each_once(run: Run) -> None:
    done = run("gpus", "1080 ti", "NVIDIA GeForce GTX 1080 Ti", "rtx 3080", "p40", "--json")
    cards = json.loads(done.stdout)["gpus"]
    names = [card["name"] for card in cards]
    assert names == ["GeForce GTX 1080 Ti", "GeForce RTX 3080 10 GB", "GeForce RTX 3080 12 GB", "Tesla P40"]
    ti = cards[0]
    assert (ti["sms"], ti["compute_capability"], ti["memory_gib"]) == (28, "6.1", 11)
    assert ti["fp32_tflops"] == pytest.approx(11.34, abs=0.01)
    assert ti["fp16_tflops"] == pytest.approx(0.177, abs=0.001)
    assert ti["tensor_fp16_tflops"] is None


def test_half_is_null_where_there_is_no_half_unit(run: Run) -> None:
    [card] = json.loads(run("gpus", "GTX 980 Ti", "--json").stdout)["gpus"]
    assert card["fp16_tflops"] is None
    assert card["int8_tops"] is None


@pytest.mark.parametrize("arguments", [("K80",), ("1080 ti", "nope", "--json"), ("",), ("\x1b]0;x\x07",)])
def test_an_unknown_name_is_one_message(run: Run, arguments: tuple[str, ...]) -> None:
    done = run("gpus", *arguments)
    assert done.code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("pascaline: ")
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr


def test_a_pipe_gets_everything_plainly(run: Run) -> None:
    done = run("gpus")
    assert done.code == 0
    assert "\x1b" not in done.stdout
    for gpu in gpus():
        assert gpu.name in done.stdout
    p40 = next(line for line in done.stdout.splitlines() if line.startswith("Tesla P40 "))
    values = "Tesla P40 Pascal 6.1 30 1531 1531 24 347.1 0.367 11.8 0.184 47 - 250"
    assert " ".join(p40.split()) == values


@pytest.mark.parametrize("columns", [80, 131, 132])
def test_a_terminal_gets_what_fits(columns: int) -> None:
    person, program = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    process = subprocess.Popen(command("gpus"), env=environment, stdout=program, stderr=program)
    os.close(program)
    seen = b""
    while select.select([person], [], [], 60)[0]:
        try:
            block = os.read(person, 65536)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        seen += block
    os.close(person)
    assert process.wait(60) == 0
    lines = [line.rstrip("\r") for line in seen.decode().split("\n")]
    assert any("GeForce GTX 1080 Ti" in line for line in lines)
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert max(map(len, plain)) <= columns
    assert not any("…" in line for line in plain)


def test_neither_torch_nor_a_web_framework_is_imported() -> None:
    code = (
        "import sys; sys.argv = ['pascaline', 'gpus', 'p40', '--json', '--html', '/dev/null']\n"
        "from pascaline.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "loaded = {'torch', 'fastapi', 'uvicorn', 'numpy', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {loaded}' if loaded else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_is_written_whole(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "cards.html"
    done = run("gpus", "--html", str(page))
    assert done.code == 0
    assert done.stdout == ""
    text = page.read_text(encoding="utf-8")
    assert text.endswith("</html>\n")
    assert all(gpu.name in text for gpu in gpus())


@pytest.mark.parametrize("target", ["missing/folder/cards.html", "."])
def test_a_page_that_cannot_be_written_is_a_mistake(run: Run, tmp_path: Path, target: str) -> None:
    done = run("gpus", "p40", "--html", str(tmp_path / target))
    assert done.code == 2
    assert done.stderr.startswith("pascaline: cannot write")
