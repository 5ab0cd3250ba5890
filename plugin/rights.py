"""What a launch permits: by the scopes that the EHR granted, and by who signed in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from ..core.findings import Finding, Severity, Status
from ..launch.errors import AuthorizationRefused, LaunchRefused
from ..launch.issuers import Issuer
from ..launch.scopes import Need, missing, needs_of
from .roles import Role, Roles, settings_of

# Of the five that fhirUser may name, all but Practitioner and PractitionerRole; however it is spelt.
NOT_STAFF = frozenset({"patient", "relatedperson", "person"})


class NotAllowed(LaunchRefused):
    """Somebody may not do what they asked for."""

    status = 403
    title = "You may not do this here"


class NotYet(LaunchRefused):
    """Something else has to be settled first."""

    status = 409
    title = "Not everything is settled yet"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why something cannot be done in this launch, and who can change that."""

    message: str
    advice: str


def refuse_patients(user_kind: str | None) -> None:
    """Quarterhour is for the clinic's staff. Raises ``NotAllowed`` for whom the EHR says to be somebody else.

    Where it says nothing, or what cannot be told (a page of a user directory), nobody is turned away: such a
    user has no role but what the operator gives, and signs nothing without.
    """
    if user_kind is not None and user_kind.casefold() in NOT_STAFF:
        raise NotAllowed(
            "You signed in as a patient or a patient's relative; Quarterhour is for the clinic's staff.",
            advice="Sign in to the EHR with your staff account, then open Quarterhour from the visit.",
        )


def refuse_without_permission(issuer: Issuer, granted: Iterable[str]) -> None:
    """Raises ``AuthorizationRefused`` where the EHR did not grant what no review can be without."""
    lacking = [need for need in missing(granted) if need.without == "no-review"]
    if lacking:
        names = ", ".join(need.resource for need in lacking)
        raise AuthorizationRefused(
            f"{issuer.name} did not grant Quarterhour to read {names}, and without it no visit can be "
            "reviewed.",
            advice=f"Show your administrator this page: the EHR has to grant {_listed(lacking)}.",
            error="insufficient_scope",
        )


def withheld(issuer: Issuer, granted: Iterable[str]) -> Iterator[Finding]:
    """What the EHR did not grant, told before anything is signed."""
    for need in missing(granted, needs_of(issuer)):
        verb = "read" if set(need.interactions) <= set("rs") else "write"
        yield Finding(
            "scope-withheld",
            Status.NOT_CHECKED,
            Severity.WARNING,
            f"{issuer.name} did not grant Quarterhour to {verb} {need.resource} ({need.v2}), which it "
            f"needs for this: {need.reason}",
        )


def lacks_charge_scopes(issuer: Issuer, granted: Iterable[str]) -> bool:
    """Whether the EHR withheld what charges are written, or looked for, with."""
    return any(need.without == "read-only" for need in missing(granted, _needed_to_sign(issuer)))


def against_signing(
    issuer: Issuer, granted: Iterable[str], roles: Roles, *, into_ehr: bool = True
) -> tuple[Obstacle, ...]:
    """Why this person cannot sign off in this launch; empty: they can.

    Where charges do not go ``into_ehr`` (to billing's interface, a file, a ticket), no scope is needed.
    """
    scopes = _of_scopes(issuer, tuple(granted)) if into_ehr else ()
    return (*scopes, *_of_roles(issuer, roles))


def may_read_audit(roles: Roles) -> bool:
    """Administrators examine the trail; nobody else does in the browser."""
    return Role.ADMINISTRATOR in roles


def _of_scopes(issuer: Issuer, granted: tuple[str, ...]) -> Iterable[Obstacle]:
    lacking = [need for need in missing(granted, _needed_to_sign(issuer)) if need.without == "read-only"]
    if lacking:
        yield Obstacle(
            f"{issuer.name} did not let Quarterhour {' or '.join(map(_deed, lacking))}, "
            "so this visit can be reviewed but not signed off here.",
            "Export or print the charges and enter them in the EHR. To sign off here, ask the administrator "
            f"of your EHR to permit {_listed(lacking)}.",
        )


def _of_roles(issuer: Issuer, roles: Roles) -> Iterable[Obstacle]:
    signers = settings_of(issuer).may_sign
    if Role.ASSISTANT in roles:
        yield Obstacle(
            "You are known here as an assistant. Charges are signed off by a therapist.",
            "Ask the therapist of this visit to open Quarterhour and sign off. If you are a therapist, ask "
            f"your administrator to map you as one for {issuer.name}.",
        )
    elif not roles:
        yield Obstacle(
            f"{issuer.name} does not say whether you are a therapist, so you can review but not sign off.",
            "Ask the administrator of Quarterhour to map you to a role in the issuers file, "
            "then open Quarterhour again.",
        )
    elif not roles & set(signers):
        yield Obstacle(
            f"You are known here as {' and '.join(sorted(roles))}; "
            f"charges are signed off by a {' or '.join(signers)}.",
            "Ask the therapist of this visit to open Quarterhour and sign off.",
        )


def _needed_to_sign(issuer: Issuer) -> tuple[Need, ...]:
    """Charges are only ever created when signing; to change one later is another matter, unless suggestions
    stand in the EHR before review, which signing changes.
    """
    needs = needs_of(issuer)
    return needs if issuer.writing.get("suggest") else _without_updates(needs)


@lru_cache
def _without_updates(needs: tuple[Need, ...]) -> tuple[Need, ...]:
    return tuple(replace(need, interactions=need.interactions.replace("u", "")) for need in needs)


def _deed(need: Need) -> str:
    return "write charges" if "c" in need.interactions else "look for charges that are there already"


def _listed(needs: Iterable[Need]) -> str:
    return ", ".join(need.v2 for need in needs)
