"""Minutes of a Procedure that has no start and end: from a field or an Observation that the site named.

Nothing official carries minutes (https://hl7.org/fhir/R4/procedure.html has none), so both are settings of
the site. A note's text is only ever a proposal for the therapist to confirm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

import msgspec

from ..core.findings import Finding, Severity, Status
from .chart import Chart
from .site import ChartSettings
from .views import Observation, Procedure, Quantity

_UCUM = "http://unitsofmeasure.org"
_SECONDS = {"min": 60, "h": 3600, "s": 1}
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
    """By the site's extension, else by its Observations; each is told to the reviewer."""
    in_fields = [
        _duration(raw) for raw in procedure.extension or () if _url_of(raw) in settings.minutes_extensions
    ]
    if in_fields:
        return _certain(in_fields, name, code, "a field of the procedure")
    observations = [
        observation
        for observation in chart.observations
        if observation.status in _FINAL
        and not observation.may_mean_otherwise
        and _is_about(observation, procedure, code, chart, settings)
    ]
    if observations:
        named = ", ".join(observation.reference for observation in observations)
        return _certain([_seconds(each.value_quantity) for each in observations], name, code, named)
    return Lasted()


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
        f"{name} has no start and end; its {_shown(int(seconds))} are from {where}.",
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
    encounter = chart.bare(procedure.encounter)
    same = [
        other
        for other in chart.procedures
        if chart.bare(other.encounter) == encounter and other.performed_period is None
    ]
    alone = sum(code in _billing(other) for other in same) == 1
    return (
        code in means and alone and encounter is not None and chart.bare(observation.encounter) == encounter
    )


def _billing(procedure: Procedure) -> tuple[str | None, ...]:
    return tuple(coding.code for coding in (procedure.code.codings if procedure.code else ()))


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
        Decimal(number)
        for number in (
            field.value_integer,
            field.value_positive_int,
            field.value_unsigned_int,
            field.value_decimal,
        )
        if number is not None
    ]
    found = [_seconds(quantity) for quantity in quantities] + [number * 60 for number in numbers]
    return found[0] if len(found) == 1 else None


def _seconds(quantity: Quantity | None) -> Decimal | None:
    """By the UCUM code, or by a unit spelt like one; anything else is not taken for minutes."""
    if quantity is None or quantity.value is None or not quantity.value.is_finite():
        return None
    unit = quantity.code if quantity.system in {_UCUM, None} and quantity.code else quantity.unit
    factor = _SECONDS.get(unit or "")
    return None if factor is None else quantity.value * factor


def _shown(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} minutes and {rest} seconds" if rest else f"{minutes} minutes"
