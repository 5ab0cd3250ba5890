"""Checks against CMS's edits: pairs of codes, and units of one code a day."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from .charged import (
    other_specialties_units,
    own_units,
    tied_left,
    under_a_tax_id_to_compare,
    unknown_minutes,
)
from .checks import Check, Day
from .edits import PairEdit, PairTable, UnitEdit, UnitTable, age_of
from .findings import Finding, Severity, Status
from .policy import Citation

BYPASSES = ("59", "XE", "XS", "XP", "XU")


def ncci_edit(day: Day) -> tuple[Finding, ...] | None:
    """Two codes of a day that are not paid side by side.

    Asked for this patient, date and tax id, across specialties. Whether a modifier may say that the two
    were apart is the clinician's to know: for timed therapy, that they were done in distinct 15-minute
    blocks. Nothing is put on by itself.
    """
    if day.terms.get("procedure_to_procedure_edits") is None:
        return None
    on, setting = day.visit.date_of_service, day.visit.setting
    codes = _billed(day)
    elsewhere = under_a_tax_id_to_compare(day) if codes else ()
    if len({*codes, *elsewhere}) < 2:  # noqa: PLR2004  a pair
        return ()
    table = day.edits.pairs_on(on, setting)
    if table is None:
        return (_not_checked("ncci-edit", f"there is no table of pairs for {setting.value}", codes),)
    found = [
        _pair_finding(day, pair, table)
        for one, other in combinations(codes, 2)
        if (pair := table.between(one, other, on)) is not None and not _bypassed(day, pair)
    ]
    missing = _why_pairs_are_open(day, codes, table)
    if missing:
        found.append(_not_checked("ncci-edit", missing, codes, table.citation))
    return (*found, *_whose_tax_id("ncci-edit", elsewhere, table))


def _pair_finding(day: Day, pair: PairEdit, table: PairTable) -> Finding:
    first, second = pair.column_1, pair.column_2
    age = age_of(table.quarter, day.visit.date_of_service)
    denied = (
        f"{second} is not paid beside {first}" if pair.ordered else f"one of {first} and {second} is not paid"
    )
    if pair.indicator == 0:
        message = (
            f"{first} and {second} are an NCCI pair: {denied}, and no modifier changes that"
            f" (indicator 0; table {age})."
        )
    else:
        on = second if pair.ordered else f"{first} or {second}"
        message = (
            f"{first} and {second} are an NCCI pair: {denied} unless they were separate (for timed therapy,"
            f" in distinct 15-minute blocks). Were they? Then 59, or XE, XS, XP or XU, goes on {on}"
            f" (indicator 1; table {age})."
        )
    return Finding(
        id="ncci-edit",
        status=Status.FAIL,
        severity=Severity.CRITICAL if pair.indicator == 0 else Severity.WARNING,
        message=message,
        codes=(first, second),
        source=table.citation,
    )


def _bypassed(day: Day, pair: PairEdit) -> bool:
    """The clinician already put a modifier on one of the two that says they were separate."""
    put_on = {*day.visit.modifiers.get(pair.column_1, ()), *day.visit.modifiers.get(pair.column_2, ())}
    return pair.indicator == 1 and not put_on.isdisjoint(BYPASSES)


def _why_pairs_are_open(day: Day, codes: tuple[str, ...], table: PairTable) -> str:
    """What a table cannot tell of these codes; empty where it can tell all."""
    on = day.visit.date_of_service
    if not table.knows_date(on):
        return (
            f"the table of {table.quarter} is complete from {table.covers_from} on;"
            f" other pairs of {on} are not known"
        )
    unknown = [code for code in codes if not table.knows(code)]
    if unknown:
        which = "the small table that ships" if not table.imported else "the imported table"
        return f"the pairs of {', '.join(unknown)} are not in {which} of {table.quarter}"
    unread = [
        f"{one} with {other}"
        for one, other in (combinations(codes, 2) if table.unread else ())
        if frozenset((one, other)) in table.unread
    ]
    if unread:
        return f"{', '.join(unread)} is a pair for practitioners; the {table.setting.value} file was not read"
    return ""


def mue(day: Day) -> tuple[Finding, ...] | None:
    """Units of a code on a day above which a claim is medically unlikely, all lines of the tax id summed.

    Units are never cut.
    """
    if day.terms.get("medically_unlikely_edits") is None:
        return None
    on, setting = day.visit.date_of_service, day.visit.setting
    codes, unknown = _billed(day), unknown_minutes(day)
    if not codes and not unknown:
        return ()
    table = day.edits.units_on(on, setting)
    if table is None:
        missing = f"there is no table of medically unlikely edits for {setting.value} on {on}"
        return (_not_checked("mue", missing, codes),)
    own, others = own_units(day), other_specialties_units(day)
    tied, tied_units = tied_left(day)
    found: list[Finding] = []
    for code in dict.fromkeys((*codes, *unknown)):
        edit = table.values.get(code)
        units = own.get(code, 0) + others.get(code, 0)
        if edit is None:
            # CMS publishes no value for some codes; in a table of its own, none means none.
            missing = "" if table.imported else f"{code} is not in the small table of {table.quarter}"
        elif units > edit.units:
            found.append(_unlikely(day, edit, units, table))
            continue
        elif code in unknown:
            missing = f"the minutes of {code} are not known"
        elif tied_units and code in tied and units + 1 > edit.units:
            missing = f"{code} would have {units + 1} units of {edit.units} if the tie gives it one"
        else:
            continue
        if missing:
            found.append(_not_checked("mue", missing, (code,), table.citation))
    asked = {*codes, *unknown}
    elsewhere = tuple(code for code in under_a_tax_id_to_compare(day) if code in asked)
    return (*found, *_whose_tax_id("mue", elsewhere, table))


def _unlikely(day: Day, edit: UnitEdit, units: int, table: UnitTable) -> Finding:
    age = age_of(table.quarter, day.visit.date_of_service)
    meaning = _INDICATORS.get(edit.mai, "")
    return Finding(
        id="mue",
        status=Status.FAIL,
        severity=Severity.WARNING,
        message=(
            f"{units} {'unit' if units == 1 else 'units'} of {edit.code} on {day.visit.date_of_service};"
            f" more than {edit.units} are medically unlikely for {table.setting.value}"
            f" (table {age}).{meaning}"
        ),
        codes=(edit.code,),
        source=table.citation,
    )


_INDICATORS: Mapping[int | None, str] = {
    2: " The limit is by day and has no exception (indicator 2).",
    3: " More can be paid if the record shows why (indicator 3).",
}

CHECKS: tuple[tuple[str, Check], ...] = (
    ("ncci-edit", ncci_edit),
    ("mue", mue),
)


def _billed(day: Day) -> tuple[str, ...]:
    """The codes with units on the day under this tax id, those of a tie included."""
    own, others = own_units(day), other_specialties_units(day)
    billed = [code for code in (*own, *others) if own.get(code, 0) + others.get(code, 0) > 0]
    return tuple(dict.fromkeys((*billed, *day.tied)))


def _whose_tax_id(check: str, codes: tuple[str, ...], table: PairTable | UnitTable) -> tuple[Finding, ...]:
    if not codes:
        return ()
    named = ", ".join(codes)
    missing = (
        f"whether {named}, charged that day under a tax id, is of this one is not known: the visit names none"
    )
    return (_not_checked(check, missing, codes, table.citation),)


def _not_checked(check: str, missing: str, codes: tuple[str, ...], source: Citation | None = None) -> Finding:
    return Finding(
        check, Status.NOT_CHECKED, Severity.INFO, f"{missing[:1].upper()}{missing[1:]}.", codes, source
    )
