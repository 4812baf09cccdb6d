"""When an origin is left alone, and when it is called again."""

from __future__ import annotations

from relay.breaker import Breaker, Breakers, Circuit


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


RULES = Breaker(failures=3, pause_s=10)


def test_failures_in_a_row_open_a_circuit() -> None:
    """The third failure in a row opens it for the pause; an answer between begins anew."""
    clock = Clock()
    breakers = Breakers(RULES, clock)
    for _ in range(2):
        breakers.failed("a")
    breakers.succeeded("a")
    for _ in range(2):
        breakers.failed("a")
    assert breakers.stay_away_s("a") == 0

    breakers.failed("a")
    clock.now_s += 4

    assert breakers.stay_away_s("a") == 6
    assert breakers.stay_away_s("b") == 0


def test_after_the_pause_one_call_is_let_through() -> None:
    """While it is out, the others stay away; an answer to it closes the circuit."""
    clock = Clock()
    breakers = Breakers(RULES, clock)
    for _ in range(3):
        breakers.failed("a")
    clock.now_s += 10

    assert breakers.stay_away_s("a") == 0
    assert breakers.stay_away_s("a") == 10

    breakers.succeeded("a")
    assert breakers.stay_away_s("a") == 0


def test_a_failed_trial_opens_it_again() -> None:
    """One failure is enough then."""
    clock = Clock()
    breakers = Breakers(RULES, clock)
    for _ in range(3):
        breakers.failed("a")
    clock.now_s += 10
    assert breakers.stay_away_s("a") == 0
    clock.now_s += 2

    breakers.failed("a")

    assert breakers.stay_away_s("a") == 10


def test_it_can_be_off() -> None:
    """With no number of failures a circuit never opens."""
    circuit = Circuit()
    off = Breaker(failures=0, pause_s=10)

    for _ in range(100):
        circuit = off.failed(circuit, 100.0)

    assert off.admit(circuit, 100.0) == (circuit, 0.0)


def test_the_origins_remembered_are_bounded() -> None:
    """Whoever names ever new origins cannot fill the memory; the newest are kept."""
    breakers = Breakers(RULES)
    for number in range(10_100):
        for _ in range(3):
            breakers.failed(number)

    assert breakers.stay_away_s(0) == 0
    assert breakers.stay_away_s(10_099) > 0
