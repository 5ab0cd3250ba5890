"""From a chart to visits: every Procedure is counted, or named with the reason why it is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import combinations

from ..core.findings import Finding, Severity, Status
from ..core.visit import AlreadyCharged, Discipline, Provider, Service, Visit
from .chart import Chart, charged_day
from .coverage import policy_for
from .moments import Moment, moment
from .performers import Performer, performer_from
from .site import ChartSettings
from .systems import CHARGED_STATUS
from .views import ChargeItem, CodeableConcept, Procedure, billing_codes

_MINUTE = timedelta(minutes=1)
_NO_TIME = timedelta(0)
# The EHR's clock and ours may differ by so much before a time lies in the future.
_CLOCKS_DIFFER = timedelta(minutes=5)

_MODIFIER_OF = {Discipline.PT: "GP", Discipline.OT: "GO", Discipline.SLP: "GN"}

_NOT_COUNTED = {
    "in-progress": (Severity.WARNING, "is not finished"),
    "preparation": (Severity.INFO, "has not begun"),
    "on-hold": (Severity.WARNING, "is on hold"),
    "stopped": (Severity.WARNING, "was stopped before its end"),
    "not-done": (Severity.INFO, "was not done"),
    "entered-in-error": (Severity.INFO, "was entered in error"),
}


@dataclass(frozen=True, slots=True)
class Occurrence:
    """From the first start to the last end of a code's services; aware, in the place of service's zone."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class ExistingCharge:
    """A ChargeItem that is in the EHR for this visit's day already, whoever entered it."""

    reference: str
    code: str | None
    units: int | None
    status: str | None
    counted: bool  # whether its units are in the visit's already_charged


@dataclass(frozen=True, slots=True)
class PreparedVisit:
    """A visit as ``core`` takes it, and what only the EHR's side knows of it."""

    visit: Visit
    findings: tuple[Finding, ...]
    patient: str
    encounter: str
    policy_id: str | None  # None: to be asked
    policy_because: str
    coverage: str | None
    performers: Mapping[str, tuple[str, ...]]  # by code
    occurrences: Mapping[str, Occurrence]  # by code; absent where the chart does not say
    assistant_services: frozenset[str]  # Procedures performed by an assistant alone
    versions: Mapping[str, str | None]  # Procedure reference to the version that was read
    charges: tuple[ExistingCharge, ...]
    organization: str | None
    account: str | None


@dataclass(frozen=True, slots=True)
class _Counted:
    """One Procedure that is counted."""

    procedure: Procedure
    code: str
    day: date
    start: datetime | None
    end: datetime | None
    performers: tuple[Performer, ...]
    discipline: Discipline | None
    findings: tuple[Finding, ...]

    @property
    def assistant_only(self) -> bool:
        return bool(self.performers) and all(performer.assistant for performer in self.performers)

    @property
    def concurrent(self) -> bool:
        return not self.assistant_only and any(performer.assistant for performer in self.performers)

    @property
    def time(self) -> timedelta | None:
        """The time on the day itself: what lies after midnight is another day's."""
        if self.start is None or self.end is None:
            return None
        midnight = datetime.combine(self.day + timedelta(days=1), datetime.min.time(), self.start.tzinfo)
        return _time_between(self.start, min(self.end, midnight))


@dataclass(frozen=True, slots=True)
class _LeftOut:
    """One Procedure that is not counted; ``day`` is None where it cannot be placed."""

    finding: Finding
    day: date | None


def visits_from(chart: Chart, settings: ChartSettings, now: datetime) -> tuple[PreparedVisit, ...]:
    """The visits of an encounter, by day and discipline, each with a finding for whatever was not read.

    There is at least one: where nothing can be counted it has no services, so that the findings have a
    page to stand on. ``now`` is aware and only tells what lies in the future.
    """
    read = [_read(procedure, chart, settings, now) for procedure in _without_parts(chart)]
    counted = [one for one in read if isinstance(one, _Counted)]
    left_out = [one for one in read if isinstance(one, _LeftOut)] + _parts_left_out(chart)
    of_group = [one for one in counted if _same_group(one, chart, settings)]
    left_out += [_of_other_group(one) for one in counted if one not in of_group]

    visits = []
    for day in chart.days:
        of_day = [one for one in of_group if one.day == day]
        own = [one for one in of_day if _is_own(one.procedure, chart)]
        disciplines = list(dict.fromkeys(one.discipline for one in own)) or [None]
        shared = [_as_left_out(one) for one in of_day if one.discipline not in disciplines]
        about_day = [
            *_about_chart(chart),
            *(one.finding for one in [*left_out, *shared] if one.day in {day, None}),
        ]
        for discipline in disciplines:
            mine = sorted(
                (one for one in of_day if one.discipline == discipline),
                key=lambda one: (one.start is None, one.start or now, one.procedure.reference),
            )
            already, charges, about_charges = _charges(chart, settings, day, discipline, disciplines, of_day)
            findings = [
                *about_day,
                *(finding for one in mine for finding in one.findings),
                *_overlaps(mine),
                *_about_length(own, chart, settings),
                *about_charges,
            ]
            visits.append(
                _prepared(
                    chart, settings, day, discipline, mine, already, charges, tuple(dict.fromkeys(findings))
                )
            )
    return tuple(visits)


def _prepared(
    chart: Chart,
    settings: ChartSettings,
    day: date,
    discipline: Discipline | None,
    mine: list[_Counted],
    already: tuple[AlreadyCharged, ...],
    charges: tuple[ExistingCharge, ...],
    findings: tuple[Finding, ...],
) -> PreparedVisit:
    policy = policy_for(chart, day, settings)
    organization = chart.bare(chart.encounter.service_provider)
    group = settings.groups.get(organization or "")
    accounts = chart.encounter.account or ()
    return PreparedVisit(
        visit=Visit(
            date_of_service=day,
            discipline=discipline,
            services=_services(mine, chart),
            id=f"{chart.encounter.reference}/{day}/{discipline or 'unknown'}",
            setting=settings.setting,
            provider=Provider(group.tin, group.specialty) if group else Provider(),
            already_charged=already,
        ),
        findings=findings,
        patient=chart.patient.reference,
        encounter=chart.encounter.reference,
        policy_id=policy.policy_id,
        policy_because=policy.because,
        coverage=policy.coverage,
        performers=_performers(mine),
        occurrences=_occurrences(mine),
        assistant_services=frozenset(one.procedure.reference for one in mine if one.assistant_only),
        versions={one.procedure.reference: one.procedure.version for one in mine},
        charges=charges,
        organization=organization,
        account=chart.bare(accounts[0]) if len(accounts) == 1 else None,
    )


# One Procedure


def _read(procedure: Procedure, chart: Chart, settings: ChartSettings, now: datetime) -> _Counted | _LeftOut:
    zone = settings.time_zone
    name = _name(procedure)
    start, end = _times(procedure, settings)
    day = start.day if start else None
    if day is None and _is_own(procedure, chart) and len(chart.days) == 1:
        day = chart.days[0]

    def left_out(id_: str, severity: Severity, why: str, codes: tuple[str, ...] = ()) -> _LeftOut:
        return _LeftOut(_finding(id_, severity, f"{name} {why}", codes), day)

    if procedure.may_mean_otherwise or any(one.modifier_extension for one in procedure.performer or ()):
        return left_out(
            "left-out",
            Severity.CRITICAL,
            "carries a qualification that we do not know, which may change its meaning. "
            "It is not counted; look at it in the chart.",
        )
    if procedure.status != "completed":
        severity, why = _NOT_COUNTED.get(
            procedure.status or "", (Severity.WARNING, f"has the status '{procedure.status or 'none'}'")
        )
        return left_out("left-out", severity, f"{why} and is not counted.")
    codes = _codes(procedure.code, settings)
    if not codes:
        return left_out(
            "code-missing",
            Severity.CRITICAL,
            "has no CPT or HCPCS code that we can read. It is not counted; code it in the chart.",
        )
    if len(codes) > 1:
        return left_out(
            "code-ambiguous",
            Severity.CRITICAL,
            f"has several billing codes ({', '.join(codes)}). It is not counted; keep one in the chart.",
            codes,
        )
    if any(time and time.at and time.at > now + _CLOCKS_DIFFER for time in (start, end)) or (
        day and day > now.astimezone(zone).date()
    ):
        return left_out("in-future", Severity.CRITICAL, "lies in the future and is not counted.", codes)
    if day is None:
        return left_out(
            "date-missing",
            Severity.CRITICAL,
            "has no date that we can read, and the visit has no single day. It is not counted.",
            codes,
        )
    if day not in chart.days:
        return left_out(
            "outside-visit",
            Severity.CRITICAL,
            f"is dated {day}, outside of this visit, and is not counted. Correct its date or its visit.",
            codes,
        )
    performers = tuple(performer_from(one, chart, settings) for one in procedure.performer or ())
    disciplines = {performer.discipline for performer in performers if performer.discipline}
    first, last, findings = _interval(procedure, name, codes, start, end, settings)
    return _Counted(
        procedure,
        codes[0],
        day,
        first,
        last,
        performers,
        disciplines.pop() if len(disciplines) == 1 else None,
        (
            *findings,
            *_about_performers(name, codes, performers),
            *_about_match(procedure, name, codes, chart),
        ),
    )


def _times(procedure: Procedure, settings: ChartSettings) -> tuple[Moment | None, Moment | None]:
    period = procedure.performed_period
    if period:
        return moment(period.start, settings.time_zone), moment(period.end, settings.time_zone)
    return moment(procedure.performed_date_time, settings.time_zone), None


def _interval(
    procedure: Procedure,
    name: str,
    codes: tuple[str, ...],
    start: Moment | None,
    end: Moment | None,
    settings: ChartSettings,
) -> tuple[datetime | None, datetime | None, list[Finding]]:
    """Start and end in the place of service's zone, both or neither, and what is doubtful about them.

    Without both the minutes are unknown: ``core`` says so for a timed code (``minutes-missing``).
    """
    findings: list[Finding] = []

    def tell(id_: str, severity: Severity, why: str) -> None:
        findings.append(_finding(id_, severity, f"{name} {why}", codes))

    if procedure.performed_period and procedure.performed_date_time:
        tell(
            "time-ambiguous", Severity.CRITICAL, "has two times of performance; its minutes are not counted."
        )
        return None, None, findings
    period = procedure.performed_period
    sent = (period.start, period.end) if period else (procedure.performed_date_time,)
    if any(text and moment(text, settings.time_zone) is None for text in sent):
        tell(
            "time-unreadable",
            Severity.CRITICAL,
            "has a time that we cannot read; its minutes are not counted.",
        )
    if any(time and time.zone_assumed for time in (start, end)):
        tell(
            "time-without-zone",
            Severity.WARNING,
            f"has times without a time zone; they are read as {settings.time_zone.key}.",
        )
    if start is None:
        tell("date-missing", Severity.INFO, "has no date of its own; it is taken to be of this visit's day.")
    if start is None or end is None or start.at is None or end.at is None:
        return None, None, findings
    first, last = (time.astimezone(settings.time_zone) for time in (start.at, end.at))
    lasted = _time_between(first, last)
    if lasted < _NO_TIME:
        tell("end-before-start", Severity.CRITICAL, "ends before it starts; its minutes are not counted.")
        return None, None, findings
    if lasted == _NO_TIME:
        tell("no-duration", Severity.WARNING, "starts and ends at the same moment; its minutes are unknown.")
        return None, None, findings
    if last.date() != first.date():
        tell(
            "crosses-midnight",
            Severity.WARNING,
            f"goes on after midnight; only what lies on {first.date()} is counted with this visit.",
        )
    return first, last, findings


# What is said of a Procedure, and where it belongs


def _about_performers(name: str, codes: tuple[str, ...], performers: tuple[Performer, ...]) -> list[Finding]:
    if not performers:
        return [
            _finding(
                "performer-missing",
                Severity.WARNING,
                f"{name} does not say who performed it, so neither its discipline nor an assistant's part is known.",
                codes,
                Status.NOT_CHECKED,
            )
        ]
    findings = [
        # Without the Procedure's name: said once a performer, not once a service.
        _finding(
            "performer-role-unknown",
            Severity.WARNING,
            f"The chart does not say whether {performer.reference or 'a performer'} is a therapist or an assistant; "
            "the minutes are counted as a therapist's.",
            status=Status.NOT_CHECKED,
        )
        for performer in performers
        if performer.assistant is None
    ]
    disciplines = {performer.discipline for performer in performers if performer.discipline}
    if len(disciplines) > 1:
        named = " and ".join(sorted(disciplines))
        findings.append(
            _finding(
                "disciplines-differ",
                Severity.CRITICAL,
                f"{name} was performed by {named} together; choose the discipline that bills it.",
                codes,
            )
        )
    return findings


def _about_match(procedure: Procedure, name: str, codes: tuple[str, ...], chart: Chart) -> list[Finding]:
    if _is_own(procedure, chart):
        return []
    if procedure.encounter is None:
        why = ("matched-by-date", "names no visit and is counted here by its date.")
    else:
        why = ("counted-with-day", "is of another visit of this day; the units are counted by the day.")
    return [_finding(why[0], Severity.INFO, f"{name} {why[1]}", codes)]


def _is_own(procedure: Procedure, chart: Chart) -> bool:
    return chart.bare(procedure.encounter) == chart.encounter.reference


def _parents(chart: Chart) -> dict[str, Procedure]:
    return {
        procedure.reference: procedure for procedure in chart.procedures if procedure.status == "completed"
    }


def _is_part(procedure: Procedure, chart: Chart) -> bool:
    """Whether it is a part of a counted Procedure with the same code, whose time holds it already."""
    parents = _parents(chart)
    codes = billing_codes(procedure.code)
    return any(
        parent is not None and parent is not procedure and codes and billing_codes(parent.code) == codes
        for parent in (parents.get(chart.bare(part) or "") for part in procedure.part_of or ())
    )


def _without_parts(chart: Chart) -> list[Procedure]:
    return [procedure for procedure in chart.procedures if not _is_part(procedure, chart)]


def _parts_left_out(chart: Chart) -> list[_LeftOut]:
    return [
        _LeftOut(
            _finding(
                "part-of-another",
                Severity.WARNING,
                f"{_name(procedure)} is a part of another procedure with the same code and is not counted again.",
                billing_codes(procedure.code),
            ),
            None,
        )
        for procedure in chart.procedures
        if _is_part(procedure, chart)
    ]


def _same_group(one: _Counted, chart: Chart, settings: ChartSettings) -> bool:
    """False only where both billing groups are known and differ: a payer counts each group's day."""
    reference = chart.bare(one.procedure.encounter)
    other = next((known for known in chart.encounters if known.reference == reference), None)
    if other is None:
        return True
    group = settings.groups.get(chart.bare(chart.encounter.service_provider) or "")
    theirs = settings.groups.get(chart.bare(other.service_provider) or "")
    return group is None or theirs is None or group == theirs


def _of_other_group(one: _Counted) -> _LeftOut:
    message = f"{_name(one.procedure)} is of another billing group's visit and is not counted here."
    return _LeftOut(_finding("other-group", Severity.INFO, message, (one.code,)), one.day)


def _as_left_out(one: _Counted) -> _LeftOut:
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
    return _LeftOut(_finding("other-visit", severity, f"{_name(one.procedure)} {why}", (one.code,)), one.day)


# One visit


def _services(mine: Iterable[_Counted], chart: Chart) -> tuple[Service, ...]:
    """The therapist's times as they are, to the second. An assistant's, alone or together with the
    therapist, have to be whole minutes: seconds are added up by code, so that the whole minutes of a code
    are those of its sum.
    """
    services = []
    sums: dict[tuple[str, bool], timedelta] = {}
    for one in mine:
        minutes = {}
        if (one.assistant_only or one.concurrent) and one.time is not None:
            key = (one.code, one.assistant_only)
            before = sums.get(key, _NO_TIME)
            sums[key] = before + one.time
            whole = sums[key] // _MINUTE - before // _MINUTE
            minutes = {
                "minutes": 0,
                "assistant_minutes" if one.assistant_only else "concurrent_minutes": whole,
            }
        reasons = [coding.code for reason in one.procedure.reason_code or () for coding in reason.codings]
        by_therapist = not minutes
        services.append(
            Service(
                code=one.code,
                start=one.start if by_therapist else None,
                end=one.end if by_therapist else None,
                performer=one.performers[0].reference if len(one.performers) == 1 else None,
                condition=reasons[0] if len(reasons) == 1 else None,
                reference=one.procedure.reference,
                **minutes,
            )
        )
    return tuple(services)


def _overlaps(mine: Iterable[_Counted]) -> list[Finding]:
    """Times counted twice where an assistant is in it; ``core`` sees the therapist's own times itself."""
    findings = []
    for one, other in combinations(mine, 2):
        if not (one.start and one.end and other.start and other.end):
            continue
        assisted = any(each.assistant_only or each.concurrent for each in (one, other))
        shared = {each.reference for each in one.performers} & {each.reference for each in other.performers}
        common = _time_between(max(one.start, other.start), min(one.end, other.end))
        if assisted and shared and common > _NO_TIME:
            findings.append(
                _finding(
                    "minutes-counted-twice",
                    Severity.WARNING,
                    f"{_name(one.procedure)} and {_name(other.procedure)} by the same person overlap by "
                    f"{common // _MINUTE} minutes, which are counted in both.",
                    tuple(dict.fromkeys((one.code, other.code))),
                )
            )
    return findings


def _about_length(own: Iterable[_Counted], chart: Chart, settings: ChartSettings) -> list[Finding]:
    """The encounter's own length is a ceiling to compare with, never a source of minutes."""
    period = chart.encounter.period
    start, end = (
        moment(text, settings.time_zone) for text in ((period.start, period.end) if period else (None, None))
    )
    if start is None or end is None or start.at is None or end.at is None or len(chart.days) > 1:
        return []
    length = _time_between(start.at, end.at)
    together = sum((one.time for one in own if one.time), _NO_TIME)
    if not _NO_TIME < length < together:
        return []
    return [
        _finding(
            "longer-than-encounter",
            Severity.WARNING,
            f"The procedures last {together // _MINUTE} minutes together, the visit itself {length // _MINUTE}.",
        )
    ]


def _performers(mine: Iterable[_Counted]) -> dict[str, tuple[str, ...]]:
    by_code: dict[str, dict[str, None]] = {}
    for one in mine:
        known = by_code.setdefault(one.code, {})
        known.update({performer.reference: None for performer in one.performers if performer.reference})
    return {code: tuple(known) for code, known in by_code.items()}


def _occurrences(mine: Iterable[_Counted]) -> dict[str, Occurrence]:
    by_code: dict[str, Occurrence] = {}
    for one in mine:
        if one.start is None or one.end is None:
            continue
        so_far = by_code.get(one.code, Occurrence(one.start, one.end))
        by_code[one.code] = Occurrence(min(so_far.start, one.start), max(so_far.end, one.end))
    return by_code


# What was charged before


def _charges(
    chart: Chart,
    settings: ChartSettings,
    day: date,
    discipline: Discipline | None,
    disciplines: list[Discipline | None],
    of_day: list[_Counted],
) -> tuple[tuple[AlreadyCharged, ...], tuple[ExistingCharge, ...], list[Finding]]:
    """The day's charges: those counted against this visit, all that are to be shown, and what is doubtful."""
    already, shown, findings = [], [], []
    for item in chart.charge_items:
        on = charged_day(item, settings.time_zone) or (chart.days[0] if len(chart.days) == 1 else None)
        if on not in {day, None}:
            continue
        charged_for = _discipline_of(item, chart, of_day)
        if charged_for is not None and charged_for not in {discipline, None} and discipline is not None:
            continue
        codes = _codes(item.code, settings)
        doubt = _doubt(item, codes, on, charged_for, disciplines)
        counted = doubt is None and item.status in CHARGED_STATUS
        if doubt and item.status in CHARGED_STATUS | {None}:
            findings.append(
                _finding(
                    "already-charged",
                    Severity.CRITICAL,
                    f"{item.reference} is a charge of this day that {doubt}; it is not taken off. "
                    "Check in the EHR that nothing is charged twice.",
                    codes,
                    Status.NOT_CHECKED,
                )
            )
        if counted and item.units is not None:
            group = settings.groups.get(chart.bare(item.performing_organization) or "")
            already.append(
                AlreadyCharged(codes[0], item.units, group and group.tin, group and group.specialty)
            )
        shown.append(
            ExistingCharge(
                item.reference, codes[0] if len(codes) == 1 else None, item.units, item.status, counted
            )
        )
    return tuple(already), tuple(shown), findings


def _doubt(
    item: ChargeItem,
    codes: tuple[str, ...],
    on: date | None,
    charged_for: Discipline | None,
    disciplines: list[Discipline | None],
) -> str | None:
    """Why a charge cannot be taken off the units; None where it can."""
    if item.may_mean_otherwise:
        return "carries a qualification that we do not know"
    if len(codes) != 1:
        return "has no single billing code"
    if item.units is None or item.units < 0:
        return "has no whole number of units"
    if on is None:
        return "has no date"
    if charged_for is None and len(disciplines) > 1:
        return "does not say for which discipline it is"
    return None


def _discipline_of(item: ChargeItem, chart: Chart, of_day: Iterable[_Counted]) -> Discipline | None:
    """By its modifier, else by the Procedures it names, else by those of its encounter."""
    for discipline, modifier in _MODIFIER_OF.items():
        if modifier in item.modifiers:
            return discipline
    services = {chart.bare(service) for service in item.service or ()}
    context = chart.bare(item.context)
    for belongs in (
        lambda one: one.procedure.reference in services,
        lambda one: context is not None and chart.bare(one.procedure.encounter) == context,
    ):
        known = {one.discipline for one in of_day if belongs(one)}
        if len(known) == 1:
            return known.pop()
    return None


# What is said of the chart as a whole


def _about_chart(chart: Chart) -> list[Finding]:
    findings = [
        _finding(
            "not-read",
            Severity.CRITICAL,
            f"{unread.reference or 'An entry'} cannot be read at {unread.path} ({unread.reason}) and is not counted.",
        )
        for unread in chart.unread
    ]
    findings += [
        _finding(
            "wrong-patient",
            Severity.CRITICAL,
            f"{reference} is not this patient's, or does not say whose it is. It is not counted; "
            "report it to your administrator.",
        )
        for reference in chart.foreign
    ]
    if chart.encounter.may_mean_otherwise or chart.encounter.status in {"cancelled", "entered-in-error"}:
        why = "carries a qualification that we do not know"
        if chart.encounter.status in {"cancelled", "entered-in-error"}:
            why = f"has the status '{chart.encounter.status}'"
        findings.append(
            _finding(
                "encounter-status",
                Severity.CRITICAL,
                f"The visit itself ({chart.encounter.reference}) {why}. Check that there is anything to charge.",
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
    "encounters": ("other-visits", Severity.INFO, "The day's other visits could not be read."),
    "roles": ("performer-role-unknown", Severity.INFO, "The roles of the performers could not be read."),
}


def _not_looked(what: str, reason: str) -> Finding:
    id_, severity, message = _GAPS[what]
    return _finding(id_, severity, f"{message} {reason}", status=Status.NOT_CHECKED)


# Small things


def _codes(concept: CodeableConcept | None, settings: ChartSettings) -> tuple[str, ...]:
    """The concept's billing codes, else those that the site's map gives for its other codings."""
    codes = billing_codes(concept)
    if codes or concept is None:
        return codes
    mapped = (settings.codes.get(f"{coding.system}|{coding.code}") for coding in concept.codings)
    return tuple(dict.fromkeys(code for code in mapped if code))


def _name(procedure: Procedure) -> str:
    """The chart's own words for a Procedure, and its reference."""
    concept = procedure.code or CodeableConcept()
    words = [concept.text, *(word for coding in concept.codings for word in (coding.display, coding.code))]
    said = next((word for word in words if word and word.strip()), "A procedure")
    shown = "".join(letter if letter.isprintable() else " " for letter in said)
    return f"{' '.join(shown.split())[:60]} ({procedure.reference})"


def _time_between(start: datetime, end: datetime) -> timedelta:
    # Two times of one zone subtract by the clock on the wall, which is an hour wrong on two days a year.
    return end.astimezone(UTC) - start.astimezone(UTC)


def _finding(
    id_: str,
    severity: Severity,
    message: str,
    codes: tuple[str, ...] = (),
    status: Status = Status.FAIL,
) -> Finding:
    return Finding(id_, status, severity, message, codes)
