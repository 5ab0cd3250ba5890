"""A suggestion: what we offer for a visit under a policy, with every reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from .findings import Finding
from .lines import Line, Modifier, Reason, Tie
from .policy import Term
from .visit import Discipline, Visit

__all__ = ["Line", "Modifier", "Reason", "Suggestion", "Tie"]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The answer to ``suggest(visit, policy)``; see the visit document for each field."""

    id: str
    policy: str
    date_of_service: date
    discipline: Discipline | None
    rule: str
    total_timed_minutes: int | None
    total_treatment_minutes: int | None
    total_timed_units: int | None
    lines: tuple[Line, ...]
    ties: tuple[Tie, ...]
    lines_if: tuple[Mapping[str, int], ...]
    findings: tuple[Finding, ...]
    checks_passed: tuple[str, ...]
    terms: tuple[Term, ...]
    engine: Mapping[str, str]  # version, and a hash over the policies used
    visit: Visit  # what it was made from; not part of the JSON document
