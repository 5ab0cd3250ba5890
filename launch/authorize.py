"""The first half of a launch: from a known issuer to the address the browser is sent to.

https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#obtain-authorization-code
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import field
from datetime import datetime, timedelta
from urllib.parse import parse_qsl, quote, urlencode

import structlog
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from pydantic import AwareDatetime, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from .context import STORED
from .discovery import Endpoints
from .errors import BadRequest, StateInvalid
from .issuers import Issuer, server_of
from .scopes import scopes_for

log = structlog.get_logger()

SIGN_IN_WITHIN = timedelta(minutes=10)
LONGEST_LAUNCH = 4096
LONGEST_ADDRESS = 2000  # what servers and proxies in between are sure to take


@dataclass(frozen=True, config=STORED)
class Pending:
    """A launch that waits for the browser to come back: kept on the server, used once.

    Holds all that the callback needs, so that nothing is derived from the callback's own words.
    ``iss`` is as received, and sent on as ``aud``. ``browser`` is the id of the browser it began in.
    """

    state: str = field(repr=False)
    code_verifier: str = field(repr=False)
    nonce: str = field(repr=False)
    iss: str
    launch: str | None = field(repr=False)
    authorization_endpoint: str
    token_endpoint: str
    revocation_endpoint: str | None
    jwks_uri: str
    authorization_server: str | None
    names_itself_in_the_answer: bool
    id_token_issuer: str
    redirect_uri: str
    scopes: tuple[str, ...]
    browser: str = field(repr=False)
    expires_at: AwareDatetime

    def to_json(self) -> str:
        """With its verifier in clear: to be encrypted before it is stored."""
        return _PENDING.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Pending:
        """Raises ``StateInvalid`` for anything but what ``to_json`` of this version wrote."""
        try:
            return _PENDING.validate_json(text)
        except ValidationError:
            raise StateInvalid(
                "The stored beginning of this launch cannot be read.",
                advice="Open Quarterhour again from the patient's chart.",
            ) from None


_PENDING = TypeAdapter(Pending)


def only(params: Mapping[str, Sequence[str]], name: str) -> str | None:
    """The value of a parameter that may be given once; ``BadRequest`` if it is given twice."""
    values = params.get(name, [])
    if len(values) > 1:
        raise BadRequest(
            f"The parameter {name} was given {len(values)} times.",
            advice="Open Quarterhour again from the patient's chart.",
        )
    return values[0] if values else None


def launch_request(params: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """``iss`` and ``launch`` of an EHR launch, each exactly once; ``BadRequest`` otherwise.

    https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#launch-app-ehr-launch
    """
    iss, launch = only(params, "iss"), only(params, "launch")
    for name, value in (("iss", iss), ("launch", launch)):
        if not value:
            raise BadRequest(
                f"The EHR opened Quarterhour without saying {name}.",
                advice="Open it from the patient's chart, not by a bookmark; if you did, "
                "tell the administrator of the EHR that the launch address lacks it.",
            )
        if len(value) > LONGEST_LAUNCH or not value.isprintable():
            raise BadRequest(
                f"The EHR opened Quarterhour with a {name} that is too long or damaged.",
                advice="Open Quarterhour again from the patient's chart.",
            )
    return iss or "", launch or ""


def begin(
    issuer: Issuer,
    endpoints: Endpoints,
    *,
    launch: str | None,
    redirect_uri: str,
    browser: str,
    now: datetime,
    iss: str | None = None,
) -> tuple[Pending, str]:
    """A pending launch, and where to send the browser. ``launch`` is None for a standalone launch.

    Pass the ``iss`` as it was received: it goes back as ``aud`` letter for letter.
    """
    iss = issuer.iss if iss is None else iss
    if server_of(iss) != server_of(issuer.iss):
        raise ValueError("iss is not the issuer's")  # the caller did not match it; no person can help
    pending = Pending(
        state=secrets.token_urlsafe(32),
        code_verifier=secrets.token_urlsafe(64),
        nonce=secrets.token_urlsafe(32),
        iss=iss,
        launch=launch,
        authorization_endpoint=endpoints.authorize,
        token_endpoint=endpoints.token,
        revocation_endpoint=endpoints.revocation,
        jwks_uri=endpoints.jwks_uri,
        authorization_server=endpoints.issuer,
        names_itself_in_the_answer=endpoints.names_itself_in_the_answer,
        id_token_issuer=endpoints.id_token_issuer,
        redirect_uri=redirect_uri,
        scopes=scopes_for(issuer, ehr_launch=launch is not None, capabilities=endpoints.capabilities),
        browser=browser,
        expires_at=now + SIGN_IN_WITHIN,
    )
    parameters = {
        "response_type": "code",
        "client_id": issuer.client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(pending.scopes),
        "state": pending.state,
        "aud": iss,
        "nonce": pending.nonce,
        "code_challenge": create_s256_code_challenge(pending.code_verifier),
        "code_challenge_method": "S256",
    }
    if launch is not None:
        parameters["launch"] = launch
    log.info("launch_began", issuer=issuer.id, standalone=launch is None)
    joint = "&" if "?" in endpoints.authorize else "?"
    return pending, f"{endpoints.authorize}{joint}{urlencode(parameters, quote_via=quote, safe='')}"


def as_form(address: str, endpoints: Endpoints) -> tuple[str, list[tuple[str, str]]] | None:
    """The request as a form, its action and its fields: where the address is long and the EHR takes POST.

    https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#request-4 (capability ``authorize-post``)
    """
    if len(address) <= LONGEST_ADDRESS or "authorize-post" not in endpoints.capabilities:
        return None
    parameters = address.removeprefix(endpoints.authorize)[1:]
    return endpoints.authorize, parse_qsl(parameters, keep_blank_values=True)
