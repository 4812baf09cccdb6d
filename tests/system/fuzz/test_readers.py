"""Nothing comes out of a reader but what its tree of errors has, whatever goes in."""

from __future__ import annotations

import pytest

from tests.system.fuzz.readers import Reader
from tests.system.fuzz.run import faults, fuzz, names

INPUTS = 10_000
SEED = 1


@pytest.mark.parametrize("name", names())
def test_a_reader_takes_or_refuses(name: str) -> None:
    """The same inputs each time; `./dev fuzz` makes others, and many more."""
    assert fuzz(SEED, INPUTS, name) == []


def test_a_fault_is_found() -> None:
    """An error of another kind is described with its place and the input."""

    def read(raw: bytes) -> None:
        if len(raw) > 100:
            raise KeyError("a fault")

    (fault,) = faults(Reader(read=read, valid=[b"x" * 90]), SEED, 200)

    assert fault.startswith("KeyError in ")
    assert "test_readers.py" in fault
