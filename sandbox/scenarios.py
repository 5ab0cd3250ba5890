"""The visits of the sandbox as cases: what each shows, and the charges that its source publishes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Scenario:
    """One visit. ``expected`` holds every answer the source allows, as (code, units); empty: none published.

    ``patient``, ``encounter`` and ``user`` are ids, without their types; ``user`` is the therapist.
    A ``problem`` has something wrong in its chart, on purpose.
    """

    id: str
    title: str
    shows: str
    patient: str
    encounter: str
    user: str
    payer: str
    date_of_service: date
    expected: tuple[tuple[tuple[str, int], ...], ...]
    source: str | None
    problem: bool
