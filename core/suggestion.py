"""A suggestion: what we offer for a visit under a policy, with every reason."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from . import checks_codes, checks_edits, checks_minutes, checks_payer
from .checks import Check, Day
from .codes import Code
from .findings import Finding, Severity, Status
from .library import Library
from .lines import Line, Modifier, Reason, Tie
from .modifiers import assistant_splits, charged_by, lines_of
from .policy import Citation, InForce, Policy, Term
from .units import RULES, Count, Documented, count, documented
from .visit import Discipline, Visit

__all__ = ["Line", "Modifier", "Reason", "Suggestion", "Tie", "settles", "sharing", "suggest", "units_of_day"]

CHECKS: tuple[tuple[str, Check], ...] = (
    *checks_codes.CHECKS,
    *checks_minutes.CHECKS,
    *checks_payer.CHECKS,
    *checks_edits.CHECKS,
)

EDITS = frozenset({"procedure_to_procedure_edits", "medically_unlikely_edits"})


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The answer to ``suggest(visit, policy)``; see the visit document for each field."""

    id: str
    policy: str
    date_of_service: date
    discipline: Discipline | None
    rule: str
    total_timed_minutes: int | None
    total_treatment_minutes: int | None
    total_timed_units: int | None
    lines: tuple[Line, ...]
    ties: tuple[Tie, ...]
    lines_if: tuple[Mapping[str, int], ...]
    findings: tuple[Finding, ...]
    checks_passed: tuple[str, ...]
    terms: tuple[Term, ...]
    engine: Mapping[str, str]  # version, and a hash over the policies used
    visit: Visit  # what it was made from; not part of the JSON document
    pooled_minutes: (
        int | None
    )  # the timed minutes that the counting rule took: not those of 97129 and its like


def suggest(
    visit: Visit, policy: Policy, library: Library, *, tie_choice: Mapping[str, int] | None = None
) -> Suggestion:
    """Units, modifiers and findings of a visit under a policy, each with its reason.

    ``tie_choice`` gives the day's units of the codes of ``ties`` as the clinician shared them; it is one of
    ``lines_if``, or would be if so many were listed. Raises ``ValueError`` where it is not, and
    ``NotInForce`` where the policy counts no units on the date of service.
    """
    terms = InForce(policy, visit.date_of_service)
    services = documented(visit, library.codes)
    counted = count(visit, services, terms, library.codes)
    ways = counted.ways()
    if tie_choice is not None:
        chosen, ways = counted.chosen_by(tie_choice), ()
        counted = count(visit, services, terms, library.codes, chosen)
    known = {code: service.entry for code, service in services.items()}
    for family in counted.families.values():
        for entry in (family.first, family.addon):
            if entry is not None and entry.code in counted.units:
                known[entry.code] = entry
    splits = assistant_splits(visit, counted, services, terms)
    charged, _ = charged_by(visit)
    lines = lines_of(visit, counted, known, splits, charged, terms)
    day = Day(
        visit=visit,
        terms=terms,
        codes=library.codes,
        edits=library.edits,
        known=known,
        services={code: service.services for code, service in services.items()},
        lines=lines,
        units=counted.units,
        minutes={code: service.minutes for code, service in services.items()},
        assistant_minutes=counted.assistant_minutes,
        charged=charged,
        tied=counted.tied,
        tied_units=counted.tied_units,
        timed_minutes=counted.timed_minutes,
        timed_units=counted.timed_units,
        treatment_minutes=_treatment_minutes(visit, services),
        count=counted,
        splits=splits,
    )
    findings, passed, used = _checked(day)
    return Suggestion(
        id=visit.id,
        policy=policy.id,
        date_of_service=visit.date_of_service,
        discipline=visit.discipline,
        rule=RULES[terms["counting"].value],
        total_timed_minutes=counted.timed_minutes,
        total_treatment_minutes=day.treatment_minutes,
        total_timed_units=counted.timed_units,
        lines=lines,
        ties=_ties(counted),
        lines_if=ways,
        findings=findings,
        checks_passed=passed,
        terms=used,
        engine=_engine(visit, policy, used, library),
        visit=visit,
        pooled_minutes=counted.pooled_minutes,
    )


def _ties(counted: Count) -> tuple[Tie, ...]:
    if not counted.tied:
        return ()
    return (Tie(counted.tied, counted.tied_units, tuple(map(counted.billed_as, counted.tied))),)


def units_of_day(suggestion: Suggestion) -> dict[str, int]:
    """The day's units by code, lines with and without the assistant's modifier together."""
    units: dict[str, int] = {}
    for line in suggestion.lines:
        units[line.code] = units.get(line.code, 0) + line.units_of_day
    return units


def sharing(suggestion: Suggestion, choice: Mapping[str, int]) -> tuple[str, ...] | None:
    """The codes that take a tied unit where the day's units are these, whether or not they are enough.

    None where the units are others in anything but tied ones: they were chosen for another count.
    """
    given = units_of_day(suggestion)
    more = {code: choice.get(code, 0) - given.get(code, 0) for code in dict.fromkeys((*given, *choice))}
    offered = {code for tie in suggestion.ties for code in tie.billed_as}
    if any(by and (by != 1 or code not in offered) for code, by in more.items()):
        return None
    return tuple(code for code, by in more.items() if by)


def settles(suggestion: Suggestion, choice: Mapping[str, int]) -> bool:
    """Whether these units of the day are one of the ways to settle the tie, also where none is listed."""
    taken = sharing(suggestion, choice)
    return bool(suggestion.ties) and taken is not None and len(taken) == suggestion.ties[0].units


def _engine(visit: Visit, policy: Policy, used: tuple[Term, ...], library: Library) -> dict[str, str]:
    """What it was calculated with; where the policy asks for edits, which tables spoke and how old they were."""
    engine = {"version": version(), "policies": library.hash_of(policy.id)}
    if any(term.name in EDITS for term in used):
        engine["edits"] = library.edits.described(visit.date_of_service, visit.setting)
    return engine


@functools.cache
def version() -> str:
    """The version of the engine that made a suggestion."""
    return importlib.metadata.version("quarterhour")


def _treatment_minutes(visit: Visit, services: Mapping[str, Documented]) -> int | None:
    """Total treatment time as documented, else the minutes of all services where every one is known."""
    if visit.total_treatment_minutes is not None:
        return visit.total_treatment_minutes
    total = 0
    for service in services.values():
        if service.minutes is None:
            return None
        total += service.minutes
    return total


def _checked(day: Day) -> tuple[tuple[Finding, ...], tuple[str, ...], tuple[Term, ...]]:
    """Every check made: the findings, the ids of the checks that found nothing, the terms used."""
    findings: list[Finding] = []
    passed: list[str] = []
    for name, check in CHECKS:
        found = check(day)
        if found:
            findings.extend(found)
        elif found is not None:
            passed.append(name)
    used = day.terms.used
    unverified = _unverified(used, day.known.values(), findings)
    if unverified is None:
        passed.append("policy-unverified")
    else:
        findings.append(unverified)
    return tuple(findings), tuple(passed), used


def _unverified(
    terms: Iterable[Term], entries: Iterable[Code | None], findings: Iterable[Finding]
) -> Finding | None:
    """What the suggestion rests on that nobody has read at its source."""
    doubtful: dict[str, Citation] = {
        f"{term.name} of {term.since}": term.citation for term in terms if not term.citation.verified
    }
    for entry in entries:
        if entry is not None and not entry.citation.verified:
            doubtful[f"the entry of {entry.code}"] = entry.citation
    for finding in findings:
        source = finding.source
        if source is not None and not source.verified and source not in doubtful.values():
            doubtful[f"the source of {finding.id}"] = source
    if not doubtful:
        return None
    named = "; ".join(f"{what} ({source.title}, {source.section})" for what, source in doubtful.items())
    says = f"Nobody has checked at its source: {named}."
    first = next(iter(doubtful.values()))
    return Finding("policy-unverified", Status.FAIL, Severity.INFO, says, (), first)
