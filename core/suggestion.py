"""A suggestion: what we offer for a visit under a policy, with every reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from .findings import Finding
from .policy import Citation, Term
from .visit import Discipline, Visit


@dataclass(frozen=True, slots=True)
class Reason:
    """One step of the arithmetic in a coder's words, and the clause it rests on."""

    says: str
    source: Citation | None


@dataclass(frozen=True, slots=True)
class Modifier:
    """Never silent: it has a reason and a source, and can be taken off."""

    code: str
    reason: str
    source: Citation | None


@dataclass(frozen=True, slots=True)
class Line:
    """One code and one set of modifiers.

    ``units`` is what is to be charged now, ``units_of_day`` what the day allows; they differ where
    this group already charged the code that day.
    """

    code: str
    units: int
    units_of_day: int
    minutes: int | None
    modifiers: tuple[Modifier, ...]
    because: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Tie:
    """``units`` to be shared among ``codes``, at most one each; the clinician chooses."""

    codes: tuple[str, ...]
    units: int


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
