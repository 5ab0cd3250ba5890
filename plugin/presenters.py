"""Values in the words of the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from jinja2 import StrictUndefined

from ..core.findings import Finding, Severity, Status
from ..core.policy import Citation
from ..core.visit import Discipline, Service
from .review import Review

Undefined = StrictUndefined  # a template that asks for what is not there fails in its test

DISCIPLINES = {
    Discipline.PT: "Physical therapy",
    Discipline.OT: "Occupational therapy",
    Discipline.SLP: "Speech-language pathology",
}
RULES = {"cms-8-minute": "CMS 8-minute rule", "ama-midpoint": "CPT midpoint rule"}
MARKS = {Severity.CRITICAL: "■", Severity.WARNING: "▲", Severity.INFO: "●"}


def long_date(value: date) -> str:
    """Monday 2 March 2026: unmistakable on both sides of the ocean."""
    return f"{value:%A} {value.day} {value:%B %Y}"


def short_date(value: date) -> str:
    """2 March 2026."""
    return f"{value.day} {value:%B %Y}"


def clock_time(value: datetime) -> str:
    """9:05, in the zone the value has."""
    return f"{value.hour}:{value:%M}"


def discipline_name(value: Discipline | str | None) -> str:
    """Physical therapy, or that it is not known."""
    return DISCIPLINES[Discipline(value)] if value else "Discipline not known"


def rule_name(value: str) -> str:
    """CMS 8-minute rule."""
    return RULES.get(value, value)


def units_by_code(value: dict[str, int]) -> str:
    """97112 × 2, 97110 × 1."""
    return ", ".join(f"{code} × {units}" for code, units in value.items())


def plural(count: int | None, word: str) -> str:
    """1 unit, 2 units."""
    return f"{'?' if count is None else count} {word}{'' if count == 1 else 's'}"


FILTERS: dict[str, Callable[..., Any]] = {
    "long_date": long_date,
    "short_date": short_date,
    "clock_time": clock_time,
    "discipline_name": discipline_name,
    "rule_name": rule_name,
    "units_by_code": units_by_code,
    "plural": plural,
}


@dataclass(frozen=True, slots=True)
class Shown:
    """A finding as the page shows it."""

    finding: Finding
    tag: str
    kind: str  # the class of its colour, which never speaks alone

    @property
    def can_note(self) -> bool:
        """Whether a reason can be noted beside it."""
        return self.finding.status is Status.FAIL and self.finding.id != "minutes-missing"


def shown(findings: tuple[Finding, ...]) -> tuple[Shown, ...]:
    """Findings in the order of weight: critical, warning, not checked, information."""

    def weight(item: Shown) -> int:
        return ["critical", "warning", "unchecked", "info"].index(item.kind)

    return tuple(sorted((_shown(finding) for finding in findings), key=weight))


def _shown(finding: Finding) -> Shown:
    if finding.status is Status.NOT_CHECKED:
        return Shown(finding, "○ Not checked", "unchecked")
    word = {"critical": "Critical", "warning": "Warning", "info": "Note"}[finding.severity]
    return Shown(finding, f"{MARKS[finding.severity]} {word}", str(finding.severity))


def missing_minutes(reviewed: Review) -> tuple[Service, ...]:
    """The services whose minutes the person has to enter."""
    if reviewed.suggestion is None:
        return ()
    codes = {
        code
        for finding in reviewed.suggestion.findings
        if finding.id == "minutes-missing" and finding.status is Status.FAIL
        for code in finding.codes
    }
    return tuple(
        service
        for service in reviewed.prepared.visit.services
        if service.code in codes
        and not service.minutes
        and not service.start
        and service.reference not in reviewed.answers.left_out
    )


def chart_minutes(service: Service) -> str:
    """What the chart says of a service's time."""
    parts = []
    if service.start and service.end:
        parts.append(f"{clock_time(service.start)} to {clock_time(service.end)}")
    elif service.minutes is not None and (service.minutes or not service.assistant_minutes):
        parts.append(f"{service.minutes} min")
    if service.assistant_minutes:
        parts.append(f"{service.assistant_minutes} min by the assistant")
    if service.concurrent_minutes:
        parts.append(f"{service.concurrent_minutes} min together")
    return ", ".join(parts) or "no time"


def source_words(citation: Citation) -> str:
    """Title, section, and when it was read."""
    verified = "" if citation.verified else " · not verified"
    return f"{citation.title}, {citation.section} · read {short_date(citation.read_on)}{verified}"


FILTERS["chart_minutes"] = chart_minutes
FILTERS["source_words"] = source_words
