"""Whose units the day has: this group's, another specialty's of the same tax id, or unknown ones."""

from __future__ import annotations

from collections.abc import Iterable

from .checks import Day
from .modifiers import charged_by
from .visit import AlreadyCharged


def own_units(day: Day) -> dict[str, int]:
    """The day's units of this group by code: what the day allows, or what was charged if that is more.

    The services of a visit include those already charged, so the two are not added.
    """
    return {**day.units, **{code: max(day.units.get(code, 0), n) for code, n in day.charged.items()}}


def tied_left(day: Day) -> tuple[tuple[str, ...], int]:
    """The codes that may still take a tied unit, and how many such units there are.

    A code of the tie that was charged more units than it has without the tie has taken its unit already.
    """
    taken = {code for code in day.tied if day.charged.get(code, 0) > day.units.get(code, 0)}
    left = tuple(code for code in day.tied if code not in taken)
    return left, min(len(left), max(0, day.tied_units - len(taken)))


def other_specialties_units(day: Day) -> dict[str, int]:
    """Units charged under the same tax id by another specialty, where both specialties are told."""
    provider = day.visit.provider
    return _sum(
        [
            entry
            for entry in day.visit.already_charged
            if entry.tin in {None, provider.tin}
            and None not in {entry.specialty, provider.specialty}
            and entry.specialty != provider.specialty
        ]
    )


def unplaced_units(day: Day) -> dict[str, int]:
    """Units that may be this group's: they name a tax id or specialty, and the visit tells none."""
    return _sum(charged_by(day.visit)[1])


def under_a_tax_id_to_compare(day: Day) -> tuple[str, ...]:
    """Codes charged under a tax id that may be this visit's, which names none."""
    if day.visit.provider.tin is not None:
        return ()
    return tuple(
        dict.fromkeys(entry.code for entry in day.visit.already_charged if entry.tin and entry.units)
    )


def unknown_minutes(day: Day) -> tuple[str, ...]:
    """Timed codes whose minutes are not known, and so their units."""
    return tuple(
        code
        for code, minutes in day.minutes.items()
        if minutes is None and (known := day.known.get(code)) is not None and known.timed
    )


def _sum(entries: Iterable[AlreadyCharged]) -> dict[str, int]:
    units: dict[str, int] = {}
    for entry in entries:
        units[entry.code] = units.get(entry.code, 0) + entry.units
    return units
