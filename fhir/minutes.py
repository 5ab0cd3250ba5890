"""Minutes of a Procedure that has no start and end: from a field or an Observation that the site named.

Nothing official carries minutes (https://hl7.org/fhir/R4/procedure.html has none), so all are settings of
the site: an extension, else a FHIRPath expression, else Observations. A note's text is only ever a proposal
for the therapist to confirm, and the encounter's length only a ceiling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec

from ..core.findings import Finding, Severity, Status
from .chart import Chart
from .expression import values_of
from .site import ChartSettings
from .views import Encounter, Observation, Procedure, Quantity

_UCUM = "http://unitsofmeasure.org"
_SECONDS = {"min": 60, "h": 3600, "s": 1, "d": 24 * 3600}  # https://ucum.org; a month has no fixed length
_SPELT_OUT = {
    "minute": "min",
    "minutes": "min",
    "hour": "h",
    "hours": "h",
    "second": "s",
    "seconds": "s",
    "day": "d",
    "days": "d",
}
_FINAL = frozenset({"final", "amended", "corrected"})
_DAY = 24 * 3600
_IN_NOTE = re.compile(r"(?<![\d.,:/-])(\d{1,3})\s?min(?:ute)?s?\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Proposal:
    """Minutes that a note speaks of, with its words; counted only once the therapist confirms them."""

    minutes: int
    words: str


@dataclass(frozen=True, slots=True)
class Lasted:
    """A duration to the second, and where it was found; ``time`` is None where nothing certain was."""

    time: timedelta | None = None
    findings: tuple[Finding, ...] = ()


def minutes_of(procedure: Procedure, code: str, name: str, chart: Chart, settings: ChartSettings) -> Lasted:
    """By the first of the site's sources that says anything; the source is told, and a later one's no."""
    sources = (
        (_in_extensions(procedure, settings), "a field of the procedure"),
        (_by_expression(procedure, chart, settings), "an entry of the procedure that the site names"),
        _in_observations(procedure, code, chart, settings),
    )
    said = [_certain(durations, name, code, where) for durations, where in sources if durations]
    if not said:
        return Lasted()
    first, *others = said
    for other in others:
        if first.time and other.time and first.time != other.time:
            differ = Finding(
                "minutes-differ",
                Status.FAIL,
                Severity.WARNING,
                f"{name} lasted {shown(first.time)} by what is counted and {shown(other.time)} "
                "by another entry in the chart.",
                (code,),
            )
            return Lasted(first.time, (*first.findings, differ))
    return first


def _in_extensions(procedure: Procedure, settings: ChartSettings) -> list[Decimal | None]:
    return [
        _duration(raw) for raw in procedure.extension or () if _url_of(raw) in settings.minutes_extensions
    ]


def _by_expression(procedure: Procedure, chart: Chart, settings: ChartSettings) -> list[Decimal | None]:
    sent = chart.sent.get(procedure.reference)
    if settings.minutes_path is None or sent is None:
        return []
    values = values_of(settings.minutes_path, sent)
    return [None] if values is None else [_seconds_of_value(value) for value in values]


def _in_observations(
    procedure: Procedure, code: str, chart: Chart, settings: ChartSettings
) -> tuple[list[Decimal | None], str]:
    observations = [
        observation
        for observation in chart.observations
        if observation.status in _FINAL
        and not observation.may_mean_otherwise
        and _is_about(observation, procedure, code, chart, settings)
    ]
    named = ", ".join(observation.reference for observation in observations)
    return [_seconds(each.value_quantity) for each in observations], named


def length_of(encounter: Encounter) -> timedelta | None:
    """Encounter.length, leaves of absence not in it; None where it is not surely a time above zero.

    https://hl7.org/fhir/R4/encounter-definitions.html#Encounter.length
    """
    try:
        seconds = _seconds(msgspec.json.decode(encounter.length, type=Quantity))
        length = timedelta(microseconds=int(seconds * 1_000_000)) if seconds else timedelta(0)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError):
        return None
    return length if length > timedelta(0) else None


def proposal_of(procedure: Procedure) -> Proposal | None:
    """The one number of minutes in the notes; None where there is none, or several."""
    found = [match for note in procedure.note or () for match in _IN_NOTE.finditer(note.text or "")]
    if len({match[1] for match in found}) != 1 or int(found[0][1]) == 0:
        return None
    return Proposal(int(found[0][1]), found[0][0])


def _certain(durations: list[Decimal | None], name: str, code: str, where: str) -> Lasted:
    """One duration above zero and below a day, in whole seconds; anything else is told and not counted."""
    (*others, seconds) = durations
    if others or seconds is None or not 0 < seconds < _DAY or seconds != int(seconds):
        why = "has several durations" if others else "has a duration that we cannot read as minutes"
        return Lasted(
            None,
            (
                Finding(
                    "minutes-unreadable",
                    Status.FAIL,
                    Severity.CRITICAL,
                    f"{name} {why} in {where}; its minutes are not counted.",
                    (code,),
                ),
            ),
        )
    told = Finding(
        "minutes-source",
        Status.FAIL,
        Severity.INFO,
        f"{name} has no start and end; its {shown(timedelta(seconds=int(seconds)))} are from {where}.",
        (code,),
    )
    return Lasted(timedelta(seconds=int(seconds)), (told,))


def _is_about(
    observation: Observation, procedure: Procedure, code: str, chart: Chart, settings: ChartSettings
) -> bool:
    """By a reference to the Procedure; where it has none at all, by its code within the same encounter."""
    codings = observation.code.codings if observation.code else ()
    means = {settings.minutes_observations.get(f"{coding.system}|{coding.code}") for coding in codings}
    if means == {None}:
        return False
    linked = [*(observation.part_of or ()), *(observation.focus or ()), *(observation.derived_from or ())]
    to_procedures = {
        reference for reference in map(chart.bare, linked) if reference and reference.startswith("Procedure/")
    }
    if to_procedures:
        return procedure.reference in to_procedures
    encounter = chart.visit_of(procedure)
    same = [
        other
        for other in chart.procedures
        if other.status == "completed"
        and chart.visit_of(other) == encounter
        and other.performed_period is None
    ]
    alone = sum(code in settings.codes_of(other.code) for other in same) == 1
    return (
        code in means and alone and encounter is not None and chart.bare(observation.encounter) == encounter
    )


class _Field(msgspec.Struct, rename="camel"):
    url: str | None = None
    value_integer: int | None = None
    value_positive_int: int | None = None
    value_unsigned_int: int | None = None
    value_decimal: Decimal | None = None
    value_quantity: Quantity | None = None
    value_duration: Quantity | None = None


class _Url(msgspec.Struct):
    url: str | None = None


def _url_of(raw: msgspec.Raw) -> str | None:
    try:
        return msgspec.json.decode(raw, type=_Url).url
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _duration(raw: msgspec.Raw) -> Decimal | None:
    """Seconds: a bare number is minutes, a Quantity or Duration says its own unit."""
    try:
        field = msgspec.json.decode(raw, type=_Field)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    quantities = [each for each in (field.value_quantity, field.value_duration) if each is not None]
    numbers = [
        Quantity(Decimal(number), code="min", system=_UCUM)
        for number in (
            field.value_integer,
            field.value_positive_int,
            field.value_unsigned_int,
            field.value_decimal,
        )
        if number is not None
    ]
    found = [_seconds(quantity) for quantity in quantities + numbers]
    return found[0] if len(found) == 1 else None


def _seconds(quantity: Quantity | None) -> Decimal | None:
    """By the UCUM code, or by a unit spelt like one; anything else is not taken for minutes."""
    amount = quantity.amount if quantity else None
    if quantity is None or amount is None:
        return None
    unit = quantity.code if quantity.system in {_UCUM, None} and quantity.code else quantity.unit
    factor = _SECONDS.get(_SPELT_OUT.get(unit or "", unit or ""))
    return None if factor is None else amount * factor


def _seconds_of_value(value: Any) -> Decimal | None:
    """Of what an expression gave: a number is minutes; a Quantity, FHIR's or FHIRPath's, says its unit."""
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        value = {"value": Decimal(value), "unit": "min"}
    if not isinstance(value, dict):
        value = {"value": getattr(value, "value", None), "unit": str(getattr(value, "unit", "")).strip("'")}
    try:
        return _seconds(msgspec.convert(value, type=Quantity))
    except (msgspec.MsgspecError, ValueError):
        return None


def shown(time: timedelta) -> str:
    """A duration in words, with its seconds where it has any."""
    minutes, rest = divmod(int(time.total_seconds()), 60)
    return f"{minutes} minutes and {rest} seconds" if rest else f"{minutes} minutes"
