"""How many steps a piece of Python takes: lines that run, the same on a busy machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

KB = 1024
MB = 1024 * KB
# For an input that is 1,024 times as large; a reader that is not linear exceeds it by far.
MAX_GROWTH = 1100


def steps(action: Callable[[], object]) -> int:
    """Count the lines that run during a call."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


def growth(action: Callable[[int], object]) -> float:
    """Divide the steps for an input of 1 MB by those for 1 KB."""
    return steps(lambda: action(MB)) / steps(lambda: action(KB))
