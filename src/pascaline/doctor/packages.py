"""Python packages: what is installed, what it asks for, and whether that is there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*(;.*)?")
_CLAUSE = re.compile(r"\s*(>=|==|~=|!=|<=|<|>)\s*([0-9][0-9A-Za-z.+*!-]*)\s*")


@dataclass(frozen=True)
class Package:
    """An installed distribution; `folder` is where it lies, `requires` its own words."""

    name: str
    version: str
    folder: str
    requires: tuple[str, ...] = ()

    @property
    def release(self) -> tuple[int, ...]:
        """The numbers of its version: "2.7.1+cu126" is (2, 7, 1)."""
        return release_of(self.version)


@dataclass(frozen=True)
class Requirement:
    """`name` in some versions: "torch>=2.7.1". `optional`: only with an extra or on other machines."""

    name: str
    clauses: tuple[tuple[str, str], ...]
    optional: bool

    @classmethod
    def parse(cls, text: str) -> Requirement | None:
        """Read one; None if it is written in a way that is not known here.

        Source: the dependency specifiers of packaging.python.org. Environment markers are not evaluated.
        """
        match = _REQUIREMENT.fullmatch(text)
        if match is None:
            return None
        clauses = []
        for clause in filter(None, (part.strip() for part in match[2].split(","))):
            found = _CLAUSE.fullmatch(clause)
            if found is None:
                return None
            clauses.append((found[1], found[2]))
        return cls(normalised(match[1]), tuple(clauses), match[3] is not None)

    def allows(self, version: str) -> bool:
        """Whether `version` satisfies the bounds ">=" and "=="; others are left to pip."""
        release = release_of(version)
        for operator, bound in self.clauses:
            wanted = release_of(bound)
            width = max(len(release), len(wanted))
            ours, theirs = _padded(release, width), _padded(wanted, width)
            if operator == ">=" and ours < theirs:
                return False
            if operator == "==" and "*" not in bound and ours != theirs:
                return False
        return True

    def __str__(self) -> str:
        return self.name + ",".join(operator + bound for operator, bound in self.clauses)


def installed_packages(distributions: Iterable[Distribution]) -> tuple[Package, ...]:
    """All of them in the order in which Python finds them; damaged ones have version "?"."""
    found = []
    for each in distributions:
        # What an interrupted pip leaves behind has metadata without a name or version.
        facts = each.metadata.json
        name, version = str(facts.get("name", "?")), str(facts.get("version", "?"))
        requires = tuple(each.requires or ())
        found.append(Package(normalised(name), version, str(each.locate_file("")), requires))
    return tuple(found)


def normalised(name: str) -> str:
    """One spelling for a package's name: "Nvidia.CUDA_nvrtc" is "nvidia-cuda-nvrtc"."""
    return re.sub(r"[-_.]+", "-", name).lower()


def release_of(version: str) -> tuple[int, ...]:
    """The numbers before any letter or "+"."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _padded(release: tuple[int, ...], width: int) -> tuple[int, ...]:
    return release + (0,) * (width - len(release))
