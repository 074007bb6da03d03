"""What a check of the doctor found."""

from collections.abc import Callable
from dataclasses import dataclass

FIX = "python -m mlp.doctor fix=true"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: was looked at.
        said: how it is, one line.
        remedy: what to do about it, one line; empty where all is well.
        repair: mends it without harm and says what was done; None where a person has to.
    """

    what: str
    said: str
    remedy: str = ""
    repair: Callable[[], str] | None = None


def fine(said: str) -> Finding:
    """All is well. `check_up` adds what was looked at."""
    return Finding("", said)


def wrong(said: str, remedy: str, repair: Callable[[], str] | None = None) -> Finding:
    """Something is wrong. `check_up` adds what was looked at."""
    return Finding("", said, remedy, repair)
