"""What becomes of a request after a delivery: done, tried again, or dead.

A delivery makes at most one call. A request that must be tried again waits in a tier: as an event
of the type `<EVENT_TYPE>.retryN`, which has a Trigger of its own and holds up nothing else. All
events of a tier wait equally long, so they are due in the order in which they came.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from relay.events import COMPLETED, FAILED
from relay.progress import Progress

MAX_RETRY_AFTER_S: Final = 300.0
# One delivery waits no longer than this: with the call that follows it must end before the
# Trigger's timeout.
LONGEST_PAUSE_S: Final = 20.0
# A Broker drops an event that has come round 255 times.
_MAX_ROUNDS: Final = 230

_RETRIED: Final = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
)


def ending_of(status: int) -> str | None:
    """Return which outcome a target's answer is; None when it is to be asked again."""
    if 200 <= status < 300:
        return COMPLETED
    return FAILED if status < 500 and status not in _RETRIED else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Again:
    """Wait in a tier until it is due."""

    tier: int
    not_before_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Dead:
    """Give the request up.

    Args:
        too_old: not for the number of attempts, but for its age.
    """

    too_old: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """The rules.

    Args:
        delays_s: how long each tier waits; there is one call more than there are tiers.
        max_age_s: what is older is not tried again.
    """

    delays_s: tuple[float, ...]
    max_age_s: float

    @property
    def longest_s(self) -> float:
        """How old a request may be that is tried again."""
        return min(self.max_age_s, _MAX_ROUNDS * min(self.delays_s[-1], LONGEST_PAUSE_S))

    def pause(self, progress: Progress, now_s: float) -> tuple[float, bool]:
        """Say how long a delivery has to wait.

        Returns:
            seconds, and whether the request is due then; if not, it goes round once more. None may
            hold its place longer than its tier's delay: those behind it are due by then.
        """
        left_s = progress.not_before_s - now_s
        if left_s <= 0:
            return 0.0, True
        longest_s = min(self._delay_s(progress.tier), LONGEST_PAUSE_S)
        return (left_s, True) if left_s <= longest_s else (longest_s, False)

    def after_failure(
        self, progress: Progress, *, retry_after_s: float | None, now_s: float
    ) -> Again | Dead:
        """Decide after a call without an outcome.

        Args:
            progress: with that call among its attempts.
            retry_after_s: how long the target asked to be left alone.
        """
        if progress.attempts > len(self.delays_s):
            return Dead(too_old=False)
        tier = max(progress.tier, progress.attempts)
        wait_s = max(self._delay_s(tier), min(retry_after_s or 0.0, MAX_RETRY_AFTER_S))
        while tier < len(self.delays_s) and self._delay_s(tier) < wait_s:
            tier += 1
        return self._again(progress, tier, now_s + wait_s, now_s)

    def without_call(self, progress: Progress, now_s: float) -> Again | Dead:
        """Decide for a request whose target was not called, though it was due."""
        tier = min(progress.tier + 1, len(self.delays_s))
        return self._again(progress, tier, now_s + self._delay_s(tier), now_s)

    def early(self, progress: Progress, now_s: float) -> Again | Dead:
        """Decide for a request that has waited here, and is not due yet."""
        return self._again(progress, progress.tier, progress.not_before_s, now_s)

    def _again(
        self, progress: Progress, tier: int, not_before_s: float, now_s: float
    ) -> Again | Dead:
        if now_s - progress.since_s >= self.longest_s:
            return Dead(too_old=True)
        return Again(tier=tier, not_before_s=not_before_s)

    def _delay_s(self, tier: int) -> float:
        return self.delays_s[min(max(tier, 1), len(self.delays_s)) - 1]
