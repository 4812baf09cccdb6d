"""What an answer means, where a real subscriber would be slow to show it."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from local.broker.connections import Answer
from local.broker.delivery import Delivered, Failed, classify, passed_on

URL = "http://127.0.0.1:1/"


def answer(
    status: int, body: bytes = b"", *, retry_after: str = "", wants_reply: bool = True
) -> Delivered | Failed:
    """Classify an answer of the subscriber."""
    headers = {"retry-after": retry_after} if retry_after else {}
    return classify(Answer(status, headers, body), url=URL, wants_reply=wants_reply)


def test_error_data_is_cut_at_1024_bytes() -> None:
    """A dead letter carries the beginning of a long error body."""
    outcome = answer(400, b"x" * 2000)

    assert isinstance(outcome, Failed)
    assert outcome.extensions == {
        "knativeerrordest": URL,
        "knativeerrorcode": "400",
        "knativeerrordata": base64.b64encode(b"x" * 1024).decode(),
    }


@pytest.mark.parametrize(
    ("status", "value", "seconds"),
    [
        (503, "7", 7.0),
        (429, "7", 7.0),
        (500, "7", None),
        (503, "soon", None),
        (503, "-7", None),
        (503, "Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        (503, "Mon, 1 Jan 99999999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_from_429_and_503(
    status: int, value: str, seconds: float | None
) -> None:
    """Seconds or a date; nonsense and other statuses count as not given."""
    outcome = answer(status, retry_after=value)

    assert isinstance(outcome, Failed)
    assert outcome.retry_after_s == seconds


def test_retry_after_may_be_a_date_to_come() -> None:
    """A date becomes the seconds until then."""
    date = datetime.now(timezone.utc) + timedelta(seconds=3600)

    outcome = answer(503, retry_after=format_datetime(date, usegmt=True))

    assert isinstance(outcome, Failed)
    assert outcome.retry_after_s is not None
    assert 3000 < outcome.retry_after_s <= 3600


def test_a_reply_that_is_too_large_is_a_failure() -> None:
    """An answer is read up to a bound; what is longer is retried like a malformed reply."""
    outcome = answer(200, b"x" * (2 * 1024 * 1024 + 1))

    assert outcome == Failed(summary="200 with an answer that is too large", retried=True)


def test_a_dead_letter_sink_may_answer_with_a_body() -> None:
    """Any 2xx of the sink will do."""
    outcome = answer(200, b"OK", wants_reply=False)

    assert outcome == Delivered(summary="200", reply=None, headers={})


def test_headers_that_no_request_can_carry_are_not_passed_on() -> None:
    """A header outside of ASCII would make every delivery fail."""
    assert passed_on({"x-request-id": "a", "knative-a": "\xe9"}) == {"x-request-id": "a"}
