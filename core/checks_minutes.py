"""Checks on minutes, units, assistants and modifiers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal

from .charged import tied_left, unknown_minutes
from .checks import Check, Day
from .findings import Finding, Severity, Status
from .modifiers import assistant_modifier, charged_by
from .policy import Citation, NotInForce, Term
from .units import MINUTE, NO_TIME, TOGETHER, WAYS_LISTED, clock_time, in_utc
from .visit import Service

Findings = tuple[Finding, ...]

SUPERVISED = "supervised"  # may run beside any other service (CPT 97010 to 97028)
BY_MONTH = frozenset({"monthly-time", "monthly-device"})
OVERLAPS_TOLD = 50  # one by one; of 500 services at the same time there would be 124,750


def _fail(
    finding: str, severity: Severity, says: str, codes: Iterable[str] = (), source: Citation | None = None
) -> Finding:
    return Finding(finding, Status.FAIL, severity, says, tuple(codes), source)


def _not_checked(
    finding: str,
    says: str,
    codes: Iterable[str] = (),
    source: Citation | None = None,
    severity: Severity = Severity.INFO,
) -> Finding:
    return Finding(finding, Status.NOT_CHECKED, severity, says, tuple(codes), source)


def _minutes(number: int) -> str:
    return "1 minute" if number == 1 else f"{number} minutes"


def _units(number: int) -> str:
    return "1 unit" if number == 1 else f"{number} units"


def _by_day(day: Day, code: str) -> bool:
    entry = day.known.get(code)
    return entry is not None and entry.timed and entry.kind not in BY_MONTH


# ---- minutes -------------------------------------------------------------------------------------


def minutes_missing(day: Day) -> Findings | None:
    """Every timed code has its minutes: unknown is not zero."""
    timed = [code for code in day.minutes if (entry := day.known.get(code)) is not None and entry.timed]
    if not timed:
        return None
    counting = day.terms["counting"]
    together = counting.value == TOGETHER and day.count.pooled_minutes is None
    others = ", and the units of the other codes may change" if together else ""
    return tuple(
        _fail(
            "minutes-missing",
            Severity.CRITICAL,
            f"{code} is billed by time, but {_lacking(day.services[code])}; it is not counted{others}.",
            (code,),
            counting.citation,
        )
        for code in timed
        if day.minutes[code] is None
    )


def _lacking(services: Iterable[Service]) -> str:
    for service in services:
        if service.minutes is None:
            if service.start is not None and service.end is None:
                return "it has a start and no end"
            if service.end is not None and service.start is None:
                return "it has an end and no start"
            if clock_time_is_backwards(service):
                return "its end is before its start"
            if service.assistant_minutes or service.concurrent_minutes:
                return "the therapist's own minutes are not given (0 if there were none)"
    return "it has neither minutes nor times"


def clock_time_is_backwards(service: Service) -> bool:
    """Whether a service ends before it starts."""
    return service.start is not None and service.end is not None and service.end < service.start


def minutes_counted_twice(day: Day) -> Findings | None:
    """No two services take the same minutes, unless one is a modality that needs no attendance."""
    found: list[Finding] = []
    attended: list[tuple[datetime, datetime, Service]] = []
    without_times: list[str] = []
    for code, services in day.services.items():
        entry = day.known.get(code)
        if entry is not None and (entry.kind == SUPERVISED or entry.kind in BY_MONTH):
            continue
        for service in services:
            span = _span(service)
            if span is None:
                without_times.append(code)
                continue
            attended.append((*span, service))
            found.extend(_longer_than_its_times(service, span, day))
    if not attended and not without_times:
        return None
    overlaps = _overlaps(attended, day)
    found.extend(itertools.islice(overlaps, OVERLAPS_TOLD))
    more = sum(1 for _ in overlaps)
    if more:
        says = f"{more} more pairs of services share minutes, which can be counted only once."
        found.append(
            _fail("minutes-counted-twice", Severity.WARNING, says, (), day.terms["counting"].citation)
        )
    if without_times and len(attended) + len(without_times) > 1:
        codes = tuple(dict.fromkeys(without_times))
        says = f"Whether minutes were counted twice is not known: {', '.join(codes)} without start and end."
        found.append(_not_checked("minutes-counted-twice", says, codes, day.terms["counting"].citation))
    return tuple(found)


def _overlaps(attended: list[tuple[datetime, datetime, Service]], day: Day) -> Iterator[Finding]:
    attended.sort(key=lambda item: (item[0], item[1], item[2].code))
    for place, (start, end, service) in enumerate(attended):
        for later_start, later_end, later in attended[place + 1 :]:
            if later_start >= end:
                break
            shared = (min(end, later_end) - max(start, later_start)) // MINUTE
            if shared:
                yield _fail(
                    "minutes-counted-twice",
                    Severity.WARNING,
                    f"{service.code} ({_clock(service)}) and {later.code} ({_clock(later)}) share "
                    f"{_minutes(shared)}, which can be counted only once.",
                    dict.fromkeys((service.code, later.code)),
                    day.terms["counting"].citation,
                )


def _span(service: Service) -> tuple[datetime, datetime] | None:
    if service.start is None or service.end is None or clock_time_is_backwards(service):
        return None
    return service.start.astimezone(UTC), service.end.astimezone(UTC)


def _clock(service: Service) -> str:
    return f"{service.start:%H:%M} to {service.end:%H:%M}"


def _longer_than_its_times(service: Service, span: tuple[datetime, datetime], day: Day) -> Iterator[Finding]:
    room = (span[1] - span[0]) // MINUTE
    if service.minutes is None:
        return
    spent = service.minutes + service.assistant_minutes + service.concurrent_minutes
    if spent > room:
        with_assistant = ", the assistant's included" if spent > service.minutes else ""
        yield _fail(
            "minutes-counted-twice",
            Severity.WARNING,
            f"{service.code} has {_minutes(spent)}{with_assistant}, but from {_clock(service)} there are {room}.",
            (service.code,),
            day.terms["counting"].citation,
        )


def outside_date_of_service(day: Day) -> Findings | None:
    """Every time lies on the date of service: units are counted by calendar day."""
    timed = [
        (service, service.start, service.end)
        for service in day.visit.services
        if service.start is not None and service.end is not None
    ]
    if not timed:
        return None
    on, source = day.visit.date_of_service, day.terms["counting"].citation
    found: list[Finding] = []
    for service, start, end in timed:
        if in_utc(start) or in_utc(end):
            says = f"{service.code} is timed in UTC; whether it lies on {on} where it was done is not known."
            found.append(_not_checked("outside-date-of-service", says, (service.code,), source))
        elif start.date() != on or end.date() != on:
            counted = (clock_time(service, on) or NO_TIME) // MINUTE
            part = f"{_minutes(counted)} of it lie on that date and were counted"
            if service.minutes is not None:
                taken = service.minutes + service.assistant_minutes + service.concurrent_minutes
                part = f"{_minutes(counted)} of it lie on that date, {taken} were counted"
            span = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"
            says = f"{service.code} is timed {span}, not all on {on}; {part}."
            found.append(_fail("outside-date-of-service", Severity.WARNING, says, (service.code,), source))
    return tuple(found)


def service_below_minimum(day: Day) -> Findings | None:
    """Each code that is counted alone reaches the minutes of a first unit."""
    alone = day.terms["counting"].value == "each-code-alone"
    minimum = day.terms["minimum_minutes"]
    found: list[Finding] = []
    asked = False
    for code, spent in day.minutes.items():
        entry = day.known.get(code)
        if not alone or entry is None or not entry.pools:
            continue
        asked = True
        if spent is None:
            says = f"{code}: its minutes are not known; a unit needs {minimum.value}."
            found.append(_not_checked("service-below-minimum", says, (code,), minimum.citation))
        elif spent < minimum.value:
            says = f"{code}: {_minutes(spent)}; a unit needs {minimum.value}, so it is not billed."
            found.append(_fail("service-below-minimum", Severity.WARNING, says, (code,), minimum.citation))
    for family in day.count.families.values():
        asked = True
        first = family.first
        parts = day.count.family_minutes.get(first.code)
        if parts is None:
            says = f"{first.code}: its minutes are not known; a unit needs {family.first_needs}."
            found.append(_not_checked("service-below-minimum", says, family.codes, first.citation))
            continue
        spent = sum(parts)
        at_midpoint = family.units_at_midpoint(spent)
        if not family.threshold_known and at_midpoint > family.units_in(spent):
            says = (
                f"{first.code}: {_minutes(spent)}; from how many on a started unit counts was not found, so "
                f"only full ones were counted. The midpoint of CPT would give {_units(at_midpoint)}."
            )
            found.append(
                _not_checked("service-below-minimum", says, family.codes, first.citation, Severity.WARNING)
            )
        elif spent < family.first_needs:
            needs = f"a first unit needs {family.first_needs}"
            says = f"{first.code}: {_minutes(spent)}; {needs}, so it is not billed."
            found.append(
                _fail("service-below-minimum", Severity.WARNING, says, (first.code,), first.citation)
            )
    return tuple(found) if asked else None


def no_timed_units(day: Day) -> Findings | None:
    """The timed minutes of the day make a unit."""
    timed = [code for code in day.minutes if _by_day(day, code)]
    if not timed:
        return None
    minimum = day.terms["minimum_minutes"]
    if day.timed_units is None or day.timed_minutes is None:
        says = "Whether the timed minutes make a unit is not known: minutes are missing."
        return (_not_checked("no-timed-units", says, timed, minimum.citation),)
    if day.timed_units:
        return ()
    says = (
        f"{_minutes(day.timed_minutes)} of timed codes make no unit; a 15-minute code needs {minimum.value}."
    )
    return (_fail("no-timed-units", Severity.WARNING, says, timed, minimum.citation),)


def ways_not_listed(day: Day) -> Findings | None:
    """Every way to share tied units is written out, so that one of them can be pointed at."""
    if not day.tied:
        return None
    ways = day.count.ways_in_all
    if ways <= WAYS_LISTED:
        return ()
    says = (
        f"{day.tied_units} units can be shared among {len(day.tied)} codes in {ways:,} ways, more than the "
        f"{WAYS_LISTED:,} that are written out: choose the {day.tied_units} codes that take one unit each."
    )
    return (_fail("ways-not-listed", Severity.INFO, says, day.tied, day.terms["counting"].citation),)


def total_treatment_time(day: Day) -> Findings | None:
    """The documented total treatment time holds the minutes of all services."""
    if not day.services:
        return None
    source = day.terms["counting"].citation
    stated = day.visit.total_treatment_minutes
    if stated is None:
        sums = (
            ""
            if day.treatment_minutes is None
            else f"; the services add up to {_minutes(day.treatment_minutes)}"
        )
        says = f"Total treatment time is not documented{sums}."
        return (_not_checked("total-treatment-time", says, (), source),)
    beside, attended, missing = 0, 0, []
    for code, spent in day.minutes.items():
        entry = day.known.get(code)
        if spent is None:
            missing.append(code)
        elif entry is not None and entry.kind == SUPERVISED:
            beside += spent
        else:
            attended += spent
    if stated < attended:
        says = f"Total treatment time is {_minutes(stated)}, but the services alone take {attended}."
        return (_fail("total-treatment-time", Severity.WARNING, says, (), source),)
    if stated < attended + beside:
        says = (
            f"Total treatment time is {_minutes(stated)}, the services add up to {attended + beside}: "
            f"right only where the {beside} of unattended modalities ran beside others."
        )
        return (_fail("total-treatment-time", Severity.INFO, says, (), source),)
    if missing:
        says = (
            f"Total treatment time is {_minutes(stated)}; the minutes of {', '.join(missing)} are not known."
        )
        return (_not_checked("total-treatment-time", says, missing, source),)
    return ()


def untimed_units(day: Day) -> Findings | None:
    """A code not billed by time stands once on a date, unless another encounter is documented."""
    untimed = [
        code
        for code in day.services
        if (entry := day.known.get(code)) is not None and not entry.timed and entry.addon_of is None
    ]
    if not untimed:
        return None
    once = day.terms.get("untimed_units_per_day")
    if once is None:
        return None
    found: list[Finding] = []
    for code in untimed:
        units, documented = day.units[code], len(day.services[code])
        if units > once.value:
            says = (
                f"{code} is not billed by time: {once.value} a date whatever the minutes, unless a separate "
                f"encounter is documented; {units} are."
            )
        elif documented > 1:
            says = (
                f"{code} is documented {documented} times on this date and not billed by time: "
                f"{_units(units)}, unless the second was a separate encounter."
            )
        else:
            continue
        found.append(_fail("untimed-units", Severity.WARNING, says, (code,), once.citation))
    return tuple(found)


def average_minutes_per_unit(day: Day) -> Findings | None:
    """A practice of less than 15 minutes a unit draws review; one day of it is worth knowing."""
    expected = day.terms.get("average_minutes_per_unit")
    timed = [code for code, entry in day.known.items() if entry is not None and entry.pools]
    if expected is None or not timed:
        return None
    minutes, units = day.count.pooled_minutes, day.count.pooled_units
    if minutes is None or units is None:
        says = "Minutes a unit are not known: minutes are missing."
        return (_not_checked("average-minutes-per-unit", says, timed, expected.citation),)
    if minutes >= expected.value * units:
        return ()
    whole, tenths = divmod((minutes * 20 + units) // (2 * units), 10)
    average = f"{_minutes(minutes)} for {_units(units)} are {whole}.{tenths} a unit"
    says = f"{average}; over time {expected.value} are expected."
    return (_fail("average-minutes-per-unit", Severity.INFO, says, timed, expected.citation),)


def group_with_individual(day: Day) -> Findings | None:
    """Group and one-on-one services of one day took separate time."""
    separate = day.terms.get("group_needs_separate_time")
    if separate is None or not separate.value:
        return None
    group = [
        code for code in day.services if (entry := day.known[code]) is not None and entry.kind == "group"
    ]
    alone = [code for code in day.services if _by_day(day, code)] if group else []
    if not alone:
        return None
    spans = {code: [_span(service) for service in day.services[code]] for code in (*group, *alone)}
    without = [code for code, found in spans.items() if None in found]
    if without:
        says = (
            f"{', '.join(group)} and {', '.join(alone)} on one day need separate time; "
            f"{', '.join(without)} without start and end."
        )
        return (
            _not_checked(
                "group-with-individual", says, (*group, *alone), separate.citation, Severity.WARNING
            ),
        )
    return tuple(
        _fail(
            "group-with-individual",
            Severity.WARNING,
            f"{first} and {second} took the same time: group and one-on-one minutes must be apart.",
            (first, second),
            separate.citation,
        )
        for first in group
        for second in alone
        if any(a and b and a[0] < b[1] and b[0] < a[1] for a in spans[first] for b in spans[second])
    )


# ---- assistants ----------------------------------------------------------------------------------


def assistant_method(day: Day) -> Findings | None:
    """The ways to decide about CQ and CO agree."""
    asked = day.terms.get("assistant_modifiers")
    helped = [code for code, minutes in day.assistant_minutes.items() if minutes]
    if asked is None or not helped:
        return None
    if assistant_modifier(day.visit, day.terms) is None:
        discipline = day.visit.discipline
        why = "the discipline is not known" if discipline is None else f"none is known for {discipline}"
        says = f"Minutes of an assistant, but no modifier for them: {why}."
        return (_not_checked("assistant-method", says, helped, asked.citation, Severity.WARNING),)
    found: list[Finding] = []
    doubts: dict[tuple[str, bool], list[str]] = {}
    for code, split in day.splits.items():
        if split.doubt is not None:
            doubts.setdefault((split.doubt, split.methods_differ), []).append(code)
    for (doubt, methods_differ), codes in doubts.items():
        says = f"{' and '.join(codes)}: {doubt}"
        if methods_differ:
            methods = day.terms.get("assistant_de_minimis_methods")
            source = methods.citation if methods is not None else asked.citation
            found.append(_fail("assistant-method", Severity.WARNING, says, codes, source))
        else:
            source = day.terms["assistant_method"].citation
            found.append(_not_checked("assistant-method", says, codes, source, Severity.WARNING))
    return tuple(found)


def assistant_evaluation(day: Day) -> Findings | None:
    """Evaluations are furnished by the therapist."""
    evaluations = [
        code
        for code in day.services
        if (entry := day.known.get(code)) is not None and entry.kind == "evaluation"
    ]
    if not evaluations:
        return None
    asked = day.terms.get("assistant_modifiers")
    return tuple(
        _fail(
            "assistant-evaluation",
            Severity.CRITICAL,
            f"{code} is an evaluation, which only the therapist furnishes; "
            f"{_minutes(day.assistant_minutes[code])} are an assistant's.",
            (code,),
            asked.citation if asked is not None else None,
        )
        for code in evaluations
        if day.assistant_minutes[code]
    )


# ---- charges, amounts, modifiers -------------------------------------------------------------------


def already_charged(day: Day) -> Findings | None:
    """What was charged earlier is not more than the day now allows."""
    if not day.visit.already_charged:
        return None
    source = day.terms["counting"].citation
    found: list[Finding] = []
    for code, before in day.charged.items():
        allowed = day.units.get(code, 0) + (code in day.tied)
        if before > allowed:
            says = f"{code}: {_units(before)} already charged, but the day allows {allowed}."
            found.append(_fail("already-charged", Severity.WARNING, says, (code,), source))
        split = day.splits.get(code)
        if before and split is not None and split.without and split.assisted:
            says = (
                f"{code}: {_units(before)} already charged; "
                "whether with the assistant's modifier is not known."
            )
            found.append(_not_checked("already-charged", says, (code,), source))
    for charge in charged_by(day.visit)[1]:
        says = (
            f"{charge.code}: {_units(charge.units)} already charged; whether by this group is not known, "
            "as the visit names no provider to compare. They were not taken off."
        )
        found.append(_not_checked("already-charged", says, (charge.code,), source, Severity.WARNING))
    return tuple(found)


def kx_threshold(day: Day) -> Findings | None:
    """The year's amount is within the threshold above which KX is needed; the clinician puts it on."""
    buckets = day.terms.get("kx_buckets")
    if buckets is None:
        return None
    if _all_have(day, "KX"):
        return ()
    return _compared(
        "kx-threshold",
        day,
        buckets,
        "kx_amount",
        "KX threshold",
        "lines without KX are denied. KX says that the services are medically necessary.",
        Severity.WARNING,
    )


def medical_review_threshold(day: Day) -> Findings | None:
    """The year's amount is within the threshold above which claims may be picked for review."""
    buckets = day.terms.get("kx_buckets")
    if buckets is None:
        return None
    return _compared(
        "medical-review-threshold",
        day,
        buckets,
        "medical_review_amount",
        "threshold of medical review",
        "the claim may be picked for review of its records.",
        Severity.INFO,
    )


def _compared(
    finding: str, day: Day, buckets: Term, name: str, named: str, consequence: str, severity: Severity
) -> Findings | None:
    try:
        limit = day.terms[name]
    except NotInForce:
        return None
    so_far, discipline = day.visit.history.therapy_amount, day.visit.discipline
    year = day.visit.date_of_service.year
    if limit.value is None:
        return (_not_checked(finding, f"The {named} of {year} is not known.", (), limit.citation, severity),)
    if discipline is None:
        says = f"Without a discipline it is not known whose {named} applies."
        return (_not_checked(finding, says, (), limit.citation),)
    bucket = buckets.value[discipline]
    if so_far is None:
        says = f"This year's amount for {bucket} is not known; the {named} of {year} is {limit.value:,.2f}."
        return (_not_checked(finding, says, (), limit.citation),)
    today, most = _amount_today(day)
    if so_far + today <= limit.value:
        why, codes = _why_today_is_open(day, over=so_far + most > limit.value)
        left = f"{limit.value - so_far - today:,.2f} are left of the {named} of {year} for {bucket}"
        return (_not_checked(finding, f"{left}; {why}.", codes, limit.citation),) if why else ()
    with_today = f", with today's {so_far + today:,.2f}" if today else ""
    says = (
        f"This year's amount for {bucket} is {so_far:,.2f}{with_today}; above the {named} of {year}, "
        f"{limit.value:,.2f}, {consequence}"
    )
    return (_fail(finding, severity, says, (), limit.citation),)


def _amount_today(day: Day) -> tuple[Decimal, Decimal]:
    """What the contract allows for today's lines and tied units, at the least and at the most, as far as it
    names their codes.
    """
    amounts = day.visit.contract.amounts
    sure = sum((line.units * amounts.get(line.code, Decimal(0)) for line in day.lines), Decimal(0))
    codes, units = tied_left(day)
    tied = sorted(amounts.get(code, Decimal(0)) for code in codes)
    return sure + sum(tied[:units], Decimal(0)), sure + sum(tied[len(tied) - units :], Decimal(0))


def _why_today_is_open(day: Day, *, over: bool) -> tuple[str, tuple[str, ...]]:
    """What would have to be known to say what today comes to, and of which codes; empty where it is known.

    ``over``: with the dearest codes of a tie it is too much.
    """
    tied, _ = tied_left(day)
    charged = dict.fromkeys((*(line.code for line in day.lines if line.units), *tied))
    unpriced = tuple(code for code in charged if code not in day.visit.contract.amounts)
    unknown = unknown_minutes(day)
    if unpriced:
        return f"the contract's amount for {', '.join(unpriced)} is not known", unpriced
    if unknown:
        return f"the minutes of {', '.join(unknown)} are not known", unknown
    if over:
        return f"it depends on how the tie of {', '.join(tied)} is settled", tied
    return "", ()


def _all_have(day: Day, modifier: str) -> bool:
    billed = [line for line in day.lines if line.units]
    return bool(billed) and all(any(put.code == modifier for put in line.modifiers) for line in billed)


def discipline_unknown(day: Day) -> Findings | None:
    """The discipline is known: each has its own minutes and its own modifier."""
    if day.visit.discipline is not None:
        return ()
    asked = day.terms.get("discipline_modifiers")
    source = asked.citation if asked is not None else day.terms["counting"].citation
    says = "The discipline is not known: no GP, GO or GN was put on, and minutes of two may have been added."
    return (_fail("discipline-unknown", Severity.WARNING, says, (), source),)


def discipline_of_code(day: Day) -> Findings | None:
    """Each code is one that the visit's discipline furnishes: two disciplines are two visits."""
    discipline = day.visit.discipline
    if discipline is None:
        return None
    return tuple(
        _fail(
            "discipline-of-code",
            Severity.WARNING,
            f"{code} is a code of {' or '.join(entry.disciplines)}, the visit's discipline is {discipline}: "
            "services of two disciplines are counted apart, in two visits.",
            (code,),
            entry.citation,
        )
        for code, entry in day.known.items()
        if entry is not None and entry.disciplines and discipline not in entry.disciplines
    )


def modifier_conflict(day: Day) -> Findings | None:
    """The modifiers that the clinician put on agree with the visit and stand on a line."""
    if not day.visit.modifiers:
        return None
    found: list[Finding] = []
    asked = day.terms.get("discipline_modifiers")
    own = None if asked is None else asked.value.get(day.visit.discipline)
    assistants = day.terms.get("assistant_modifiers")
    ours = None if assistants is None else assistants.value.get(day.visit.discipline)
    for code, modifiers in day.visit.modifiers.items():
        if code not in day.units:
            says = f"{', '.join(modifiers)} put on {code}, which is not among the services."
            found.append(_fail("modifier-conflict", Severity.WARNING, says, (code,)))
        # Each stands with its own discipline's modifier: CQ with GP, CO with GO.
        wrong = () if assistants is None or day.visit.discipline is None else assistants.value.values()
        for modifier in modifiers:
            if assistants is not None and modifier in wrong and modifier != ours:
                says = (
                    f"{code} carries {modifier}, which is of another discipline than {day.visit.discipline}."
                )
                found.append(_fail("modifier-conflict", Severity.WARNING, says, (code,), assistants.citation))
        if asked is None or own is None:
            continue
        for modifier in modifiers:
            if modifier in asked.value.values() and modifier != own:
                says = f"{code} carries {modifier}, but the visit's discipline asks for {own}."
                found.append(_fail("modifier-conflict", Severity.WARNING, says, (code,), asked.citation))
    return tuple(found)


def modifier_slots(day: Day) -> Findings | None:
    """A claim line has room for its modifiers."""
    most = max((len(line.modifiers) for line in day.lines), default=0)
    if most <= 1:
        return None
    slots = day.terms.get("modifier_slots")
    if slots is None:
        return None
    return tuple(
        _fail(
            "modifier-slots",
            Severity.WARNING,
            f"{line.code} carries {len(line.modifiers)} modifiers; a claim line holds {slots.value}.",
            (line.code,),
            slots.citation,
        )
        for line in day.lines
        if len(line.modifiers) > slots.value
    )


def units_not_counted(day: Day) -> Findings | None:
    """Units documented on a timed code are not used: its minutes decide."""
    stated = [
        (service.code, service.units)
        for service in day.visit.services
        if service.units is not None and (entry := day.known[service.code]) is not None and entry.timed
    ]
    if not stated:
        return None
    source = day.terms["counting"].citation
    return tuple(
        _fail(
            "units-not-counted",
            Severity.INFO,
            f"{code} is billed by time: its {_units(units)} as documented were not used, its minutes were.",
            (code,),
            source,
        )
        for code, units in stated
    )


CHECKS: tuple[tuple[str, Check], ...] = (
    ("minutes-missing", minutes_missing),
    ("minutes-counted-twice", minutes_counted_twice),
    ("outside-date-of-service", outside_date_of_service),
    ("service-below-minimum", service_below_minimum),
    ("no-timed-units", no_timed_units),
    ("ways-not-listed", ways_not_listed),
    ("total-treatment-time", total_treatment_time),
    ("untimed-units", untimed_units),
    ("units-not-counted", units_not_counted),
    ("average-minutes-per-unit", average_minutes_per_unit),
    ("group-with-individual", group_with_individual),
    ("assistant-method", assistant_method),
    ("assistant-evaluation", assistant_evaluation),
    ("already-charged", already_charged),
    ("kx-threshold", kx_threshold),
    ("medical-review-threshold", medical_review_threshold),
    ("discipline-unknown", discipline_unknown),
    ("discipline-of-code", discipline_of_code),
    ("modifier-conflict", modifier_conflict),
    ("modifier-slots", modifier_slots),
)
