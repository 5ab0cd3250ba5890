"""The same visit under other policies, and where its units differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .library import Library
from .policy import NotInForce
from .suggestion import Suggestion, suggest, units_of_day


@dataclass(frozen=True, slots=True)
class Other:
    """A visit under another policy, or why that policy could not be asked.

    ``units`` are the day's by code; ``difference`` is them less those of the suggestion compared with,
    for the codes where they differ. Tied units are in neither.
    """

    policy: str
    suggestion: Suggestion | None
    refused: str | None
    units: Mapping[str, int]
    difference: Mapping[str, int]


def side_by_side(suggestion: Suggestion, policies: Iterable[str], library: Library) -> tuple[Other, ...]:
    """The suggestion's visit under each of the policies. Raises ``UnknownPolicy``."""
    return tuple(_under(suggestion, policy, library) for policy in policies)


def _under(suggestion: Suggestion, policy_id: str, library: Library) -> Other:
    policy = library.policy(policy_id)
    try:
        other = suggest(suggestion.visit, policy, library)
    except NotInForce as error:
        return Other(policy_id, None, str(error), {}, {})
    here, there = units_of_day(suggestion), units_of_day(other)
    codes = dict.fromkeys((*here, *there))
    difference = {code: there.get(code, 0) - here.get(code, 0) for code in codes}
    return Other(policy_id, other, None, there, {code: by for code, by in difference.items() if by})
