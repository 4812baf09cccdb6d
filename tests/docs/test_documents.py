"""What the project says about itself agrees with what is there."""

from __future__ import annotations

import re
import subprocess
from dataclasses import Field, fields
from pathlib import Path

import pytest

from relay.settings import Settings
from tests.support.processes import REPOSITORY

SETTINGS = (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
# An entry is a line that goes on indented; several settings may share one.
ENTRIES = [
    entry.replace("\n  ", " ") for entry in re.findall(r"(?m)^\* (\*\*.*(?:\n  .*)*)", SETTINGS)
]
NAMES_OF_ONE = re.compile(r"\*\*`(\w+)`\*\* \(([^)]*)\)")
DOCUMENTS = [
    *REPOSITORY.glob("*.md"),
    *REPOSITORY.glob("docs/*.md"),
    *REPOSITORY.glob("functions/*/README.md"),
    REPOSITORY / "knative" / "README.md",
    REPOSITORY / "client" / "README.md",
]
# Long tables: of what an operator does, of measurements, and of threats with their tests.
WIDE_TABLES = (
    "docs/operate.md",
    "docs/performance.md",
    "docs/reliability.md",
    "docs/security.md",
)


def as_written(default: object) -> str:
    """Write a default as docs/settings.md does."""
    if default is None or default in ((), frozenset()):
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return ",".join(map(as_written, default))
    return f"`{default}`" if isinstance(default, str) else str(default).removesuffix(".0")


@pytest.mark.parametrize("setting", fields(Settings), ids=lambda setting: setting.name)
def test_each_setting_has_its_entry(setting: Field[object]) -> None:
    """The entry has the default, and begins with the meaning that the code gives."""
    name = setting.name.upper()
    entries = [entry for entry in ENTRIES if f"**`{name}`**" in entry]

    assert len(entries) == 1, f"docs/settings.md has {len(entries)} entries for {name}"
    defaults = dict(NAMES_OF_ONE.findall(entries[0]))
    meaning = entries[0].rpartition(f"({defaults[name]}): ")[2]
    assert meaning.startswith(setting.metadata["meaning"]) or len(defaults) > 1
    assert setting.metadata["meaning"] in entries[0]
    assert defaults[name] in ("unset", as_written(setting.default))


def test_no_setting_is_made_up() -> None:
    """What has an entry is a setting, of the relay or of functions-framework."""
    named = {name for entry in ENTRIES for name, _ in NAMES_OF_ONE.findall(entry)}

    assert named == {setting.name.upper() for setting in fields(Settings)} | {"PORT", "WORKERS"}


def test_the_readme_is_short() -> None:
    """It is a page that is read to its end."""
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_index_has_every_document() -> None:
    """A document that nothing leads to is not read."""
    index = (REPOSITORY / "docs" / "README.md").read_text(encoding="utf-8")
    there = {path.name for path in (REPOSITORY / "docs").glob("*.md")} - {"README.md"}

    assert set(re.findall(r"\]\(([a-z]+\.md)\)", index)) == there


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_line_is_too_long_to_read(document: Path) -> None:
    """Prose, and tables but for a few, fit a screen; commands and what they print may not."""
    wide = document.relative_to(REPOSITORY).as_posix() in WIDE_TABLES
    text = re.sub(r"(?ms)^```.*?^```", "", document.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if not line.startswith("    ")]

    assert [line for line in lines if len(line) > 160 and not (wide and line[:1] == "|")] == []


def test_the_files_that_commands_name_are_there() -> None:
    """What kubectl applies or deletes, and what func deploys, is in the tree."""
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    named = re.findall(r"-f '?(knative/[^\s'`]*)|--path (functions/\w+)", text)

    assert named
    for manifests, function in named:
        if not function.endswith("$function"):
            assert list(REPOSITORY.glob(manifests.rstrip("/") or function)), (manifests, function)


def test_every_file_that_documents_link_to_is_there() -> None:
    """Files move; the links to them move along."""
    links = [
        (document, link)
        for document in DOCUMENTS
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
