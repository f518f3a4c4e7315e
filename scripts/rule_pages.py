"""Write docs/rules/: a page for each rule of `pascaline diagnose` from its docstring, and their list."""

from __future__ import annotations

from pathlib import Path

from pascaline.core.files import write_atomically
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.rules import RULES, page_of, title_of

FOLDER = Path(__file__).parents[1] / "docs" / "rules"


def page_text(rule: Rule) -> str:
    """The page: code and slug above what the docstring says."""
    _, _, body = page_of(rule).partition("\n")
    return f"# {title_of(rule)}\n\n`{rule.code}` `{rule.slug}`\n{body.rstrip()}\n"


def list_text() -> str:
    """The list of all pages."""
    rows = "\n".join(f"| [{rule.slug}]({rule.slug}.md) | {rule.code} | {title_of(rule)} |" for rule in RULES)
    return (
        "# Causes that `pascaline diagnose` names\n\n"
        "Made by `scripts/rule_pages.py` from the rules' files; change those.\n\n"
        f"| rule | code | what it finds |\n| --- | --- | --- |\n{rows}\n"
    )


def main() -> None:
    """Write them all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for rule in RULES:
        write_atomically(FOLDER / f"{rule.slug}.md", page_text(rule).encode())
    write_atomically(FOLDER / "README.md", list_text().encode())


if __name__ == "__main__":
    main()
