"""What tests of several modules start from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import peers
from tests.support.peers import Peer


@pytest.fixture(scope="module")
def broker_peer() -> Iterator[Peer]:
    """Stand in for a Broker's ingress that accepts everything."""
    with peers.serving(peers.ACCEPTED) as peer:
        yield peer


@pytest.fixture
def broker(broker_peer: Peer) -> Iterator[Peer]:
    """Hand out the Broker with nothing published yet."""
    broker_peer.requests.clear()
    yield broker_peer
    broker_peer.default = peers.ACCEPTED
