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
from local.broker.delivery import Delivered, Failed, error_extensions, send
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

    async def postpone(
        self,
        delivery: PendingDelivery,
        *,
        due_at: float,
        failures: int,
        dead_letter: Mapping[str, str] | None,
    ) -> None:
        """Keep a delivery for a later attempt."""


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
        ledger: a delivery ends there, or waits there for its next attempt.
        activity: is told of each attempt.
        offer: takes the replies that are in the store, with their event ids.
    """

    def __init__(
        self,
        route: Route,
        routing: Routing,
        ledger: Ledger,
        activity: Activity,
        offer: Callable[[int, Publication], None],
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
        started = time.monotonic()
        if url is None:
            gone = "its dead letter sink is no longer in the manifests"
            outcome: Delivered | Failed = Failed(summary=gone, retried=False)
        else:
            if not is_dead_letter:
                headers["prefer"] = "reply"
            outcome = await send(
                self._connections,
                url,
                headers,
                delivery.event.data,
                timeout_s=route.delivery.timeout_s,
                wants_reply=not is_dead_letter,
            )
        return Attempt(delivery, outcome, (time.monotonic() - started) * 1000, time.time())

    async def settle(self, attempt: Attempt) -> bool:
        """Make what an attempt has led to durable.

        Returns:
            Whether another attempt follows.
        """
        outcome = attempt.outcome
        if isinstance(outcome, Failed):
            return await self._fail(attempt, outcome)
        if outcome.reply is not None:
            return await self._publish(attempt, outcome.reply, outcome.headers)
        await self._keep(lambda: self._ledger.finish(attempt.delivery))
        is_dead = attempt.delivery.dead_letter is not None
        self._tell(attempt, DELIVERED, "dead-lettered" if is_dead else "delivered")
        return False

    async def _publish(self, attempt: Attempt, answered: Event, headers: Mapping[str, str]) -> bool:
        delivery = attempt.delivery
        try:
            reply, triggers = self._routing.admit_reply(
                self._route.broker, answered, to=delivery.event
            )
        except InvalidRequest as exc:
            # The Broker refuses its own subscriber's reply, as its ingress would with a 400.
            ingress_url = self._routing.ingress_url(self._route.broker)
            refused = Failed(
                summary=f"reply refused: {exc}",
                retried=False,
                extensions=error_extensions(dest=ingress_url, code=400),
            )
            return await self._fail(replace(attempt, outcome=refused), refused)
        publication = Publication(
            event=reply,
            # A reply goes on with the trace of its event unless the subscriber says otherwise.
            headers={**delivery.headers, **headers},
            triggers=triggers,
            due_at=time.time(),
        )
        kept = publication if triggers else None
        event_id = await self._keep(lambda: self._ledger.finish(delivery, kept))
        self._tell(
            attempt, DELIVERED, f"delivered, its reply goes to {', '.join(triggers) or 'nobody'}"
        )
        origin = (delivery.event.attributes["source"], delivery.event.attributes["id"])
        self._activity.note(Accepted(event=reply, triggers=triggers, reply_to=origin))
        if event_id is not None:
            self._offer(event_id, publication)
        return False

    async def _fail(self, attempt: Attempt, outcome: Failed) -> bool:
        spec, delivery = self._route.delivery, attempt.delivery
        if outcome.retried and delivery.failures < spec.retry:
            wait_s = spec.backoff_s(delivery.failures + self._route.first_retry)
            if outcome.retry_after_s is not None and spec.retry_after_max_s is not None:
                wait_s = max(wait_s, min(outcome.retry_after_s, spec.retry_after_max_s))
            await self._postpone(
                delivery, wait_s, failures=delivery.failures + 1, dead_letter=delivery.dead_letter
            )
            self._tell(attempt, RETRY, f"retry in {wait_s:g} s", wait_s)
        elif delivery.dead_letter is None and self._route.dead_letter_url is not None:
            await self._postpone(delivery, 0, failures=0, dead_letter=outcome.extensions or {})
            self._tell(attempt, TO_DEAD_LETTER_SINK, "to the dead letter sink")
        else:
            await self._keep(lambda: self._ledger.finish(delivery))
            self._tell(attempt, DROPPED, "given up")
            where = "has no" if delivery.dead_letter is None else "was not taken by the"
            _log.error(
                "trigger=%s id=%r EVENT DROPPED: the delivery failed and %s dead letter sink",
                delivery.trigger,
                delivery.event.attributes["id"],
                where,
            )
            return False
        return True

    async def _postpone(
        self,
        delivery: PendingDelivery,
        wait_s: float,
        *,
        failures: int,
        dead_letter: Mapping[str, str] | None,
    ) -> None:
        due_at = time.time() + wait_s
        await self._keep(
            lambda: self._ledger.postpone(
                delivery, due_at=due_at, failures=failures, dead_letter=dead_letter
            )
        )

    async def _keep(self, write: Callable[[], Awaitable[T]]) -> T:
        """Repeat a write until it is durable; until then the delivery keeps its place."""
        while True:
            try:
                return await write()
            except StoreError as exc:
                _log.error("trigger=%s not stored, trying again: %s", self._route.name, exc)
                await asyncio.sleep(_STORE_RETRY_S)

    def _tell(self, attempt: Attempt, next_step: str, summary: str, wait_s: float = 0.0) -> None:
        """Tell whoever watches, and the log: no headers and no data, which may hold secrets."""
        fact = Attempted.of(
            self._route,
            attempt.delivery,
            attempt.outcome,
            duration_ms=attempt.duration_ms,
            next_step=next_step,
            wait_s=wait_s,
            at=attempt.ended_at,
        )
        self._activity.note(fact)
        attributes = attempt.delivery.event.attributes
        fields = {
            "trigger": fact.trigger,
            "id": attributes["id"],
            "type": attributes["type"],
            "attempt": fact.attempt,
            "to": "dead letter sink" if fact.to_dead_letter_sink else "subscriber",
            "result": fact.result,
            "duration_ms": round(fact.duration_ms, 1),
            "next": summary,
        }
        to = "the dead letter sink of " if fact.to_dead_letter_sink else ""
        line = f"{attributes['type']} to {to}{fact.trigger}: {fact.result}, {summary}"
        # _log.info would look up the calling line of code, which costs as much as all the rest.
        if _log.isEnabledFor(logging.INFO):
            extra = {"fields": fields}
            _log.handle(
                _log.makeRecord(_log.name, logging.INFO, __file__, 0, line, (), None, extra=extra)
            )
