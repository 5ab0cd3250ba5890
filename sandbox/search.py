"""Search: the parameters that this EHR knows, and what they match.

https://hl7.org/fhir/R4/search.html, as far as a charge-capture app needs it. Whatever is not known is refused
with 400 and never ignored, so that a client notices.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any, Literal
from zoneinfo import ZoneInfo

from .outcome import Refused
from .store import Filed, Resource

# A date without a zone means the day of the server, and this one stands in Boston.
SERVER_ZONE = ZoneInfo("America/New_York")


@dataclass(frozen=True)
class Parameter:
    """One search parameter: its type, and where its values stand in a resource (a dotted path)."""

    type: Literal["token", "reference", "date", "string"]
    path: str
    target: str | None = None  # for a reference: the type, where an id alone is given


_ID = Parameter("token", "id")
_LAST_UPDATED = Parameter("date", "meta.lastUpdated")
_IDENTIFIER = Parameter("token", "identifier")
_SUBJECT = Parameter("reference", "subject", "Patient")
_STATUS = Parameter("token", "status")
_ENCOUNTER = Parameter("reference", "encounter", "Encounter")

PARAMETERS: dict[str, dict[str, Parameter]] = {
    "Patient": {
        "identifier": _IDENTIFIER,
        "name": Parameter("string", "name"),
        "birthdate": Parameter("date", "birthDate"),
    },
    "Encounter": {
        "patient": _SUBJECT,
        "subject": _SUBJECT,
        "date": Parameter("date", "period"),
        "status": _STATUS,
        "identifier": _IDENTIFIER,
        "participant": Parameter("reference", "participant.individual", "Practitioner"),
    },
    "Procedure": {
        "patient": _SUBJECT,
        "subject": _SUBJECT,
        "date": Parameter("date", "performed"),
        "status": _STATUS,
        "code": Parameter("token", "code"),
        "encounter": _ENCOUNTER,
        "identifier": _IDENTIFIER,
    },
    "Observation": {
        "patient": _SUBJECT,
        "subject": _SUBJECT,
        "date": Parameter("date", "effective"),
        "status": _STATUS,
        "code": Parameter("token", "code"),
        "category": Parameter("token", "category"),
        "encounter": _ENCOUNTER,
    },
    "Coverage": {
        "patient": Parameter("reference", "beneficiary", "Patient"),
        "beneficiary": Parameter("reference", "beneficiary", "Patient"),
        "status": _STATUS,
        "payor": Parameter("reference", "payor", "Organization"),
    },
    "ChargeItem": {
        "identifier": _IDENTIFIER,
        "patient": _SUBJECT,
        "subject": _SUBJECT,
        "context": Parameter("reference", "context", "Encounter"),
        "status": _STATUS,
        "code": Parameter("token", "code"),
        "occurrence": Parameter("date", "occurrence"),
    },
    "Claim": {
        "identifier": _IDENTIFIER,
        "patient": Parameter("reference", "patient", "Patient"),
        "status": _STATUS,
    },
    "Provenance": {
        "target": Parameter("reference", "target"),
        "agent": Parameter("reference", "agent.who", "Practitioner"),
    },
    "Practitioner": {"identifier": _IDENTIFIER, "name": Parameter("string", "name")},
    "PractitionerRole": {
        "practitioner": Parameter("reference", "practitioner", "Practitioner"),
        "organization": Parameter("reference", "organization", "Organization"),
        "specialty": Parameter("token", "specialty"),
        "role": Parameter("token", "code"),
    },
    "Organization": {"identifier": _IDENTIFIER, "name": Parameter("string", "name")},
    "Location": {"name": Parameter("string", "name")},
    "Subscription": {
        "status": _STATUS,
        "type": Parameter("token", "channel.type"),
        "url": Parameter("token", "channel.endpoint"),
    },
}
for _parameters in PARAMETERS.values():
    _parameters.update({"_id": _ID, "_lastUpdated": _LAST_UPDATED})

_CONTROLS = ("_count", "_sort", "_offset", "_format")


@dataclass(frozen=True)
class Search:
    """A search that was understood: what to keep, in which order, which page."""

    matches: tuple[Callable[[Filed], bool], ...]
    sort: tuple[tuple[str, bool], ...]  # path and whether descending
    count: int | None
    offset: int
    patient: str | None = None  # whose chart alone can hold what is looked for

    def found(self, filed: Iterable[Filed]) -> list[Filed]:
        found = [each for each in filed if all(matches(each) for matches in self.matches)]
        for path, descending in reversed(self.sort):
            found.sort(key=lambda each: _sort_key(each.resource, path), reverse=descending)
        return found


def understood(resource_type: str, arguments: Iterable[tuple[str, str]], base: str) -> Search:
    """A search from its query; ``base`` is this server's own address, which references may carry.

    What this server does not know (parameter, modifier, prefix, value) is ``Refused`` with 400.
    """
    known = PARAMETERS[resource_type]
    patient = None
    matches, controls = [], {"_count": "", "_sort": "", "_offset": ""}
    for name, value in arguments:
        if name in _CONTROLS:
            controls[name] = value
            continue
        bare, _, modifier = name.partition(":")
        parameter = known.get(bare)
        if parameter is None:
            raise Refused(400, "not-supported", f"{resource_type} cannot be searched by {bare!r}.")
        if modifier and not (parameter.type == "reference" and modifier == parameter.target):
            raise Refused(400, "not-supported", f"The modifier {modifier!r} is not known for {bare!r}.")
        matches.append(_matcher(bare, parameter, value, base))
        if parameter.type == "reference" and parameter.target == "Patient" and "," not in value:
            wanted = _wanted(parameter, value, base)
            patient = wanted if wanted.startswith("Patient/") else patient
    return Search(
        tuple(matches),
        tuple(_sort_paths(known, controls["_sort"])),
        _whole_number("_count", controls["_count"]) if controls["_count"] else None,
        _whole_number("_offset", controls["_offset"] or "0"),
        patient,
    )


def _whole_number(name: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text):
        raise Refused(400, "value", f"{name} must be a whole number.")
    return int(text)


def _sort_paths(known: dict[str, Parameter], text: str) -> Iterable[tuple[str, bool]]:
    for rule in filter(None, text.split(",")):
        name = rule.removeprefix("-")
        if name not in known:
            raise Refused(400, "not-supported", f"Cannot sort by {name!r}.")
        yield known[name].path, rule.startswith("-")


def _sort_key(resource: Resource, path: str) -> tuple[bool, Any]:
    values = list(_values(resource, path))
    if path in ("period", "performed", "effective", "occurrence", "meta.lastUpdated"):
        bounds = _resource_bounds(resource, path)
        return (bounds is None, bounds[0] if bounds else datetime.max.replace(tzinfo=UTC))
    return (not values, str(values[0]) if values else "")


def _matcher(name: str, parameter: Parameter, text: str, base: str) -> Callable[[Filed], bool]:
    """Comma means or."""
    one_of = {"token": _token, "reference": _reference, "date": _date, "string": _string}[parameter.type]
    alternatives = [one_of(name, parameter, each, base) for each in text.split(",")]
    return lambda filed: any(matches(filed) for matches in alternatives)


def _values(resource: Any, path: str) -> Iterable[Any]:
    """All values at a dotted path, lists opened."""
    head, _, rest = path.partition(".")
    value = resource.get(head) if isinstance(resource, dict) else None
    for each in value if isinstance(value, list) else [value]:
        if each is not None:
            yield from _values(each, rest) if rest else [each]


def _token(_name: str, parameter: Parameter, text: str, _base: str) -> Callable[[Filed], bool]:
    system, bar, code = text.rpartition("|")

    def matches(filed: Filed) -> bool:
        for value in _values(filed.resource, parameter.path):
            codings = value.get("coding", [value]) if isinstance(value, dict) else [{"code": value}]
            for coding in codings:
                has = coding.get("code", coding.get("value"))
                if (code in ("", has)) and (not bar or coding.get("system", "") == system):
                    return True
        return False

    return matches


def _reference(_name: str, parameter: Parameter, text: str, base: str) -> Callable[[Filed], bool]:
    wanted = _wanted(parameter, text, base)

    def matches(filed: Filed) -> bool:
        # A misfiled resource turns up in the chart it lies in, whatever its subject says.
        if parameter.target == "Patient" and filed.patient is not None:
            return filed.patient == wanted
        references = (value.get("reference") for value in _values(filed.resource, parameter.path))
        return wanted in references

    return matches


def _wanted(parameter: Parameter, text: str, base: str) -> str:
    """The relative reference that a reference parameter's value means."""
    wanted = text.removeprefix(f"{base}/")
    return f"{parameter.target}/{wanted}" if "/" not in wanted and parameter.target else wanted


def _string(_name: str, parameter: Parameter, text: str, _base: str) -> Callable[[Filed], bool]:
    def texts(value: Any) -> Iterable[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            for key in ("family", "given", "text"):
                for each in _values(value, key):
                    yield str(each)

    def matches(filed: Filed) -> bool:
        return any(
            each.casefold().startswith(text.casefold())
            for value in _values(filed.resource, parameter.path)
            for each in texts(value)
        )

    return matches


def _date(name: str, parameter: Parameter, text: str, _base: str) -> Callable[[Filed], bool]:
    prefix, value = ("eq", text) if text[:1].isdigit() else (text[:2], text[2:])
    bounds = _bounds(value)
    if bounds is None:
        raise Refused(400, "value", f"{name}: {text!r} is no date.")
    low, high = bounds
    # By https://hl7.org/fhir/R4/search.html#prefix; both sides are intervals, open at the end.
    compare: dict[str, Callable[[datetime, datetime], bool]] = {
        "eq": lambda start, end: low <= start and end <= high,
        "ne": lambda start, end: not (low <= start and end <= high),
        "gt": lambda _start, end: end > high,
        "lt": lambda start, _end: start < low,
        "ge": lambda start, end: end > high or start >= low,
        "le": lambda start, end: start < low or end <= high,
        "sa": lambda start, _end: start >= high,
        "eb": lambda _start, end: end <= low,
    }
    if prefix not in compare:
        raise Refused(400, "not-supported", f"{name}: the prefix {prefix!r} is not known.")

    def matches(filed: Filed) -> bool:
        held = _resource_bounds(filed.resource, parameter.path)
        return held is not None and compare[prefix](*held)

    return matches


def _resource_bounds(resource: Resource, path: str) -> tuple[datetime, datetime] | None:
    """From when until when, for an element of type date, dateTime, instant or Period."""
    for name in (path, f"{path}DateTime", f"{path}Period"):
        for value in _values(resource, name):
            if isinstance(value, str):
                return _bounds(value)
            starts, ends = value.get("start"), value.get("end")
            start = _bounds(starts) if starts else (datetime.min.replace(tzinfo=UTC), None)
            end = _bounds(ends) if ends else (None, datetime.max.replace(tzinfo=UTC))
            # An end given to the second is still within that second.
            return (start[0], end[1]) if start and end and end[1] else None
    return None


@lru_cache(maxsize=100_000)  # a poll looks at the same times again and again
def _bounds(text: str) -> tuple[datetime, datetime] | None:
    """First instant of a FHIR date or dateTime, and the first instant after it; none if it is neither."""
    text = text.replace(" ", "+")  # a plus sign that was not escaped in the address
    match = re.fullmatch(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?", text)
    try:
        if match:
            year, month, day = int(match[1]), int(match[2] or 1), int(match[3] or 1)
            first = date(year, month, day)
            if match[3]:
                days = 1
            elif match[2]:
                days = monthrange(year, month)[1]
            else:
                days = (date(year + 1, 1, 1) - first).days
            return (_midnight(first), _midnight(first + timedelta(days=days)))
        instant = datetime.fromisoformat(text)
        instant = (instant if instant.tzinfo else instant.replace(tzinfo=SERVER_ZONE)).astimezone(UTC)
    except (ValueError, OverflowError):  # no date, or at the very end of the calendar
        return None
    if re.search(r"\.\d", text):
        step = timedelta(milliseconds=1)
    else:
        step = timedelta(seconds=1) if re.search(r"T\d\d:\d\d:\d\d", text) else timedelta(minutes=1)
    return (instant, instant + step)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), SERVER_ZONE).astimezone(UTC)
