"""Every rule is listed and documented, fires on its evidence, and holds still on what only looks like it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from recorded_case import FIXTURES, RecordedCase, recorded_cases

from pascaline.diagnose import rules
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.rules import RULES, page_of

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from rule_pages import list_text, page_text  # noqa: E402 - its folder has to be in the path first

SECTIONS = ["Pattern", "Evidence", "Cause", "Remedy", "Saving", "References"]


def _cases(prefix: str) -> list[pytest.param]:
    return [
        pytest.param(rule, case, id=f"{rule.slug}-{case.path.stem}")
        for rule in RULES
        for case in recorded_cases(rule.slug, prefix)
    ]


def test_every_file_is_a_listed_rule() -> None:
    files = {path.stem for path in Path(rules.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {rule.check.__module__.rpartition(".")[2] for rule in RULES}
    assert files == {rule.slug.replace("-", "_") for rule in RULES}


def test_codes_and_slugs_are_unique_and_in_order() -> None:
    assert [rule.code for rule in RULES] == [f"PAS{number:03}" for number in range(1, len(RULES) + 1)]
    assert len({rule.slug for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.slug)
def test_its_docstring_is_a_complete_page(rule: Rule) -> None:
    assert re.findall(r"^## (.*)$", page_of(rule), re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.slug)
def test_its_page_in_the_documents_is_current(rule: Rule) -> None:
    assert (ROOT / "docs" / "rules" / f"{rule.slug}.md").read_text() == page_text(rule)


def test_documents_hold_no_page_of_a_rule_that_is_gone() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "rules").glob("*.md")} - {"README"}
    assert pages == {rule.slug for rule in RULES}
    assert (ROOT / "docs" / "rules" / "README.md").read_text() == list_text()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.slug)
def test_it_has_both_fixtures_and_each_says_where_its_numbers_are_from(rule: Rule) -> None:
    fires, near_misses = recorded_cases(rule.slug, "fires"), recorded_cases(rule.slug, "near_miss")
    assert fires
    assert near_misses
    named = {case.path for case in fires + near_misses}
    assert named == set((FIXTURES / "diagnose" / rule.slug).iterdir())
    for case in (*fires, *near_misses):
        assert len(case.source) > 20


@pytest.mark.parametrize(("rule", "case"), _cases("fires"))
def test_it_fires(rule: Rule, case: RecordedCase) -> None:
    diagnosis = case.diagnosis()
    [finding] = [finding for finding in diagnosis.findings if finding.slug == rule.slug]
    assert finding.code == rule.code
    assert finding.evidence
    assert finding.cause
    assert finding.remedy
    assert finding.modules is not None
    if finding.saves_s is not None:
        assert diagnosis.total_s is not None
        assert finding.predicted_total_s == pytest.approx(diagnosis.total_s - finding.saves_s)


@pytest.mark.parametrize(("rule", "case"), _cases("near_miss"))
def test_it_does_not_fire_on_a_near_miss(rule: Rule, case: RecordedCase) -> None:
    assert rule.slug not in {finding.slug for finding in case.diagnosis().findings}


@pytest.mark.parametrize(("rule", "case"), _cases(""))
def test_savings_add_up_to_less_than_the_run(rule: Rule, case: RecordedCase) -> None:
    diagnosis = case.diagnosis()
    saves = [finding.saves_s for finding in diagnosis.findings if finding.saves_s is not None]
    assert sum(saves) <= (diagnosis.total_s or 0.0) * (1 + 1e-9)
    assert saves == sorted(saves, reverse=True)
