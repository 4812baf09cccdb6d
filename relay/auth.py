"""Tell by `CALLBACK_SECRET` what comes from a target or from the relay itself, and sign for it.

Two kinds of proof, made with the same keys and never to be taken for one another:

    webhook-signature   Standard Webhooks, over a body: on callbacks, both those that targets send
                        and those that the relay delivers
    relaymac            an extension attribute, over the id of a request: on the relay's own events,
                        so that nobody who only reaches Send can make up an outcome

Without the secret nothing is signed and nothing is asked for.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from standardwebhooks import Webhook, WebhookVerificationError

from relay.events import Event
from relay.problems import Forbidden, Unauthorized
from relay.state import State

MAC: Final = "relaymac"

# What the id of each callback that the relay delivers begins with. Who only receives one, without
# the secret, could otherwise hand it in as a target's.
_OWN: Final = "relay_"
# Standard Webhooks' tolerance is five minutes either way: a signature from the future is good for
# twice that.
_REMEMBERED_S: Final = 2 * 300 + 1
# A header cannot hold the NUL, so that no signed webhook is a MAC.
_MAC_DOMAIN: Final = b"relay event\0"


class Signatures:
    """Sign and verify.

    Args:
        keys: as `Settings.callback_secret` has them; the first signs MACs, each is accepted.
        state_url: where the ids of callbacks are remembered.
    """

    def __init__(self, keys: tuple[bytes, ...], state_url: str) -> None:
        self._keys = keys
        self._webhooks = tuple(Webhook(key) for key in keys)
        self._seen = State(state_url, _REMEMBERED_S)

    def sign(self, message_id: str, body: object) -> dict[str, str]:
        """Make the headers of a callback, signed with every key while one replaces another."""
        if not self._webhooks:
            return {}
        # `id.timestamp.body` is signed: an id with a dot in it, or one that somebody chose, could
        # make it read in another way.
        own_id = _OWN + hashlib.sha256(message_id.encode("utf-8")).hexdigest()
        moment = datetime.datetime.now(datetime.timezone.utc)
        content = json.dumps(body, separators=(",", ":"))  # as the envelope's reader writes it
        return {
            "webhook-id": own_id,
            "webhook-timestamp": str(int(moment.timestamp())),
            "webhook-signature": " ".join(
                webhook.sign(own_id, moment, content) for webhook in self._webhooks
            ),
        }

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check that a target has signed a callback, not long ago.

        Raises:
            Unauthorized: it has not, or there is nothing to check.
        """
        if not self._webhooks:
            return
        own = headers.get("webhook-id", "").startswith(_OWN)
        if own or not any(_is_signed(webhook, headers, body) for webhook in self._webhooks):
            raise Unauthorized(
                "webhook-signature must be a valid and fresh one of Standard Webhooks, with"
                " webhook-id and webhook-timestamp, by a key of CALLBACK_SECRET",
                scheme="StandardWebhooks",
            )

    def take(self, headers: Mapping[str, str]) -> None:
        """Remember a verified callback, so that a copy of it is refused.

        Raises:
            Unauthorized: it has been here before.
            StateUnavailable: nobody can tell.
        """
        if self._webhooks and not self._seen.add(_seen_key(headers), {}):
            raise Unauthorized("webhook-id has been used before", scheme="StandardWebhooks")

    def give_back(self, headers: Mapping[str, str]) -> None:
        """Take back `take`: the callback was not published, and its target will try again."""
        if self._webhooks:
            self._seen.delete(_seen_key(headers))

    def stamp(self, event: Event) -> Event:
        """Give an event of the relay's its MAC."""
        if not self._keys:
            return event
        return replace(event, attributes={**event.attributes, MAC: _mac(self._keys[0], event.id)})

    def check(self, event: Event, request_id: str) -> None:
        """Check that an event follows from one that the relay made.

        Args:
            request_id: the id of that one.

        Raises:
            Forbidden: it does not.
        """
        given = event.attributes.get(MAC, "").encode("utf-8")
        known = [hmac.compare_digest(_mac(key, request_id).encode(), given) for key in self._keys]
        if known and not any(known):
            raise Forbidden(f"ce-{MAC} does not show that the event is one of the relay's own")


def _is_signed(webhook: Webhook, headers: Mapping[str, str], body: bytes) -> bool:
    try:
        webhook.verify(body, dict(headers), json_parse=False)
    # ValueError is what malformed signatures and a body that is no text run into.
    except (WebhookVerificationError, ValueError):
        return False
    return True


def _mac(key: bytes, request_id: str) -> str:
    return hmac.new(key, _MAC_DOMAIN + request_id.encode("utf-8"), hashlib.sha256).hexdigest()


def _seen_key(headers: Mapping[str, str]) -> str:
    name = hashlib.sha256(headers["webhook-id"].encode("utf-8", "surrogatepass")).hexdigest()
    return f"webhook:{name}"


def check_token(headers: Mapping[str, str], tokens: tuple[str, ...]) -> None:
    """Compare a request's Bearer token (RFC 6750 section 2.1) with those that are let in.

    Args:
        headers: by lower-case name.
        tokens: when there are none, everybody is let in.

    Raises:
        Unauthorized: it is none of them, or there is none.
    """
    scheme, _, given = headers.get("authorization", "").partition(" ")
    candidate = given.strip(" ").encode("utf-8", "surrogatepass")
    # A list, not a generator: how long it takes must not tell which token it was.
    equal = [hmac.compare_digest(token.encode("ascii"), candidate) for token in tokens]
    if tokens and not (any(equal) and scheme.lower() == "bearer"):
        raise Unauthorized("Authorization must be Bearer and a token of API_TOKEN", scheme="Bearer")
