"""Call the relay from Python: `Relay(url).submit({...})`, then `.result(id)`.

    relay = Relay("http://localhost:8080")
    request = relay.submit({"targetURL": "https://api.example", "body": {"n": 1}})
    answer = relay.result(request.id, timeout_s=60).answer

Errors are one tree:

    RelayError
    ├── Refused        the relay refused the call; `detail` and `field` say what to change
    ├── Unavailable    the relay cannot be reached, or was not able to answer in any try
    └── NotFinished    the request is still open after the time that the caller gave
"""

from relay_client.api import Relay
from relay_client.documents import Answer, Batch, Page, RequestStatus
from relay_client.errors import NotFinished, Refused, RelayError, Unavailable

__all__ = [
    "Answer",
    "Batch",
    "NotFinished",
    "Page",
    "Refused",
    "Relay",
    "RelayError",
    "RequestStatus",
    "Unavailable",
]
