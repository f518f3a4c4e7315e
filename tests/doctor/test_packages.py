"""Requirements, against the packaging library's reading of them."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement as Reference

from pascaline.doctor.packages import Requirement, installed_packages

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_our_own_requirements_are_understood() -> None:
    for text in tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]:
        parsed = Requirement.parse(text)
        assert parsed is not None
        assert str(parsed) == text.replace("_", "-")
        assert not parsed.optional


@pytest.mark.parametrize(
    "version", ["1", "1.9.9", "2.0", "2.0.1", "2.7.1", "2.7.1+cu126", "2.10.0", "12.6.77"]
)
@pytest.mark.parametrize(
    "text",
    [
        "a>=2.0",
        "a>=2.7.1",
        "a==2.7.1",
        "a==2.0",
        "a>=1.9,==2.0",
        "a[extra] (>=2)",
        "a",
        "a>=2.10 ; os_name == 'nt'",
    ],
)
def test_bounds_are_those_of_packaging(text: str, version: str) -> None:
    parsed = Requirement.parse(text)
    assert parsed is not None
    assert parsed.allows(version) == Reference(text).specifier.contains(version)
    assert parsed.optional == (Reference(text).marker is not None)


@pytest.mark.parametrize("text", ["", ">=2", "a @ https://example.org/a.whl", "a>=", "a>=2,b", "\x00", "a~2"])
def test_what_is_not_understood_is_left_alone(text: str) -> None:
    assert Requirement.parse(text) is None


def test_what_is_installed_here_is_listed(tmp_path: Path) -> None:
    found = {package.name: package for package in installed_packages(importlib.metadata.distributions())}
    assert found["pytest"].version == importlib.metadata.version("pytest")
    assert (Path(found["pytest"].folder) / "pytest").is_dir()
    (tmp_path / "broken-1.0.dist-info").mkdir()  # as an interrupted pip leaves it
    [broken] = installed_packages(importlib.metadata.distributions(path=[str(tmp_path)]))
    assert broken.version == "?"
