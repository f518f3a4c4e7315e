"""pascaline diagnose, as users call it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from outcome import Run

CASE = Path(__file__).parents[1] / "fixtures" / "case_study"
HALF = str(CASE / "pascal_12gb_half_arithmetic.json")
MENDED = str(CASE / "pascal_12gb_fp32_accumulate.json")
A6000 = str(CASE / "rtx_a6000_half_arithmetic.json")
FIELDS = {"code", "slug", "modules", "kernels", "evidence", "cause", "remedy", "saves_s", "predicted_total_s"}


def test_json_is_one_object_with_the_findings(run: Run) -> None:
    outcome = run("diagnose", HALF, "--gpu", "TITAN X (Pascal)", "--json")
    assert outcome.code == 0
    answer = json.loads(outcome.stdout)
    assert answer["gpu"] == "TITAN X (Pascal)"
    assert answer["total_s"] == pytest.approx(134.81172338464856)
    assert all(set(finding) >= FIELDS for finding in answer["findings"])
    assert answer["findings"][0]["slug"] == "half-arithmetic-without-units"


def test_text_has_a_card_for_each_finding(run: Run) -> None:
    outcome = run("diagnose", HALF, "--gpu", "titan x (pascal)")
    assert outcome.code == 0
    for part in ("1. Half arithmetic", "PAS001", "Cause:", "Evidence:", "Remedy:", "Saves:", "down_proj"):
        assert part in outcome.stdout
    assert "\x1b" not in outcome.stdout


def test_nothing_found_is_said(run: Run) -> None:
    outcome = run("diagnose", A6000)
    assert outcome.code == 0
    assert "Nothing found in 7.46 s on RTX A6000" in outcome.stdout


def test_the_page_stands_alone(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    outcome = run("diagnose", HALF, "--gpu", "P40", "--html", str(page))
    assert (outcome.code, outcome.stdout) == (0, "")
    text = page.read_text()
    assert "half-arithmetic-without-units" in text
    assert "src=" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_what_a_record_quotes_steers_neither_terminal_nor_page(run: Run, tmp_path: Path) -> None:
    record = {
        **json.loads(Path(HALF).read_text()),
        "dispatch": {"linears": "half arithmetic \x1b[2J<script>alert(1)</script>"},
    }
    hostile, page = tmp_path / "hostile.json", tmp_path / "page.html"
    hostile.write_text(json.dumps(record))
    outcome = run("diagnose", str(hostile), "--gpu", "P40")
    assert outcome.code == 0
    assert "\\x1b[2J" in outcome.stdout
    assert "\x1b" not in outcome.stdout
    assert run("diagnose", str(hostile), "--gpu", "P40", "--html", str(page)).code == 0
    assert "<script>alert" not in page.read_text()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no-such-thing"),
        (b"\x00\xff" * 100, "no-such-thing"),
        (b"[" * 100000, "no-such-thing"),
        (b'{"unit": "ms", "modules": {"a": -1}}', "a"),
        (b'{"unit": "ms", "modules": {"a": NaN}}', "JSON"),
        (b'{"unit": "ms", "modules": {"a": "1"}}', "a"),
        (b'{"unit": "ms", "modules": {"a": 1e14}}', "took"),
        (b'{"unit": "fortnight", "modules": {"a": 1}}', "fortnight"),
    ],
)
def test_a_file_that_is_no_record_is_one_message(run: Run, tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "no-such-thing.json"
    path.write_bytes(content)
    outcome = run("diagnose", str(path), "--json")
    assert outcome.code == 2
    assert outcome.stdout == ""
    assert says in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_missing_files_folders_and_unknown_cards_are_one_message(run: Run, tmp_path: Path) -> None:
    for arguments in (
        ("diagnose", str(tmp_path / "missing.json")),
        ("diagnose", str(tmp_path)),
        ("diagnose", HALF, "--gpu", "GTX 10800"),
        ("diagnose", HALF, "--html", str(tmp_path / "missing" / "page.html")),
    ):
        outcome = run(*arguments)
        assert outcome.code == 2, arguments
        assert outcome.stdout == ""
        assert outcome.stderr.count("\n") == 1


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from pascaline.cli.app import main\n"
        f"sys.argv = ['pascaline', 'diagnose', {MENDED!r}, '--gpu', 'P40', '--json']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'fastapi' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_page_without_a_name_is_one_message(run: Run, path: str) -> None:
    outcome = run("diagnose", HALF, "--html", path)
    assert outcome.code == 2
    assert outcome.stderr.startswith("pascaline: cannot write")
    assert outcome.stderr.count("\n") == 1
