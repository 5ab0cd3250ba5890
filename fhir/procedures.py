"""One Procedure: counted, or left out with the reason; and what is doubtful about it either way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from ..core.findings import Finding, Severity, Status
from ..core.visit import Discipline
from .chart import Chart
from .minutes import Lasted, Proposal, minutes_of, proposal_of
from .moments import Moment, moment
from .performers import Performer, performer_from
from .site import ChartSettings
from .views import CodeableConcept, Procedure

MINUTE = timedelta(minutes=1)
NO_TIME = timedelta(0)
# The EHR's clock and ours may differ by so much before a time lies in the future.
_CLOCKS_DIFFER = timedelta(minutes=5)

_NOT_COUNTED = {
    "in-progress": (Severity.WARNING, "is not finished"),
    "preparation": (Severity.INFO, "has not begun"),
    "on-hold": (Severity.WARNING, "is on hold"),
    "stopped": (Severity.WARNING, "was stopped before its end"),
    "not-done": (Severity.INFO, "was not done"),
    "entered-in-error": (Severity.INFO, "was entered in error"),
}


@dataclass(frozen=True, slots=True)
class Counted:
    """One Procedure that is counted."""

    procedure: Procedure
    code: str
    day: date
    start: datetime | None
    end: datetime | None
    performers: tuple[Performer, ...]
    discipline: Discipline | None
    findings: tuple[Finding, ...]
    lasted: timedelta | None = None  # where there are no times, but minutes from elsewhere
    proposal: Proposal | None = None  # what a note speaks of, where nothing certain is known

    @property
    def assistant_only(self) -> bool:
        return bool(self.performers) and all(performer.assistant for performer in self.performers)

    @property
    def concurrent(self) -> bool:
        return not self.assistant_only and any(performer.assistant for performer in self.performers)

    @property
    def of_two_disciplines(self) -> bool:
        """Whether several performed it, of disciplines that are known and differ."""
        return len({performer.discipline for performer in self.performers if performer.discipline}) > 1

    @property
    def time(self) -> timedelta | None:
        """The time on the day itself: what lies after midnight is another day's."""
        if self.start is None or self.end is None:
            return self.lasted
        return min(time_between(self.start, self.end), time_between(self.start, _midnight_after(self.start)))


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One Procedure that is not counted; ``day`` is None where it cannot be placed."""

    finding: Finding
    day: date | None


def read_procedure(  # noqa: PLR0911 - one return a reason
    procedure: Procedure, chart: Chart, settings: ChartSettings, now: datetime
) -> Counted | LeftOut:
    """The Procedure as it is counted, or why it is not. ``now`` tells what lies in the future."""
    zone = settings.time_zone
    name = name_of_procedure(procedure)
    start, end = _times(procedure, settings)
    day = start.day if start else None
    if day is None and is_own(procedure, chart) and len(chart.days) == 1:
        day = chart.days[0]

    def left_out(id_: str, severity: Severity, why: str, codes: tuple[str, ...] = ()) -> LeftOut:
        placed = day if day in chart.days else None
        return LeftOut(finding_of(id_, severity, f"{name} {why}", codes), placed)

    unfit = _unfit(procedure)
    if unfit:
        return left_out("left-out", *unfit)
    codes = settings.codes_of(procedure.code)
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
    performers = tuple(performer_from(one, chart, settings, day) for one in procedure.performer or ())
    disciplines = {performer.discipline for performer in performers if performer.discipline}
    first, last, findings = _interval(procedure, codes, start, end, settings)
    contradictory = any(finding.severity is Severity.CRITICAL for finding in findings)
    elsewhere = Lasted() if contradictory else minutes_of(procedure, codes[0], name, chart, settings)
    if first and last:
        findings += _about_difference(name, codes, time_between(first, last), elsewhere)
        elsewhere = Lasted()
    return Counted(
        procedure,
        codes[0],
        day,
        first,
        last,
        performers,
        disciplines.pop() if len(disciplines) == 1 else None,
        (
            *findings,
            *elsewhere.findings,
            *_about_performers(name, codes, performers, day),
            *_about_match(procedure, name, codes, chart),
        ),
        elsewhere.time,
        None if first or elsewhere.time else proposal_of(procedure),
    )


def _unfit(procedure: Procedure) -> tuple[Severity, str] | None:
    """Why a Procedure does not stand for a service that was done."""
    if procedure.may_mean_otherwise or any(one.modifier_extension for one in procedure.performer or ()):
        why = "carries a qualification that we do not know and that may change its meaning"
        return Severity.CRITICAL, f"{why}. It is not counted; look at it in the chart."
    if procedure.status == "completed":
        return None
    severity, why = _NOT_COUNTED.get(
        procedure.status or "", (Severity.WARNING, f"has the status '{procedure.status or 'none'}'")
    )
    return severity, f"{why} and is not counted."


def _times(procedure: Procedure, settings: ChartSettings) -> tuple[Moment | None, Moment | None]:
    period = procedure.performed_period
    if period:
        return moment(period.start, settings.time_zone), moment(period.end, settings.time_zone)
    return moment(procedure.performed_date_time, settings.time_zone), None


def _interval(
    procedure: Procedure,
    codes: tuple[str, ...],
    start: Moment | None,
    end: Moment | None,
    settings: ChartSettings,
) -> tuple[datetime | None, datetime | None, list[Finding]]:
    """Start and end in the place of service's zone, both or neither, and what is doubtful about them.

    Without both the minutes are unknown: ``core`` says so for a timed code (``minutes-missing``).
    """
    name = name_of_procedure(procedure)
    findings: list[Finding] = []

    def tell(id_: str, severity: Severity, why: str) -> None:
        findings.append(finding_of(id_, severity, f"{name} {why}", codes))

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
    lasted = time_between(first, last)
    if lasted < NO_TIME:
        tell("end-before-start", Severity.CRITICAL, "ends before it starts; its minutes are not counted.")
        return None, None, findings
    if lasted == NO_TIME:
        tell("no-duration", Severity.WARNING, "starts and ends at the same moment; its minutes are unknown.")
        return None, None, findings
    if time_between(_midnight_after(first), last) > NO_TIME:
        tell(
            "crosses-midnight",
            Severity.WARNING,
            f"goes on after midnight; only what lies on {first.date()} is counted with this visit.",
        )
    return first, last, findings


def _midnight_after(start: datetime) -> datetime:
    return datetime.combine(start.date() + timedelta(days=1), datetime.min.time(), start.tzinfo)


def _about_difference(
    name: str, codes: tuple[str, ...], by_clock: timedelta, elsewhere: Lasted
) -> list[Finding]:
    """Start and end come first; where the site's own source says otherwise, the reviewer weighs the two."""
    if elsewhere.time is None or elsewhere.time // MINUTE == by_clock // MINUTE:
        return []
    return [
        finding_of(
            "minutes-differ",
            Severity.WARNING,
            f"{name} lasted {by_clock // MINUTE} minutes by its start and end, which are counted, and "
            f"{elsewhere.time // MINUTE} by another entry in the chart.",
            codes,
        )
    ]


def _about_performers(
    name: str, codes: tuple[str, ...], performers: tuple[Performer, ...], day: date
) -> list[Finding]:
    if not performers:
        return [
            finding_of(
                "performer-missing",
                Severity.WARNING,
                f"{name} does not say who performed it, so its discipline and "
                "whether an assistant took part are not known.",
                codes,
                Status.NOT_CHECKED,
            )
        ]
    findings = [
        # Without the Procedure's name: said once a performer, not once a service.
        finding_of(
            "performer-role-unknown",
            Severity.WARNING,
            f"The chart does not say whether {performer.said} is a therapist "
            "or an assistant; the minutes are counted as a therapist's.",
            status=Status.NOT_CHECKED,
        )
        for performer in performers
        if performer.assistant is None
    ]
    findings += [
        finding_of(
            "role-not-in-force",
            Severity.INFO,
            f"{why}, so it says nothing of {performer.reference} on {day}.",
        )
        for performer in performers
        for why in performer.not_in_force
    ]
    disciplines = {performer.discipline for performer in performers if performer.discipline}
    if len(disciplines) > 1:
        named = " and ".join(sorted(disciplines))
        findings.append(
            finding_of(
                "disciplines-differ",
                Severity.CRITICAL,
                f"{name} was performed by {named} together; choose the discipline that bills it.",
                codes,
            )
        )
    return findings


def _about_match(procedure: Procedure, name: str, codes: tuple[str, ...], chart: Chart) -> list[Finding]:
    if is_own(procedure, chart):
        return []
    if chart.visit_of(procedure) is None:
        why = ("matched-by-date", "names no visit and is counted here by its date.")
    else:
        why = ("counted-with-day", "is of another visit of this day; the units are counted by the day.")
    return [finding_of(why[0], Severity.INFO, f"{name} {why[1]}", codes)]


def is_own(procedure: Procedure, chart: Chart) -> bool:
    return chart.visit_of(procedure) == chart.encounter.reference


def without_parts(counted: list[Counted], chart: Chart) -> tuple[list[Counted], list[LeftOut]]:
    """Parts and wholes of the same code are counted once: the whole where it has a time, else its parts."""
    by_reference = {one.procedure.reference: one for one in counted}
    doubled: dict[str, str] = {}
    for part in counted:
        whole = _whole_of(part, by_reference, chart)
        if whole is None or whole.procedure.reference in doubled or part.procedure.reference in doubled:
            continue
        if whole.time is not None:
            doubled[part.procedure.reference] = "is a part of another procedure with the same code"
        elif part.time is not None:
            doubled[whole.procedure.reference] = "is made up of other procedures with the same code"
    return (
        [one for one in counted if one.procedure.reference not in doubled],
        [
            LeftOut(
                finding_of(
                    "part-of-another",
                    Severity.WARNING,
                    f"{name_of_procedure(one.procedure)} {doubled[one.procedure.reference]} "
                    "and is not counted again.",
                    (one.code,),
                ),
                one.day,
            )
            for one in counted
            if one.procedure.reference in doubled
        ],
    )


def _whole_of(part: Counted, by_reference: Mapping[str, Counted], chart: Chart) -> Counted | None:
    """The outermost counted Procedure of the same code and day that this one is a part of."""
    whole, seen, above = None, {part.procedure.reference}, [*(part.procedure.part_of or ())]
    while above:
        one = by_reference.get(chart.bare(above.pop()) or "")
        if one is None or one.procedure.reference in seen:
            continue
        seen.add(one.procedure.reference)
        above += one.procedure.part_of or ()
        if (one.code, one.day) == (part.code, part.day):
            whole = one
    return whole


def name_of_procedure(procedure: Procedure) -> str:
    """The chart's own words for a Procedure, and its reference."""
    concept = procedure.code or CodeableConcept()
    words = [concept.text, *(word for coding in concept.codings for word in (coding.display, coding.code))]
    said = next((word for word in words if word and word.strip()), "A procedure")
    shown = "".join(letter if letter.isprintable() else " " for letter in said)
    return f"{' '.join(shown.split())[:60]} ({procedure.reference})"


def time_between(start: datetime, end: datetime) -> timedelta:
    # Two times of one zone subtract by the clock on the wall, which is an hour wrong on two days a year.
    return end.astimezone(UTC) - start.astimezone(UTC)


def finding_of(
    id_: str,
    severity: Severity,
    message: str,
    codes: tuple[str, ...] = (),
    status: Status = Status.FAIL,
) -> Finding:
    return Finding(id_, status, severity, message, codes)
