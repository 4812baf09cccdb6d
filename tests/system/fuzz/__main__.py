"""Fuzz every reader: `python -m tests.system.fuzz`, or `./dev fuzz`.

The exit code is 0 when nothing came out but what the trees of errors have.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack

from tests.system.fuzz.readers import readers
from tests.system.fuzz.run import faults


def main() -> int:
    """Try all readers, print what came out, and return the exit code."""
    parser = argparse.ArgumentParser(prog="./dev fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=60_000, help="for each reader")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the clock, if not set")
    arguments = parser.parse_args()
    total = 0
    found: list[str] = []
    with ExitStack() as stack:
        for name, reader in readers(stack).items():
            began = time.monotonic()
            new = faults(reader, arguments.seed, arguments.inputs)
            count = arguments.inputs // reader.cost
            total += count
            found += new
            took_s = time.monotonic() - began
            print(f"{name}: {count:,} inputs, {len(new)} faults, {took_s:.1f} s", flush=True)
    print("\n".join(found))
    print(f"{total:,} inputs with seed {arguments.seed}: {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
