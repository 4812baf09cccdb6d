"""What func's scaffolding starts: `new()` becomes the server of main.py."""

import sys
from pathlib import Path
from typing import NoReturn

_PACKAGE = Path(__file__).parent


def new() -> NoReturn:
    """Start the relay that hatch_build.py has put into `_vendor`."""
    # Last: func-python has packages of the same names, in other versions.
    sys.path.append(str(_PACKAGE / "_vendor"))
    from relay import start

    start.serve(_PACKAGE)
