"""The life of a request: what each event makes of its record, as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.events import COMPLETED, DEAD, FAILED
from relay.lifecycle import (
    LEASE_MS,
    Attempt,
    Busy,
    Made,
    Times,
    accept,
    attempt_failed,
    cancel,
    claim,
    die,
    finish,
    publish_again,
    published,
    renew,
    status_of,
)
from relay.problems import Conflict, KeyReused
from relay.store import CANCELLED, OPEN, PUBLISHING, Record

NOW = 1_000_000
TIMES = Times(now_ms=NOW, ttl_ms=5_000, publishing_ms=300, quiet_ms=2_000)
NEW = Record(
    id="r",
    state=PUBLISHING,
    expires_ms=NOW + 5_000,
    unknown_ms=NOW + 300,
    fingerprint="f",
    target="x.test:80",
    accepted_ms=NOW,
    publisher="p",
    publishing_until_ms=NOW + 300,
)
ON_ITS_WAY = NEW._replace(state=OPEN, unknown_ms=NOW + 2_000)
CALLED = ON_ITS_WAY._replace(
    attempts=1,
    caller="c",
    calling_until_ms=NOW + LEASE_MS,
    unknown_ms=NOW + LEASE_MS + 2_000,
)
DONE = ON_ITS_WAY._replace(state=COMPLETED, finished_ms=NOW - 5, answer_status=200, attempts=1)
IS_DEAD = ON_ITS_WAY._replace(
    state=DEAD, finished_ms=NOW - 5, reason="{}", attempts=6, publisher=None
)
UNHEARD = ON_ITS_WAY._replace(unknown_ms=NOW)


def later(ms: int) -> Times:
    return replace(TIMES, now_ms=NOW + ms)


def accepted(
    record: Record | None, times: Times = TIMES, *, print_: str = "f", publisher: str = "q"
) -> Record:
    kept, told = accept(
        record, times, request_id="r", fingerprint=print_, target="x.test:80", publisher=publisher
    )
    assert kept is told
    return kept


def claimed(
    record: Record | None,
    times: Times = TIMES,
    *,
    print_: str = "f",
    attempt: int = 1,
    round: int = 1,
) -> tuple[Record | None, Attempt | Busy | Made | None]:
    return claim(record, times, asked=asked(print_, round), caller="d", attempt=attempt)


def asked(print_: str | None = None, round: int = 1, target: str | None = "x.test:80") -> Record:
    return Record("r", OPEN, 0, round=round, fingerprint=print_, target=target)


def died(record: Record | None, *, round: int = 1) -> tuple[Record, bool]:
    return die(record, TIMES, asked=asked("f", round), reason='{"code":503}', attempts=6)


def finished(
    record: Record | None,
    ending: str = COMPLETED,
    attempts: int = 0,
    print_: str | None = None,
    round: int = 1,
) -> Record:
    told = asked(print_, round, None)
    done, state = finish(
        record, TIMES, asked=told, ending=ending, answer_status=200, attempts=attempts
    )
    assert state == done.state
    return done


def failed(
    *, caller: str = "c", error: str = "e", next_attempt_ms: int | None = None, made: bool = True
) -> Record:
    record, _ = attempt_failed(
        CALLED, TIMES, caller=caller, error=error, next_attempt_ms=next_attempt_ms, made=made
    )
    assert record is not None
    return record


def ended(
    record: Record | None, is_known: str, publisher: str, times: Times = TIMES
) -> Record | None:
    """Say how the publication of a request ended."""
    return published(record, times, publisher=publisher, is_known=is_known)[0]


@pytest.mark.parametrize(
    ("record", "after_ms", "status"),
    [
        pytest.param(NEW, 299, "accepted", id="publishing"),
        pytest.param(NEW, 300, "unknown", id="publishing-over"),
        pytest.param(ON_ITS_WAY, 1_999, "accepted", id="open"),
        pytest.param(ON_ITS_WAY, 2_000, "unknown", id="quiet"),
        pytest.param(CALLED, LEASE_MS + 1_999, "accepted", id="called"),
        pytest.param(CALLED, LEASE_MS + 2_000, "unknown", id="called-and-quiet"),
        pytest.param(
            failed(next_attempt_ms=NOW + 60_000),
            61_999,
            "accepted",
            id="waiting",
        ),
        pytest.param(DONE, 4_999, "completed", id="completed"),
        pytest.param(DONE._replace(state=FAILED), 4_999, "failed", id="failed"),
        pytest.param(IS_DEAD, 4_999, "dead", id="dead"),
    ],
)
def test_the_status(record: Record, after_ms: int, status: str) -> None:
    """Open ends in unknown, when nothing can come any more."""
    assert status_of(record, later(after_ms)) == status


def test_a_new_request_is_published() -> None:
    """Its record says by whom, and until when."""
    assert accepted(None, publisher="p") == NEW


def test_a_request_that_nobody_can_repeat_is_open_at_once() -> None:
    """Nobody knows its key, until the Broker has it; if that fails it is as any other."""
    kept, _ = accept(
        None,
        TIMES,
        request_id="r",
        fingerprint="f",
        target="x.test:80",
        publisher="p",
        may_repeat=False,
    )

    assert kept == ON_ITS_WAY
    assert ended(kept, "yes", "p") is kept
    assert ended(kept, "no", "p") is None
    maybe = ended(kept, "unknown", "p")
    assert maybe is not None
    assert status_of(maybe, TIMES) == "unknown"


@pytest.mark.parametrize("record", [ON_ITS_WAY, CALLED, DONE, DONE._replace(state=FAILED)])
def test_a_repeat_is_the_request_that_is_there(record: Record) -> None:
    """Nothing is published again, and nothing about it changes."""
    assert accepted(record) is record


@pytest.mark.parametrize("record", [NEW, ON_ITS_WAY, CALLED, DONE, IS_DEAD, UNHEARD])
def test_another_request_under_the_key_is_refused(record: Record) -> None:
    """Whatever became of the first."""
    with pytest.raises(KeyReused) as raised:
        accepted(record, print_="g")

    assert raised.value.detail == (
        "Idempotency-Key r is that of a request with another envelope or method;"
        " a new request needs a new key"
    )


def test_a_repeat_in_the_middle_of_publishing_is_to_come_again() -> None:
    """It is told when; afterwards nobody knows, and it is published again."""
    with pytest.raises(Conflict) as raised:
        accepted(NEW, later(299))

    assert raised.value.headers == (("Retry-After", "1"),)
    again = accepted(NEW, later(300))
    assert (again.state, again.publisher, again.before) == (PUBLISHING, "q", "unknown")
    assert again.publishing_until_ms == NEW.publishing_until_ms + 300
    assert again.accepted_ms == NEW.accepted_ms


def test_the_same_publisher_may_ask_twice() -> None:
    """A store that did it and could not say so is asked again."""
    assert accepted(NEW, later(10), publisher="p") is NEW


def test_after_death_a_repeat_is_a_retry() -> None:
    """It begins a new round; the attempts go on being counted."""
    again = accepted(IS_DEAD)

    assert (again.state, again.before, again.round) == (PUBLISHING, DEAD, 2)
    assert (again.attempts, again.earlier_attempts) == (6, 6)


def test_without_a_fingerprint_a_request_begins_anew() -> None:
    """Nobody can tell whether the result that came is of this request."""
    told = finished(None)

    assert accepted(told, publisher="p") == NEW


def test_publishing_ends_in_an_open_request() -> None:
    """Only its own publisher can say so, and only while nothing more is known."""
    assert ended(NEW, "yes", "p", later(5)) == NEW._replace(
        state=OPEN, unknown_ms=NOW + 2_005, expires_ms=NOW + 5_005
    )
    assert ended(NEW, "yes", "q") is NEW
    assert ended(DONE, "yes", "p") is DONE
    assert ended(None, "yes", "p") is None


def test_what_was_not_published_is_taken_back_and_nothing_else() -> None:
    """A new request is forgotten; one that was dead or unknown is so again."""
    dead_again = accepted(IS_DEAD)
    unknown_again = accepted(UNHEARD)

    assert ended(NEW, "no", "p") is None
    assert ended(NEW, "no", "q") is NEW
    assert ended(CALLED, "no", "p") is CALLED
    assert ended(DONE, "no", "p") is DONE
    assert ended(None, "no", "p") is None
    back = ended(dead_again, "no", "q")
    assert back is not None
    assert (back.state, back.round, back.reason) == (DEAD, 1, "{}")
    back = ended(unknown_again, "no", "q")
    assert back is not None
    assert status_of(back, TIMES) == "unknown"


def test_what_may_have_been_published_is_unknown_at_once() -> None:
    """Its caller need not wait to send it again."""
    maybe = ended(NEW, "unknown", "p")

    assert maybe is not None
    assert status_of(maybe, TIMES) == "unknown"
    assert accepted(maybe).publisher == "q"
    assert ended(CALLED, "unknown", "p") is CALLED


@pytest.mark.parametrize("record", [None, NEW, ON_ITS_WAY, UNHEARD])
def test_a_call_is_claimed(record: Record | None) -> None:
    """Whoever delivers, it has been published; the claim is for a lease's time."""
    kept, attempt = claimed(record)

    assert attempt == Attempt(caller="d", number=1, record=kept)
    assert kept is not None
    assert (kept.state, kept.caller, kept.attempts) == (OPEN, "d", 1)
    assert kept.calling_until_ms == NOW + LEASE_MS


def test_a_copy_that_comes_meanwhile_waits() -> None:
    """Until its claim is given back; then its attempt is made, and the next one can be claimed."""
    assert claimed(CALLED) == (CALLED, Busy(retry_after_s=6))
    assert claimed(CALLED, later(LEASE_MS - 1)) == (CALLED, Busy(retry_after_s=1))
    given_back = failed(error="no", next_attempt_ms=NOW + 9)
    assert given_back is not None
    assert (given_back.error, given_back.next_attempt_ms) == ("no", NOW + 9)

    assert claimed(given_back) == (given_back, Made(error="no", next_in_s=0.009))
    kept, attempt = claimed(given_back, attempt=2)
    assert kept is not None
    assert kept.attempts == 2
    assert attempt == Attempt(caller="d", number=2, record=kept)


def test_whoever_dies_in_a_call_leaves_it_to_the_next() -> None:
    """How it ended nobody knows: it is made again, and is the same attempt."""
    kept, attempt = claimed(CALLED, later(LEASE_MS))

    assert kept is not None
    assert (kept.attempts, kept.caller) == (1, "d")
    assert attempt == Attempt(caller="d", number=1, record=kept)


def test_a_call_that_is_not_made_after_all_does_not_count() -> None:
    """Its target is left alone for a while."""
    kept = failed(error="avoided", next_attempt_ms=NOW + 9, made=False)

    assert (kept.attempts, kept.caller, kept.error) == (0, None, "avoided")
    again, attempt = claimed(kept)
    assert attempt == Attempt(caller="d", number=1, record=again)


def test_a_copy_of_an_earlier_round_is_no_attempt_of_this_one() -> None:
    """It goes its way without a call."""
    second = ON_ITS_WAY._replace(round=2, attempts=6, earlier_attempts=6)

    assert claimed(second, attempt=3) == (second, Made(error="the call failed", next_in_s=None))


def test_a_claim_is_counted_once() -> None:
    """A store that made it and could not say so is asked again."""
    kept, _ = claimed(ON_ITS_WAY)

    again, attempt = claimed(kept, later(1))

    assert again is kept
    assert attempt == Attempt(caller="d", number=1, record=kept)


def test_a_claim_is_renewed_by_its_caller_alone() -> None:
    """As long as the call goes on."""
    kept = renew(CALLED, later(100), caller="c")[0]

    assert kept is not None
    assert kept.calling_until_ms == NOW + LEASE_MS + 100
    assert renew(CALLED, TIMES, caller="x")[0] is CALLED
    assert renew(None, TIMES, caller="x")[0] is None
    assert failed(caller="x") is CALLED


@pytest.mark.parametrize("record", [DONE, DONE._replace(state=FAILED), IS_DEAD])
def test_what_is_done_or_dead_is_not_called_again(record: Record) -> None:
    """A copy of its event is no new attempt."""
    assert claimed(record) == (record, None)


def test_a_retry_of_a_dead_request_is_called() -> None:
    """Also one that this store knows nothing of."""
    kept, attempt = claimed(accepted(IS_DEAD), round=2)
    assert attempt == Attempt(caller="d", number=7, record=kept)
    assert kept is not None

    kept, attempt = claimed(IS_DEAD, round=2)

    assert attempt == Attempt(caller="d", number=7, record=kept)
    assert kept is not None
    assert (kept.state, kept.round) == (OPEN, 2)


@pytest.mark.parametrize("record", [ON_ITS_WAY, CALLED, DONE, IS_DEAD])
def test_another_event_with_the_same_id_is_called_without_a_claim(record: Record) -> None:
    """Ids are unique for one source only; what is no copy must not be taken for one."""
    assert claimed(record, print_="g") == (record, Attempt(is_strange=True))
    assert finished(record, print_="g") is record


@pytest.mark.parametrize("record", [None, NEW, ON_ITS_WAY, CALLED, UNHEARD, IS_DEAD])
def test_an_answer_ends_a_request(record: Record | None) -> None:
    """Also one that was thought dead; its time counts from here."""
    done = finished(record, FAILED, attempts=2)

    assert (done.state, done.finished_ms, done.expires_ms) == (FAILED, NOW, NOW + 5_000)
    assert (done.caller, done.publisher, done.reason, done.error) == (None, None, None, None)
    assert done.attempts == max(2, record.attempts if record else 0)


def test_an_answer_tells_whose_it_is() -> None:
    """So that a later repeat finds it, though nobody had noted the request."""
    done = finished(None, print_="f")

    assert done.fingerprint == "f"
    assert accepted(done) is done


def test_the_first_answer_counts() -> None:
    """A second one changes nothing, not even the time that is left."""
    assert finished(DONE, FAILED) is DONE


@pytest.mark.parametrize("record", [None, NEW, ON_ITS_WAY, CALLED, UNHEARD])
def test_a_dead_letter_ends_a_request(record: Record | None) -> None:
    """With its reason; a copy of it changes nothing."""
    dead, is_dead = died(record)

    assert is_dead
    assert (dead.state, dead.reason, dead.fingerprint) == (DEAD, '{"code":503}', "f")
    assert (dead.caller, dead.next_attempt_ms) == (None, None)
    assert died(dead) == (dead, True)


def test_a_dead_letter_changes_no_answer_and_no_later_round() -> None:
    """A copy that comes late says nothing of the retry that is on its way."""
    retried = accepted(IS_DEAD)

    assert died(DONE) == (DONE, False)
    assert died(retried) == (retried, False)
    assert died(retried, round=2)[0].state == DEAD


def test_a_retry_forgets_the_last_error() -> None:
    """What the last round met is not what this one waits for."""
    record = UNHEARD._replace(error="no", next_attempt_ms=NOW - 3_000)

    again = publish_again(record, TIMES, publisher="q")

    assert (again.error, again.next_attempt_ms, again.round) == (None, None, 1)


@pytest.mark.parametrize("record", [NEW, ON_ITS_WAY, UNHEARD], ids=["new", "open", "unheard"])
def test_what_was_never_called_can_be_cancelled(record: Record) -> None:
    """Nothing that comes later makes it any other: no delivery, no dead letter, no publisher."""
    cancelled = cancel(record, TIMES)[0]

    assert cancelled is not None
    assert (cancelled.state, cancelled.finished_ms) == (CANCELLED, NOW)
    assert claimed(cancelled) == (cancelled, None)
    assert claimed(cancelled, round=2) == (cancelled, None)
    assert died(cancelled) == (cancelled, False)
    assert ended(cancelled, "yes", "p") is cancelled
    assert ended(cancelled, "no", "p") is cancelled
    assert accepted(cancelled) is cancelled
    assert cancel(cancelled, later(5))[0] is cancelled
    assert finished(cancelled).state == COMPLETED  # called all the same, without the state


@pytest.mark.parametrize(
    ("record", "detail"),
    [
        (CALLED, "r cannot be cancelled any more: its target has been called"),
        (DONE, "r is completed; only an open request can be cancelled"),
        (IS_DEAD, "r is dead; only an open request can be cancelled"),
    ],
    ids=["called", "done", "dead"],
)
def test_it_is_too_late_to_cancel(record: Record, detail: str) -> None:
    """What was called once stays as it is, and a retry of it too."""
    with pytest.raises(Conflict) as caught:
        cancel(record, TIMES)

    assert caught.value.detail == detail
    with pytest.raises(Conflict):
        cancel(publish_again(record, TIMES, publisher="q"), TIMES)


def test_a_failed_request_is_begun_again() -> None:
    """How it ended before says nothing of the new round, unless it was completed."""
    over = finished(CALLED, FAILED, 1)
    again = publish_again(over, TIMES, publisher="q")

    assert (again.state, again.round, again.earlier_attempts) == (PUBLISHING, 2, 1)
    assert finished(again, FAILED) is again
    assert died(again) == (again, False)
    assert finished(again, COMPLETED).state == COMPLETED
    second = finished(again, FAILED, 2, round=2)
    assert (second.state, second.answer_status, second.attempts) == (FAILED, 200, 2)
    back = ended(again, "no", "q")
    assert back is not None
    assert (back.state, back.round) == (FAILED, 1)
    assert accepted(over) is over  # a copy of the first call is no retry
