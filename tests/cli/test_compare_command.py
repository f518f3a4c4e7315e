"""pascaline compare: what it prints, its JSON, its page, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from outcome import Run

CASE = Path(__file__).parents[1] / "fixtures" / "case_study"
HALF = str(CASE / "pascal_12gb_half_arithmetic.json")
REPAIRED = str(CASE / "pascal_12gb_fp32_accumulate.json")
A6000 = str(CASE / "rtx_a6000_half_arithmetic.json")


def test_json_is_one_object_with_the_contracts_fields(run: Run) -> None:
    outcome = run("compare", HALF, A6000, "--json")
    assert outcome.code == 0
    found = json.loads(outcome.stdout)
    assert {"a", "b", "work_ratio", "work_ratio_reason", "rows", "stands_out", "notes"} <= set(found)
    assert {"module", "op", "a_s", "b_s", "ratio", "corrected_ratio"} <= set(found["rows"][0])
    assert [item["module"].rpartition(".")[2] for item in found["stands_out"]] == [
        *("gate_up_proj", "down_proj", "qkv_proj", "o_proj")
    ]


def test_the_terminal_says_the_work_before_what_stands_out(run: Run) -> None:
    text = run("compare", HALF, A6000).stdout
    assert text.index("Work: inferred") < text.index("What stands out") < text.index("gate_up_proj: 2.74 s")
    assert "B is 43.5 times as fast" in run("compare", HALF, REPAIRED).stdout


def test_the_page_is_written(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    outcome = run("compare", HALF, A6000, "--html", str(page))
    assert (outcome.code, outcome.stdout) == (0, "")
    assert "gate_up_proj" in page.read_text()
    both = run("compare", HALF, A6000, "--html", str(page), "--json")
    assert json.loads(both.stdout)["rows"]


def test_nothing_of_a_hostile_file_reaches_terminal_or_page(run: Run, tmp_path: Path) -> None:
    name = "model.layers.0.\x1b[2J<script>alert(1)</script>_proj"
    tree = {"unit": "s", "model": "\x1b]0;x\x07<b>", "modules": {name: 1.0, "model.norm": 1.0}}
    path, page = tmp_path / "x", tmp_path / "page.html"
    path.write_text(json.dumps(tree))
    outcome = run("compare", str(path), str(path))
    assert outcome.code == 0
    assert "\x1b" not in outcome.stdout
    assert run("compare", str(path), str(path), "--html", str(page)).code == 0
    assert "<script>alert" not in page.read_text()
    assert json.loads(run("compare", str(path), str(path), "--json").stdout)["rows"][0]["module"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b"", "is empty"),
        (b"\x00\x01\x02", "is of no kind"),
        (b'{"unit": "s", "modules": {"conv1": 1}}', "no module and no kernel in common"),
        (b'{"unit": "s", "modules": {"model": -1}}', "is -1"),
    ],
)
def test_mistakes_are_one_message(run: Run, tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x"
    if content is not None:
        path.write_bytes(content)
    for arguments in ((HALF, str(path)), (str(path), HALF)):
        outcome = run("compare", *arguments, "--json")
        assert (outcome.code, outcome.stdout) == (2, "")
        assert message in outcome.stderr
        assert outcome.stderr.startswith("pascaline: ")
        assert "Traceback" not in outcome.stderr


def test_torch_is_not_imported() -> None:
    code = (
        f"import sys; sys.argv = ['pascaline', 'compare', {HALF!r}, {A6000!r}, '--json']\n"
        "from pascaline.cli.app import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
