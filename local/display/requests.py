"""The newest requests that the Broker has seen: the state and the timeline of each.

A request is an event that is neither a reply to another nor a callback about one. Usually Send has
published it, but any publisher's event counts. The events that follow from it belong to it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import takewhile

from local.broker.activity import DELIVERED, RETRY, TO_DEAD_LETTER_SINK, Accepted, Attempted
from local.display import timeline
from local.display.masking import members_of, shortened, target_of
from local.display.timeline import Entry

MAX_REQUESTS = 10_000
_MAX_ENTRIES = 200

ACCEPTED = "accepted"
RETRYING = "retrying"
DELIVERED_STATE = "delivered"
DEAD = "dead"
RESULTS = ("completed", "failed")

Key = tuple[str, str]


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far one Trigger has come with the event of a request."""

    state: str = ACCEPTED
    attempts: int = 0


@dataclass(kw_only=True, slots=True)
class TrackedRequest:
    """What is known of a request.

    Attributes:
        number: Counts the requests; a newer one has a higher number.
        target: `host[:port]`; "" when the event is not an envelope.
        status: The target's answer, or else the last delivery's; "" before the first.
        result: `completed` or `failed`; None before the result.
        fate: `retrying` or `dead`, as Receive has said last; None before it has said so.
        calls: How often the target was called since it was last published, as Receive has said.
        earlier_calls: How often before that.
        progress: By the name of the Trigger.
        events: The keys of all events that belong to it, and what each is called.
        changed: The revision of the last change.
    """

    number: int
    at: float
    source: str
    id: str
    type: str
    target: str = ""
    status: str = ""
    result: str | None = None
    fate: str | None = None
    calls: int = 0
    earlier_calls: int = 0
    progress: dict[str, Progress] = field(default_factory=dict)
    events: dict[Key, str] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    changed: int = 0

    @property
    def state(self) -> str:
        """A result outweighs a dead letter, as for `GET /async/{id}`."""
        if self.result is not None:
            return self.result
        if self.fate is not None:
            return self.fate
        states = {each.state for each in self.progress.values()}
        for state in (DEAD, RETRYING, ACCEPTED):
            if state in states:
                return state
        return DELIVERED_STATE if states else ACCEPTED

    @property
    def attempts(self) -> int:
        """Calls to the target, or else the most deliveries that any Trigger has made."""
        deliveries = max((each.attempts for each in self.progress.values()), default=0)
        return max(self.earlier_calls + self.calls, deliveries)


class Requests:
    """The newest requests.

    Attributes:
        revision: Counts the changes.
        is_connected: Whether the Broker's activity is being followed.
        missed: How many of its facts were missed.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.is_connected = False
        self.missed = 0
        self._count = 0
        self._by_number: OrderedDict[int, TrackedRequest] = OrderedDict()
        self._by_change: OrderedDict[int, TrackedRequest] = OrderedDict()
        self._by_event: dict[Key, TrackedRequest] = {}
        self._by_id: dict[str, TrackedRequest] = {}

    def get(self, number: int) -> TrackedRequest | None:
        """Return a request; None when it is no longer kept."""
        return self._by_number.get(number)

    def changed_since(self, revision: int, limit: int) -> list[TrackedRequest]:
        """Return the requests that have changed since, the oldest change first."""
        newest_first = takewhile(lambda r: r.changed > revision, reversed(self._by_change.values()))
        return list(newest_first)[::-1][:limit]

    def accept(self, fact: Accepted) -> None:
        """Note that the Broker has taken an event."""
        key = _key(fact)
        root = self._by_event.get(key) or self._root_of(fact)
        if root is None or key == (root.source, root.id):
            self._publish(root, key, fact)
            return
        attributes = fact.event.attributes
        ending = attributes["type"].removeprefix(f"{root.type}.")
        if fact.reply_to is not None and ending in RESULTS:
            root.result = ending
            root.status = shortened(str(members_of(fact.event.data).get("status", "")))
            _count_calls(root, fact)
            entry = timeline.result(fact, ending)
        elif fact.reply_to is not None and ending == DEAD:
            root.fate = DEAD
            _count_calls(root, fact)
            entry = timeline.dead(fact)
        elif fact.reply_to is not None and re.fullmatch("retry[1-9]", ending):
            root.fate = RETRYING
            _count_calls(root, fact)
            entry = timeline.waiting(fact)
        else:
            entry = timeline.follow_up(fact)
        self._claim(root, key, timeline.label(fact.event))
        self._add(root, entry)

    def attempt(self, fact: Attempted) -> None:
        """Note that a delivery was tried."""
        key = (fact.source, fact.id)
        request = self._by_event.get(key)
        if request is None:
            # From a run of the Broker that this display has not seen.
            request = self._new(key, fact.type, fact.at)
        if key == (request.source, request.id):
            progress = request.progress.setdefault(fact.trigger, Progress())
            if not fact.to_dead_letter_sink:
                progress.attempts += 1
            progress.state = _state_after(fact)
            if not fact.to_dead_letter_sink and (
                fact.next_step != DELIVERED or request.state == DELIVERED_STATE
            ):
                request.status = _status_of(fact.result)
        self._add(request, timeline.attempted(fact, about=request.events[key]))

    def _publish(self, request: TrackedRequest | None, key: Key, fact: Accepted) -> None:
        is_again = request is not None
        if request is None:
            request = self._new(key, fact.event.attributes["type"], fact.at)
            request.target = target_of(fact.event)
        request.fate = None
        request.earlier_calls, request.calls = request.earlier_calls + request.calls, 0
        for trigger in fact.triggers:
            request.progress.setdefault(trigger, Progress()).state = ACCEPTED
        for entry in timeline.published(fact, is_again=is_again):
            self._add(request, entry)
        asked = re.fullmatch(r"(.+)\.(?:completed|failed|dead)(?:\.[0-9]+)?\.callback", request.id)
        parent = self._by_id.get(asked[1]) if asked else None
        if parent is not None and not is_again:
            link = (request.number, request.id)
            self._add(parent, Entry(at=fact.at, title="The caller is told by", other=link))
            link = (parent.number, parent.id)
            self._add(request, Entry(at=fact.at, title="Tells the caller of", other=link))

    def _root_of(self, fact: Accepted) -> TrackedRequest | None:
        """Find the request that an event follows from."""
        attributes = fact.event.attributes
        if fact.reply_to is not None:
            root = self._by_event.get(fact.reply_to)
            # A reply of the request type is a request itself: Send's, for a caller's callback.
            return None if root is None or attributes["type"] == root.type else root
        root = self._by_id.get(attributes.get("subject", ""))
        if root is not None and attributes["type"] in (
            f"{root.type}.callback",
            f"{root.type}.dead",
        ):
            return root
        return None

    def _new(self, key: Key, event_type: str, at: float) -> TrackedRequest:
        self._count += 1
        source, event_id = key
        request = TrackedRequest(
            number=self._count, at=at, source=source, id=event_id, type=event_type
        )
        self._by_number[request.number] = request
        self._by_id[event_id] = request
        self._claim(request, key, "")
        if len(self._by_number) > MAX_REQUESTS:
            _, oldest = self._by_number.popitem(last=False)
            del self._by_change[oldest.number]
            for each in oldest.events:
                del self._by_event[each]
            if self._by_id.get(oldest.id) is oldest:
                del self._by_id[oldest.id]
        return request

    def _claim(self, request: TrackedRequest, key: Key, name: str) -> None:
        self._by_event[key] = request
        request.events[key] = name
        if len(request.events) > _MAX_ENTRIES:
            # The first is its own event; any other may be forgotten.
            oldest = list(request.events)[1]
            del request.events[oldest], self._by_event[oldest]

    def _add(self, request: TrackedRequest, entry: Entry) -> None:
        request.entries.append(entry)
        if len(request.entries) > _MAX_ENTRIES:
            # The first two entries say where the request came from.
            del request.entries[2]
        self.revision += 1
        request.changed = self.revision
        self._by_change[request.number] = request
        self._by_change.move_to_end(request.number)


def _count_calls(request: TrackedRequest, fact: Accepted) -> None:
    attributes = fact.event.attributes
    attempts = attributes.get("relayattempts", "")
    if re.fullmatch("[0-9]{1,6}", attempts, re.ASCII):
        request.calls = int(attempts)
    if request.result is None:
        request.status = shortened(attributes.get("relaystatus", "no answer"))


def _key(fact: Accepted) -> Key:
    return fact.event.attributes["source"], fact.event.attributes["id"]


def _state_after(fact: Attempted) -> str:
    if fact.next_step in (RETRY, TO_DEAD_LETTER_SINK):
        return RETRYING
    if fact.next_step == DELIVERED and not fact.to_dead_letter_sink:
        return DELIVERED_STATE
    return DEAD


def _status_of(result: str) -> str:
    status = re.match(r"[0-9]{3}\b", result)
    return status[0] if status else "no answer"
