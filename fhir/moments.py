"""FHIR's dates and times as they arrive: instants, days, and those that are neither."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, tzinfo

# https://hl7.org/fhir/R4/datatypes.html#dateTime, and the zone-less form that some EHRs send all the same.
_FORM = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)(?P<time>T(?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d+)?(?P<zone>Z|[+-]\d\d:\d\d)?)?|\d{4}(?:-(?:0[1-9]|1[0-2]))?",
    re.ASCII,
)

# Absurd years are typing errors, and arithmetic near either end of the calendar fails.
_EARLIEST, _LATEST = "1900", "9990"

UNREADABLE_PERIOD = "has a period that we cannot read"


@dataclass(frozen=True, slots=True)
class Moment:
    """A date or time as sent, and what of it is certain.

    ``at`` is aware; None for a day, a month or a year, and for a time without a zone in the hour that the
    change of clocks repeats or skips. ``day`` is the calendar day in the place of
    service; None for a month or a year. ``zone_assumed``: the text had no zone and was read in the
    place of service's, which the reviewer is told.
    """

    text: str
    at: datetime | None
    day: date | None
    zone_assumed: bool = False


def moment(text: str | None, zone: tzinfo) -> Moment | None:
    """The moment a FHIR dateTime speaks of; None for no text, or one that is no dateTime since 1900."""
    form = _FORM.fullmatch(text) if text else None
    if form is None or text is None or not _EARLIEST <= text[:4] < _LATEST:
        return None
    try:
        if form["time"]:
            at = datetime.fromisoformat(text)
            if not form["zone"]:
                at = at.replace(tzinfo=zone)
                if at.utcoffset() != at.replace(fold=1).utcoffset():
                    # The clocks change: this time came twice that day, or not at all.
                    return Moment(text, None, at.date(), zone_assumed=True)
            # An EHR may send UTC, where an evening visit in Boston is already tomorrow's.
            return Moment(text, at, at.astimezone(zone).date(), zone_assumed=not form["zone"])
        if form["day"]:
            return Moment(text, None, date.fromisoformat(text))
    except (ValueError, OverflowError):
        return None
    return Moment(text, None, None)


def outside(start: str | None, end: str | None, day: date, zone: tzinfo) -> str | None:
    """Why a period does not hold a day, or ``UNREADABLE_PERIOD`` where that is not certain; None: it does.

    A period has both its ends in it, as far as they are written: an end of 2026-03 is that whole month
    (https://hl7.org/fhir/R4/datatypes.html#Period). A start before 1900 or an end after 9990 says "always".
    """
    unreadable = False
    for text, sign, why in ((start, 1, "begins"), (end, -1, "ended")):
        if not text or (_FORM.fullmatch(text) and (text < _EARLIEST if sign == 1 else text >= _LATEST)):
            continue
        edge = moment(text, zone)
        if edge is None:
            unreadable = True
            continue
        written = edge.day.isoformat() if edge.day else edge.text
        on = day.isoformat()[: len(written)]
        if (written > on) - (written < on) == sign:
            return f"{why} on {written}" if edge.day else f"{why} in {written}"
    return UNREADABLE_PERIOD if unreadable else None
