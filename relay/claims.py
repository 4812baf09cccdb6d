"""Keep the claims on attempts alive while their calls are made."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Final

from relay.lifecycle import LEASE_MS
from relay.problems import StateUnavailable
from relay.records import Records

log = logging.getLogger(__name__)

# Twice in a lease's time, and once more, so that one renewal may fail.
_INTERVAL_S: Final = LEASE_MS / 1000 / 3


class Claims:
    """The claims of this process; a thread renews those of calls that take long.

    So a claim outlives its process by at most a lease, however long the call would have taken, and
    the Broker's few retries find the request free again.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._renew_at_s: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def held(self, request_id: str, caller: str) -> Iterator[None]:
        """Keep a claim while the block runs."""
        claim = (request_id, caller)
        with self._lock:
            self._renew_at_s[claim] = time.monotonic() + _INTERVAL_S
            if self._thread is None:  # not before a fork, which would leave it behind
                self._thread = threading.Thread(target=self._renew, daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._renew_at_s.pop(claim, None)

    def _renew(self) -> None:
        while True:
            time.sleep(_INTERVAL_S / 4)
            now_s = time.monotonic()
            with self._lock:
                due = [claim for claim, at_s in self._renew_at_s.items() if at_s <= now_s]
                self._renew_at_s |= dict.fromkeys(due, now_s + _INTERVAL_S)
            for request_id, caller in due:
                try:
                    self._records.renew(request_id, caller)
                except StateUnavailable as exc:
                    log.warning("a claim is not renewed: %s", exc.detail)
                    break
