"""A policy: a payer's dated terms, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a value or a rule was read, and the day someone last read it there."""

    title: str
    section: str
    url: str
    read_on: date
    verified: bool  # False: from a second-hand source or from memory; the reviewer is told


@dataclass(frozen=True, slots=True)
class Term:
    """One value of a policy, as it was in force on a date of service."""

    name: str
    value: Any
    since: date
    citation: Citation


class NotInForce(Exception):
    """A policy has no value for a term on this date: nothing is assumed."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A payer's document as dated terms. ``terms`` maps a name to its dated values, oldest first."""

    id: str
    title: str
    sources: Mapping[str, Citation]
    terms: Mapping[str, tuple[Term, ...]]
    like: str | None = None  # the policy whose terms it takes over where it has none of its own
    site: bool = False  # read from the site's own folder rather than shipped

    def term(self, name: str, on: date) -> Term:
        """The term in force on a date of service. Raises ``NotInForce`` before its first date."""
        dated = self.terms.get(name, ())
        in_force = [term for term in dated if term.since <= on]
        if not in_force:
            first = f"it begins on {dated[0].since}" if dated else "the policy does not have it"
            raise NotInForce(f"{self.id}: '{name}' is not in force on {on}; {first}.")
        return in_force[-1]


class InForce:
    """The terms of one policy on one date of service; remembers which of them were used."""

    __slots__ = ("_terms", "_used", "on", "policy")

    def __init__(self, policy: Policy, on: date) -> None:
        self.policy = policy
        self.on = on
        self._terms = _terms_on(policy, on)
        self._used: dict[str, Term] = {}

    def __getitem__(self, name: str) -> Term:
        """The term in force. Raises ``NotInForce`` where the policy has none on this date."""
        term = self._terms.get(name)
        if term is None:
            return self.policy.term(name, self.on)
        self._used[name] = term
        return term

    def get(self, name: str) -> Term | None:
        """The term in force, or None where the policy does not speak of it on this date."""
        term = self._terms.get(name)
        if term is None:
            return None
        self._used[name] = term
        return None if term.value is None else term

    @property
    def used(self) -> tuple[Term, ...]:
        """Every term that was looked at, by name."""
        used = self._used
        return tuple([term for name, term in self._terms.items() if name in used])


# What is in force on a date, found once for all visits of that date. The policy is kept with it, so that
# its id() stays its own.
_IN_FORCE: dict[tuple[int, date], tuple[Policy, Mapping[str, Term]]] = {}
_DAYS_KEPT = 4096


def _terms_on(policy: Policy, on: date) -> Mapping[str, Term]:
    key = (id(policy), on)
    kept = _IN_FORCE.get(key)
    if kept is None:
        if len(_IN_FORCE) >= _DAYS_KEPT:
            _IN_FORCE.clear()
        in_force: dict[str, Term] = {}
        for name, dated in sorted(policy.terms.items()):
            for term in dated:
                if term.since <= on:
                    in_force[name] = term
        kept = _IN_FORCE[key] = (policy, in_force)
    return kept[1]
