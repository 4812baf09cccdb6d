"""Whether a call to an origin may be made now, so that none is everybody's trouble."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator

from relay.breaker import Breaker, Breakers
from relay.http import Body
from relay.operations import gauge
from relay.places import Places
from relay.problems import DeadlineExceeded, TargetAvoided, TargetUnreachable
from relay.settings import Settings
from relay.urls import Origin

# A caller may give its call so little time that any target is too late; that says nothing of it.
_COSTLY_S = 5.0
# Who has to wait for a share has seen that the calls which hold it take long.
_SHARE_AGAIN_S = "5"


class Gate:
    """Let calls through, and learn from how they end.

    Args:
        settings: those of the breaker, and `target_timeout_s`, count.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        rules = Breaker(failures=settings.breaker_failures, pause_s=settings.breaker_pause_s)
        self._breakers = Breakers(rules, clock)
        gauge("relay_open_circuits", "Targets that are left alone now.", self._breakers.count_open)
        self._costly_s = min(_COSTLY_S, settings.target_timeout_s)
        self._clock = clock

    @contextlib.contextmanager
    def passing(self, origin: Origin, places: Places) -> Iterator[None]:
        """Make a call to an origin, and read its answer, while the block runs.

        Args:
            places: where the call holds one.

        Raises:
            TargetAvoided: the call must not be made now.
        """
        away_s = self._breakers.stay_away_s(origin)
        if away_s:
            raise TargetAvoided(
                f"the target {origin.authority} was out of reach several times in a row, and is"
                f" left alone for {away_s:.1f} s (BREAKER_FAILURES)",
                headers=(("Retry-After", str(math.ceil(away_s))),),
            )
        with places.take(origin) as is_taken:
            if not is_taken:
                raise TargetAvoided(
                    f"the target {origin.authority} has as many calls open as one may have",
                    headers=(("Retry-After", _SHARE_AGAIN_S),),
                )
            started_s = self._clock()
            try:
                yield
            except TargetUnreachable:
                self._breakers.failed(origin)
                raise
            except DeadlineExceeded:
                if self._clock() - started_s >= self._costly_s:
                    self._breakers.failed(origin)
                raise
            self._breakers.succeeded(origin)


class Passing:
    """A body that is read within the block of a context, which ends with it.

    Args:
        body: it is closed first.
        context: left with the error that reading the body ends in, if it does.
    """

    def __init__(self, body: Body, context: contextlib.ExitStack) -> None:
        self._body = body
        self._context = context

    def __iter__(self) -> Generator[bytes, None, None]:
        with self._context:
            yield from self._body

    def close(self) -> None:
        self._body.close()
        self._context.close()
