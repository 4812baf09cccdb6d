"""Break what a reader takes, again and again, and see what comes out."""

from __future__ import annotations

import random
import traceback
from contextlib import ExitStack

from tests.system.fuzz.readers import Reader, readers

# What parsers trip over.
_TRIPS = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b";", b"=", b"#", b"?", b"/", b"%", b"@"),
    *(b"\0", b"\r\n", b"\n", b"\r", b" ", b"\t", b"\xff", b"\xef\xbb\xbf", b"\xc3\xa9", b"\xb2"),
    *(b"\\u0000", b"\\ud800", b"%2e%2e", b"%00", b"\xed\xa0\x80", "\u212a".encode(), b"\x85"),
    *(b"NaN", b"-Infinity", b"1e999", b"-0", b"9" * 400, b"9" * 5000, b"99999999999999", b"0x1"),
    *(b"null", b"true", b"[" * 200, b'{"":', b"0", b"-1", b"\xf0\x9f\x98\x80", b"=?utf-8?q?=ff?="),
    *(b"Mon, 1 Jan 99999999999999 00:00:00 GMT", b"Mon, 31 Feb 0001 99:99:99 -9999", b"a" * 3000),
)


def broken(chance: random.Random, valid: list[bytes]) -> bytes:
    """Cut, double or replace a few pieces of something valid; now and then of two such things."""
    raw = chance.choice(valid)
    for _ in range(chance.randrange(1, 5)):
        start = chance.randrange(len(raw) + 1)
        end = min(len(raw), start + chance.choice((0, 0, 1, 2, 8, 40)))
        kind = chance.randrange(8)
        if kind == 0:
            put = b""
        elif kind == 1:
            put = raw[start:end] * 2
        elif kind == 2:
            put = chance.randbytes(chance.randrange(1, 5))
        elif kind == 3:
            other = chance.choice(valid)
            place = chance.randrange(len(other) + 1)
            put = other[place : place + 30]
        else:
            put = chance.choice(_TRIPS)
        raw = raw[:start] + put + raw[end:]
    return raw


def faults(reader: Reader, seed: int, count: int) -> list[str]:
    """Try a reader with so many inputs, the same ones for the same seed; describe the faults."""
    chance = random.Random(seed)
    found: dict[str, str] = {}
    for _ in range(max(1, count // reader.cost)):
        raw = broken(chance, reader.valid)
        try:
            reader.read(raw)
        except reader.errors:
            continue
        except Exception as exc:
            last = traceback.extract_tb(exc.__traceback__)[-1]
            where = f"{type(exc).__name__} in {last.filename}:{last.lineno}"
            found.setdefault(where, f"{where}: {exc}\n    for {raw[:2000]!r}")
    return list(found.values())


def fuzz(seed: int, count: int, name: str) -> list[str]:
    """Try the reader of a name."""
    with ExitStack() as stack:
        return faults(readers(stack)[name], seed, count)


def names() -> list[str]:
    """List the readers."""
    with ExitStack() as stack:
        return list(readers(stack))
