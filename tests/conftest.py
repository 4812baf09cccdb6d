"""What every test starts from: an environment without the developer's settings."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.support.processes import INHERITED

# The long form of the properties: `./dev test --hypothesis-profile=long tests/system/test_any.py`.
settings.register_profile("long", max_examples=20_000, deadline=None)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove proxies, THREADS, K_SINK and the like: tests set what they mean."""
    for name in set(os.environ) - {*INHERITED, "PYTEST_CURRENT_TEST"}:
        monkeypatch.delenv(name)
