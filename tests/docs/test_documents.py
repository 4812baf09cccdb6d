"""What the project says about itself agrees with what is there."""

from __future__ import annotations

import re
import subprocess
from dataclasses import Field, fields

import pytest

from relay.settings import Settings
from tests.support.processes import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SETTINGS_TABLE = README.partition("| setting | default | meaning |\n")[2].partition("\n\n")[0]


def in_the_table(default: object) -> str:
    """Write a default as the README does."""
    if default in (None, (), frozenset()):
        return "none"
    if isinstance(default, tuple):
        return ",".join(map(in_the_table, default))
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`" if isinstance(default, str) else str(default).removesuffix(".0")


@pytest.mark.parametrize("setting", fields(Settings), ids=lambda setting: setting.name)
def test_the_readme_has_a_row_for_each_setting(setting: Field[object]) -> None:
    """The row has the default, and begins with the meaning that the code gives."""
    rows = [row for row in SETTINGS_TABLE.splitlines() if f"`{setting.name.upper()}`" in row]

    assert len(rows) == 1, f"README.md has {len(rows)} rows for {setting.name.upper()}"
    _, default, meaning = rows[0].strip("| ").split(" | ", 2)
    assert meaning.startswith(setting.metadata["meaning"])
    assert not default.isascii() or in_the_table(setting.default) in default.split(", ")


def test_every_file_that_documents_link_to_is_there() -> None:
    """Files move; the links to them move along."""
    documents = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("*/*.md")]
    links = [
        (document, link)
        for document in documents
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    ]

    gone = [
        f"{document.relative_to(REPOSITORY)}: {link}"
        for document, link in links
        if not (document.parent / link).exists()
    ]

    assert links
    assert gone == []


def test_dev_alone_tells_what_it_can_do() -> None:
    """A line for each command, all that are not part of another among them."""
    noxfile = (REPOSITORY / "noxfile.py").read_text(encoding="utf-8")
    sessions = re.findall(r"@nox\.session\(default=False.*\)\ndef (\w+)", noxfile)

    told = subprocess.run(["./dev"], cwd=REPOSITORY, capture_output=True, check=True, text=True)

    lines = told.stdout.splitlines()[:-1]
    commands = [re.sub(r"^\./dev (\w+) +\S.*$", r"\1", line) for line in lines]
    assert sorted(commands) == sorted(["test", "lint", *sessions])
