"""What a launch permits: by the scopes that the EHR granted, and by who signed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..launch.errors import LaunchRefused
from ..launch.issuers import Issuer
from ..launch.scopes import NEEDS, Need, missing
from .roles import Role, Roles, settings_of

PATIENTS = ("Patient/", "RelatedPerson/")


class NotAllowed(LaunchRefused):
    """Somebody may not do what they asked for."""

    status = 403


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why something cannot be done in this launch, and who can change that."""

    message: str
    advice: str


def refuse_patients(fhir_user: str | None) -> None:
    """Quarterhour is for the clinic's staff. Raises ``NotAllowed`` for whom it is not."""
    if fhir_user is not None and fhir_user.startswith(PATIENTS):
        raise NotAllowed(
            "You signed in as a patient or a patient's relative; Quarterhour is for the clinic's staff.",
            advice="Sign in to the EHR with your staff account, then open Quarterhour from the visit.",
        )


def refuse_unreadable(issuer: Issuer, granted: Iterable[str]) -> None:
    """Raises ``NotAllowed`` where the granted scopes do not let a visit be read at all."""
    lacking = [need for need in missing(granted) if need.without == "no-review"]
    if lacking:
        raise NotAllowed(
            f"{issuer.name} did not let Quarterhour read what a review needs: {_listed(lacking)}.",
            advice="Give this message to the administrator of your EHR: these permissions of the app "
            "Quarterhour are missing. Nothing was read.",
        )


def limits(granted: Iterable[str]) -> tuple[Need, ...]:
    """What the review has to do without, each with its reason, though it can be made."""
    return tuple(need for need in missing(granted) if need.without == "incomplete")


def against_signing(issuer: Issuer, granted: Iterable[str], roles: Roles) -> tuple[Obstacle, ...]:
    """Why this person cannot sign off in this launch; empty: they can."""
    return (*_of_scopes(issuer, tuple(granted)), *_of_roles(issuer, roles))


def may_read_audit(roles: Roles) -> bool:
    """Administrators examine the trail; nobody else does in the browser."""
    return Role.ADMINISTRATOR in roles


def _of_scopes(issuer: Issuer, granted: tuple[str, ...]) -> Iterable[Obstacle]:
    lacking = [need for need in missing(granted, _NEEDED_TO_SIGN) if need.without == "read-only"]
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


# Charges are only ever created when signing; to change one later is another matter.
_NEEDED_TO_SIGN = tuple(
    Need(need.level, need.resource, need.interactions.replace("u", ""), need.reason, need.without)
    for need in NEEDS
)


def _deed(need: Need) -> str:
    return "write charges" if "c" in need.interactions else "look for charges that are there already"


def _listed(needs: Iterable[Need]) -> str:
    return ", ".join(need.v2 for need in needs)
