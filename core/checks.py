"""The checks made on a visit once its units are counted.

A check takes the ``Day`` and gives ``None`` where the policy does not ask for it, an empty tuple where
it was made and found nothing, and findings otherwise: a failure, or that it could not be made and why.
Checks change no units and do not stop each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .findings import Finding
from .policy import InForce
from .suggestion import Line
from .visit import Visit

Check = Callable[["Day"], tuple[Finding, ...] | None]


@dataclass(frozen=True, slots=True)
class Day:
    """What a check may look at."""

    visit: Visit
    terms: InForce
    lines: tuple[Line, ...]
    units: Mapping[str, int]  # the day's units by code, ties not yet placed
    minutes: Mapping[str, int | None]  # whole minutes by code; None: unknown
    tied_units: int
    timed_minutes: int | None
    timed_units: int | None
