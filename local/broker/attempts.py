"""One attempt at a delivery: what is sent, and what its outcome means for the store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

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
from relay.problems import InvalidRequest

_STORE_RETRY_S = 1.0
_log = logging.getLogger("local.broker")


class Ledger(Protocol):
    """Where it is kept what an attempt has led to."""

    async def finish(self, delivery: PendingDelivery, reply: Publication | None = None) -> None:
        """End a delivery and publish the reply to it."""

    async def postpone(
        self,
        delivery: PendingDelivery,
        *,
        due_at: float,
        failures: int,
        dead_letter: Mapping[str, str] | None,
    ) -> None:
        """Keep a delivery for a later attempt."""


class Attempts:
    """Make the attempts of one Trigger.

    Args:
        route: the Trigger's own.
        routing: of all Triggers, for the replies.
        ledger: a delivery ends there, or waits there for its next attempt.
        activity: is told of each attempt.
        wake: is called with the Triggers that a reply goes to.
    """

    def __init__(
        self,
        route: Route,
        routing: Routing,
        ledger: Ledger,
        activity: Activity,
        wake: Callable[[Iterable[str]], None],
    ) -> None:
        self._route = route
        self._routing = routing
        self._ledger = ledger
        self._activity = activity
        self._wake = wake
        self._connections = Connections()

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._connections.close()

    async def make(self, delivery: PendingDelivery) -> None:
        """Call the subscriber, or the dead letter sink once it has come to that."""
        route = self._route
        headers = {
            **delivery.headers,
            **outgoing_headers(delivery.event, delivery.dead_letter or {}),
            "kn-namespace": route.namespace,
        }
        if delivery.dead_letter is None:
            url = route.subscriber_url
            headers["prefer"] = "reply"
        elif route.dead_letter_url is None:
            gone = "its dead letter sink is no longer in the manifests"
            failed = Failed(summary=gone, retried=False)
            await self._drop(delivery, failed, _Report(delivery, gone, 0.0), gone)
            return
        else:
            url = route.dead_letter_url
        started = time.monotonic()
        outcome = await send(
            self._connections,
            url,
            headers,
            delivery.event.data,
            timeout_s=route.delivery.timeout_s,
            wants_reply=delivery.dead_letter is None,
        )
        report = _Report(delivery, outcome.summary, (time.monotonic() - started) * 1000)
        if isinstance(outcome, Delivered):
            await self._succeed(delivery, outcome, report)
        else:
            await self._fail(delivery, outcome, report)

    async def _succeed(
        self, delivery: PendingDelivery, outcome: Delivered, report: _Report
    ) -> None:
        if outcome.reply is None:
            await self._keep(lambda: self._ledger.finish(delivery))
            self._note(delivery, outcome, report, DELIVERED)
            report.log("delivered" if delivery.dead_letter is None else "dead-lettered")
            return
        try:
            reply, triggers = self._routing.admit_reply(
                self._route.broker, outcome.reply, to=delivery.event
            )
        except InvalidRequest as exc:
            # The Broker refuses its own subscriber's reply, as its ingress would with a 400.
            ingress_url = self._routing.ingress_url(self._route.broker)
            refused = Failed(
                summary=f"reply refused: {exc}",
                retried=False,
                extensions=error_extensions(dest=ingress_url, code=400),
            )
            await self._fail(delivery, refused, report)
            return
        publication = Publication(
            event=reply,
            # A reply goes on with the trace of its event unless the subscriber says otherwise.
            headers={**delivery.headers, **outcome.headers},
            triggers=triggers,
            due_at=time.time(),
        )
        await self._keep(lambda: self._ledger.finish(delivery, publication if triggers else None))
        self._note(delivery, outcome, report, DELIVERED)
        origin = (delivery.event.attributes["source"], delivery.event.attributes["id"])
        self._activity.note(Accepted(event=reply, triggers=triggers, reply_to=origin))
        self._wake(triggers)
        report.log(f"delivered, its reply goes to {', '.join(triggers) or 'nobody'}")

    async def _fail(self, delivery: PendingDelivery, outcome: Failed, report: _Report) -> None:
        spec = self._route.delivery
        if outcome.retried and delivery.failures < spec.retry:
            wait_s = spec.backoff_s(delivery.failures + self._route.first_retry)
            if outcome.retry_after_s is not None and spec.retry_after_max_s is not None:
                wait_s = max(wait_s, min(outcome.retry_after_s, spec.retry_after_max_s))
            await self._postpone(
                delivery, wait_s, failures=delivery.failures + 1, dead_letter=delivery.dead_letter
            )
            self._note(delivery, outcome, report, RETRY, wait_s)
            report.log(f"retry in {wait_s:g} s")
        elif delivery.dead_letter is None and self._route.dead_letter_url is not None:
            await self._postpone(delivery, 0, failures=0, dead_letter=outcome.extensions or {})
            self._note(delivery, outcome, report, TO_DEAD_LETTER_SINK)
            report.log("to the dead letter sink")
        else:
            report.log("given up")
            where = "has no" if delivery.dead_letter is None else "was not taken by the"
            reason = f"the delivery failed and {where} dead letter sink"
            await self._drop(delivery, outcome, report, reason)

    def _note(
        self,
        delivery: PendingDelivery,
        outcome: Delivered | Failed,
        report: _Report,
        next_step: str,
        wait_s: float = 0.0,
    ) -> None:
        """Tell whoever watches of an attempt."""
        self._activity.note(
            Attempted.of(
                self._route,
                delivery,
                outcome,
                duration_ms=report.duration_ms,
                next_step=next_step,
                wait_s=wait_s,
                at=report.ended_at,
            )
        )

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

    async def _drop(
        self, delivery: PendingDelivery, outcome: Failed, report: _Report, reason: str
    ) -> None:
        await self._keep(lambda: self._ledger.finish(delivery))
        _log.error(
            "trigger=%s id=%r EVENT DROPPED: %s",
            delivery.trigger,
            delivery.event.attributes["id"],
            reason,
        )
        self._note(delivery, outcome, report, DROPPED)

    async def _keep(self, write: Callable[[], Awaitable[None]]) -> None:
        """Repeat a write until it is durable; until then the delivery keeps its place."""
        while True:
            try:
                await write()
            except StoreError as exc:
                _log.error("trigger=%s not stored, trying again: %s", self._route.name, exc)
                await asyncio.sleep(_STORE_RETRY_S)
            else:
                return


@dataclass(frozen=True, slots=True)
class _Report:
    """The log line of one attempt; no headers and no data, which may hold secrets."""

    delivery: PendingDelivery
    result: str
    duration_ms: float
    ended_at: float = field(default_factory=time.time)

    def log(self, next_step: str) -> None:
        attributes = self.delivery.event.attributes
        is_dead = self.delivery.dead_letter is not None
        fields = {
            "trigger": self.delivery.trigger,
            "id": attributes["id"],
            "type": attributes["type"],
            "attempt": self.delivery.failures + 1,
            "to": "dead letter sink" if is_dead else "subscriber",
            "result": self.result,
            "duration_ms": round(self.duration_ms, 1),
            "next": next_step,
        }
        _log.info(
            "%s to %s%s: %s, %s",
            attributes["type"],
            "the dead letter sink of " if is_dead else "",
            self.delivery.trigger,
            self.result,
            next_step,
            extra={"fields": fields},
        )
