"""One attempt at a delivery: what is sent, and what its outcome means for the store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from local.broker.activity import (
    DELIVERED,
    DROPPED,
    RETRY,
    TO_DEAD_LETTER_SINK,
    Accepted,
    Activity,
    Attempted,
)
from local.broker.connections import Connections
from local.broker.database import StoreError
from local.broker.delivery import (
    DEFAULT_TIMEOUT_S,
    Delivered,
    Failed,
    classify,
    error_extensions,
)
from local.broker.event import readable
from local.broker.routing import Route, Routing, outgoing_headers
from local.broker.store import PendingDelivery, Publication
from relay.events import Event
from relay.problems import InvalidRequest

T = TypeVar("T")

_STORE_RETRY_S = 1.0
_log = logging.getLogger("local.broker")


class Ledger(Protocol):
    """Where it is kept what an attempt has led to."""

    async def finish(
        self, delivery: PendingDelivery, reply: Publication | None = None
    ) -> int | None:
        """End a delivery and publish the reply to it, whose event id is returned."""

    async def postpone(self, delivery: PendingDelivery, due_at: float) -> None:
        """Keep a delivery as it is to be attempted next."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that has been made, and that the ledger does not know of yet."""

    delivery: PendingDelivery
    outcome: Delivered | Failed
    duration_ms: float
    ended_at: float


class Attempts:
    """Make the attempts of one Trigger.

    Args:
        route: the Trigger's own.
        routing: of all Triggers, for the replies.
        activity: is told of each attempt.
        offer: takes the replies that are in the store, with their event ids.
        ledger: a delivery ends there, or waits there for its next attempt.
    """

    def __init__(
        self,
        route: Route,
        routing: Routing,
        activity: Activity,
        offer: Callable[[int, Publication], None],
        ledger: Ledger,
    ) -> None:
        self._route = route
        self._routing = routing
        self._ledger = ledger
        self._activity = activity
        self._offer = offer
        self._connections = Connections()

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._connections.close()

    async def make(self, delivery: PendingDelivery) -> Attempt:
        """Call the subscriber, or the dead letter sink once it has come to that."""
        route = self._route
        headers = {
            **delivery.headers,
            **outgoing_headers(delivery.event, delivery.dead_letter or {}),
            "kn-namespace": route.namespace,
        }
        is_dead_letter = delivery.dead_letter is not None
        url = route.dead_letter_url if is_dead_letter else route.subscriber_url
        if not is_dead_letter:
            headers["prefer"] = "reply"
        started = time.monotonic()
        outcome = await self._call(url, headers, delivery.event.data, not is_dead_letter)
        return Attempt(delivery, outcome, (time.monotonic() - started) * 1000, time.time())

    async def _call(
        self, url: str | None, headers: Mapping[str, str], data: bytes, wants_reply: bool
    ) -> Delivered | Failed:
        if url is None:
            gone = "its dead letter sink is no longer in the manifests"
            return Failed(summary=gone, retried=False)
        timeout_s = self._route.delivery.timeout_s or DEFAULT_TIMEOUT_S
        try:
            answer = await self._connections.post(url, headers, data, timeout_s=timeout_s)
        except asyncio.TimeoutError:
            return Failed(summary="no answer in time", retried=True)
        # Whatever kept the request from being answered is for the delivery spec to handle.
        except Exception as exc:
            problem = f"dispatch error: {str(exc) or type(exc).__name__}"
            extensions = error_extensions(dest=url, code=500, data=problem.encode())
            return Failed(summary=problem, retried=True, extensions=extensions)
        return classify(answer, url=url, wants_reply=wants_reply)

    async def settle(self, attempt: Attempt) -> bool:
        """Make what an attempt has led to durable.

        Returns:
            Whether another attempt follows.
        """
        delivery, outcome = attempt.delivery, attempt.outcome
        reply: Publication | None = None
        if isinstance(outcome, Delivered) and outcome.reply is not None:
            try:
                reply = self._admitted(delivery, outcome.reply, outcome.headers)
            except InvalidRequest as exc:
                # The Broker refuses its own subscriber's reply, as its ingress would with a 400.
                refused_by = self._routing.ingress_url(self._route.broker)
                outcome = Failed(
                    summary=f"reply refused: {exc}",
                    retried=False,
                    extensions=error_extensions(dest=refused_by, code=400),
                )
        if isinstance(outcome, Failed):
            following, wait_s = self._following(delivery, outcome)
            if following is not None:
                due_at = time.time() + wait_s
                await self._keep(lambda: self._ledger.postpone(following, due_at))
                step = RETRY if following.failures else TO_DEAD_LETTER_SINK
                self._tell(attempt, outcome, step, wait_s)
                return True
        wanted = reply if reply and reply.triggers else None
        event_id = await self._keep(lambda: self._ledger.finish(delivery, wanted))
        self._tell(attempt, outcome, DROPPED if isinstance(outcome, Failed) else DELIVERED)
        if reply is not None:
            origin = (delivery.event.attributes["source"], delivery.event.attributes["id"])
            fact = Accepted(event=reply.event, triggers=reply.triggers, reply_to=origin)
            self._activity.note(fact)
        if event_id is not None and reply is not None:
            self._offer(event_id, reply)
        return False

    def _admitted(
        self, delivery: PendingDelivery, reply: Event, headers: Mapping[str, str]
    ) -> Publication:
        """Take a reply into the Broker.

        It goes on with the trace of its event unless the subscriber says otherwise.
        """
        event, triggers = self._routing.admit_reply(self._route.broker, reply, to=delivery.event)
        return Publication(event=event, headers={**delivery.headers, **headers}, triggers=triggers)

    def _following(
        self, delivery: PendingDelivery, outcome: Failed
    ) -> tuple[PendingDelivery | None, float]:
        """Return the delivery as it goes on after a failure, if it does, and when."""
        spec = self._route.delivery
        if outcome.retried and delivery.failures < spec.retry:
            wait_s = spec.backoff_s(delivery.failures + self._route.first_retry)
            if outcome.retry_after_s is not None and spec.retry_after_max_s is not None:
                wait_s = max(wait_s, min(outcome.retry_after_s, spec.retry_after_max_s))
            return replace(delivery, failures=delivery.failures + 1), wait_s
        if delivery.dead_letter is None and self._route.dead_letter_url is not None:
            return replace(delivery, failures=0, dead_letter=outcome.extensions or {}), 0.0
        return None, 0.0

    async def _keep(self, write: Callable[[], Awaitable[T]]) -> T:
        """Repeat a write until it is durable; until then the delivery keeps its place."""
        while True:
            try:
                return await write()
            except StoreError as exc:
                _log.error("trigger=%s not stored, trying again: %s", self._route.name, exc)
                await asyncio.sleep(_STORE_RETRY_S)

    def _tell(
        self, attempt: Attempt, outcome: Delivered | Failed, next_step: str, wait_s: float = 0.0
    ) -> None:
        """Tell whoever watches, and the log: no headers and no data, which may hold secrets."""
        delivery, route = attempt.delivery, self._route
        attributes = delivery.event.attributes
        is_dead_letter = delivery.dead_letter is not None
        url = route.dead_letter_url if is_dead_letter else route.subscriber_url
        fact = Attempted(
            source=readable(attributes["source"]),
            id=readable(attributes["id"]),
            type=readable(attributes["type"]),
            trigger=route.name,
            url=url or "",
            to_dead_letter_sink=is_dead_letter,
            attempt=delivery.failures + 1,
            result=outcome.summary,
            extensions=(outcome.extensions if isinstance(outcome, Failed) else None) or {},
            duration_ms=attempt.duration_ms,
            next_step=next_step,
            wait_s=wait_s,
            at=attempt.ended_at,
        )
        self._activity.note(fact)
        level = logging.ERROR if next_step == DROPPED else logging.INFO
        if not _log.isEnabledFor(level):
            return
        following = f"retry in {wait_s:g} s" if next_step == RETRY else next_step
        fields = {
            "trigger": fact.trigger,
            "id": attributes["id"],
            "type": attributes["type"],
            "attempt": fact.attempt,
            "to": "dead letter sink" if is_dead_letter else "subscriber",
            "result": fact.result,
            "duration_ms": round(fact.duration_ms, 1),
            "next": following,
        }
        to = "the dead letter sink of " if is_dead_letter else ""
        line = f"{fact.type} to {to}{fact.trigger}: {fact.result}, {following}"
        if next_step == DROPPED:
            line = f"EVENT DROPPED: {line}"
        # _log.info would look up the calling line of code, which costs as much as all the rest.
        extra = {"fields": fields}
        _log.handle(_log.makeRecord(_log.name, level, __file__, 0, line, (), None, extra=extra))
