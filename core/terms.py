"""The names that a policy may use, and what a value of each looks like."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

Say = Callable[[int, str], None]  # tells the author of a file a mistake: line, sentence


@dataclass(frozen=True, slots=True)
class Located:
    """A value of a YAML file and the line it stands on.

    A scalar is ``str``, ``int``, ``bool``, ``date``, ``Decimal`` (never float) or ``None``; a list is a
    tuple of ``Located``; a mapping has its keys as ``Located`` scalars.
    """

    value: str | int | bool | date | Decimal | tuple[Located, ...] | Mapping[Located, Located] | None
    line: int


Shape = Callable[[Located, Say], Any]  # gives the value, or says what is wrong with it

MODIFIER = re.compile(r"[0-9A-Z]{2}")
CODE = re.compile(r"[0-9A-Z][0-9]{3}[0-9A-Z]")
COUNTING_WORDS = ("total-timed-minutes", "each-code-alone")


def whole(at: Located, say: Say) -> int | None:
    """A whole number, 0 or more."""
    if isinstance(at.value, int) and not isinstance(at.value, bool) and at.value >= 0:
        return at.value
    say(at.line, f"{shown(at)} is not a whole number of 0 or more")
    return None


def money(at: Located, say: Say) -> Decimal | None:
    """An amount in dollars, with at most two decimals."""
    if isinstance(at.value, Decimal | int) and not isinstance(at.value, bool):
        amount = Decimal(at.value)
        if amount >= 0 and amount.as_tuple().exponent in {0, -1, -2}:
            return amount
    say(at.line, f"{shown(at)} is not an amount in dollars")
    return None


def truth(at: Located, say: Say) -> bool | None:
    """``true`` or ``false``."""
    if isinstance(at.value, bool):
        return at.value
    say(at.line, f"{shown(at)} is neither true nor false")
    return None


def text(at: Located, say: Say) -> str | None:
    """A text that is not empty."""
    if isinstance(at.value, str) and at.value.strip():
        return at.value
    say(at.line, f"{shown(at)} is not a text")
    return None


def day(at: Located, say: Say) -> date | None:
    """A calendar day, ``YYYY-MM-DD``."""
    if isinstance(at.value, date):
        return at.value
    say(at.line, f"{shown(at)} is not a date such as 2025-04-01")
    return None


def code(at: Located, say: Say) -> str | None:
    """A code of CPT or HCPCS, in quotes: 0791 and 00100 are not numbers."""
    if isinstance(at.value, str) and CODE.fullmatch(at.value):
        return at.value
    if isinstance(at.value, int) and not isinstance(at.value, bool):
        say(at.line, f'the code {at.value} needs quotes: "{at.value}"')
    else:
        say(at.line, f"{shown(at)} is not a code of five characters")
    return None


def modifier(at: Located, say: Say) -> str | None:
    """A modifier, in quotes where it is all figures: "59"."""
    if isinstance(at.value, str) and MODIFIER.fullmatch(at.value):
        return at.value
    say(at.line, f"{shown(at)} is not a modifier of two characters, in quotes")
    return None


def one_of(*words: str) -> Shape:
    """One of these words."""

    def shape(at: Located, say: Say) -> str | None:
        if isinstance(at.value, str) and at.value in words:
            return at.value
        say(at.line, f"{shown(at)} is none of {', '.join(words)}")
        return None

    return shape


def many(shape: Shape, *, twice: bool = False) -> Shape:
    """A list of such values; none may stand ``twice`` unless it says so."""

    def shape_of_list(at: Located, say: Say) -> tuple[Any, ...]:
        if not isinstance(at.value, tuple):
            say(at.line, f"{shown(at)} is not a list")
            return ()
        seen: set[Any] = set()
        for item in at.value:
            if isinstance(item.value, str | int) and not twice:
                if item.value in seen:
                    say(item.line, f"{shown(item)} stands twice in the list")
                seen.add(item.value)
        return tuple(shape(item, say) for item in at.value)

    return shape_of_list


def record(shapes: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """A mapping with exactly these fields; a dictionary."""
    optional = optional or {}
    known = {**shapes, **optional}

    def shape(at: Located, say: Say) -> dict[str, Any]:
        if not isinstance(at.value, Mapping):
            say(at.line, f"{shown(at)} should have the fields {', '.join(shapes)}")
            return {}
        given = {key.value for key in at.value}
        for name in shapes:
            if name not in given:
                say(at.line, f"'{name}' is missing")
        for key in at.value:
            if key.value not in known:
                say(key.line, f"'{key.value}' is not a field here; known are {', '.join(known)}")
        return {
            str(key.value): known[str(key.value)](value, say)
            for key, value in at.value.items()
            if key.value in known
        }

    return shape


def pairs(key_shape: Shape, value_shape: Shape) -> Shape:
    """A mapping of any such keys to such values; a dictionary."""

    def shape(at: Located, say: Say) -> dict[Any, Any]:
        if not isinstance(at.value, Mapping):
            say(at.line, f"{shown(at)} is not a mapping")
            return {}
        return {key_shape(key, say): value_shape(value, say) for key, value in at.value.items()}

    return shape


def shown(at: Located) -> str:
    """The value as a message may show it."""
    if at.value is None:
        return "nothing"
    if isinstance(at.value, tuple):
        return "a list"
    if isinstance(at.value, Mapping):
        return "a mapping"
    return f"'{at.value}'"


codes = many(code)

ELEMENTS = ("type", "rationale", "area", "setting-frequency", "minutes")

# A term of a name that is not here is refused: a misspelt name would else be a rule that never applies.
TERMS: Mapping[str, Shape] = {
    # Counting (core/units.py).
    "counting": one_of(*COUNTING_WORDS),
    "unit_minutes": whole,
    "minimum_minutes": whole,
    "untimed_units_per_day": whole,
    "pooled_time_families": codes,
    # Modifiers (core/modifiers.py, core/assistants.py); amounts are of the calendar year.
    "discipline_modifiers": pairs(one_of("PT", "OT", "SLP"), modifier),
    "assistant_modifiers": pairs(one_of("PT", "OT", "SLP"), modifier),
    "assistant_method": one_of("de-minimis", "therapist-eight-minutes"),
    "assistant_de_minimis_percent": whole,
    "assistant_de_minimis_methods": many(one_of("percentage", "simple")),
    "modifier_order": many(modifier),
    "modifier_slots": whole,
    # What a visit's minutes and amounts are compared with (core/checks_minutes.py).
    "average_minutes_per_unit": whole,
    "group_needs_separate_time": truth,
    "kx_buckets": pairs(one_of("PT", "OT", "SLP"), text),
    "kx_amount": money,
    "medical_review_amount": money,
    # Which codes the payer takes (core/checks_codes.py).
    "accepted_codes": codes,
    "not_accepted_codes": codes,
    "unlisted_codes": codes,
    "scope": record(
        {
            "disciplines": many(one_of("PT", "OT", "SLP")),
            "settings": many(one_of("practitioner", "outpatient-hospital")),
        }
    ),
    # What the payer asks of a visit (core/checks_payer.py).
    "timed_unit_cap": record(
        {
            "units": whole,
            "codes": codes,
            "counted_per": many(one_of("tin", "specialty", "date_of_service")),
        }
    ),
    "above_timed_unit_cap": one_of("reconsideration-with-records"),
    "successors_count_in_cap": truth,
    "therapies_in_initial_phase": whole,
    "documentation_elements": record(
        {"always": many(one_of(*ELEMENTS)), "timed": many(one_of(*ELEMENTS))},
        {"as_applicable": many(one_of(*ELEMENTS))},
    ),
    "included_time": many(text),
    "initial_evaluation_codes": codes,
    "initial_evaluations_per_condition_and_day": whole,
    "evaluations_per_calendar_year": whole,
    "treatment_visits_without_authorization": whole,
    "referral_valid_for": one_of("calendar-year"),
    "exempt_from_daily_maximum": codes,
    # Edits (core/checks_edits.py).
    "procedure_to_procedure_edits": one_of("ncci"),
    "medically_unlikely_edits": one_of("ncci"),
}
