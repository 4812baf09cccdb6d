"""docs/security.md: every rule that it states has its test."""

from __future__ import annotations

import re

import pytest

from tests.support.processes import REPOSITORY

DOCUMENT = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
THREATS = DOCUMENT.partition("\n## Threats\n")[2].partition("\n## ")[0]
ROWS = [line.strip("| ").split(" | ") for line in THREATS.splitlines() if line.startswith("| ")][1:]
SHORT = {"cases": "system/egress/test_cases.py", "wire": "system/egress/test_wire.py"}


def test_the_table_is_read() -> None:
    """There are rows, each with a threat, a rule and a test."""
    assert len(ROWS) > 30
    assert {len(row) for row in ROWS} == {3}


@pytest.mark.parametrize("named", [row[-1] for row in ROWS])
def test_the_test_of_a_rule_exists(named: str) -> None:
    """What a row names is a file of tests, or a test in it."""
    tests = re.findall(r"`([^`]+)`", named)

    assert tests
    for test in tests:
        file, *names = test.split("::")
        text = (REPOSITORY / "tests" / SHORT.get(file, file)).read_text(encoding="utf-8")
        assert "def test_" in text
        for name in names:
            assert re.search(rf"(def|class) {name}\b", text)
