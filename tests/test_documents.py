"""What the project says about itself agrees with what is there."""

from __future__ import annotations

import re
import subprocess

from tests.support.processes import REPOSITORY


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
