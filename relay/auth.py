"""Tell what comes from a target, from the relay itself or from a caller, and sign for it.

    webhook-signature   Standard Webhooks, over a body, by `CALLBACK_SECRET`: on callbacks, both
                        those that targets send and those that the relay delivers
    relaymac            an extension attribute, over the id of a request and the callback that its
                        caller asked for, by `CALLBACK_SECRET`, else by `API_TOKEN`: on the relay's
                        own events, so that access to Send alone is not enough to forge an outcome,
                        or a call that one asks for
    Authorization       a token of `API_TOKEN`: on callers' requests

Without its setting, a proof is neither made nor required.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import uuid
from collections.abc import Iterator, Mapping
from typing import Final

from standardwebhooks import Webhook, WebhookVerificationError

from relay.events import Event
from relay.jsons import canonical
from relay.problems import Forbidden, RelayError, StateUnavailable, Unauthorized
from relay.settings import Settings
from relay.store import Store

MAC: Final = "relaymac"

# The ids of the callbacks that the relay delivers begin so. Otherwise their receiver, who does not
# know the secret, could hand one in as a target's.
_OWN: Final = "relay_"
# Standard Webhooks' tolerance is five minutes either way: a signature from the future is good for
# twice that.
_REMEMBERED_S: Final = 2 * 300 + 1
# A header cannot hold a NUL, so a signed webhook is never a MAC.
_MAC_DOMAIN: Final = b"relay event\0"


class Signatures:
    """Sign and verify.

    Args:
        settings: `callback_secret` and `api_token` count; of several keys the first signs, and each
            is accepted.
        store: where the ids of targets' callbacks are remembered.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._webhooks = tuple(Webhook(key) for key in settings.callback_secret)
        # With a token one may have any call made; the MAC keeps out those without.
        tokens = tuple(token.encode("ascii") for token in settings.api_token)
        self._keys = settings.callback_secret or tokens
        self._store = store

    def sign(self, message_id: str, body: bytes) -> dict[str, str]:
        """Make the headers of a callback, signed with every key while one replaces another."""
        if not self._webhooks:
            return {}
        # `id.timestamp.body` is signed: an id with a dot in it, or one that somebody chose, could
        # make it read in another way.
        own_id = _OWN + hashlib.sha256(message_id.encode("utf-8")).hexdigest()
        moment = datetime.datetime.now(datetime.timezone.utc)
        return {
            "webhook-id": own_id,
            "webhook-timestamp": str(int(moment.timestamp())),
            "webhook-signature": " ".join(
                webhook.sign(own_id, moment, body.decode("utf-8")) for webhook in self._webhooks
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

    @contextlib.contextmanager
    def taking(self, headers: Mapping[str, str]) -> Iterator[None]:
        """Hand a verified callback on in the block; afterwards a copy of it is refused.

        If that fails its target may try again.

        Raises:
            Unauthorized: it has been here before.
            StateUnavailable: it may have been.
        """
        if not self._webhooks:
            yield
            return
        webhook_id = headers["webhook-id"].encode("utf-8", "surrogatepass")
        key, user = hashlib.sha256(webhook_id).hexdigest(), uuid.uuid4().hex
        if not self._store.use_once(key, user, _REMEMBERED_S):
            raise Unauthorized("webhook-id has been used before", scheme="StandardWebhooks")
        try:
            yield
        except RelayError:
            with contextlib.suppress(StateUnavailable):
                self._store.unuse(key, user)
            raise

    def stamp(self, event: Event, callback: object = None) -> Event:
        """Give an event of the relay's its MAC.

        Args:
            callback: what its envelope asks for.
        """
        if not self._keys:
            return event
        return event.having({MAC: _mac(self._keys[0], event.id, callback)})

    def check(self, event: Event, request_id: str, callback: object = None) -> None:
        """Check that an event follows from one that the relay made.

        Args:
            request_id: the id of that one.
            callback: the one that the first event's envelope asked for, as this event says.

        Raises:
            Forbidden: it does not.
        """
        given = event.attributes.get(MAC, "").encode("utf-8")
        macs = [_mac(key, request_id, callback).encode("ascii") for key in self._keys]
        known = [hmac.compare_digest(mac, given) for mac in macs]
        if known and not any(known):
            raise Forbidden(f"ce-{MAC} does not show that the event is one of the relay's own")


def _is_signed(webhook: Webhook, headers: Mapping[str, str], body: bytes) -> bool:
    try:
        webhook.verify(body, dict(headers), json_parse=False)
    # Malformed signatures, and bodies that are not text, raise ValueError.
    except (WebhookVerificationError, ValueError):
        return False
    return True


def _mac(key: bytes, request_id: str, callback: object) -> str:
    # As JSON an id ends where it ends; both are read from JSON by the same reader.
    signed = _MAC_DOMAIN + canonical([request_id, callback])
    return hmac.new(key, signed, hashlib.sha256).hexdigest()


def check_token(headers: Mapping[str, str], tokens: tuple[str, ...]) -> None:
    """Authenticate a caller by bearer token (RFC 6750 section 2.1).

    Args:
        headers: by lower-case name.
        tokens: those that are accepted; without any, every caller is.

    Raises:
        Unauthorized: the token is missing or wrong.
    """
    if not tokens:
        return
    scheme, _, given = headers.get("authorization", "").partition(" ")
    candidate = given.strip(" ").encode("utf-8", "surrogatepass")
    # A list, not a generator: how long it takes must not tell which token it was.
    equal = [hmac.compare_digest(token.encode("ascii"), candidate) for token in tokens]
    if not (any(equal) and scheme.lower() == "bearer"):
        raise Unauthorized("Authorization must be Bearer and a token of API_TOKEN", scheme="Bearer")
