"""What a suggestion is made of: reasons, modifiers, lines, ties."""

from __future__ import annotations

from dataclasses import dataclass

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
    """``units`` to be shared among ``codes``, at most one each; the clinician chooses."""

    codes: tuple[str, ...]
    units: int
