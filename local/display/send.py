"""What functions-framework serves as Send on the local stack: the function, observed."""

from __future__ import annotations

import os
from functools import partial

from functions.send.function.main import APP, SEND, send
from local.display.direct import Observer

__all__ = ["send"]

APP.handle = partial(Observer(os.environ["DISPLAY_URL"]).watch, handle=SEND.handle)
