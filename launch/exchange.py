"""The second half of a launch: from the callback to a session; and the session's later life.

https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#obtain-access-token
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from datetime import datetime, timedelta
from threading import Thread
from typing import Any
from urllib.parse import quote

import msgspec
import structlog

from .authorize import Pending, only
from .context import FHIR_ID, ContextItem, LaunchContext, Session, encounter_in, same
from .discovery import Endpoints
from .errors import (
    AuthorizationRefused,
    BadRequest,
    EhrUnavailable,
    IssuersInvalid,
    LaunchRefused,
    SessionEnded,
    StateInvalid,
    TokenRefused,
)
from .http import Http, Proof, ask, read_json, warm
from .identity import FRESH, signing_keys, verify
from .issuers import Issuer, origin_of, server_of
from .keys import ASSERTION_LIFETIME, ASSERTION_TYPE, client_assertion

log = structlog.get_logger()

AGAIN = "Open Quarterhour again from the patient's chart."
TELL = "Please give this message to the administrator of Quarterhour."
LONGEST_EXPIRY = 24 * 3600  # seconds; a longer promise is only believed for a day
LONGEST_WORD = 255
LONGEST_CODE = 4096

_ERROR_CODE = re.compile(r"[a-z_]{1,40}")
_VISIBLE = re.compile(r"[\x21-\x7e]+")

AUTHORIZATION_ADVICE = {
    "access_denied": "Access was declined or your EHR account may not use Quarterhour. " + AGAIN,
    "invalid_scope": "The EHR does not permit what was asked for. " + TELL,
    "unauthorized_client": "Quarterhour is not registered for this EHR. " + TELL,
    "invalid_client": "Quarterhour is not registered for this EHR. " + TELL,
    "invalid_request": "The EHR did not accept the launch. " + TELL,
    "login_required": "Sign in to the EHR. " + AGAIN,
    "server_error": "The EHR had a fault of its own. Wait a minute. " + AGAIN,
    "temporarily_unavailable": "The EHR is busy. Wait a minute. " + AGAIN,
}
TOKEN_ADVICE = {
    "invalid_client": "The client id, secret or key does not fit the registration. " + TELL,
    "invalid_grant": "The sign-in was used already or took too long. " + AGAIN,
    "invalid_scope": "The EHR does not permit what was asked for. " + TELL,
    "unauthorized_client": "Quarterhour is not registered for this kind of launch. " + TELL,
}


class TokenResponse(msgspec.Struct):
    """What we use of a token response. Core members are typed; the rest is read with tolerance."""

    access_token: str
    token_type: str
    expires_in: Any = None
    scope: str | None = None
    refresh_token: str | None = None
    id_token: str | None = None
    patient: str | None = None
    encounter: str | None = None
    need_patient_banner: Any = None
    smart_style_url: Any = None
    intent: Any = None
    tenant: Any = None
    fhir_context: Any = msgspec.field(name="fhirContext", default=None)
    app_context: Any = msgspec.field(name="appContext", default=None)


def prepare(
    issuer: Issuer, endpoints: Endpoints, *, http: Http, now: datetime, reads: int
) -> tuple[Thread, ...]:
    """Uses the time at the authorization page: connections for the token and the reads, and the signing keys.

    ``reads`` is how many reads will run side by side. Afterwards ``complete`` needs one round trip. What is
    there already is not asked for again. A signature takes milliseconds, so that is made now too.
    """
    threads = [
        *_warm_for_reads(issuer, http, reads),
        _fetch_keys_aside(endpoints.jwks_uri, issuer=issuer, http=http, now=now),
        _sign_aside(endpoints.token, issuer=issuer, http=http, now=now),
    ]
    if origin_of(endpoints.token) != origin_of(issuer.iss):
        same = origin_of(endpoints.jwks_uri) == origin_of(endpoints.token)
        threads += warm(http, endpoints.jwks_uri if same else endpoints.token, 1)
    return tuple(threads)


def _sign_aside(token_endpoint: str, *, issuer: Issuer, http: Http, now: datetime) -> Thread:
    def sign() -> None:
        if issuer.client_auth == "private_key_jwt":
            with suppress(TokenRefused):  # told when it is needed
                http.proofs[token_endpoint] = Proof(*client_authentication(issuer, token_endpoint, now), now)

    return _aside(sign)


def _fetch_keys_aside(jwks_uri: str, *, issuer: Issuer, http: Http, now: datetime) -> Thread:
    def fetch_keys() -> None:
        try:
            signing_keys(jwks_uri, http=http, now=now, fresh=FRESH / 2)
        except LaunchRefused as error:
            log.info("keys_not_prefetched", issuer=issuer.id, why=type(error).__name__)

    return _aside(fetch_keys)


def _aside(do: Callable[[], None]) -> Thread:
    thread = Thread(target=copy_context().run, args=(do,), daemon=True)
    thread.start()
    return thread


def _warm_for_reads(issuer: Issuer, http: Http, reads: int) -> tuple[Thread, ...]:
    return warm(http, f"{issuer.base}/.well-known/smart-configuration", reads)


def state_in(params: Mapping[str, Sequence[str]]) -> str:
    """The state by which the pending launch is looked up; ``StateInvalid`` where there is none."""
    state = only(params, "state")
    if not state:
        raise unknown_state()
    return state


def unknown_state() -> StateInvalid:
    """For a state that leads to no pending launch: never ours, used before, or cleared away."""
    return StateInvalid("This answer from the EHR belongs to no launch that is waiting.", advice=AGAIN)


def complete(
    pending: Pending,
    issuer: Issuer,
    params: Mapping[str, Sequence[str]],
    *,
    browser: str,
    http: Http,
    now: datetime,
    reads: int = 0,
) -> Session:
    """The session that a callback leads to, or why there is none.

    The caller has taken ``pending`` out of its store by the state, so that it cannot be used again.
    ``params`` is the callback's query. No request is made before all of the callback is checked. ``reads`` is
    how many reads will follow side by side.
    """
    code = _checked_code(pending, issuer, params, browser=browser, now=now)
    # Once more, while the token is asked for: another process may have begun this launch, or the EHR may have
    # closed the connections meanwhile.
    kept = http.signing_keys.get(pending.jwks_uri)
    keys = (
        None
        if kept and now - kept.fetched_at < FRESH / 2
        else _fetch_keys_aside(pending.jwks_uri, issuer=issuer, http=http, now=now)
    )
    # The token's own connection will be one of them, where it is the same server's.
    others = reads - 1 if origin_of(pending.token_endpoint) == origin_of(issuer.iss) else reads
    answer = _ask_for_token(
        issuer,
        pending.token_endpoint,
        {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": pending.redirect_uri,
            "code_verifier": pending.code_verifier,
        },
        http=http,
        now=now,
        meanwhile=lambda: _warm_for_reads(issuer, http, others),
    )
    if keys is not None:
        keys.join()
    identity = verify(
        answer.id_token,
        issuer=issuer,
        expected_issuer=pending.id_token_issuer,
        nonce=pending.nonce,
        jwks_uri=pending.jwks_uri,
        http=http,
        now=now,
    )
    return Session(
        access_token=answer.access_token,
        token_type="Bearer",  # noqa: S106  # not a secret
        expires_at=expiry(answer, now),
        refresh_token=answer.refresh_token,
        id=identity,
        context=_context(answer, issuer, fhir_user=identity.fhir_user, asked=pending.scopes),
        token_endpoint=pending.token_endpoint,
        revocation_endpoint=pending.revocation_endpoint,
    )


def _checked_code(
    pending: Pending, issuer: Issuer, params: Mapping[str, Sequence[str]], *, browser: str, now: datetime
) -> str:
    """The code, once state, browser, answering server, error and time allow it, in this order.

    The error of the EHR comes after the first three, so that nobody can put words on our page by a link.
    """
    if not same(state_in(params), pending.state) or server_of(pending.iss) != server_of(issuer.iss):
        raise unknown_state()
    if not same(browser, pending.browser):
        log.warning("state_from_another_browser", issuer=issuer.id)
        raise StateInvalid("This launch was begun in another browser or window.", advice=AGAIN)
    answering = only(params, "iss")
    if answering is None and pending.names_itself_in_the_answer:
        raise StateInvalid("The EHR did not name itself in its answer, as it said it would.", advice=TELL)
    if answering is not None and answering != (pending.authorization_server or pending.id_token_issuer):
        log.warning("answer_from_another_issuer", issuer=issuer.id)
        raise StateInvalid("The answer came from another server than the launch went to.", advice=TELL)
    if (error := only(params, "error")) is not None:
        raise _authorization_refused(issuer, error, only(params, "error_description"))
    if now >= pending.expires_at:
        raise StateInvalid("Signing in took longer than ten minutes.", advice=AGAIN)
    code = only(params, "code")
    if not code or len(code) > LONGEST_CODE or not (code.isascii() and code.isprintable()):
        raise BadRequest("The EHR's answer holds no code.", advice=AGAIN)
    return code


def _authorization_refused(issuer: Issuer, error: str, description: str | None) -> AuthorizationRefused:
    code = error if _ERROR_CODE.fullmatch(error) else "unknown"
    log.warning("authorization_refused", issuer=issuer.id, error=code)
    says = "".join(letter for letter in (description or "")[:300] if letter.isprintable()).strip()
    return AuthorizationRefused(
        f"{issuer.name} did not authorize the launch ({code})" + (f': "{says}".' if says else "."),
        advice=AUTHORIZATION_ADVICE.get(code, AGAIN),
        error=code,
    )


def _ask_for_token(
    issuer: Issuer,
    token_endpoint: str,
    form: dict[str, str],
    *,
    http: Http,
    now: datetime,
    meanwhile: Callable[[], object] | None = None,
) -> TokenResponse:
    """The token endpoint's answer, with its core members checked. ``meanwhile``: as ``ask``.

    https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#response-5
    """
    ready = http.proofs.pop(token_endpoint, None)  # taken out: each is used once
    if ready and ready.made_at <= now < ready.made_at + ASSERTION_LIFETIME / 2:
        headers, proof = ready.headers, ready.form
    else:
        headers, proof = client_authentication(issuer, token_endpoint, now)
    response = ask(http, "POST", token_endpoint, data={**form, **proof}, headers=headers, meanwhile=meanwhile)
    if response.status_code != 200:  # noqa: PLR2004
        raise _token_refused(issuer, response.status_code, error_code(response))
    try:
        answer = read_json(response, TokenResponse)
        refuse_unusable(answer)
    except ValueError as error:
        log.warning("token_response_unusable", issuer=issuer.id)
        raise TokenRefused(
            f"The token response of {issuer.name} cannot be used: {error}.", advice=TELL
        ) from None
    return answer


def client_authentication(
    issuer: Issuer, token_endpoint: str, now: datetime
) -> tuple[dict[str, str], dict[str, str]]:
    """Headers and form members that say who we are, made anew for each request.

    https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-symmetric.html and -asymmetric.html
    """
    headers = {"Accept": "application/json"}
    try:
        if issuer.client_auth == "public":
            return headers, {"client_id": issuer.client_id}
        if issuer.client_auth == "client_secret_basic":
            # Each half form-encoded before they are joined (RFC 6749 2.3.1); Authlib joins them as they are.
            # A space as %20, not +: some servers undo percent signs only, and form-decoding takes both.
            pair = ":".join(quote(half, safe="") for half in (issuer.client_id, issuer.client_secret()))
            return headers | {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}, {}
        if issuer.client_auth == "client_secret_post":
            return headers, {"client_id": issuer.client_id, "client_secret": issuer.client_secret()}
        assertion = client_assertion(
            issuer.signing_key(),
            client_id=issuer.client_id,
            token_endpoint=token_endpoint,
            now=now,
            jku=issuer.jku,
        )
    except IssuersInvalid as error:
        log.warning("credential_missing", issuer=issuer.id, problems=error.problems)
        raise TokenRefused(
            f"Quarterhour's own credential for {issuer.name} cannot be read.",
            advice=TELL,
            error="own_credential",
        ) from None
    return headers, {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}


def error_code(response: Any) -> str:
    """The ``error`` of a token endpoint's refusal (RFC 6749, 5.2), or ``unknown``."""
    try:
        code = read_json(response, dict[str, Any]).get("error")
    except ValueError:
        return "unknown"
    return code if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else "unknown"


def _token_refused(issuer: Issuer, status: int, code: str) -> TokenRefused:
    # The description is left out: servers have been seen to repeat the code or the assertion in it.
    log.warning("token_refused", issuer=issuer.id, status=status, error=code)
    return TokenRefused(
        f"{issuer.name} did not give access (HTTP {status}, {code}).",
        advice=TOKEN_ADVICE.get(code, f"{AGAIN} If it happens again: {TELL}"),
        error=code,
    )


def refuse_unusable(answer: TokenResponse) -> None:
    """ValueError, without the values, for what would be unsafe in a header or an address."""
    if answer.token_type.lower() != "bearer":
        raise ValueError("token_type is not Bearer")
    if not _VISIBLE.fullmatch(answer.access_token):
        raise ValueError("access_token is empty or holds odd characters")
    if answer.refresh_token is not None and not _VISIBLE.fullmatch(answer.refresh_token):
        raise ValueError("refresh_token is empty or holds odd characters")
    for name, value in (("patient", answer.patient), ("encounter", answer.encounter)):
        if value is not None and not FHIR_ID.fullmatch(value):
            raise ValueError(f"{name} is no FHIR id")


def expiry(answer: TokenResponse, now: datetime) -> datetime | None:
    """None where the EHR does not say; some send the number as a string."""
    seconds = answer.expires_in
    if isinstance(seconds, str) and seconds.isascii() and seconds.isdigit():
        seconds = int(seconds[:9])
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0:
        return None
    return now + timedelta(seconds=min(int(seconds), LONGEST_EXPIRY))


def _context(
    answer: TokenResponse, issuer: Issuer, *, fhir_user: str | None, asked: tuple[str, ...]
) -> LaunchContext:
    return LaunchContext(
        iss=issuer.iss,
        patient=answer.patient,
        encounter=encounter_in(answer.app_context) or answer.encounter,
        fhir_user=fhir_user,
        # Without scope in the response, all that was asked for is granted (RFC 6749 5.1).
        scopes=asked if answer.scope is None else tuple(dict.fromkeys(answer.scope.split())),
        need_patient_banner=answer.need_patient_banner is not False,  # unsaid or odd: show who it is
        smart_style_url=_style_url(answer.smart_style_url, issuer),
        intent=_word(answer.intent),
        tenant=_word(answer.tenant),
        fhir_context=tuple(_context_items(answer.fhir_context)),
    )


def _word(value: Any) -> str | None:
    return (
        value if isinstance(value, str) and 0 < len(value) <= LONGEST_WORD and value.isprintable() else None
    )


def _style_url(value: Any, issuer: Issuer) -> str | None:
    """Only from the FHIR server or an origin the operator listed: it is we who will fetch it."""
    if _word(value) is None:
        return None
    try:
        allowed = {origin_of(url) for url in (issuer.iss, *issuer.endpoint_origins)}
        return value if origin_of(value) in allowed else None
    except ValueError:
        return None


def _context_items(value: Any) -> list[ContextItem]:
    """The entries we understand; an entry of another role or shape is left out, as the specification asks."""
    items = []
    for entry in value if isinstance(value, list) else []:
        if isinstance(entry, dict) and entry.get("role", "launch") == "launch":
            members = {name: _word(entry.get(name)) for name in ("reference", "canonical", "type")}
            if members["reference"] or members["canonical"]:
                items.append(ContextItem(**members))
    return items


def refresh(session: Session, issuer: Issuer, *, http: Http, now: datetime) -> Session:
    """The session with new tokens; identity and context stay. One at a time for each session (caller's lock).

    The old refresh token is spent once this returns: store the new session at once. Raises
    ``SessionEnded`` where only a new launch helps, ``EhrUnavailable`` where waiting may.
    https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#refresh-access-token
    """
    if session.refresh_token is None:
        raise SessionEnded("The EHR's permission has run out, and it gave none to renew it.", advice=AGAIN)
    form = {"grant_type": "refresh_token", "refresh_token": session.refresh_token}
    try:
        answer = _ask_for_token(issuer, session.token_endpoint, form, http=http, now=now)
    except TokenRefused as error:
        raise SessionEnded(
            f"{issuer.name} did not renew its permission ({error.error}).", advice=AGAIN
        ) from None
    if answer.patient not in {None, session.context.patient}:
        raise SessionEnded(f"{issuer.name} renewed its permission for another patient.", advice=AGAIN)
    context = session.context
    if answer.scope is not None:
        context = replace(context, scopes=tuple(dict.fromkeys(answer.scope.split())))
    return replace(
        session,
        access_token=answer.access_token,
        expires_at=expiry(answer, now),
        refresh_token=answer.refresh_token or session.refresh_token,
        context=context,
    )


def revoke(session: Session, issuer: Issuer, *, http: Http, now: datetime) -> bool:
    """Tells the EHR that the tokens are no longer used (RFC 7009); False where it has no way, or failed.

    Never raises: signing out must always work here.
    """
    if session.revocation_endpoint is None:
        return False
    token = session.refresh_token or session.access_token
    hint = "refresh_token" if session.refresh_token else "access_token"
    try:
        # An assertion names the token endpoint here too: it stands for the server (RFC 7523, section 3).
        headers, proof = client_authentication(issuer, session.token_endpoint, now)
        form = {"token": token, "token_type_hint": hint, **proof}
        response = ask(http, "POST", session.revocation_endpoint, data=form, headers=headers)
    except (EhrUnavailable, TokenRefused):
        return False
    return response.status_code == 200  # noqa: PLR2004
