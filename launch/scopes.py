"""What we ask an EHR for, each scope with its reason; and what is lacking in what it granted.

https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from .issuers import Backend, BackendPurpose, Issuer

INTERACTIONS = "cruds"  # in the order that SMART v2 demands
V1_INTERACTIONS = {"read": "rs", "write": "cud", "*": INTERACTIONS}


@dataclass(frozen=True)
class Need:
    """One resource scope: what for, and what is lost without it."""

    level: Literal["patient", "user", "system"]
    resource: str
    interactions: str  # letters of INTERACTIONS
    reason: str
    without: Literal["no-review", "incomplete", "read-only"]

    @property
    def v2(self) -> str:
        return f"{self.level}/{self.resource}.{self.interactions}"

    @property
    def v1(self) -> str:
        return f"{self.level}/{self.resource}.{'read' if set(self.interactions) <= set('rs') else 'write'}"


READING = (
    Need("patient", "Patient", "r", "Shows whose visit is reviewed.", "no-review"),
    Need("patient", "Encounter", "rs", "Finds the visit, its place and its date of service.", "no-review"),
    Need("patient", "Procedure", "rs", "Gives the services of the day and their minutes.", "no-review"),
    Need("patient", "Coverage", "rs", "Tells the payer, whose policy counts the units.", "incomplete"),
    Need("patient", "ChargeItem", "rs", "Finds what is already charged, so nothing is twice.", "read-only"),
    Need("user", "Practitioner", "r", "Tells who signs off.", "incomplete"),
    Need(
        "user", "PractitionerRole", "rs", "Tells therapist from assistant, and the discipline.", "incomplete"
    ),
)
MINUTES = Need(
    "patient",
    "Observation",
    "rs",
    "Gives the minutes where this EHR keeps them in Observations.",
    "incomplete",
)
PAYER = Need(
    "user",
    "Organization",
    "r",
    "Gives the payer's identifier, where a rule of the site chooses the policy by it.",
    "incomplete",
)
CHARGES = (
    Need("user", "ChargeItem", "cu", "Writes the charges that the clinician signed off.", "read-only"),
)
# By the issuer's way out (``writing.way``): what hands charges to billing's own interface writes no FHIR.
WRITING: dict[str, tuple[Need, ...]] = {
    "auto": CHARGES,
    "charge-item": CHARGES,
    "transaction": CHARGES,
    "oracle": (
        Need("user", "ChargeItem", "c", "Sends the charges that the clinician signed off.", "read-only"),
    ),
    "claim": (
        Need("user", "Claim", "rs", "Finds the draft Claim, so that none is written twice.", "read-only"),
        Need("user", "Claim", "cu", "Writes what the clinician signed off as a draft Claim.", "read-only"),
    ),
    "dft": (),
    "dft-file": (),
    "csv": (),
    "ticket": (),
}
NEEDS = (*READING, *CHARGES)  # what an EHR without settings of its own is asked for


def needs_of(issuer: Issuer) -> tuple[Need, ...]:
    """What this EHR is asked for: reading, also what its site settings rest on, and writing by its way."""
    return (*READING, *_of_site(issuer), *WRITING[issuer.writing.get("way", "auto")])


def _of_site(issuer: Issuer) -> Iterator[Need]:
    if issuer.site.get("minutes_observations"):
        yield MINUTES
    payers = [str(rule.get("payer") or "") for rule in issuer.site.get("policies", ())]
    # The same test as that of fhir/chart.py, which reads the payer only then.
    if any(payer and not payer.startswith("Organization/") for payer in payers):
        yield PAYER


# What Quarterhour asks for itself, where no clinician is: reading always, the rest only for its purpose.
SYSTEM_NEEDS: dict[Literal["reading"] | BackendPurpose, tuple[Need, ...]] = {
    "reading": (
        Need("system", "Encounter", "rs", "Finds visits that have ended.", "no-review"),
        Need("system", "Patient", "r", "Shows whose visit waits on the worklist.", "no-review"),
        Need("system", "Procedure", "rs", "Gives the services of the day and their minutes.", "no-review"),
        Need("system", "Coverage", "rs", "Tells the payer, whose policy counts the units.", "incomplete"),
        Need("system", "ChargeItem", "rs", "Finds what is already charged, so nothing is twice.", "incomplete"),
        Need("system", "Practitioner", "r", "Names who treated.", "incomplete"),
        Need("system", "PractitionerRole", "rs", "Tells therapist from assistant, and the discipline.", "incomplete"),
    ),
    "planned-charges": (
        Need("system", "ChargeItem", "cu", "Writes suggestions as planned ChargeItems.", "read-only"),
    ),
    "subscriptions": (
        Need("system", "Subscription", "rs", "Sees whether the EHR still sends notifications.", "read-only"),
        Need("system", "Subscription", "cud", "Asks the EHR to tell when a visit ends.", "read-only"),
    ),
}  # fmt: skip

IDENTITY = {
    "openid": "Proves who signed in.",
    "fhirUser": "Links the one who signed in to the EHR's practitioner.",
}
CONTEXT = {
    "launch": "Takes patient and visit from the chart it was opened from.",
    "launch/patient": "Lets the clinician choose a patient where it was opened outside a chart.",
    "launch/encounter": "Lets the clinician choose a visit where it was opened outside a chart.",
}
REFRESH = {
    "online_access": "Keeps the review open while the clinician is signed in to the EHR.",
    "offline_access": "Keeps the review open where the EHR offers no online_access.",
}


def scopes_for(issuer: Issuer, *, ehr_launch: bool, capabilities: Collection[str]) -> tuple[str, ...]:
    """The scopes to ask for: the operator's own list if there is one, else the table in the EHR's syntax.

    A launch scope is always one of ours, because it follows from the kind of launch.
    """
    if ehr_launch:
        context = ["launch"]
    else:
        context = ["launch/patient"]
        if "context-standalone-encounter" in capabilities:
            context.append("launch/encounter")
    if issuer.scopes is not None:
        return tuple(dict.fromkeys([*context, *(scope for scope in issuer.scopes if scope not in CONTEXT)]))
    refresh = [] if issuer.refresh == "none" else [f"{issuer.refresh}_access"]
    resources = [need.v1 if issuer.scope_syntax == "v1" else need.v2 for need in needs_of(issuer)]
    return tuple(dict.fromkeys([*context, *IDENTITY, *refresh, *resources]))


def system_needs(issuer: Issuer, backend: Backend) -> tuple[Need, ...]:
    """What a backend client needs for what the operator has it do, and what the site settings rest on."""
    of_site = (replace(need, level="system") for need in _of_site(issuer))
    also = (need for purpose in backend.also_for for need in SYSTEM_NEEDS[purpose])
    return (*SYSTEM_NEEDS["reading"], *of_site, *also)


def system_scopes(issuer: Issuer, backend: Backend) -> tuple[str, ...]:
    """The operator's own list if there is one, else the table in the EHR's syntax; no wildcard, no user."""
    if backend.scopes is not None:
        return backend.scopes
    needs = system_needs(issuer, backend)
    return tuple(dict.fromkeys(need.v1 if issuer.scope_syntax == "v1" else need.v2 for need in needs))


@dataclass(frozen=True)
class Grant:
    """A resource scope as granted, v1 or v2. ``query`` is the part of a fine-grained scope after ``?``."""

    level: str
    resource: str
    interactions: frozenset[str]
    query: str


_RESOURCE_SCOPE = re.compile(
    r"(?P<level>patient|user|system)/(?P<resource>\*|[A-Z][A-Za-z]*)"
    r"\.(?P<interactions>read|write|\*|c?r?u?d?s?)(\?(?P<query>.*))?"
)


@lru_cache(maxsize=1024)
def resource_scope(scope: str) -> Grant | None:
    """A resource scope read; None for any other scope (``openid``, ``launch``, a vendor's own)."""
    match = _RESOURCE_SCOPE.fullmatch(scope)
    if match is None or not match["interactions"]:
        return None
    letters = V1_INTERACTIONS.get(match["interactions"], match["interactions"])
    return Grant(match["level"], match["resource"], frozenset(letters), match["query"] or "")


def missing(granted: Iterable[str], needed: Iterable[Need] = NEEDS) -> tuple[Need, ...]:
    """The needs that the granted scopes do not cover in full.

    ``patient/`` and ``user/`` count alike, as we read and write one patient's data for one user; ``system/``
    counts for Quarterhour's own needs and for nothing else. A scope narrowed by a query (``?category=...``)
    covers nothing here: with part of the day's services hidden the units would come out too low, and
    nothing would show it.
    """
    return _missing(tuple(granted), tuple(needed))


@lru_cache(maxsize=256)  # every page of a launch asks the same questions
def _missing(granted: tuple[str, ...], needed: tuple[Need, ...]) -> tuple[Need, ...]:
    grants = [grant for grant in map(resource_scope, granted) if grant and not grant.query]
    return tuple(need for need in needed if not set(need.interactions) <= _letters(grants, need))


def _letters(grants: Iterable[Grant], need: Need) -> set[str]:
    own = need.level == "system"
    fitting = (g for g in grants if (g.level == "system") == own and g.resource in {"*", need.resource})
    return set().union(*(grant.interactions for grant in fitting))
