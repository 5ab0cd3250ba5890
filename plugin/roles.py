"""Who somebody is here: therapist, assistant, biller or administrator, as the operator or the EHR says.

The user is ``(issuer, sub)``; a display name decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from zoneinfo import ZoneInfo

import msgspec

from ..fhir.errors import EhrError
from ..fhir.performers import by_taxonomy, role_outside
from ..fhir.server import Server
from ..fhir.site import PractitionerFacts
from ..fhir.views import PractitionerRole, bare, resource_from
from ..launch.context import Identity
from ..launch.errors import IssuersInvalid
from ..launch.issuers import Issuer


class Role(StrEnum):
    """What somebody may be mapped to."""

    THERAPIST = "therapist"
    ASSISTANT = "assistant"
    BILLER = "biller"
    ADMINISTRATOR = "administrator"


Roles = frozenset[Role]
OneOrMore = Role | tuple[Role, ...]


class RoleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table ``[issuers.NAME.roles]``. The first of users, subjects, claims and codes that knows decides.

    Without any entry, the EHR's PractitionerRole is believed: NUCC's codes for PT, OT and SLP are
    therapists, those for their assistants are assistants.
    """

    users: dict[str, OneOrMore] = {}  # by fhirUser: "Practitioner/7"
    subjects: dict[str, OneOrMore] = {}  # by the id_token's sub, for users without a Practitioner
    claims: dict[str, OneOrMore] = {}  # by a value of the claim that role_claim names
    codes: dict[str, OneOrMore] = {}  # by "system|code" of PractitionerRole.code or .specialty
    may_sign: tuple[Role, ...] = (Role.THERAPIST,)


def settings_of(issuer: Issuer) -> RoleSettings:
    """The issuer's table. Raises ``IssuersInvalid`` for what does not fit, to be found at start."""
    where = f"issuers.{issuer.id}.roles"
    try:
        settings = msgspec.convert(issuer.roles, RoleSettings)
    except msgspec.ValidationError as error:
        raise IssuersInvalid([f"{where}: {error}"]) from None
    if Role.ASSISTANT in settings.may_sign:
        raise IssuersInvalid([f"{where}.may_sign: an assistant does not sign off charges"])
    if settings.claims and not issuer.role_claim:
        raise IssuersInvalid([f"{where}.claims: set role_claim of the issuer, which names the claim"])
    return settings


def roles_of(
    issuer: Issuer, user: Identity, known: Iterable[PractitionerRole] = (), *, now: datetime
) -> Roles:
    """The roles of a user; ``known`` are PractitionerRoles as read, of anybody. Empty: nothing tells.

    A PractitionerRole counts from the first to the last day of its period, where the EHR is.
    """
    settings = settings_of(issuer)
    told = _all([settings.users.get(user.fhir_user or ""), settings.subjects.get(user.sub)])
    told = told or _all(settings.claims.get(word) for word in user.roles)
    if told or user.fhir_user is None:
        return told
    facts = issuer.site.get("practitioners", {}).get(user.fhir_user)
    if facts is not None:
        return _therapist_or_assistant([msgspec.convert(facts, PractitionerFacts).assistant])
    zone = ZoneInfo(issuer.time_zone)
    today = now.astimezone(zone).date()
    own = [
        role
        for role in known
        if _is_of(role, user.fhir_user, issuer.base) and role_outside(role, today, zone) is None
    ]
    concepts = [concept for role in own for concept in (*(role.code or ()), *(role.specialty or ()))]
    coded = _all(
        settings.codes.get(f"{coding.system}|{coding.code}")
        for concept in concepts
        for coding in concept.codings
    )
    return coded or _therapist_or_assistant(assistant for _, assistant in by_taxonomy(concepts))


def read_role(server: Server, fhir_user: str | None) -> tuple[PractitionerRole, ...]:
    """The role of a user who is signed in as one (``PractitionerRole/3``); else, or unreadable, none."""
    if fhir_user is None or not fhir_user.startswith("PractitionerRole/"):
        return ()
    try:
        role = resource_from(server.read(fhir_user), PractitionerRole)
    except EhrError:
        return ()
    return (role,) if isinstance(role, PractitionerRole) and role.reference == fhir_user else ()


def _all(found: Iterable[OneOrMore | None]) -> Roles:
    return frozenset(
        role for each in found if each is not None for role in ((each,) if isinstance(each, Role) else each)
    )


def _therapist_or_assistant(assistants: Iterable[bool]) -> Roles:
    return frozenset(Role.ASSISTANT if assistant else Role.THERAPIST for assistant in assistants)


def _is_of(role: PractitionerRole, user: str, base: str) -> bool:
    """An inactive role, or one with a modifier that we do not understand, makes nobody anything."""
    if role.active is False or role.may_mean_otherwise:
        return False
    return user in {role.reference, bare(role.practitioner, base)}
