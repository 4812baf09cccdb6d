"""The newest requests: the state, the attempts and the timeline of each.

A request is an event that is neither a reply to another nor a callback about one. Usually Send has
published it, but any publisher's event counts. The events that follow from it belong to it. What
Send has answered itself, past the Broker, is a request too.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import replace
from itertools import takewhile

from local.broker.activity import DELIVERED, RETRY, TO_DEAD_LETTER_SINK, Accepted, Attempted
from local.display import timeline
from local.display.contents import Contents
from local.display.direct import PAGE_CALL, Call
from local.display.masking import call_in, members_of, shortened
from local.display.timeline import BAD, GOOD, WAITING, Entry
from local.display.tracked import (
    ACCEPTED,
    DEAD,
    DELIVERED_STATE,
    REFUSED,
    RESULTS,
    RETRYING,
    Key,
    Progress,
    TrackedRequest,
)
from relay.headers import find

MAX_REQUESTS = 10_000
_MAX_ENTRIES = 200


class Requests:
    """The newest requests.

    Attributes:
        revision: Counts the changes.
        is_connected: Whether the Broker's activity is being followed.
        missed: How many of its facts were missed.
        contents: What was sent and answered.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.is_connected = False
        self.missed = 0
        self.contents = Contents()
        self._delivered: Attempted | None = None
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
        content = self._keep(root, fact)
        kind = fact.event.attributes["type"]
        ending = kind.removeprefix(f"{root.type}.")
        is_reply = fact.reply_to is not None
        if is_reply and ending in RESULTS:
            root.result = ending
            root.status = shortened(str(members_of(fact.event.data).get("status", "")))
            told = f"the target answered {root.status}"
            tone = GOOD if ending == "completed" else BAD
            self._replied(root, fact, tone, root.status)
            entry = timeline.follow_up(fact, content, f"Result: {ending}", tone, [told])
        elif is_reply and (ending == DEAD or timeline.is_tier(kind, root.type)):
            root.fate, title, tone, due_at = DEAD, "Dead", BAD, None
            if ending != DEAD:
                root.fate, title, tone = RETRYING, "To be tried again", WAITING
                due_at = timeline.due_at(fact)
            self._replied(root, fact, tone)
            if root.result is None:
                root.status = shortened(fact.event.attributes.get("relaystatus", "no answer"))
            entry = timeline.follow_up(fact, content, title, tone, timeline.why(fact), due_at)
        else:
            entry = timeline.follow_up(fact, content)
        self._claim(root, key, timeline.label(fact.event))
        self._add(root, entry)

    def direct(self, call: Call) -> None:
        """Note a call that Send has answered itself."""
        number = self._count + 1
        name = find(call.request.headers, PAGE_CALL) or f"{call.path[1:]}-{number}"
        key = (f"{call.path} {number}", shortened(name))
        request = self._new(key, f"{call.method} {call.path}", call.at)
        method, request.target, request.path = call_in(call.request.body)
        # POST /sync calls with the envelope's method, any other with its own.
        is_own = call.path == "/sync" and call.method != "POST"
        request.method = call.method if is_own else method
        request.route = call.path
        request.status = str(call.status)
        is_refused = not call.by_target and 400 <= call.status < 500
        request.result = "completed" if call.status < 400 else REFUSED if is_refused else "failed"
        if call.path == "/sync" and not is_refused:
            request.tries.answered(call)
        request.content = self.contents.keep(request.number, call.request)
        answer = self.contents.keep(request.number, call.answer)
        for entry in timeline.direct(call, request.content, answer):
            self._add(request, entry)
        request.duration_ms = call.duration_ms

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
        self._delivered = fact
        is_own = key == (request.source, request.id) or timeline.is_tier(fact.type, request.type)
        if is_own and fact.next_step != DELIVERED and not fact.to_dead_letter_sink:
            request.tries.failed(fact)
        self._add(request, timeline.attempted(fact, about=request.events[key]))

    def _publish(self, request: TrackedRequest | None, key: Key, fact: Accepted) -> None:
        is_again = request is not None
        if request is None:
            request = self._new(key, fact.event.attributes["type"], fact.at)
            request.method, request.target, request.path = call_in(fact.event.data)
            request.content = self._keep(request, fact)
        request.fate = None
        request.tries.begin_anew()
        for trigger in fact.triggers:
            request.progress.setdefault(trigger, Progress()).state = ACCEPTED
        content = self._keep(request, fact) if is_again else request.content or 0
        for entry in timeline.published(fact, content, is_again=is_again):
            self._add(request, entry)
        asked = re.fullmatch(r"(.+)\.(?:completed|failed|dead)(?:\.[0-9]+)?\.callback", request.id)
        parent = self._by_id.get(asked[1]) if asked else None
        if parent is not None and not is_again:
            link = (request.number, request.id)
            self._add(parent, Entry(at=fact.at, title="The caller is told by", other=link))
            link = (parent.number, parent.id)
            self._add(request, Entry(at=fact.at, title="Tells the caller of", other=link))

    def _replied(
        self, request: TrackedRequest, fact: Accepted, tone: str, status: str = ""
    ) -> None:
        # The Broker tells of a delivery right before it tells of the reply to it.
        delivery = self._delivered
        is_its = delivery is not None and (delivery.source, delivery.id) == fact.reply_to
        request.tries.replied(fact, delivery if is_its else None, tone, status)

    def _keep(self, request: TrackedRequest, fact: Accepted) -> int:
        attributes = dict(fact.event.attributes)
        attributes.pop("knativebrokerttl", None)  # the Broker's own, which no subscriber sees
        return self.contents.keep(request.number, replace(fact.event, attributes=attributes))

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
            self.contents.drop([each.content for each in oldest.entries if each.content])
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
            self.contents.drop([request.entries.pop(2).content or 0])
        if request.duration_ms is None and request.state not in (ACCEPTED, RETRYING):
            request.duration_ms = (entry.at - request.at) * 1000
        self.revision += 1
        request.changed = self.revision
        self._by_change[request.number] = request
        self._by_change.move_to_end(request.number)


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
