"""A review: what a person settled of one visit, and whether it can be signed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from ..core.findings import Finding, Severity, Status
from ..core.library import Library
from ..core.lines import Line, without_modifiers
from ..core.policy import NotInForce
from ..core.suggestion import Suggestion, suggest
from ..core.visit import Discipline, Service, Visit
from ..fhir.normalise import PreparedVisit

MOST_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Correction:
    """Minutes a person entered for one service; what the chart said is kept beside them."""

    minutes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Answers:
    """Everything the reviewer has settled so far: the draft."""

    policy: str | None = None  # chosen where the payer is unknown, or instead of the one found
    discipline: Discipline | None = None  # only where the chart does not tell
    tie: Mapping[str, int] | None = None  # the units chosen for the tied codes
    minutes: Mapping[str, Correction] = field(default_factory=dict)  # by service reference
    left_out: Mapping[str, str] = field(default_factory=dict)  # service reference -> reason
    modifiers_off: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by code
    notes: Mapping[str, str] = field(default_factory=dict)  # finding id -> reason
    correction: str | None = None  # why signed charges are corrected; None: nothing is


@dataclass(frozen=True, slots=True)
class Review:
    """One visit as the reviewer sees it now."""

    prepared: PreparedVisit
    answers: Answers
    visit: Visit  # the chart's, with the answers in it
    policy: str | None
    suggestion: Suggestion | None  # None while no policy is chosen
    ways: tuple[Mapping[str, int], ...]  # to settle the tie, also once it is settled; empty: there is none
    not_in_force: str | None  # why the policy says nothing about this date; another one is to be chosen
    comparison: tuple[Suggestion, ...]  # the same visit under other policies, where they are in force
    lines: tuple[Line, ...]  # the suggestion's, without the modifiers taken off
    blocked: tuple[str, ...]  # why it cannot be signed yet; empty: it can

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Whatever could not be read, then what the checks found."""
        return self.prepared.findings + (self.suggestion.findings if self.suggestion else ())

    @property
    def charged(self) -> tuple[Line, ...]:
        """The lines that sign-off writes."""
        return tuple(line for line in self.lines if line.units > 0)


def review(prepared: PreparedVisit, answers: Answers, library: Library) -> Review:
    """The visit with the answers in it, counted and checked. Nothing is written."""
    visit = with_answers(prepared, answers)
    policy = answers.policy or prepared.policy_id
    suggestion = None
    not_in_force = None
    ways: tuple[Mapping[str, int], ...] = ()
    lines: tuple[Line, ...] = ()
    if policy is not None:
        terms = library.policy(policy)
        try:
            suggestion = suggest(visit, terms, library)
            ways = suggestion.lines_if if suggestion.ties else ()
            if answers.tie in ways:
                suggestion = suggest(visit, terms, library, tie_choice=answers.tie)
            lines = without_modifiers(suggestion.lines, answers.modifiers_off)
        except NotInForce as error:
            not_in_force = str(error)
    return Review(
        prepared=prepared,
        answers=answers,
        visit=visit,
        policy=policy,
        suggestion=suggestion,
        ways=ways,
        not_in_force=not_in_force,
        comparison=tuple(_others(visit, policy, library)),
        lines=lines,
        blocked=tuple(_blocked(visit, suggestion, not_in_force, lines, prepared.findings, answers)),
    )


def with_answers(prepared: PreparedVisit, answers: Answers) -> Visit:
    """The visit as the reviewer corrected it. What is left out is not counted either."""
    visit = prepared.visit
    return replace(
        visit,
        discipline=visit.discipline or answers.discipline,
        services=tuple(
            _corrected(service, answers.minutes.get(service.reference or ""), prepared.assistant_services)
            for service in visit.services
            if service.reference not in answers.left_out
        ),
    )


def _corrected(
    service: Service, correction: Correction | None, assistant_services: frozenset[str]
) -> Service:
    """The reviewer's minutes instead of the chart's; whose they were stays."""
    if correction is None:
        return service
    cleared = replace(service, minutes=0, assistant_minutes=0, concurrent_minutes=0, start=None, end=None)
    if service.reference in assistant_services:
        return replace(cleared, assistant_minutes=correction.minutes)
    if service.concurrent_minutes:
        return replace(cleared, concurrent_minutes=correction.minutes)
    return replace(cleared, minutes=correction.minutes)


def _others(visit: Visit, used: str | None, library: Library) -> Iterator[Suggestion]:
    """The two ways of counting that there are, beside the one that is used."""
    for other in ("cms-part-b", "ama-midpoint"):
        if other != used:
            with suppress(NotInForce):
                yield suggest(visit, library.policy(other), library)


def _blocked(
    visit: Visit,
    suggestion: Suggestion | None,
    not_in_force: str | None,
    lines: tuple[Line, ...],
    unread: tuple[Finding, ...],
    answers: Answers,
) -> Iterator[str]:
    if visit.discipline is None:
        yield "The discipline is not known."
    if suggestion is None:
        yield not_in_force or "The policy to count under is not chosen."
        return
    if suggestion.ties:
        units = sum(tie.units for tie in suggestion.ties)
        yield f"{units} unit{'s are' if units > 1 else ' is'} still to be placed."
    missing = [
        code
        for finding in suggestion.findings
        if finding.id == "minutes-missing" and finding.status is Status.FAIL
        for code in finding.codes
    ]
    if missing:
        yield f"Minutes are missing for {', '.join(dict.fromkeys(missing))}."
    unanswered = [
        finding
        for finding in (*unread, *suggestion.findings)
        if finding.severity is Severity.CRITICAL
        and finding.status is Status.FAIL
        and finding.id != "minutes-missing"
        and not answers.notes.get(finding.id)
    ]
    if unanswered:
        yield f"{len(unanswered)} critical finding{'s need' if len(unanswered) > 1 else ' needs'} a reason."
    if not any(line.units > 0 for line in lines) and not suggestion.ties:
        yield "There is no unit to charge."
