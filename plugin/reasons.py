"""Which finding a reason answers: each finding of a visit has a key of its own, and a reason stands under it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..core.findings import Finding, Status

_REFERENCE = re.compile(r"\b[A-Z][A-Za-z]{2,40}/[A-Za-z0-9\-.]{0,63}[A-Za-z0-9\-]")


@dataclass(frozen=True, slots=True)
class Reasoned:
    """A finding with the reason that answers it, as a decision keeps them."""

    id: str
    codes: tuple[str, ...]
    message: str
    reason: str


def keyed(findings: Iterable[Finding]) -> dict[str, Finding]:
    """Each finding under what it is and what it is about: its id, its codes, the entries that it names.

    The numbers of its sentence are no part of the key, so that a reason outlives a recalculation. Only where
    two findings are about the same (two spans of the same two codes) does a digest of the sentence tell them
    apart: a reason is then asked for again rather than taken for the other's.
    """
    every = [(finding, _about(finding)) for finding in dict.fromkeys(findings)]
    times = Counter(key for _, key in every)
    return {
        key if times[key] == 1 else f"{key} {hashlib.sha256(finding.message.encode()).hexdigest()[:12]}": (
            finding
        )
        for finding, key in every
    }


def _about(finding: Finding) -> str:
    unchecked = ("not-checked",) if finding.status is Status.NOT_CHECKED else ()
    entries = dict.fromkeys(_REFERENCE.findall(finding.message))
    return " ".join((finding.id, *unchecked, *sorted(finding.codes), *entries))


def given(notes: Mapping[str, str], findings: Iterable[Finding]) -> dict[str, str]:
    """The reasons that were given, by the key of the finding that each answers.

    Drafts of before kept one reason for all findings of an id: it still answers the only one of its id.
    """
    found = keyed(findings)
    failed = Counter(finding.id for finding in found.values() if finding.status is Status.FAIL)
    reasons = {}
    for key, finding in found.items():
        alone = finding.status is Status.FAIL and failed[finding.id] == 1
        reason = notes.get(key) or (notes.get(finding.id) if alone else None)
        if reason:
            reasons[key] = reason
    return reasons


def of_all(notes: Mapping[str, str], findings: Iterable[Finding]) -> dict[str, str]:
    """By id, a former draft's reasons for several findings at once. They answer none: which was meant is asked."""
    found = keyed(findings)
    failed = Counter(finding.id for finding in found.values() if finding.status is Status.FAIL)
    return {
        id_: notes[id_] for id_, count in failed.items() if count > 1 and id_ in notes and id_ not in found
    }


def entered(notes: Mapping[str, str], boxes: Mapping[str, str]) -> dict[str, str]:
    """The reasons with what the page's boxes say, by key; an emptied box takes its reason back.

    A former draft's reason for all of an id is let go once its findings have reasons of their own.
    """
    kept = dict(notes)
    for id_ in {key.partition(" ")[0] for key in boxes} - boxes.keys():
        own = [reason for key, reason in boxes.items() if key.partition(" ")[0] == id_]
        if len(own) == 1 or all(own):
            kept.pop(id_, None)
    return {key: reason for key, reason in {**kept, **boxes}.items() if reason}


def reasoned(notes: Mapping[str, str], findings: Iterable[Finding]) -> tuple[Reasoned, ...]:
    """Every finding that was answered, in the findings' order, with its sentence and its reason."""
    every = tuple(findings)
    found = keyed(every)
    return tuple(
        Reasoned(found[key].id, found[key].codes, found[key].message, reason)
        for key, reason in given(notes, every).items()
    )
