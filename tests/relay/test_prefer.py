"""The Prefer header (RFC 7240)."""

from __future__ import annotations

import pytest

from relay.headers import Preferences


@pytest.mark.parametrize(
    ("header", "wait_s", "respond_async"),
    [
        pytest.param(None, None, False, id="none"),
        pytest.param("wait=5", 5, False, id="wait"),
        pytest.param("Wait = 5", 5, False, id="case-and-space"),
        pytest.param('wait="5"', 5, False, id="quoted"),
        pytest.param("wait=0", 0, False, id="zero"),
        pytest.param("wait=5; strict, respond-async", 5, True, id="both-with-parameter"),
        pytest.param("respond-async, wait=10", 10, True, id="order"),
        pytest.param("wait=3, wait=9", 3, False, id="the-first-counts"),
        pytest.param("wait=100000", 120, False, id="bounded"),
        pytest.param("wait=soon", None, False, id="no-number"),
        pytest.param("wait=-1", None, False, id="negative"),
        pytest.param("wait=\uff11", None, False, id="full-width-digit"),
        pytest.param("wait", None, False, id="without-value"),
        pytest.param("return=minimal, handling=lenient", None, False, id="others"),
        pytest.param(",,;;=, \x00", None, False, id="rubbish"),
    ],
)
def test_preferences(header: str | None, wait_s: int | None, respond_async: bool) -> None:
    """What is understood is read; anything else is ignored, as the RFC asks."""
    preferences = Preferences.from_header(header)

    assert (preferences.wait_s, preferences.respond_async) == (wait_s, respond_async)
