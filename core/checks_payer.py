"""Checks of what a payer asks of a visit: caps, documentation, evaluations, authorizations, amounts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal

from .charged import own_units, tied_left, unknown_minutes, unplaced_units
from .checks import Check, Day
from .codes import Code
from .findings import Finding, Severity, Status
from .policy import Citation, Term
from .visit import PhaseOfCare

# What a payer calls a therapy or modality: neither an evaluation nor the further stretch of one.
_THERAPIES = frozenset({"timed", "timed-first", "supervised", "group", "unlisted", "untimed"})


def timed_unit_cap(day: Day) -> tuple[Finding, ...] | None:
    """The day's timed units of a list of codes, summed, up to a maximum a group and specialty.

    Units are never cut: what exceeds is named, and what the payer wants for it. A code of the list that
    is not timed on the date uses none of the maximum.
    """
    cap = day.terms.get("timed_unit_cap")
    if cap is None:
        return None
    most, listed = cap.value["units"], frozenset(cap.value["codes"])
    own = own_units(day)
    outside = any(code not in listed for code in _timed(day, own))
    successors = _successors(day, listed) if outside else frozenset()
    count_successors = _successors_count(day)
    counted = listed | successors if count_successors else listed
    units = {code: units for code, units in _timed(day, own).items() if code in counted and units}
    total = sum(units.values())
    tied, tied_units = tied_left(day)
    tied_within = len(counted.intersection(tied))
    surely_tied = max(0, tied_units - (len(tied) - tied_within))
    shown = ", ".join(f"{code} {n}" for code, n in units.items())
    if total + surely_tied > most:
        over = total + surely_tied - most
        tie = f", and {surely_tied} of the tie" if surely_tied else ""
        return (
            Finding(
                id="timed-unit-cap",
                status=Status.FAIL,
                severity=Severity.WARNING,
                message=(
                    f"{total + surely_tied} timed units on {day.visit.date_of_service} ({shown}{tie});"
                    f" {most} are paid for a group and specialty a day, so {over} {_is(over)} above."
                    f" Bill what was done.{_above(day)}"
                ),
                codes=tuple(units),
                source=cap.citation,
            ),
        )
    missing = _why_cap_is_open(day, cap, counted, successors, total)
    return _not_checked("timed-unit-cap", missing, cap.citation) if missing else ()


def _why_cap_is_open(
    day: Day, cap: Term, counted: frozenset[str], successors: frozenset[str], total: int
) -> str:
    """What would have to be known to say that the maximum is kept; empty where it is."""
    most = cap.value["units"]
    unknown = [code for code in unknown_minutes(day) if code in counted]
    if unknown:
        return f"the minutes of {', '.join(unknown)} are not known"
    tied, tied_units = tied_left(day)
    possibly_tied = min(tied_units, len(counted.intersection(tied)))
    if total + possibly_tied > most:
        return f"it depends on how the tie of {', '.join(day.tied)} is settled"
    unplaced = sum(n for code, n in _timed(day, unplaced_units(day)).items() if code in counted)
    if total + possibly_tied + unplaced > most:
        return f"whether units already charged ({unplaced}) are of this group and specialty is not known"
    own = own_units(day)
    with_successors = total + possibly_tied + sum(own.get(code, 0) for code in successors - counted)
    if with_successors > most and _successors_count(day) is None:
        return (
            f"the list names a deleted code, and whether {', '.join(sorted(successors - counted))} count in"
            f" its place is for the contract to say; with them it is {with_successors} units of {most}"
        )
    return ""


def _successors_count(day: Day) -> bool | None:
    """Whether successors of deleted codes count: the contract's word, else the policy's; ``None`` unsaid."""
    if day.visit.contract.successors_of_deleted_codes is not None:
        return day.visit.contract.successors_of_deleted_codes
    term = day.terms.get("successors_count_in_cap")
    return None if term is None else bool(term.value)


def _successors(day: Day, listed: frozenset[str]) -> frozenset[str]:
    """The codes that took the place of those of the list that are no longer valid, and are not in it."""
    on = day.visit.date_of_service
    found: set[str] = set()
    for code in listed:
        known = day.codes.on(code, on)
        if known is not None and not known.valid_on(on):
            found.update(day.codes.successors(code, on))
    return frozenset(found - listed)


def _above(day: Day) -> str:
    above = day.terms.get("above_timed_unit_cap")
    if above is None:
        return ""
    return " More is paid upon reconsideration if records that document the timed services are sent."


def therapies_in_initial_phase(day: Day) -> tuple[Finding, ...] | None:
    """How many therapies or modalities a visit of the initial phase of care usually has.

    A first stretch and its further stretches are one therapy; an evaluation is none.
    """
    usual = day.terms.get("therapies_in_initial_phase")
    if usual is None:
        return None
    therapies = [code for code, known in day.known.items() if known is not None and _is_therapy(known)]
    unknown = [code for code, known in day.known.items() if known is None]
    if len(therapies) + len(unknown) <= usual.value or day.visit.phase_of_care is PhaseOfCare.LATER:
        return ()
    if day.visit.phase_of_care is None:
        missing = f"the phase of care is not known, and {len(therapies) + len(unknown)} therapies were given"
        return _not_checked("therapies-in-initial-phase", missing, usual.citation)
    if len(therapies) <= usual.value:
        missing = f"{', '.join(unknown)} {_is(len(unknown))} not in the table of codes"
        return _not_checked("therapies-in-initial-phase", missing, usual.citation)
    return (
        Finding(
            id="therapies-in-initial-phase",
            status=Status.FAIL,
            severity=Severity.WARNING,
            message=(
                f"{len(therapies)} therapies or modalities in a visit of the initial phase"
                f" ({', '.join(therapies)}); no more than {usual.value} are considered usual."
            ),
            codes=tuple(therapies),
            source=usual.citation,
        ),
    )


def documentation_missing(day: Day) -> tuple[Finding, ...] | None:
    """What the record must hold for every therapy, and the time for a timed one."""
    elements = day.terms.get("documentation_elements")
    if elements is None:
        return None
    always, timed = elements.value["always"], elements.value["timed"]
    found: list[Finding] = []
    untold: list[str] = []
    for code, services in day.services.items():
        known = day.known.get(code)
        if known is not None and not (_is_therapy(known) or known.kind == "timed-addon"):
            continue
        told = [service.documentation for service in services if service.documentation is not None]
        if len(told) < len(services):
            untold.append(code)
        asked = (*always, *(timed if known is not None and known.timed else ()))
        absent = [element for element in asked if any(element not in listed for listed in told)]
        if absent:
            applicable = elements.value.get("as_applicable", ())
            also = [element for element in applicable if any(element not in listed for listed in told)]
            where = f" Where they apply: {_words(also)}." if also else ""
            found.append(
                Finding(
                    id="documentation-missing",
                    status=Status.FAIL,
                    severity=Severity.WARNING,
                    message=f"The documentation of {code} lacks {_words(absent)}.{where}",
                    codes=(code,),
                    source=elements.citation,
                )
            )
    if untold:
        missing = (
            f"what is documented of {', '.join(untold)} is not known; asked for are {_words(always)},"
            f" and of timed codes {_words(timed)}"
        )
        found.extend(_not_checked("documentation-missing", missing, elements.citation, *untold))
    return tuple(found)


def evaluation_once_per_day(day: Day) -> tuple[Finding, ...] | None:
    """So many initial evaluations a day and condition."""
    most = day.terms.get("initial_evaluations_per_condition_and_day")
    if most is None:
        return None
    codes = _initial_evaluation_codes(day)
    by_condition: Counter[str | None] = Counter()
    given: dict[str, None] = {}
    for code, services in day.services.items():
        if code in codes:
            given[code] = None
            for service in services:
                by_condition[service.condition] += 1 if service.units is None else service.units
    found: list[Finding] = [
        Finding(
            id="evaluation-once-per-day",
            status=Status.FAIL,
            severity=Severity.WARNING,
            message=(
                f"{number} initial evaluations ({', '.join(given)}) for one condition on"
                f" {day.visit.date_of_service}; {most.value} a day and condition may be billed."
            ),
            codes=tuple(given),
            source=most.citation,
        )
        for condition, number in by_condition.items()
        if condition is not None and number > most.value
    ]
    unclear = by_condition[None]
    if unclear and by_condition.total() > most.value and not found:
        missing = f"the condition of {unclear} of {by_condition.total()} initial evaluations is not known"
        return _not_checked("evaluation-once-per-day", missing, most.citation, *given)
    return tuple(found)


def evaluations_per_year(day: Day) -> tuple[Finding, ...] | None:
    """So many evaluations a calendar year, today's included."""
    most = day.terms.get("evaluations_per_calendar_year")
    if most is None:
        return None
    codes = _initial_evaluation_codes(day)
    given = [code for code in day.services if code in codes]
    today = _evaluations_today(day)
    before = day.visit.history.evaluations
    if not today or (before is not None and before + today <= most.value):
        return ()
    if before is None and today <= most.value:
        missing = "how many evaluations there were this calendar year is not known"
        return _not_checked("evaluations-per-year", missing, most.citation, *given)
    return (
        Finding(
            id="evaluations-per-year",
            status=Status.FAIL,
            severity=Severity.WARNING,
            message=(
                f"{(before or 0) + today} evaluations this calendar year with {', '.join(given)};"
                f" members have {most.value} unless their handbook says otherwise."
            ),
            codes=tuple(given),
            source=most.citation,
        ),
    )


def authorization_needed(day: Day) -> tuple[Finding, ...] | None:
    """So many treatment visits a calendar year, at any provider, before an authorization is needed.

    A visit with nothing but an initial evaluation is no treatment visit.
    """
    free = day.terms.get("treatment_visits_without_authorization")
    if free is None:
        return None
    codes = _initial_evaluation_codes(day)
    if all(code in codes for code in day.services):
        return ()
    here, elsewhere = day.visit.history.treatment_visits, day.visit.history.treatment_visits_elsewhere
    before = (here or 0) + (elsewhere or 0)
    if before >= free.value:
        return (
            Finding(
                id="authorization-needed",
                status=Status.FAIL,
                severity=Severity.WARNING,
                message=(
                    f"{before} treatment visits this calendar year before this one"
                    f" ({_known(here)} here, {_known(elsewhere)} elsewhere); from visit {free.value + 1} on"
                    " the payer must authorize."
                ),
                source=free.citation,
            ),
        )
    unknown = [
        place for place, visits in (("here", here), ("at other providers", elsewhere)) if visits is None
    ]
    if unknown:
        missing = (
            f"how many treatment visits there were this calendar year {' and '.join(unknown)} is not known"
        )
        return _not_checked("authorization-needed", missing, free.citation)
    return ()


def referral_needed(day: Day) -> tuple[Finding, ...] | None:
    """A referral of the same calendar year, and a new one for a further evaluation."""
    valid_for = day.terms.get("referral_valid_for")
    if valid_for is None:
        return None
    year = day.visit.date_of_service.year
    on_file = day.visit.history.referral_on_file
    if on_file is None:
        missing = f"whether a referral of {year} is on file is not known"
        return _not_checked("referral-needed", missing, valid_for.citation)
    if not on_file:
        return (
            Finding(
                id="referral-needed",
                status=Status.FAIL,
                severity=Severity.WARNING,
                message=f"No referral of {year} is on file; one is valid in the calendar year of its issue.",
                source=valid_for.citation,
            ),
        )
    before, today = day.visit.history.evaluations, _evaluations_today(day)
    if today and before is None:
        missing = f"how many evaluations there were in {year} is not known, and a second needs a new referral"
        return _not_checked("referral-needed", missing, valid_for.citation)
    if today and (before or 0) + today > 1:
        number = (before or 0) + today
        missing = f"evaluation {number} of {year} needs a new referral, and that on file may be the old"
        return _not_checked("referral-needed", missing, valid_for.citation)
    return ()


def daily_payment_maximum(day: Day) -> tuple[Finding, ...] | None:
    """What a day's services come to under the contract, and the most that is paid for a day.

    Amounts are in dollars, allowed per unit. What the policy exempts is paid beside the maximum.
    """
    exempt = day.terms.get("exempt_from_daily_maximum")
    if exempt is None:
        return None
    contract = day.visit.contract
    units = {code: n for code, n in own_units(day).items() if n}
    if contract.daily_maximum is None:
        missing = "the contract's daily payment maximum is not known"
        return _not_checked("daily-payment-maximum", missing, exempt.citation)
    priced = contract.amounts
    subject = sum(
        (priced[code] * n for code, n in units.items() if code in priced and code not in exempt.value), _0
    )
    open_codes, open_units = tied_left(day)
    tied = sorted(_0 if code in exempt.value else priced.get(code, _0) for code in open_codes)
    least = subject + sum(tied[:open_units], _0)
    if least > contract.daily_maximum:
        beside = sum(
            (priced[code] * n for code, n in units.items() if code in priced and code in exempt.value), _0
        )
        paid = (
            f" With {_dollars(beside)} exempt, {_dollars(contract.daily_maximum + beside)} can be expected."
        )
        return (
            Finding(
                id="daily-payment-maximum",
                status=Status.FAIL,
                severity=Severity.INFO,
                message=(
                    f"{_dollars(least)} fall under the daily maximum of {_dollars(contract.daily_maximum)};"
                    f" {_dollars(least - contract.daily_maximum)} are above it.{paid if beside else ''}"
                ),
                codes=tuple(code for code in units if code not in exempt.value),
                source=exempt.citation,
            ),
        )
    missing = _why_amount_is_open(day, exempt, units, subject + sum(tied[len(tied) - open_units :], _0))
    return _not_checked("daily-payment-maximum", missing, exempt.citation) if missing else ()


def _why_amount_is_open(day: Day, exempt: Term, units: dict[str, int], most: Decimal) -> str:
    contract = day.visit.contract
    unpriced = [
        code
        for code in dict.fromkeys((*units, *tied_left(day)[0]))
        if code not in exempt.value and code not in contract.amounts
    ]
    if unpriced:
        return f"the contract's amount for {', '.join(unpriced)} is not known"
    unknown = [code for code in unknown_minutes(day) if code not in exempt.value]
    if unknown:
        return f"the minutes of {', '.join(unknown)} are not known"
    if contract.daily_maximum is not None and most > contract.daily_maximum:
        return f"it depends on how the tie of {', '.join(day.tied)} is settled"
    return ""


CHECKS: tuple[tuple[str, Check], ...] = (
    ("timed-unit-cap", timed_unit_cap),
    ("therapies-in-initial-phase", therapies_in_initial_phase),
    ("documentation-missing", documentation_missing),
    ("evaluation-once-per-day", evaluation_once_per_day),
    ("evaluations-per-year", evaluations_per_year),
    ("authorization-needed", authorization_needed),
    ("referral-needed", referral_needed),
    ("daily-payment-maximum", daily_payment_maximum),
)

_0 = Decimal(0)


def _timed(day: Day, units: Mapping[str, int]) -> dict[str, int]:
    """Those of the units whose code is timed on the date of service."""
    on = day.visit.date_of_service
    known = {code: day.codes.on(code, on) for code in units}
    return {code: n for code, n in units.items() if (entry := known[code]) is not None and entry.timed}


def _is_therapy(code: Code) -> bool:
    return code.kind in _THERAPIES


def _initial_evaluation_codes(day: Day) -> frozenset[str]:
    """Those that the policy names; every evaluation where it names none."""
    named = day.terms.get("initial_evaluation_codes")
    if named is not None:
        return frozenset(named.value)
    return frozenset(code for code, known in day.known.items() if known and known.kind == "evaluation")


def _evaluations_today(day: Day) -> int:
    codes = _initial_evaluation_codes(day)
    return sum(
        1 if service.units is None else service.units
        for code, services in day.services.items()
        if code in codes
        for service in services
    )


def _not_checked(check: str, missing: str, source: Citation, *codes: str) -> tuple[Finding, ...]:
    message = f"{missing[:1].upper()}{missing[1:]}."
    return (Finding(check, Status.NOT_CHECKED, Severity.INFO, message, codes, source),)


_ELEMENTS = {
    "type": "the type",
    "rationale": "the rationale",
    "area": "the area of application",
    "setting-frequency": "setting and frequency",
    "minutes": "the actual minutes",
}


def _words(elements: list[str] | tuple[str, ...]) -> str:
    return ", ".join(_ELEMENTS.get(element, element) for element in elements)


def _dollars(amount: Decimal) -> str:
    return f"{amount:.2f} dollars"


def _known(number: int | None) -> str:
    return "unknown" if number is None else str(number)


def _is(number: int) -> str:
    return "is" if number == 1 else "are"
