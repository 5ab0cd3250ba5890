"""The minutes of a visit as a picture and, fact for fact, as sentences.

Nothing is judged here: what is questionable about the minutes stands among the findings. Lengths of a
drawing are whole user units of its SVG; nothing is scaled by a float.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import combinations, pairwise
from typing import Protocol
from zoneinfo import ZoneInfo

from ..core.visit import Service
from ..fhir.performers import Performer

MINUTE = timedelta(minutes=1)
FEWEST_UNITS_SHOWN = 4  # a visit of one unit has the same scale as one of four
TICKS = (5, 10, 15, 30, 60, 120, 240)  # minutes between the times of the axis


class Kind(StrEnum):
    """How a bar is filled; the legend and the sentences say it in words."""

    THERAPIST = "therapist"
    ASSISTANT = "assistant"
    TOGETHER = "together"
    UNTIMED = "untimed"
    LEFT_OUT = "left-out"


WORDS = {
    Kind.THERAPIST: "therapist",
    Kind.ASSISTANT: "assistant",
    Kind.TOGETHER: "therapist and assistant together",
    Kind.UNTIMED: "not billed by time",
    Kind.LEFT_OUT: "left out",
}


class Span(Protocol):
    """Something with a start and an end, both aware."""

    @property
    def start(self) -> datetime: ...
    @property
    def end(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Stretch:
    """From one instant to another, in the zone of the place of service."""

    start: datetime
    end: datetime

    @property
    def minutes(self) -> int:
        """Whole minutes."""
        return (self.end.astimezone(UTC) - self.start.astimezone(UTC)) // MINUTE

    @property
    def clock(self) -> str:
        """9:00 to 9:20; with the day where it is another."""
        end = _clock(self.end)
        if self.end.date() != self.start.date():
            end += f" on {self.end:%A}"
        return f"{_clock(self.start)} to {end}"


@dataclass(frozen=True, slots=True)
class Lane:
    """One service: ``minutes`` are those that count (None: not known), ``at`` the chart's times, if it has any."""

    code: str
    minutes: int | None
    kind: Kind
    at: Stretch | None
    entered: bool = False  # the minutes are a person's, not the chart's
    by: str = ""  # the names of those who did it, as far as the chart has them

    @property
    def says(self) -> str:
        """The bar in a sentence."""
        amount = "minutes not known" if self.minutes is None else _minutes(self.minutes)
        when = self.at.clock if self.at else "no clock times"
        entered = " as entered" if self.entered else ""
        by = f" ({self.by})" if self.by else ""
        return f"{self.code}: {when}, {amount}{entered}, {WORDS[self.kind]}{by}."


@dataclass(frozen=True, slots=True)
class Shared:
    """Time in which two services took place at once."""

    at: Stretch
    codes: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Step:
    """From ``fewest`` to ``most`` minutes, both included, make so many units."""

    units: int
    fewest: int
    most: int


@dataclass(frozen=True, slots=True)
class Scale:
    """Minutes against the steps of the rule: the total's, or one code's where each counts alone."""

    label: str
    minutes: int | None  # None: some are not known
    units: int | None
    steps: tuple[Step, ...]

    @property
    def says(self) -> str:
        """The scale in a sentence."""
        if self.minutes is None or self.units is None:
            return f"{self.label}: not known, because minutes are missing."
        step = next(step for step in self.steps if step.units == self.units)
        made = "no unit" if not step.units else "1 unit" if step.units == 1 else f"{step.units} units"
        return f"{self.label}: {_minutes(self.minutes)}; {step.fewest} to {step.most} make {made}."


@dataclass(frozen=True, slots=True)
class Picture:
    """A visit's minutes."""

    lanes: tuple[Lane, ...]
    gaps: tuple[Stretch, ...]  # between services; longer than a minute
    shared: tuple[Shared, ...]
    scales: tuple[Scale, ...]

    @property
    def facts(self) -> tuple[str, ...]:
        """Everything that the drawing shows, in sentences."""
        return (
            *(lane.says for lane in self.lanes),
            *(f"{gap.clock}: {_minutes(gap.minutes)} without a documented service." for gap in self.gaps),
            *(
                f"{one.at.clock}: {' and '.join(one.codes)} at the same time, {_minutes(one.at.minutes)}."
                for one in self.shared
            ),
            *(scale.says for scale in self.scales),
        )

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds that occur, for the legend."""
        return tuple(kind for kind in Kind if any(lane.kind is kind for lane in self.lanes))


def picture(
    services: Iterable[Service],
    *,
    timed: Mapping[str, bool],
    times: Mapping[str, Span],
    zone: ZoneInfo,
    entered: Mapping[str, tuple[int, int | None]],
    left_out: Collection[str],
    assistants: Collection[str],
    scales: Sequence[Scale],
    people: Mapping[str, Sequence[Performer]] | None = None,
) -> Picture:
    """The picture of a chart's services.

    ``times``, ``people`` and the last three but ``scales`` go by service reference; ``entered`` gives a person's minutes
    in all and, where they said so, those by the assistant alone. A code that ``timed`` does not know is
    drawn as untimed: its minutes count towards nothing.
    """
    lanes = tuple(
        lane
        for service in services
        for lane in _lanes(
            service,
            timed=timed.get(service.code, False),
            at=_stretch(service, times, zone),
            entered=entered.get(service.reference or ""),
            left_out=(service.reference or "") in left_out,
            assistant=(service.reference or "") in assistants,
            people=(people or {}).get(service.reference or "", ()),
        )
    )
    drawn = sorted((lane.at for lane in lanes if lane.at), key=lambda at: _instant(at.start))
    return Picture(lanes, tuple(_gaps(drawn)), tuple(_shared(lanes)), tuple(scales))


def _stretch(service: Service, times: Mapping[str, Span], zone: ZoneInfo) -> Stretch | None:
    known = times.get(service.reference or "")
    start, end = (known.start, known.end) if known else (service.start, service.end)
    if start is None or end is None or _instant(end) < _instant(start):
        return None
    return Stretch(start.astimezone(zone), end.astimezone(zone))


def _lanes(
    service: Service,
    *,
    timed: bool,
    at: Stretch | None,
    entered: tuple[int, int | None] | None,
    left_out: bool,
    assistant: bool,
    people: Sequence[Performer],
) -> list[Lane]:
    """One lane a service; two where the therapist's and the assistant's minutes are told apart without times."""
    by_person = entered is not None
    parts: list[tuple[Kind, int | None]]
    if entered is not None:
        whole, by_assistant = entered
        if by_assistant is None:
            by_assistant = whole if assistant else 0
        parts = [(Kind.THERAPIST, whole - by_assistant), (Kind.ASSISTANT, by_assistant)]
    else:
        own = service.minutes
        if own is None and at is not None:
            own = at.minutes
        parts = [
            (Kind.THERAPIST, own),
            (Kind.ASSISTANT, service.assistant_minutes),
            (Kind.TOGETHER, service.concurrent_minutes),
        ]
    present = [(kind, minutes) for kind, minutes in parts if minutes] or parts[:1]
    if left_out or not timed:
        kind = Kind.LEFT_OUT if left_out else Kind.UNTIMED
        amount = None if present[0][1] is None else sum(minutes or 0 for _, minutes in present)
        present = [(kind, amount)]
    return [
        Lane(service.code, minutes, kind, at, by_person, _names(people, kind)) for kind, minutes in present
    ]


def _names(people: Sequence[Performer], kind: Kind) -> str:
    """Those whose minutes these are; whoever is not known to be an assistant counts as a therapist."""
    if kind is Kind.THERAPIST:
        people = [one for one in people if not one.assistant]
    elif kind is Kind.ASSISTANT:
        people = [one for one in people if one.assistant]
    return " and ".join(dict.fromkeys(one.name for one in people if one.name))


def _gaps(drawn: Sequence[Stretch]) -> Iterable[Stretch]:
    if not drawn:
        return
    reached = drawn[0].end
    for at in drawn[1:]:
        gap = Stretch(reached, at.start)
        if gap.minutes > 0:
            yield gap
        reached = max(reached, at.end, key=_instant)


def _shared(lanes: Sequence[Lane]) -> Iterable[Shared]:
    placed = [lane for lane in lanes if lane.at and lane.kind is not Kind.LEFT_OUT]
    for one, other in combinations(placed, 2):
        if one.at is None or other.at is None or one.at is other.at:
            continue
        at = Stretch(
            max(one.at.start, other.at.start, key=_instant), min(one.at.end, other.at.end, key=_instant)
        )
        if at.minutes > 0:
            yield Shared(at, (one.code, other.code))


def steps(minutes: int | None, *, unit_minutes: int, minimum_minutes: int) -> tuple[Step, ...]:
    """The rule's steps up to the one after that of ``minutes``, and at least four units."""
    reached = 0 if minutes is None else _units(minutes, unit_minutes, minimum_minutes)
    most = max(FEWEST_UNITS_SHOWN, reached + 1)
    starts = [0, *((units - 1) * unit_minutes + minimum_minutes for units in range(1, most + 2))]
    return tuple(
        Step(units, fewest, following - 1) for units, (fewest, following) in enumerate(pairwise(starts))
    )


def scale(label: str, minutes: int | None, *, unit_minutes: int, minimum_minutes: int) -> Scale:
    """Minutes against the steps of a policy's own terms."""
    return Scale(
        label,
        minutes,
        None if minutes is None else _units(minutes, unit_minutes, minimum_minutes),
        steps(minutes, unit_minutes=unit_minutes, minimum_minutes=minimum_minutes),
    )


def _units(minutes: int, unit_minutes: int, minimum_minutes: int) -> int:
    full, remainder = divmod(minutes, unit_minutes)
    return full + (remainder >= minimum_minutes)


# --- drawing ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle, or with ``width`` 0 only its words."""

    x: int
    y: int
    width: int
    kind: str
    label: str  # the code
    words: str  # the minutes
    label_x: int
    label_y: int
    words_x: int
    by: str  # the names, where they have a line of their own


@dataclass(frozen=True, slots=True)
class Mark:
    """A place on an axis and the words at it."""

    x: int
    y: int
    words: str
    here: bool = False
    width: int = 0
    anchor: str = "middle"  # at the drawing's edges the words stand beside their place


@dataclass(frozen=True, slots=True)
class ScaleDrawn:
    """One scale: its bar, the borders of its steps and their names."""

    label: str
    label_x: int
    label_y: int
    words_x: int
    words: str
    x: int
    y: int
    width: int
    filled: int
    borders: tuple[int, ...]
    names: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """Everything that the template writes down as SVG."""

    width: int
    height: int
    left: int
    floor: int  # where the lanes end
    bars: tuple[Bar, ...]
    ticks: tuple[Mark, ...]
    gaps: tuple[Mark, ...]
    shared: tuple[Mark, ...]
    scales: tuple[ScaleDrawn, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """A drawing's measures. ``stacked``: the words stand above the bar instead of beside it."""

    width: int
    left: int
    right: int
    lane: int
    stacked: bool
    most_ticks: int


WIDE = Form(width=720, left=170, right=20, lane=34, stacked=False, most_ticks=8)
NARROW = Form(width=340, left=2, right=18, lane=44, stacked=True, most_ticks=5)
BAR = 18
LONGEST_BESIDE, LONGEST_IN_LINE = 24, 30  # letters of a name that have room; the text version has it whole
HEAD = 16  # room above the lanes for the sign of what is shared


def draw(what: Picture, form: Form) -> Drawing:
    """The picture in one of its two forms."""
    room = form.width - form.left - form.right
    placed = [lane.at for lane in what.lanes if lane.at]
    first = min((at.start for at in placed), default=None, key=_instant)
    last = max((at.end for at in placed), default=None, key=_instant)
    length = max(last.astimezone(UTC) - first.astimezone(UTC), MINUTE) if first and last else MINUTE

    def x_of(moment: datetime) -> int:
        assert first is not None  # noqa: S101 - only called with a placed stretch
        return form.left + (moment.astimezone(UTC) - first.astimezone(UTC)) * room // length

    def span_of(at: Stretch) -> tuple[int, int]:
        left = x_of(at.start)
        return left, max(2, x_of(at.end) - left)

    bars = []
    for row, lane in enumerate(what.lanes):
        top = HEAD + row * form.lane
        y = top + (form.lane - BAR - 2 if form.stacked else (form.lane - BAR) // 2)
        x, width = span_of(lane.at) if lane.at else (form.left, 0)
        amount = "? min" if lane.minutes is None else f"{lane.minutes} min"
        if lane.entered:
            amount += ", entered"
        if not lane.at:
            amount += ", no clock times"
        if lane.by and (form.stacked or not lane.at):
            amount += f" · {_short(lane.by, LONGEST_IN_LINE)}"
        bars.append(
            Bar(
                x,
                y,
                width,
                lane.kind,
                lane.code,
                amount,
                label_x=form.left if form.stacked else 0,
                label_y=top + 16 if form.stacked else y + 6 if lane.at and lane.by else y + 14,
                words_x=form.left + 54 if form.stacked else 58 if lane.at else form.left,
                by="" if form.stacked or not lane.at else _short(lane.by, LONGEST_BESIDE),
            )
        )
    floor = HEAD + len(what.lanes) * form.lane + 6
    ticks = tuple(
        Mark(x_of(moment), floor + 16, _clock(moment), anchor=_anchor(x_of(moment), form))
        for moment in _ticks(first, last, form.most_ticks)
    )
    below = floor + (24 if ticks else 0)
    gaps = tuple(
        Mark(left, below + 4, f"{gap.minutes} min", width=width, anchor=_anchor(left + width // 2, form))
        for gap in what.gaps
        for left, width in [span_of(gap)]
    )
    below += 30 if gaps else 0
    shared = tuple(
        Mark(left, HEAD - 4, "▲", width=width) for one in what.shared for left, width in [span_of(one.at)]
    )
    scales = []
    for each in what.scales:
        below += 14
        scales.append(_drawn(each, form, below))
        below += 66 if form.stacked else 46
    return Drawing(form.width, below + 4, form.left, floor, tuple(bars), ticks, gaps, shared, tuple(scales))


def _drawn(each: Scale, form: Form, top: int) -> ScaleDrawn:
    room = form.width - form.left - form.right
    longest = each.steps[-1].most + 1
    y = top + (22 if form.stacked else 0)

    def x_of(minutes: int) -> int:
        return form.left + minutes * room // longest

    return ScaleDrawn(
        label=each.label,
        label_x=form.left if form.stacked else 0,
        label_y=top + 12,
        words_x=form.left + 54 if form.stacked else 58,
        words="? min" if each.minutes is None else f"{each.minutes} min",
        x=form.left,
        y=y,
        width=room,
        filled=0 if each.minutes is None else x_of(each.minutes) - form.left,
        borders=tuple(x_of(step.fewest) for step in each.steps[1:]),
        names=tuple(
            Mark(
                (x_of(step.fewest) + x_of(step.most + 1)) // 2,
                y + 32,
                str(step.units)
                if form.stacked or not step.units
                else f"{step.units} ({step.fewest}–{step.most})",
                here=step.units == each.units,
            )
            for step in each.steps
        ),
    )


EDGE = 20


def _anchor(x: int, form: Form) -> str:
    return "start" if x < EDGE else "end" if x > form.width - EDGE else "middle"


def _ticks(first: datetime | None, last: datetime | None, most: int) -> Iterable[datetime]:
    if first is None or last is None:
        return
    whole = (last.astimezone(UTC) - first.astimezone(UTC)) // MINUTE
    apart = next((apart for apart in TICKS if whole // apart < most), None)
    if apart is None:
        yield first
        yield last
        return
    midnight = first.replace(hour=0, minute=0, second=0, microsecond=0)
    into = -(-((first - midnight) // MINUTE) // apart) * apart
    moment = midnight.astimezone(UTC) + timedelta(minutes=into)
    if moment < first.astimezone(UTC):
        moment += timedelta(minutes=apart)
    while moment <= last.astimezone(UTC):
        yield moment.astimezone(first.tzinfo)
        moment += timedelta(minutes=apart)


def _instant(moment: datetime) -> datetime:
    """Two times of one zone compare by the clock on the wall, which is an hour wrong on two days a year."""
    return moment.astimezone(UTC)


def _short(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 1].rstrip(' ,')}…"


def _clock(moment: datetime) -> str:
    return f"{moment.hour}:{moment:%M}"


def _minutes(number: int) -> str:
    return "1 minute" if number == 1 else f"{number} minutes"
