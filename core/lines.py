"""What a suggestion is made of: reasons, modifiers, lines, ties."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from .policy import Citation


@dataclass(frozen=True, slots=True)
class Reason:
    """One step of the arithmetic in a coder's words, and the clause it rests on."""

    says: str
    source: Citation | None


@dataclass(frozen=True, slots=True)
class Modifier:
    """Never silent: it has a reason and a source, and can be taken off."""

    code: str
    reason: str
    source: Citation | None


@dataclass(frozen=True, slots=True)
class Line:
    """One code and one set of modifiers.

    ``units`` is what is to be charged now, ``units_of_day`` what the day allows; they differ where
    this group already charged the code that day. ``minutes`` is None where they are not known.
    """

    code: str
    units: int
    units_of_day: int
    minutes: int | None
    modifiers: tuple[Modifier, ...]
    because: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Tie:
    """``units`` to be shared among ``codes``, at most one each; the clinician chooses.

    ``billed_as`` has, in the same order, the code that each one's unit would stand under: for a pair whose
    first code has its unit, the add-on.
    """

    codes: tuple[str, ...]
    units: int
    billed_as: tuple[str, ...]


def without_modifiers(lines: tuple[Line, ...], off: Mapping[str, Collection[str]]) -> tuple[Line, ...]:
    """The lines without the modifiers that the clinician took off, by code.

    Two lines of a code that now agree are one again: a code stands on a line once for each set of
    modifiers (Claims Processing Manual, ch. 5 section 20.2, one line a date of service).
    """
    joined: dict[tuple[str, tuple[str, ...]], Line] = {}
    for line in lines:
        kept = tuple(modifier for modifier in line.modifiers if modifier.code not in off.get(line.code, ()))
        key = (line.code, tuple(modifier.code for modifier in kept))
        other = joined.get(key)
        joined[key] = replace(line, modifiers=kept) if other is None else _together(other, line)
    return tuple(joined.values())


def _together(one: Line, other: Line) -> Line:
    known = one.minutes is not None and other.minutes is not None
    return replace(
        one,
        units=one.units + other.units,
        units_of_day=one.units_of_day + other.units_of_day,
        minutes=(one.minutes or 0) + (other.minutes or 0) if known else None,
        because=tuple(dict.fromkeys((*one.because, *other.because))),
    )
