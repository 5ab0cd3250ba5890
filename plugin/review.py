"""A review: what a person settled of one visit, and whether it can be signed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ..core.findings import Finding, Severity, Status
from ..core.library import Library, UnknownPolicy
from ..core.lines import Line, without_modifiers
from ..core.policy import NotInForce
from ..core.side_by_side import Other, side_by_side
from ..core.suggestion import Suggestion, settles, sharing, suggest, units_of_day
from ..core.terms import ELEMENTS
from ..core.visit import Contract, Discipline, History, PhaseOfCare, Service, Visit
from ..fhir.normalise import PreparedVisit
from ..fhir.shares import in_whole_minutes
from . import reasons

MOST_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Correction:
    """Minutes a person entered for one service; what the chart said is kept beside them.

    ``assistant_minutes`` are those of them by the assistant alone; None: whose they were stays as it was.
    """

    minutes: int
    reason: str
    assistant_minutes: int | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """Everything the reviewer has settled so far: the draft."""

    policy: str | None = None  # chosen where the payer is unknown, or instead of the one found
    discipline: Discipline | None = None  # where the chart does not tell, or instead of what it says
    tie: Mapping[str, int] | None = None  # the day's units with the tied ones as chosen, enough or not
    minutes: Mapping[str, Correction] = field(default_factory=dict)  # by service reference
    left_out: Mapping[str, str] = field(default_factory=dict)  # service reference -> reason
    modifiers_off: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by code
    modifiers_on: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # code -> modifier -> reason
    notes: Mapping[str, str] = field(default_factory=dict)  # reasons, by the finding's key: see reasons.py
    total_treatment_minutes: int | None = None
    phase_of_care: PhaseOfCare | None = None
    # By code what the record lacks of what a payer wants documented; None: something, not yet said what.
    record: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    separate_conditions: bool | None = None  # whether each service was for a condition of its own
    history: History = field(default_factory=History)  # this year, as the person knows it
    contract: Contract = field(default_factory=Contract)
    beside: str | None = None  # the policy to compare with
    correction: str | None = None  # why signed charges are corrected; None: nothing is


@dataclass(frozen=True, slots=True)
class Review:
    """One visit as the reviewer sees it now."""

    prepared: PreparedVisit
    answers: Answers
    visit: Visit  # the chart's, with the answers in it
    policy: str | None
    suggestion: Suggestion | None  # None while no policy is chosen
    unsettled: Suggestion | None  # with its tie open, also once it is settled; None: there is no tie
    not_in_force: str | None  # why the policy cannot be used for this date; another one is to be chosen
    comparison: tuple[Other, ...]  # the same visit under other policies
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
    unsettled = None
    lines: tuple[Line, ...] = ()
    if policy is not None:
        try:
            terms = library.policy(policy)
            suggestion = suggest(visit, terms, library)
        except (NotInForce, UnknownPolicy) as error:
            # Another policy can be chosen on the page: that is a question, not the end of the way.
            not_in_force = str(error)
    if suggestion is not None:
        unsettled = suggestion if suggestion.ties else None
        if answers.tie and settles(suggestion, answers.tie):
            suggestion = suggest(visit, terms, library, tie_choice=answers.tie)
        lines = without_modifiers(suggestion.lines, answers.modifiers_off)
    return Review(
        prepared=prepared,
        answers=answers,
        visit=visit,
        policy=policy if suggestion else None,
        not_in_force=not_in_force,
        suggestion=suggestion,
        unsettled=unsettled,
        comparison=_compared(suggestion, prepared, answers, library),
        lines=lines,
        blocked=tuple(_blocked(visit, suggestion, not_in_force, lines, prepared, answers)),
    )


COMPARED = ("cms-part-b", "ama-midpoint")  # the two ways to count


def _compared(
    suggestion: Suggestion | None, prepared: PreparedVisit, answers: Answers, library: Library
) -> tuple[Other, ...]:
    """Under the policies of the other coverages, the one the person chose, and both ways to count."""
    chosen = [answers.beside] if answers.beside else []
    asked = [
        other
        for other in dict.fromkeys((*prepared.other_policies, *chosen, *COMPARED))
        if other in library.ids
    ]
    if suggestion is not None:
        return side_by_side(suggestion, [other for other in asked if other != suggestion.policy], library)
    alone = []
    for other in asked:
        with suppress(NotInForce):
            there = suggest(with_answers(prepared, answers), library.policy(other), library)
            alone.append(Other(other, there, None, units_of_day(there), {}))
    return tuple(alone)


def with_answers(prepared: PreparedVisit, answers: Answers) -> Visit:
    """The visit as the reviewer corrected it. What is left out is not counted either."""
    visit = prepared.visit
    year, theirs = answers.history, visit.history
    contract, known = answers.contract, visit.contract
    return replace(
        visit,
        discipline=answers.discipline or visit.discipline,
        modifiers={**visit.modifiers, **{code: tuple(put) for code, put in answers.modifiers_on.items()}},
        total_treatment_minutes=_first(answers.total_treatment_minutes, visit.total_treatment_minutes),
        phase_of_care=answers.phase_of_care or visit.phase_of_care,
        history=History(
            evaluations=_first(year.evaluations, theirs.evaluations),
            treatment_visits=_first(year.treatment_visits, theirs.treatment_visits),
            treatment_visits_elsewhere=_first(
                year.treatment_visits_elsewhere, theirs.treatment_visits_elsewhere
            ),
            referral_on_file=_first(year.referral_on_file, theirs.referral_on_file),
            therapy_amount=_first(year.therapy_amount, theirs.therapy_amount),
        ),
        contract=Contract(
            daily_maximum=_first(contract.daily_maximum, known.daily_maximum),
            amounts={**known.amounts, **contract.amounts},
            successors_of_deleted_codes=_first(
                contract.successors_of_deleted_codes, known.successors_of_deleted_codes
            ),
        ),
        services=_services(prepared, answers),
    )


def _services(prepared: PreparedVisit, answers: Answers) -> tuple[Service, ...]:
    """The chart's services with what the person said of them; what the chart says of a record stays."""
    kept = [each for each in prepared.visit.services if each.reference not in answers.left_out]
    # Seconds of what is left out, or was entered by hand, make nobody's minute full.
    lasted = {of: time for of, time in prepared.lasted.items() if of not in answers.minutes}
    services = [
        _corrected(service, answers.minutes.get(service.reference or ""), prepared.assistant_services)
        for service in in_whole_minutes(
            kept, lasted, assistant=prepared.assistant_services, together=prepared.together_services
        )
    ]
    known = {service.condition for service in services if service.condition is not None}
    (common,) = known if len(known) == 1 else ("one condition",)
    return tuple(_told(service, answers, common) for service in services)


def _told(service: Service, answers: Answers, common: str) -> Service:
    documentation, condition = service.documentation, service.condition
    lacks = answers.record.get(service.code)
    if documentation is None and lacks is not None:
        documentation = tuple(element for element in ELEMENTS if element not in lacks)
    if condition is None and answers.separate_conditions is not None:
        condition = f"that of {service.reference}" if answers.separate_conditions else common
    return replace(service, documentation=documentation, condition=condition)


Known = TypeVar("Known")


def _first(entered: Known | None, found: Known | None) -> Known | None:
    """What the person entered, else what was found. Nought and "no" are answers."""
    return found if entered is None else entered


def _corrected(
    service: Service, correction: Correction | None, assistant_services: frozenset[str]
) -> Service:
    """The reviewer's minutes instead of the chart's; whose they were stays."""
    if correction is None:
        return service
    cleared = replace(service, minutes=0, assistant_minutes=0, concurrent_minutes=0, start=None, end=None)
    if correction.assistant_minutes is not None:
        return replace(
            cleared,
            minutes=correction.minutes - correction.assistant_minutes,
            assistant_minutes=correction.assistant_minutes,
        )
    if service.reference in assistant_services:
        return replace(cleared, assistant_minutes=correction.minutes)
    if service.concurrent_minutes:
        return replace(cleared, concurrent_minutes=correction.minutes)
    return replace(cleared, minutes=correction.minutes)


def _blocked(
    visit: Visit,
    suggestion: Suggestion | None,
    not_in_force: str | None,
    lines: tuple[Line, ...],
    prepared: PreparedVisit,
    answers: Answers,
) -> Iterator[str]:
    if visit.discipline is None:
        yield "The discipline is not known."
    elif visit.discipline in prepared.other_disciplines:
        # Two signed visits of one discipline and day would each round its own minutes.
        yield (
            f"Other services of this day are {visit.discipline}, and all minutes of a discipline and day are "
            f"counted as one sum. If these are {visit.discipline} too, document in the EHR who furnished "
            "them and read the chart again; else choose another discipline, or leave them out with a reason."
        )
    if suggestion is None:
        yield not_in_force or "The policy to count under is not chosen."
        return
    if suggestion.ties:
        units = sum(tie.units for tie in suggestion.ties)
        taken = sharing(suggestion, answers.tie) if answers.tie else None
        chosen = f" {len(taken)} code{'s are' if len(taken) > 1 else ' is'} chosen." if taken else ""
        yield f"{units} unit{'s are' if units > 1 else ' is'} still to be placed.{chosen}"
    missing = [
        code
        for finding in suggestion.findings
        if finding.id == "minutes-missing" and finding.status is Status.FAIL
        for code in finding.codes
    ]
    if missing:
        yield f"Minutes are missing for {', '.join(dict.fromkeys(missing))}."
    findings = (*prepared.findings, *suggestion.findings)
    answered = reasons.given(answers.notes, findings)
    unanswered = [
        finding
        for key, finding in reasons.keyed(findings).items()
        if finding.severity is Severity.CRITICAL
        and finding.status is Status.FAIL
        and finding.id != "minutes-missing"
        and key not in answered
    ]
    if unanswered:
        yield f"{len(unanswered)} critical finding{'s need' if len(unanswered) > 1 else ' needs'} a reason."
    if not any(line.units > 0 for line in lines) and not suggestion.ties:
        yield "There is no unit to charge."
