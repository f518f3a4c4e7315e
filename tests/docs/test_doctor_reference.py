"""The reference of `pascaline doctor` is what its checks say of themselves."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import write_doctor_reference  # noqa: E402


def test_the_reference_is_current() -> None:
    written = write_doctor_reference.PAGE.read_text()
    assert written == write_doctor_reference.page(), "run: python scripts/write_doctor_reference.py"
