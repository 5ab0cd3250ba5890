"""Quarterhour's own access to an EHR, where no clinician is: SMART Backend Services.

    tokens = Tokens()                                     # one a process, shared between threads
    granted = access(issuer, tokens, http=http, discovered={}, listed=issuers, clock=clock)
    granted.token, granted.scopes, granted.expires_at     # and granted.lacks: what was not granted

After a 401 with it: ``access(..., refused=granted)``, once. A clinician's tokens never come from here, and what
comes from here never signs a clinician's charges off: it is no ``Session``.
https://hl7.org/fhir/smart-app-launch/STU2.2/backend-services.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Lock

import msgspec
import structlog

from .context import same
from .discovery import Endpoints, discover
from .errors import BackendMissing, EhrUnavailable, IssuersInvalid, LaunchRefused, TokenRefused
from .exchange import TokenResponse, error_code, expiry, refuse_unusable
from .http import Http, ask, read_json
from .issuers import Backend, Issuer
from .keys import ASSERTION_TYPE, client_assertion
from .scopes import Need, missing, system_needs, system_scopes

log = structlog.get_logger()

RENEW_BEFORE = timedelta(seconds=30)  # or at half of its life, for a token that lives under a minute
UNSAID = timedelta(minutes=1)  # how long a token is believed in where the EHR does not say
NEVER = datetime.min.replace(tzinfo=UTC)
PAUSE = timedelta(seconds=15)  # after a failure; meanwhile all who ask are given the same error

JSON = {"Accept": "application/json"}
TELL = "Nothing was read. Please check how Quarterhour's backend client is registered with this EHR."
LATER = "It is tried again by itself."
ADVICE = {
    "invalid_client": "The backend client's id or key does not fit the registration. " + TELL,
    "invalid_scope": "The EHR does not permit the system scopes that were asked for. " + TELL,
    "unauthorized_client": "The client is not registered for backend services. " + TELL,
    "unsupported_grant_type": "The EHR offers no backend services. " + TELL,
}


@dataclass(frozen=True)
class Access:
    """A token of Quarterhour's own for one EHR. ``lacks`` is what the EHR did not grant of what was needed.

    Encounter, Patient and Procedure are never among ``lacks``: without them there is no Access.
    """

    token: str = field(repr=False)
    scopes: tuple[str, ...]
    expires_at: datetime
    lacks: tuple[Need, ...] = ()


@dataclass
class _Kept:
    """The state of one issuer; whoever holds ``lock`` may ask its token endpoint."""

    lock: Lock = field(default_factory=Lock)
    access: Access | None = None
    renew_at: datetime = NEVER
    failure: LaunchRefused | None = None
    pause_until: datetime = NEVER


class Introspection(msgspec.Struct):
    """The members of an introspection that we use."""

    active: bool
    scope: str | None = None


class Tokens:
    """The tokens in use, by issuer id: in memory only, since a new one costs one request."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: dict[str, _Kept] = {}

    def of(self, issuer: Issuer) -> _Kept:
        with self._lock:
            return self._kept.setdefault(issuer.id, _Kept())


def access(
    issuer: Issuer,
    tokens: Tokens,
    *,
    http: Http,
    discovered: dict[str, Endpoints],
    listed: Iterable[Issuer],
    clock: Callable[[], datetime],
    refused: Access | None = None,
) -> Access:
    """The token in use, or a new one where there is none, it ends soon, or it is the ``refused`` one.

    However many threads ask, one request is made. Raises ``BackendMissing`` without a ``backend`` table,
    ``TokenRefused`` where the EHR refuses or grants too little, ``DiscoveryFailed`` and ``EhrUnavailable``.
    """
    backend = issuer.backend
    if backend is None:
        raise BackendMissing(
            f"No backend client is set up for {issuer.name}.",
            advice=f"Register one and add a table [issuers.{issuer.id}.backend] to the issuers file.",
        )
    kept = tokens.of(issuer)
    with kept.lock:
        now = clock()
        if kept.access and now < kept.renew_at and not (refused and same(kept.access.token, refused.token)):
            return kept.access
        if kept.failure and now < kept.pause_until:
            raise kept.failure.with_traceback(None)
        try:
            kept.access = _ask_for_access(issuer, backend, http, discovered, listed, now)
        except LaunchRefused as error:
            kept.access, kept.failure, kept.pause_until = None, error, now + PAUSE
            raise
        life = kept.access.expires_at - now
        kept.renew_at, kept.failure = now + max(life - RENEW_BEFORE, life / 2), None
        return kept.access


def _ask_for_access(
    issuer: Issuer,
    backend: Backend,
    http: Http,
    discovered: dict[str, Endpoints],
    listed: Iterable[Issuer],
    now: datetime,
) -> Access:
    """A new token (https://hl7.org/fhir/smart-app-launch/STU2.2/backend-services.html#obtain-access-token)."""
    asked = system_scopes(issuer, backend)
    try:
        endpoints = discover(issuer, http, now, discovered, listed=listed)
        form = {
            "grant_type": "client_credentials",
            "scope": " ".join(asked),
            **_proof(issuer, backend, endpoints, now),
        }
        response = ask(http, "POST", endpoints.token, data=form, headers=JSON)
    except EhrUnavailable as error:
        raise EhrUnavailable(error.message, advice=LATER) from None
    if response.status_code != 200:  # noqa: PLR2004
        code = error_code(response)
        raise _refused(issuer, f"HTTP {response.status_code}, {code}", code)
    try:
        answer = read_json(response, TokenResponse)
        refuse_unusable(answer)
    except ValueError as error:
        raise _refused(issuer, f"its answer cannot be used: {error}", "invalid_response") from None
    said = answer.scope
    if said is None and endpoints.introspection is not None:
        proof = _proof(issuer, backend, endpoints, now)
        said = introspected_scope(endpoints.introspection, answer.access_token, proof, http=http)
    # Where nobody says, all that was asked for is granted (RFC 6749 5.1).
    granted = asked if said is None else tuple(dict.fromkeys(said.split()))
    lacks = missing(granted, system_needs(issuer, backend))
    if vital := [need for need in lacks if need.without == "no-review"]:
        names = ", ".join(need.v1 if issuer.scope_syntax == "v1" else need.v2 for need in vital)
        raise _refused(issuer, f"without {names}", "invalid_scope")
    log.info("backend_access", issuer=issuer.id, lacks=[need.v2 for need in lacks])
    return Access(answer.access_token, granted, expiry(answer, now) or now + UNSAID, lacks)


def introspected_scope(endpoint: str, token: str, proof: dict[str, str], *, http: Http) -> str | None:
    """What the EHR says that a token of ours is good for; "" where it is good for nothing, None where it is unsaid.

    Asked once a token and never before a request: https://www.rfc-editor.org/rfc/rfc7662#section-2
    """
    try:
        response = ask(http, "POST", endpoint, data={"token": token, **proof}, headers=JSON)
        told = read_json(response, Introspection) if response.status_code == 200 else None  # noqa: PLR2004
    except (EhrUnavailable, ValueError) as error:
        log.warning("not_introspected", why=type(error).__name__)
        return None
    if told is None or not told.active:
        return None if told is None else ""
    return told.scope


def _proof(issuer: Issuer, backend: Backend, endpoints: Endpoints, now: datetime) -> dict[str, str]:
    """Form members that say who we are, made anew for each request; they name the token endpoint everywhere."""
    try:
        key = issuer.backend_signing_key()
    except IssuersInvalid as error:
        log.warning("credential_missing", issuer=issuer.id, problems=error.problems)
        raise _refused(issuer, "Quarterhour's own key cannot be read", "own_credential") from None
    assertion = client_assertion(
        key, client_id=backend.client_id, token_endpoint=endpoints.token, now=now, jku=backend.jku
    )
    return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}


def _refused(issuer: Issuer, why: str, code: str) -> TokenRefused:
    log.warning("backend_access_refused", issuer=issuer.id, error=code)
    return TokenRefused(
        f"{issuer.name} gave Quarterhour itself no access ({why}).",
        advice=ADVICE.get(code, TELL),
        error=code,
    )
