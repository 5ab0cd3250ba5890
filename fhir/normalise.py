"""From a chart to visits: every Procedure is counted, or named with the reason why it is not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta

from ..core.findings import Finding, Severity, Status
from ..core.visit import Discipline, Provider, Service, Visit
from .charged import Charged, ExistingCharge, charged_before
from .chart import Chart
from .coverage import policy_for
from .minutes import Proposal, length_of
from .moments import moment
from .performers import Performer
from .person import Person, person_of
from .procedures import (
    MINUTE,
    NO_TIME,
    Counted,
    LeftOut,
    finding_of,
    is_own,
    name_of_procedure,
    read_procedure,
    time_between,
    without_parts,
)
from .shares import in_whole_minutes, odd_minutes
from .site import ChartSettings
from .views import Encounter, name_of

# Of an encounter's statuses (https://hl7.org/fhir/R4/valueset-encounter-status.html) these two say that there was
# no visit: it ended before it began, or is not this patient's. The others of R4 are of one under way, or over.
_WHY_NO_VISIT = {"cancelled": "was cancelled", "entered-in-error": "was entered in error"}
NO_VISIT = frozenset(_WHY_NO_VISIT)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """From start to end; aware, in the place of service's zone."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class PreparedVisit:
    """A visit as ``core`` takes it, and what only the EHR's side knows of it."""

    visit: Visit
    findings: tuple[Finding, ...]
    patient: str
    person: Person
    encounter: str
    policy_id: str | None  # None: to be asked
    policy_because: str
    coverage: str | None
    performers: Mapping[str, tuple[str, ...]]  # by code
    assistant_services: frozenset[str]  # Procedures performed by an assistant alone
    proposals: Mapping[str, Proposal]  # minutes that a note speaks of, by Procedure; not counted
    versions: Mapping[str, str | None]  # Procedure reference to the version that was read
    charges: tuple[ExistingCharge, ...]
    organization: str | None
    account: str | None
    times: Mapping[str, Occurrence] = field(default_factory=dict)  # as documented, by Procedure
    people: Mapping[str, tuple[Performer, ...]] = field(default_factory=dict)  # who did it, by Procedure
    user: str | None = None  # the name of whoever is signed in, as the chart has it
    other_policies: tuple[str, ...] = ()  # those of the coverages that are not primary, in their order
    lasted: Mapping[str, timedelta] = field(default_factory=dict)  # on the day, to the second, by Procedure
    together_services: frozenset[str] = frozenset()  # Procedures by therapist and assistant together
    read_at: datetime | None = None  # none in what was kept before it was
    cancelled: bool = False  # or entered in error: the visit itself
    other_disciplines: tuple[Discipline, ...] = ()  # those that other services of the day are known to be of
    decided_that_day: int = 0  # how many decisions on the patient's day are counted in


def visits_from(chart: Chart, settings: ChartSettings, now: datetime) -> tuple[PreparedVisit, ...]:
    """The visits of an encounter, by day and discipline, each with a finding for whatever was not read.

    There is at least one: where nothing can be counted it has no services, so that the findings have a
    page to stand on. ``now`` is aware and only tells what lies in the future.
    """
    read = [read_procedure(procedure, chart, settings, now) for procedure in chart.procedures]
    left_out = [one for one in read if isinstance(one, LeftOut)]
    took_place, left = _of_visits_that_took_place([one for one in read if isinstance(one, Counted)], chart)
    left_out += left
    counted, parts = without_parts(took_place, chart)
    of_group = [one for one in counted if _same_group(one, chart, settings)]
    left_out += parts + [_of_other_group(one) for one in counted if one not in of_group]

    visits = []
    for day in chart.days:
        of_day = [one for one in of_group if one.day == day]
        # Many EHRs do not link a Procedure to its visit: those are taken by their date, and labelled.
        own = [one for one in of_day if is_own(one.procedure, chart) or chart.visit_of(one.procedure) is None]
        known = tuple(dict.fromkeys(one.discipline for one in of_day if one.discipline))
        billed_as = {one.procedure.reference: _billed_as(one, known) for one in of_day}
        disciplines = list(dict.fromkeys(billed_as[one.procedure.reference] for one in own)) or [None]
        shared = [
            _as_left_out(one) for one in of_day if billed_as[one.procedure.reference] not in disciplines
        ]
        about_day = [
            *_about_chart(chart),
            *(one.finding for one in [*left_out, *shared] if one.day in {day, None}),
        ]
        for discipline in disciplines:
            mine = sorted(
                (one for one in of_day if billed_as[one.procedure.reference] == discipline),
                key=lambda one: (one.start is None, one.start or now, one.procedure.reference),
            )
            charged = charged_before(
                chart,
                settings,
                day=day,
                discipline=discipline,
                disciplines=disciplines,
                known=known,
                of_day=of_day,
            )
            apart = [one for one in of_day if discipline and None in disciplines and one not in mine]
            findings = [
                *about_day,
                *(finding for one in mine for finding in (*one.findings, *_about_its_visit(one, chart))),
                *_about_disciplines(mine, [one for one in apart if not one.discipline], discipline),
                *odd_minutes(mine),
                *_about_length(own, chart, settings),
                *charged.findings,
            ]
            prepared = _prepared(chart, settings, day=day, discipline=discipline, mine=mine, charged=charged)
            others = tuple(one for one in known if one != discipline)
            visits.append(
                replace(prepared, findings=tuple(dict.fromkeys(findings)), other_disciplines=others)
            )
    return tuple(visits)


def _prepared(
    chart: Chart,
    settings: ChartSettings,
    *,
    day: date,
    discipline: Discipline | None,
    mine: Collection[Counted],
    charged: Charged,
) -> PreparedVisit:
    policy = policy_for(chart, day, settings)
    organization = chart.bare(chart.encounter.service_provider)
    group = settings.groups.get(organization or "")
    accounts = chart.encounter.account or ()
    lasted = {one.procedure.reference: one.time for one in mine if one.time is not None}
    assistant = frozenset(one.procedure.reference for one in mine if one.assistant_only)
    together = frozenset(one.procedure.reference for one in mine if one.concurrent)
    return PreparedVisit(
        visit=Visit(
            date_of_service=day,
            discipline=discipline,
            services=in_whole_minutes(map(_service, mine), lasted, assistant=assistant, together=together),
            id=f"{chart.encounter.reference}/{day}/{discipline or 'unknown'}",
            setting=settings.setting,
            provider=Provider(group.tin, group.specialty) if group else Provider(),
            already_charged=charged.already,
        ),
        findings=(),
        patient=chart.patient.reference,
        person=person_of(chart.patient),
        encounter=chart.encounter.reference,
        policy_id=policy.policy_id,
        policy_because=policy.because,
        coverage=policy.coverage,
        performers=_performers(mine),
        assistant_services=assistant,
        proposals={one.procedure.reference: one.proposal for one in mine if one.proposal},
        versions={one.procedure.reference: one.procedure.version for one in mine},
        charges=charged.shown,
        organization=organization,
        account=chart.bare(accounts[0]) if len(accounts) == 1 else None,
        times={
            one.procedure.reference: Occurrence(one.start, one.end) for one in mine if one.start and one.end
        },
        user=name_of(chart.user),
        people={one.procedure.reference: one.performers for one in mine},
        other_policies=policy.others,
        lasted=lasted,
        together_services=together,
        read_at=chart.began,
        cancelled=chart.encounter.status in NO_VISIT,
    )


_TAKES_PLACE = frozenset({"in-progress", "onleave", "finished"})


def _other_visit(one: Counted, chart: Chart) -> Encounter | None:
    """The Encounter that a Procedure names, if it is another than the launch's and was read."""
    reference = chart.visit_of(one.procedure)
    return next((known for known in chart.encounters if known.reference == reference), None)


def _of_visits_that_took_place(
    counted: Iterable[Counted], chart: Chart
) -> tuple[list[Counted], list[LeftOut]]:
    """Only what certainly did not take place is left out: a doubt is told, and the Procedure counted.

    Of the launch's own Encounter the person is told (``encounter-status``): they opened it to charge it.
    """
    kept: list[Counted] = []
    left_out: list[LeftOut] = []
    for one in counted:
        visit = _other_visit(one, chart)
        why = _WHY_NO_VISIT.get(visit.status or "") if visit else None
        if visit is None or why is None:
            kept.append(one)
            continue
        message = (
            f"{name_of_procedure(one.procedure)} is of {visit.reference}, another visit of this day that {why}, "
            "and is not counted."
        )
        left_out.append(LeftOut(finding_of("left-out", Severity.WARNING, message, (one.code,)), one.day))
    return kept, left_out


def _about_its_visit(one: Counted, chart: Chart) -> list[Finding]:
    """What is doubtful about another visit of the day whose Procedure is counted here."""
    reference = chart.visit_of(one.procedure)
    if reference in {None, chart.encounter.reference}:
        return []
    said = f"{reference}, another visit of this day whose services are counted here,"
    visit = _other_visit(one, chart)
    if visit is None:
        message = f"{said} could not be read, so whether it took place is not known."
        return [
            finding_of("encounter-status", Severity.WARNING, message, status=Status.NOT_CHECKED),
        ]
    if visit.may_mean_otherwise:
        why = "carries a qualification that we do not know"
        return [finding_of("encounter-status", Severity.CRITICAL, f"{said} {why}. Check that it took place.")]
    if visit.status in _TAKES_PLACE:
        return []
    why = f"has the status '{visit.status}'" if visit.status else "has no status"
    return [finding_of("encounter-status", Severity.WARNING, f"{said} {why}. Check that it took place.")]


def _same_group(one: Counted, chart: Chart, settings: ChartSettings) -> bool:
    """False only where both billing groups are known and differ: a payer counts each group's day."""
    other = _other_visit(one, chart)
    if other is None:
        return True
    group = settings.groups.get(chart.bare(chart.encounter.service_provider) or "")
    theirs = settings.groups.get(chart.bare(other.service_provider) or "")
    return group is None or theirs is None or group == theirs


def _of_other_group(one: Counted) -> LeftOut:
    message = (
        f"{name_of_procedure(one.procedure)} is of another billing group's visit and is not counted here."
    )
    return LeftOut(finding_of("other-group", Severity.INFO, message, (one.code,)), one.day)


def _as_left_out(one: Counted) -> LeftOut:
    """A Procedure of another encounter in a discipline that this encounter does not have."""
    if one.discipline:
        severity, why = (
            Severity.INFO,
            f"is {one.discipline} of another visit of this day and is not counted here.",
        )
    else:
        severity, why = (
            Severity.WARNING,
            "is of another visit of this day, in a discipline that is not known, and is not counted here.",
        )
    return LeftOut(
        finding_of("other-visit", severity, f"{name_of_procedure(one.procedure)} {why}", (one.code,)), one.day
    )


def _billed_as(one: Counted, known: Collection[Discipline]) -> Discipline | None:
    """The discipline with whose minutes a service is counted; None: nothing says which.

    One of which it is not known is counted with the day's only discipline, as the minutes of a discipline and
    day are one sum (Medicare Claims Processing Manual chapter 5 §20.2), and the person is asked about it.
    One that two disciplines performed together is either's.
    """
    if one.discipline or one.of_two_disciplines or len(known) != 1:
        return one.discipline
    (only,) = known
    return only


def _about_disciplines(
    mine: Iterable[Counted], apart: Collection[Counted], discipline: Discipline | None
) -> list[Finding]:
    """Services of which the chart does not tell the discipline: those counted with one, and those apart."""
    findings = []
    joined = [one for one in mine if discipline and not one.discipline]
    if joined:
        findings.append(
            finding_of(
                "discipline-not-documented",
                Severity.CRITICAL,
                f"The chart does not say who furnished {_listed(joined)}, or not in which discipline: counted "
                f"with the {discipline} minutes of this day. Give the reason why that is right; or document "
                "in the EHR who it was and read the chart again; or leave out, with a reason, what is another "
                "discipline's.",
                _codes(joined),
            )
        )
    if apart:
        findings.append(
            finding_of(
                "other-visit",
                Severity.WARNING,
                f"The chart does not say in which discipline {_listed(apart)} was furnished: a visit of its own "
                f"here, and not counted with the {discipline} minutes of this day.",
                _codes(apart),
            )
        )
    return findings


def _listed(services: Iterable[Counted]) -> str:
    return ", ".join(f"{one.code} ({one.procedure.reference})" for one in services)


def _codes(services: Iterable[Counted]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.code for one in services))


# One visit


def _service(one: Counted) -> Service:
    """The chart's times as they are, to the second; how many whole minutes they are is shared out later."""
    reasons = [coding.code for reason in one.procedure.reason_code or () for coding in reason.codings]
    return Service(
        code=one.code,
        performer=one.performers[0].reference if len(one.performers) == 1 else None,
        condition=reasons[0] if len(reasons) == 1 else None,
        reference=one.procedure.reference,
        start=one.start,
        end=one.end,
    )


def _about_length(own: Iterable[Counted], chart: Chart, settings: ChartSettings) -> list[Finding]:
    """The encounter's own length is a ceiling to compare with, never a source of minutes."""
    if len(chart.days) > 1:
        return []
    findings = []
    ceilings = {}
    period = chart.encounter.period
    start, end = (
        moment(text, settings.time_zone) for text in ((period.start, period.end) if period else (None, None))
    )
    if start and end and start.at and end.at and time_between(start.at, end.at) > NO_TIME:
        ceilings["by its start and end"] = time_between(start.at, end.at)
    length = length_of(chart.encounter)
    if length:
        ceilings["by its length"] = length
    elif bytes(chart.encounter.length) != b"null":
        findings.append(
            finding_of(
                "longer-than-encounter",
                Severity.INFO,
                "The length that the chart gives for the visit cannot be read and is not compared.",
                status=Status.NOT_CHECKED,
            )
        )
    together = sum((one.time for one in own if one.time), NO_TIME)
    shortest = min(ceilings, key=lambda words: ceilings[words], default=None)
    if shortest and ceilings[shortest] < together:
        findings.append(
            finding_of(
                "longer-than-encounter",
                Severity.WARNING,
                f"The procedures last {together // MINUTE} minutes together, "
                f"the visit itself {ceilings[shortest] // MINUTE} {shortest}.",
            )
        )
    return findings


def _performers(mine: Iterable[Counted]) -> dict[str, tuple[str, ...]]:
    by_code: dict[str, dict[str, None]] = {}
    for one in mine:
        known = by_code.setdefault(one.code, {})
        known.update({performer.reference: None for performer in one.performers if performer.reference})
    return {code: tuple(known) for code, known in by_code.items()}


# What is said of the chart as a whole


def _about_chart(chart: Chart) -> list[Finding]:
    findings = [
        finding_of(
            "not-read",
            Severity.CRITICAL,
            f"{unread.reference or 'An entry'} cannot be read at {unread.path} "
            f"({unread.reason}) and is not counted.",
        )
        for unread in chart.unread
    ]
    findings += [
        finding_of(
            "wrong-patient",
            Severity.CRITICAL,
            f"{reference} is not this patient's, or does not say whose it is. It is not counted; "
            "report it to your administrator.",
        )
        for reference in chart.foreign
    ]
    if chart.encounter.may_mean_otherwise or chart.encounter.status in NO_VISIT:
        why = "carries a qualification that we do not know"
        if chart.encounter.status in NO_VISIT:
            why = f"has the status '{chart.encounter.status}'"
        findings.append(
            finding_of(
                "encounter-status",
                Severity.CRITICAL,
                f"The visit itself ({chart.encounter.reference}) {why}. "
                "Check that there is anything to charge.",
            )
        )
    return findings + [_not_looked(gap.what, gap.reason) for gap in chart.not_looked if gap.what in _GAPS]


_GAPS = {
    "charges": (
        "already-charged",
        Severity.CRITICAL,
        "Charges entered before for this day were not looked for, so a charge may be there already.",
    ),
    "charges-of-others": (
        "already-charged",
        Severity.WARNING,
        "Charges of the day's other visits were not looked for.",
    ),
    "procedures-without-date": (
        "undated-procedures",
        Severity.INFO,
        "Procedures without a date were not looked for.",
    ),
    "minutes": ("minutes-source", Severity.WARNING, "Minutes kept as observations could not be read."),
    "encounters": ("other-visits", Severity.INFO, "The day's other visits could not be read."),
    "roles": ("performer-role-unknown", Severity.INFO, "The roles of the performers could not be read."),
}


def _not_looked(what: str, reason: str) -> Finding:
    id_, severity, message = _GAPS[what]
    return finding_of(id_, severity, f"{message} {reason}", status=Status.NOT_CHECKED)
