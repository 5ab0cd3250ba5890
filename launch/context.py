"""What a finished launch hands on: the context the EHR gave, who signed in, and the tokens."""

from __future__ import annotations

import hmac
import re
from dataclasses import field
from datetime import datetime, timedelta
from typing import Any

import msgspec
from pydantic import AwareDatetime, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from .errors import SessionEnded

# Read back as strictly as if it came from outside: a row of another version is refused, not patched up.
# Inputs are kept out of pydantic's messages, because they hold tokens.
STORED = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

FHIR_ID = re.compile(r"(?!\.+$)[A-Za-z0-9\-._]{1,64}")
LONGEST_APP_CONTEXT = 2000
REFRESH_BEFORE = timedelta(seconds=60)


def same(a: str, b: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(a.encode("utf-8", "backslashreplace"), b.encode("utf-8", "backslashreplace"))


@dataclass(frozen=True, config=STORED)
class ContextItem:
    """One entry of ``fhirContext`` whose role is ``launch`` (others are not for us).

    https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html#fhircontext
    """

    reference: str | None = None
    canonical: str | None = None
    type: str | None = None


class _AppContext(msgspec.Struct):
    encounter: str


def app_context(encounter: str) -> str:
    """What a link or a Task of ours has an EHR carry, so that the launch it leads to opens that visit.

    https://cds-hooks.hl7.org/2.0/#link and
    https://hl7.org/fhir/smart-app-launch/STU2.2/task-launch.html
    """
    return msgspec.json.encode(_AppContext(encounter)).decode()


def encounter_in(carried: Any) -> str | None:
    """The visit that an ``appContext`` names; None for one that is not of our making."""
    if not isinstance(carried, str) or len(carried) > LONGEST_APP_CONTEXT:
        return None
    try:
        named = msgspec.json.decode(carried, type=_AppContext).encounter
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return named if FHIR_ID.fullmatch(named) else None


@dataclass(frozen=True, config=STORED)
class LaunchContext:
    """What the token response said about the launch; never anything from an address.

    ``iss`` is the FHIR base as the operator configured it. ``patient`` and ``encounter`` are FHIR ids;
    where the launch came by a link or Task of ours, ``encounter`` is the visit that it named.
    ``fhir_user`` is a relative reference on this server (``Practitioner/7``), or an absolute address
    elsewhere, to which no token may be sent. ``scopes`` are the granted ones.
    """

    iss: str
    patient: str | None
    encounter: str | None
    fhir_user: str | None
    scopes: tuple[str, ...]
    need_patient_banner: bool
    smart_style_url: str | None = None
    intent: str | None = None
    tenant: str | None = None
    fhir_context: tuple[ContextItem, ...] = ()


@dataclass(frozen=True, config=STORED)
class Identity:
    """Who signed in, from a verified id_token. ``(issuer, sub)`` is the user; ``name`` is for show only.

    ``roles`` are the values of the claim that the operator named, if any. ``user_kind`` is the type of record
    that the EHR named as the user, on whatever server: "Patient", also where ``fhir_user`` could not be read.
    """

    issuer: str
    sub: str
    fhir_user: str | None
    name: str | None
    roles: tuple[str, ...] = ()
    user_kind: str | None = None


@dataclass(frozen=True, config=STORED)
class Session:
    """A finished launch: the only value with which an EHR can be read.

    ``expires_at`` is None where the EHR did not say; then a 401 is the sign. Without ``refresh_token``
    (usual for public clients) the clinician launches again. The endpoints are those of this launch.
    """

    access_token: str = field(repr=False)
    token_type: str
    expires_at: AwareDatetime | None
    refresh_token: str | None = field(repr=False)
    id: Identity
    context: LaunchContext
    token_endpoint: str
    revocation_endpoint: str | None

    def expires_soon(self, now: datetime) -> bool:
        """Whether the access token has under a minute left, so that a refresh is due."""
        return self.expires_at is not None and self.expires_at - now < REFRESH_BEFORE

    def to_json(self) -> str:
        """With its tokens in clear: to be encrypted before it is stored."""
        return _SESSION.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Session:
        """Raises ``SessionEnded`` for anything but what ``to_json`` of this version wrote."""
        try:
            return _SESSION.validate_json(text)
        except ValidationError:
            raise SessionEnded(
                "The stored session of this launch cannot be read.",
                advice="Open Quarterhour again from the patient's chart.",
            ) from None


_SESSION = TypeAdapter(Session)
