"""The chart of one visit: what the EHR holds about it, read side by side and checked to be this patient's.

After the token there is one round of reads. The date of service is the Encounter's, which that same round
brings; so the first searches cover ``look_back_days`` before today and one day after (a day more on each
side, since servers compare dates in zones of their own), and the days that count are picked from them.
A second round is made only where it must be: the visit lies further back, a performer's role is not yet
known, or a payer's identifier is needed to choose the policy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from threading import Barrier, Condition, Lock
from typing import Any, TypeVar
from weakref import WeakKeyDictionary
from zoneinfo import ZoneInfo

import msgspec
import requests

from .errors import BadAnswer, Busy, EhrError, NoDate, NotAuthorized, WrongPatient
from .moments import moment
from .server import Server
from .site import ChartSettings
from .views import (
    ChargeItem,
    Coverage,
    Encounter,
    Observation,
    Organization,
    Patient,
    Practitioner,
    PractitionerRole,
    Procedure,
    Unread,
    as_sent,
    bare,
    resource_from,
    resources,
)

__all__ = [
    "SIDE_BY_SIDE",
    "Begun",
    "Chart",
    "ChartSettings",
    "NotLooked",
    "begin_chart",
    "finish_chart",
    "prepare_reads",
    "read_chart",
]

_T = TypeVar("_T")
_R = TypeVar("_R", ChargeItem, Coverage, Encounter, Observation, Organization, PractitionerRole, Procedure)
_DAY = timedelta(days=1)
Started = Mapping[str, Future[Any]]  # by the name of what is read
AT_ONCE = 100  # reads of one EHR: ten charts, as many as may wait for it
SIDE_BY_SIDE = 10  # the most reads of a chart's first round
NEEDED = ("encounter", "patient", "procedures")
# Mostly these find nothing, or what others find too; so they are sent last.
LAST = ("encounters", "procedures-without-date", "charges", "charges-of-encounter")
PATIENCE = 2.0  # seconds for which a chart waits to be begun
_A_VISIT = re.compile(r"(?:https?://[^#?\s]+/)?Encounter/[A-Za-z0-9.-]{1,64}")
_NOT_DONE = frozenset({"entered-in-error", "not-done"})


@dataclass(frozen=True, slots=True)
class NotLooked:
    """What could not be looked at, and why: its absence from the chart means nothing.

    ``what`` is ``procedures-without-date``, ``encounters``, ``coverage``, ``charges``,
    ``charges-of-others``, ``minutes``, ``roles``, ``organizations`` or ``practitioner``.
    """

    what: str
    reason: str
    error: EhrError | None = field(default=None, compare=False)  # None: it is the site's word


@dataclass(frozen=True, slots=True)
class Chart:
    """One encounter with the rest of its days. All of it is the launch's patient's.

    ``days`` are the calendar days, in the place of service, on which this encounter has Procedures, or
    began. ``procedures`` are the encounter's own and all others of these days.
    """

    base_url: str
    encounter: Encounter
    patient: Patient
    user: Practitioner | None
    days: tuple[date, ...]
    procedures: tuple[Procedure, ...]
    encounters: tuple[Encounter, ...]  # the patient's others: of these days, or named by their Procedures
    coverages: tuple[Coverage, ...]
    organizations: tuple[Organization, ...]  # payers, where they had to be read
    roles: tuple[PractitionerRole, ...]
    charge_items: tuple[ChargeItem, ...]  # of these days or this encounter, cancelled ones too
    observations: tuple[Observation, ...]  # of minutes, where the site names any
    foreign: tuple[str, ...]  # references of what named another patient, or none; left out
    unread: tuple[Unread, ...]
    not_looked: tuple[NotLooked, ...]
    # Procedures whole, by reference, where the site reads minutes by an expression.
    sent: Mapping[str, msgspec.Raw] = field(default_factory=dict)
    began: datetime | None = None  # when its first read was sent off: of two charts the later one holds

    def bare(self, reference: Any) -> str | None:
        """A reference in its relative form, "Patient/P1"."""
        return bare(reference, self.base_url)

    def visit_of(self, procedure: Procedure) -> str | None:
        """The Encounter that a Procedure names; None where it names none that could be told from another."""
        return _visit_of(procedure, self.base_url)


@dataclass(frozen=True, slots=True)
class Begun:
    """A chart whose first round of reads is under way."""

    reading: _Reading
    window: tuple[date, date]
    started: Started
    at: datetime


@dataclass(frozen=True, slots=True)
class Expected:
    """A chart made of what had come by then."""

    chart: Chart
    reading: _Reading

    def holds(self, last: Started) -> bool:
        """Whether the reads that were still to come bring nothing. Raises as ``finish_chart``."""
        before = self.reading.amount()
        self.reading.take_in(last, ())
        return self.reading.amount() == before


def read_chart(
    server: Server,
    *,
    patient: str,
    encounter: str,
    user: str | None,
    settings: ChartSettings,
    now: datetime,
) -> Chart:
    """Read the chart of an encounter. ``patient``, ``encounter``: ids or references, ``user``: the fhirUser.

    Raises ``WrongPatient`` where Encounter or Patient is not the launch's, ``NoDate`` where neither the
    Encounter nor a Procedure of it has a day, and ``EhrError`` where Encounter, Patient or Procedures
    cannot be read. What else cannot be read stands in ``not_looked`` or ``unread``.
    """
    return finish_chart(
        begin_chart(server, patient=patient, encounter=encounter, user=user, settings=settings, now=now)
    )


def begin_chart(
    server: Server,
    *,
    patient: str,
    encounter: str,
    user: str | None,
    settings: ChartSettings,
    now: datetime,
) -> Begun:
    """Sends the first round's reads of ``read_chart`` off; raises nothing that comes of them."""
    today = now.astimezone(settings.time_zone).date()
    reading = _Reading(server, _typed("Patient", patient), _typed("Encounter", encounter), settings, today)
    window = (today - timedelta(days=settings.look_back_days), today + _DAY)
    reads = {
        "encounter": reading.one(Encounter, reading.encounter),
        "patient": reading.one(Patient, reading.patient),
        **reading.of_window(window),
        **reading.of_encounter(),
        "coverage": reading.many(Coverage, {"patient": reading.patient_id}),
        **reading.of_user(bare(user, server.base_uri)),
    }
    in_order = sorted(reads, key=lambda name: name in LAST)
    sent = _start(server, {name: reads[name] for name in in_order}, ahead=reading.encounter)
    return Begun(reading, window, {name: sent[name] for name in reads}, now)


def chart_without_last(begun: Begun) -> Chart | None:
    """The chart as it will be if the reads in ``LAST`` bring nothing; waits for the others only.

    None where that cannot be told, or a second round is needed. Raises nothing: whatever ails a read is raised
    by ``finish_chart``, which must follow.
    """
    reading = begun.reading.anew()
    try:
        reading.take_in({name: begun.started[name] for name in begun.started if name not in LAST}, NEEDED)
        if reading.second_round(begun.window):
            return None
        chart = reading.chart(began=begun.at)
    except EhrError:
        return None
    begun.reading.expected = Expected(chart, reading)
    return chart


def finish_chart(begun: Begun) -> Chart:
    """Waits for the first round, and makes the second where there must be one. Raises as ``read_chart``.

    The same chart as ``chart_without_last`` gave, where the last reads brought nothing.
    """
    reading, expected = begun.reading, begun.reading.expected
    if expected and expected.holds({name: begun.started[name] for name in begun.started if name in LAST}):
        return expected.chart
    reading.take_in(begun.started, NEEDED)
    second = reading.second_round(begun.window)
    if second:
        reading.take_in(_start(reading.server, second), ("procedures",))
    return reading.chart(began=begun.at)


class _Threads:
    """The threads that read from one EHR, its own, so that a slow one holds up nobody else's charts.

    Kept as long as its session: starting ten threads a chart costs more than all else that we do for it.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="chart")
        self._under_way = 0
        self._changed = Condition()
        all_there = Barrier(SIDE_BY_SIDE)  # so that each takes a thread of its own
        for _ in range(SIDE_BY_SIDE):
            self._pool.submit(all_there.wait, PATIENCE)

    def start(self, reads: Mapping[str, Callable[[], Any]], first: Callable[[], None]) -> Started:
        """All reads sent off, after ``first``, or, where there is no room for all of them in time, ``Busy`` for each."""
        with self._changed:
            fits = self._changed.wait_for(lambda: self._has_room_for(len(reads)), PATIENCE)
            if fits:
                self._under_way += len(reads)
        if fits:
            first()
        return {name: self._submit(read) if fits else _done(Busy()) for name, read in reads.items()}

    def _has_room_for(self, reads: int) -> bool:
        return self._under_way + reads <= max(AT_ONCE, reads)  # more than all: once nothing else is under way

    def _submit(self, read: Callable[[], Any]) -> Future[Any]:
        future = self._pool.submit(copy_context().run, _outcome, read)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, _future: Future[Any]) -> None:
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()


_THREADS: WeakKeyDictionary[requests.Session, _Threads] = WeakKeyDictionary()  # by the EHR's session
_MAKING_THREADS = Lock()


def prepare_reads(session: requests.Session) -> None:
    """Starts the threads that will read charts from this session's EHR, unless they are there."""
    _threads_of(session)


def _threads_of(session: requests.Session) -> _Threads:
    with _MAKING_THREADS:
        return _THREADS.get(session) or _THREADS.setdefault(session, _Threads())


def _start(server: Server, reads: Mapping[str, Callable[[], Any]], *, ahead: str | None = None) -> Started:
    """``ahead``: what is read first, sent off by this thread, since those that read take a moment to wake."""

    def first() -> None:
        if ahead is not None:
            server.send_ahead(ahead)

    return _threads_of(server.session).start(reads, first)


def _done(outcome: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(outcome)
    return future


class _Reading:
    """What has come in so far; ``chart`` turns it into the frozen result."""

    def __init__(
        self, server: Server, patient: str, encounter: str, settings: ChartSettings, today: date
    ) -> None:
        self.server = server
        self.today = today
        self.settings = settings
        self.patient = patient
        self.encounter = encounter
        self.patient_id = patient.removeprefix("Patient/")
        self.asked: set[str] = set()  # practitioners whose roles were asked for
        self.found: dict[str, Any] = {}  # by reference, the first copy of each
        self.differing: set[str] = set()  # Procedures of which two different copies came
        self.sent: dict[str, msgspec.Raw] = {}
        self.unread: dict[Unread, None] = {}
        self.not_looked: list[NotLooked] = []
        self.expected: Expected | None = None

    def anew(self) -> _Reading:
        """The same with nothing in it yet."""
        other = _Reading(self.server, self.patient, self.encounter, self.settings, self.today)
        other.asked = self.asked
        return other

    def amount(self) -> int:
        """How much has come; nothing is ever taken out, so the same amount is the same."""
        return len(self.found) + len(self.sent) + len(self.unread) + len(self.not_looked)

    # Reads, each a function to be called in a thread

    def one(self, kind: type[Any], reference: str) -> Callable[[], Any]:
        def read() -> Any:
            resource = resource_from(self.server.read(reference), kind)
            if isinstance(resource, Unread) or resource is None:
                where = f" at {resource.path}" if isinstance(resource, Unread) else ""
                raise BadAnswer(
                    f"The EHR's {kind.__name__} cannot be read{where}. Tell your administrator this place."
                )
            if resource.reference != reference:
                raise WrongPatient(
                    "The EHR answered with another record than the one asked for. "
                    "Close this page and open Quarterhour again from the visit."
                )
            return [resource], [], {}

        return read

    def many(self, kind: type[_R], params: Mapping[str, Any]) -> Callable[[], Any]:
        def search() -> Any:
            asked = {**params, "_count": str(self.settings.page_size)}
            entries: list[msgspec.Raw] = self.server.search(kind.__name__, asked)
            whole = kind.__name__ == "Procedure" and self.settings.minutes_path is not None
            return *resources(entries, kind), as_sent(entries) if whole else {}

        return search

    def of_window(self, window: tuple[date, date]) -> dict[str, Callable[[], Any]]:
        # A day more on each side: the server may compare in UTC, or in its own zone.
        dates = [f"ge{window[0] - _DAY}", f"le{window[1] + _DAY}"]
        by_patient = {"patient": self.patient_id}
        undated = self.settings.procedure_search == "patient"
        searches = {
            "procedures": self.many(Procedure, by_patient if undated else {**by_patient, "date": dates}),
            "encounters": self.many(Encounter, {**by_patient, "date": dates}),
        }
        if self.settings.minutes_observations:
            codes = ",".join(self.settings.minutes_observations)
            searches["minutes"] = self.many(Observation, {**by_patient, "date": dates, "code": codes})
        if self.settings.charge_search == "patient":
            searches["charges"] = self.many(ChargeItem, {**by_patient, "occurrence": dates})
        return searches

    def of_encounter(self) -> dict[str, Callable[[], Any]]:
        """The encounter's own, dated or not."""
        searches = {}
        if self.settings.procedure_search == "date-and-encounter":
            own = {"patient": self.patient_id, "encounter": self.encounter.removeprefix("Encounter/")}
            searches["procedures-without-date"] = self.many(Procedure, own)
        if self.settings.charge_search != "none":
            searches["charges-of-encounter"] = self.many(ChargeItem, {"context": self.encounter})
        return searches

    def of_user(self, user: str | None) -> dict[str, Callable[[], Any]]:
        """The signer, and in the same round the role of the most likely performer."""
        if user is None or not user.startswith("Practitioner/"):
            return {}
        reads = {"practitioner": self.one(Practitioner, user)}
        if user not in self.settings.practitioners:
            self.asked.add(user)
            practitioner = {"practitioner": user.removeprefix("Practitioner/")}
            reads["roles"] = self.many(PractitionerRole, practitioner)
        return reads

    def of_performers(self) -> dict[str, Callable[[], Any]]:
        """Roles of performers that neither the site's map nor the first round told us of."""
        known = self.asked | set(self.settings.practitioners) | set(self.references(PractitionerRole))
        actors = {
            self.bare(performer.actor)
            for procedure in self.all(Procedure)
            for performer in procedure.performer or ()
        }
        missing = sorted(actor for actor in actors if actor and actor not in known)
        reads: dict[str, Callable[[], Any]] = {
            f"roles {actor}": self.one(PractitionerRole, actor)
            for actor in missing
            if actor.startswith("PractitionerRole/")
        }
        people = [
            actor.removeprefix("Practitioner/") for actor in missing if actor.startswith("Practitioner/")
        ]
        if people:
            reads["roles of others"] = self.many(PractitionerRole, {"practitioner": ",".join(people)})
        return reads

    def of_payers(self) -> dict[str, Callable[[], Any]]:
        """Payer organizations, where a rule goes by an identifier that the Coverage itself does not give."""
        by_identifier = any(
            rule.payer and not rule.payer.startswith("Organization/") for rule in self.settings.policies
        )
        if not by_identifier:
            return {}
        payors = {
            self.bare(payor)
            for coverage in self.all(Coverage)
            for payor in coverage.payor or ()
            if payor.identifier is None
        }
        return {
            f"organizations {payor}": self.one(Organization, payor)
            for payor in sorted(payor for payor in payors if payor and payor.startswith("Organization/"))
        }

    # What came in

    def second_round(self, window: tuple[date, date]) -> dict[str, Callable[[], Any]]:
        """What is still to be read after the first round, which looked at the days of ``window``."""
        encounter, _ = self.launched()
        span = _span(encounter, self.settings)
        further_back = span is not None and not window[0] <= span[0] <= span[1] <= window[1]
        return {
            **(self.of_window(span) if span is not None and further_back else {}),
            **self.of_performers(),
            **self.of_payers(),
        }

    def take_in(self, started: Started, needed: tuple[str, ...]) -> None:
        """What these reads bring. A needed one that fails is raised, in the order of ``needed``."""
        outcomes = {name: future.result() for name, future in started.items()}
        for name in needed:
            if isinstance(outcomes.get(name), EhrError):
                raise outcomes[name]
        for name, outcome in outcomes.items():
            if isinstance(outcome, NotAuthorized):
                raise outcome
            if isinstance(outcome, EhrError):
                self.not_looked.append(NotLooked(_what(name), str(outcome), outcome))
                continue
            found, unread, sent = outcome
            for resource in found:
                first = self.found.setdefault(resource.reference, resource)
                if isinstance(resource, Procedure) and resource != first:
                    self.differing.add(resource.reference)
                    self.unread[Unread(resource.reference, "$", "Two copies of it differ")] = None
            for reference, raw in sent.items():
                self.sent.setdefault(reference, raw)
            self.unread.update(dict.fromkeys(unread))

    def all(self, kind: type[_T]) -> list[_T]:
        """Everything of one kind, in the order in which it came."""
        return [resource for resource in self.found.values() if isinstance(resource, kind)]

    def references(self, kind: type[Any]) -> list[str]:
        return [resource.reference for resource in self.all(kind)]

    def bare(self, reference: Any) -> str | None:
        return bare(reference, str(self.server.base_uri))

    def launched(self) -> tuple[Encounter, Patient]:
        """The launch's Encounter and Patient, the one checked to be the other's."""
        encounter: Encounter = self.found[self.encounter]
        patient: Patient = self.found[self.patient]
        if self.bare(encounter.subject) != self.patient:
            raise WrongPatient(
                "This visit is another patient's than the one whose chart is open, or does not say whose. "
                "Close this page and open Quarterhour again from the right chart."
            )
        return encounter, patient

    def chart(self, *, began: datetime) -> Chart:
        """Everything of this patient and these days; what is not this patient's is named and left out."""
        encounter, patient = self.launched()
        foreign: list[str] = []
        zone = self.settings.time_zone

        def of_patient(resources: Iterable[_R], subject: Callable[[_R], Any]) -> list[_R]:
            ours = []
            for resource in resources:
                if self.bare(subject(resource)) == self.patient:
                    ours.append(resource)
                else:
                    foreign.append(resource.reference)
            return ours

        procedures = of_patient(
            (one for one in self.all(Procedure) if one.reference not in self.differing),
            lambda procedure: procedure.subject,
        )
        others = of_patient(
            (other for other in self.all(Encounter) if other.reference != self.encounter),
            lambda other: other.subject,
        )
        charges = of_patient(self.all(ChargeItem), lambda item: item.subject)
        coverages = of_patient(self.all(Coverage), lambda coverage: coverage.beneficiary)

        days = self._days(encounter, [procedure for procedure in procedures if self._is_own(procedure)])
        if not days:
            raise NoDate(
                "Neither the visit nor its procedures have a date in the EHR. "
                "Enter the date there and open Quarterhour again."
            )
        same_day = [other for other in others if days & {*_ends(other, zone)}]
        their = {other.reference for other in (encounter, *same_day)}
        of_days = tuple(
            procedure
            for procedure in procedures
            if self._is_own(procedure)
            or day_of(procedure, zone) in days
            or (day_of(procedure, zone) is None and self._visit_of(procedure) in {None, *their})
        )
        named = {self._visit_of(procedure) for procedure in of_days}
        return Chart(
            base_url=str(self.server.base_uri),
            encounter=encounter,
            patient=patient,
            user=next(iter(self.all(Practitioner)), None),
            days=tuple(sorted(days)),
            procedures=of_days,
            encounters=tuple(other for other in others if other in same_day or other.reference in named),
            coverages=tuple(coverages),
            organizations=tuple(self.all(Organization)),
            roles=tuple(self.all(PractitionerRole)),
            charge_items=tuple(
                item
                for item in charges
                if self.bare(item.context) in their or charged_day(item, zone) in {None, *days}
            ),
            observations=tuple(of_patient(self.all(Observation), lambda observation: observation.subject)),
            foreign=tuple(foreign),
            unread=tuple(self.unread),
            not_looked=tuple(self._not_looked()),
            sent=self.sent,
            began=began,
        )

    def _days(self, encounter: Encounter, own: Iterable[Procedure]) -> set[date]:
        """The days of service: those of the encounter's Procedures within its period, else its first day.

        A Procedure dated outside of its encounter opens no day of its own; ``normalise`` reports it.
        """
        ends = _ends(encounter, self.settings.time_zone)
        first = ends[0] or date.min
        last = max(ends[1] or self.today, first)
        days = {
            day
            for procedure in own
            if procedure.status not in _NOT_DONE
            and (day := day_of(procedure, self.settings.time_zone))
            and first <= day <= last
        }
        return days or ({ends[0]} if ends[0] else set())

    def _is_own(self, procedure: Procedure) -> bool:
        return self._visit_of(procedure) == self.encounter

    def _visit_of(self, procedure: Procedure) -> str | None:
        return _visit_of(procedure, str(self.server.base_uri))

    def _not_looked(self) -> list[NotLooked]:
        told = list(dict.fromkeys(self.not_looked))
        if self.settings.procedure_search == "date":
            told.append(NotLooked("procedures-without-date", "This EHR cannot be searched by visit."))
        if self.settings.charge_search == "none":
            told.append(NotLooked("charges", "This EHR does not show charges."))
        if self.settings.charge_search == "context":
            told.append(NotLooked("charges-of-others", "This EHR shows charges of the opened visit only."))
        return told


def day_of(procedure: Procedure, zone: ZoneInfo) -> date | None:
    """The calendar day, in the place of service, on which a Procedure began; None where it does not say."""
    period = procedure.performed_period
    started = moment(period.start if period else procedure.performed_date_time, zone)
    return started.day if started else None


def charged_day(item: ChargeItem, zone: ZoneInfo) -> date | None:
    """The calendar day of a charge; None where it does not say."""
    period = item.occurrence_period
    started = moment(period.start if period else item.occurrence_date_time, zone)
    return started.day if started else None


def _visit_of(procedure: Procedure, base_url: str) -> str | None:
    """A display, a contained Encounter or a broken reference names no visit: its date has to place it."""
    reference = bare(procedure.encounter, base_url)
    return reference if reference and _A_VISIT.fullmatch(reference) else None


def _ends(encounter: Encounter, zone: ZoneInfo) -> tuple[date | None, date | None]:
    """The encounter's first and last calendar day in the place of service, as far as it says."""
    period = encounter.period
    start, end = (moment(text, zone) for text in ((period.start, period.end) if period else (None, None)))
    return start.day if start else None, end.day if end else None


def _span(encounter: Encounter, settings: ChartSettings) -> tuple[date, date] | None:
    """The first and last day of the encounter that are read, or None where it has no start.

    A recurring encounter may last for months; of a long one only the last ``look_back_days`` are read: what
    is earlier was charged from earlier launches. One without an end is read on its first day, and in the
    first round's window.
    """
    first, end = _ends(encounter, settings.time_zone)
    if first is None:
        return None
    last = max(first, end or first)
    return max(first, last - timedelta(days=settings.look_back_days)), last


def _typed(kind: str, reference: str) -> str:
    return reference if reference.startswith(f"{kind}/") else f"{kind}/{reference}"


def _what(name: str) -> str:
    """The kind of read, for ``NotLooked.what``."""
    return {"charges-of-encounter": "charges"}.get(name, name.partition(" ")[0])


def _outcome(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except EhrError as error:
        return error
