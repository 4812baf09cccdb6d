"""functions-framework's hello for an event: what no delivery can cost less than."""

import functions_framework
from cloudevents.http import CloudEvent


@functions_framework.cloud_event
def relay(event: CloudEvent) -> None:
    """Take it."""
