"""What every test starts from: an environment without the developer's settings."""

from __future__ import annotations

import os

import pytest

from tests.support.processes import INHERITED


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove proxies, THREADS, K_SINK and the like: tests set what they mean."""
    for name in set(os.environ) - {*INHERITED, "PYTEST_CURRENT_TEST"}:
        monkeypatch.delenv(name)
