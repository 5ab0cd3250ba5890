"""Who signed in: the id_token, verified against keys and rules that it cannot choose.

https://openid.net/specs/openid-connect-core-1_0.html#IDTokenValidation
https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html#scopes-for-requesting-identity-data
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote, urljoin

import msgspec
import structlog
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, RSAKey

from .context import Identity, same
from .errors import IdentityInvalid
from .http import Http, ask, read_json
from .issuers import LONGEST_URL, Issuer, server_of

log = structlog.get_logger()

FRESH = timedelta(hours=1)
FETCH_AGAIN_AFTER = timedelta(minutes=1)  # an unknown kid may be a new key, or someone making us ask
MOST_KEYS = 50
MOST_ROLES = 50
LONGEST_TOKEN = 64 * 1024
LONGEST_TEXT = 255
LAST_SECOND = 1e11  # the year 5138; leaves out infinity and what overflows
CLOCK_SKEW = timedelta(minutes=1)

_RELATIVE_USER = re.compile(
    r"(Practitioner|PractitionerRole|Patient|RelatedPerson|Person)/[A-Za-z0-9\-._]{1,64}(/_history/[\w\-.]+)?"
)


class KeySet(msgspec.Struct):
    """A JWKS as published (RFC 7517, section 5)."""

    keys: list[dict[str, Any]]


@dataclass(frozen=True)
class SigningKeys:
    """An issuer's public keys at one time."""

    keys: tuple[RSAKey | ECKey, ...]
    fetched_at: datetime

    def for_kid(self, kid: str | None) -> tuple[RSAKey | ECKey, ...]:
        """The keys to try: those of this kid, or all where the token names none."""
        return tuple(key for key in self.keys if kid is None or key.kid == kid)


def signing_keys(jwks_uri: str, *, http: Http, now: datetime, fresh: timedelta = FRESH) -> SigningKeys:
    """The keys at ``jwks_uri``, kept with ``http`` and asked for again once they are older than ``fresh``.

    Raises ``EhrUnavailable``, and ``IdentityInvalid`` for an answer that holds no usable key.
    """
    kept = http.signing_keys.get(jwks_uri)
    if kept and now - kept.fetched_at < fresh:
        return kept
    response = ask(http, "GET", jwks_uri, headers={"Accept": "application/json"})
    if response.status_code != 200:  # noqa: PLR2004
        raise _invalid(f"the EHR's signing keys could not be fetched (HTTP {response.status_code})")
    try:
        published = read_json(response, KeySet).keys
    except ValueError as error:
        raise _invalid(f"the EHR's signing keys are not readable ({error})") from None
    keys = tuple(key for jwk in published[:MOST_KEYS] if (key := _public_key(jwk)))
    if not keys:
        raise _invalid("the EHR publishes no key that signs")
    http.signing_keys[jwks_uri] = SigningKeys(keys, fetched_at=now)
    return http.signing_keys[jwks_uri]


def _public_key(jwk: dict[str, Any]) -> RSAKey | ECKey | None:
    """One key of a JWKS; None for what is not for signatures, or not a key as we understand it."""
    if jwk.get("kty") not in ("RSA", "EC") or jwk.get("use", "sig") != "sig":
        return None
    try:
        key = JWKRegistry.import_key(jwk)
        return key if isinstance(key, RSAKey | ECKey) and _is_of_sane_size(key) else None
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _is_of_sane_size(key: RSAKey | ECKey) -> bool:
    """Neither too short to trust nor so long that checking it is an attack."""
    if isinstance(key, ECKey):
        return key.raw_value.key_size in {256, 384, 521}
    public = key.public_key.public_numbers()
    return 2048 <= public.n.bit_length() <= 8192 and public.e.bit_length() <= 64  # noqa: PLR2004  # bits


def verify(
    id_token: str | None,
    *,
    issuer: Issuer,
    expected_issuer: str,
    nonce: str,
    jwks_uri: str,
    http: Http,
    now: datetime,
) -> Identity:
    """Who the id_token proves to have signed in, or ``IdentityInvalid`` saying which check it failed.

    ``nonce`` is the one we sent, and ``expected_issuer`` is what the operator or the discovery named.
    """
    if id_token is None:
        raise _invalid("it is missing")
    if len(id_token) > LONGEST_TOKEN or not id_token.isascii():
        raise _invalid("it is too long, or no token at all")
    claims = _signed_claims(id_token, issuer=issuer, jwks_uri=jwks_uri, http=http, now=now)
    for wrong in (_wrong_party(claims, issuer, expected_issuer), _wrong_time(claims, now)):
        if wrong:
            raise _invalid(wrong)
    if not same(str(claims.get("nonce", "")), nonce):
        raise _invalid("it was not made for this launch (nonce)")
    sub = _text(claims.get("sub"))
    if sub is None or not sub.isascii():
        raise _invalid("it names nobody (sub)")
    user = claims.get("fhirUser") or claims.get("profile")
    return Identity(
        issuer=expected_issuer,
        sub=sub,
        fhir_user=fhir_user(user, issuer),
        user_kind=user_kind(user),
        name=_text(claims.get("name")),
        roles=_roles(claims.get(issuer.role_claim)) if issuer.role_claim else (),
    )


def _roles(claim: object) -> tuple[str, ...]:
    """The words of a claim that holds one word or a list of them; what is neither says nothing."""
    words = claim if isinstance(claim, list) else [claim]
    return tuple(word for each in words[:MOST_ROLES] if (word := _text(each)))


def _signed_claims(
    id_token: str, *, issuer: Issuer, jwks_uri: str, http: Http, now: datetime
) -> dict[str, Any]:
    """The claims, once one of the issuer's keys verifies them under an algorithm the operator allows."""
    try:
        token = jws.extract_compact(id_token.encode())
        header = token.headers()
        alg, kid = header.get("alg"), header.get("kid")
    except (JoseError, ValueError, TypeError, AttributeError, RecursionError):
        raise _invalid("it is no signed token") from None
    if alg not in issuer.id_token_algs:
        raise _invalid("it is signed with an algorithm that is not allowed")
    tried = None
    for fresh in (FRESH, FETCH_AGAIN_AFTER):
        keys = signing_keys(jwks_uri, http=http, now=now, fresh=fresh)
        if keys is tried:
            break
        tried = keys
        for key in keys.for_kid(kid):
            if _verifies(key, token, alg):
                return _claims(token)
    raise _invalid("no key of the EHR verifies its signature")


def _verifies(key: RSAKey | ECKey, token: jws.CompactSignature, alg: str) -> bool:
    try:
        return jws.validate_compact(token, key, algorithms=[alg])
    except (JoseError, ValueError, TypeError):
        return False


def _claims(token: jws.CompactSignature) -> dict[str, Any]:
    try:
        return msgspec.json.decode(token.payload or b"", type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise _invalid("its claims are not readable") from None


def _wrong_party(claims: dict[str, Any], issuer: Issuer, expected_issuer: str) -> str | None:
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    authorized = claims.get("azp", issuer.client_id if len(audiences) == 1 else None)
    if claims.get("iss") != expected_issuer:
        return "another issuer made it (iss)"
    if issuer.client_id not in audiences:
        return "it is for another application (aud)"
    if authorized != issuer.client_id:
        return "it was issued to another application (azp)"
    return None


def _wrong_time(claims: dict[str, Any], now: datetime) -> str | None:
    skew, today = CLOCK_SKEW.total_seconds(), now.timestamp()
    expires, issued = _seconds(claims.get("exp")), _seconds(claims.get("iat"))
    not_before = _seconds(claims.get("nbf", issued))
    if expires is None or issued is None or not_before is None:
        return "it does not say when it was issued and when it expires (iat, exp)"
    if expires + skew <= today:
        return "it has expired (exp)"
    if max(issued, not_before) - skew > today:
        return "it is from the future (iat, nbf); the clocks of the EHR and of Quarterhour differ"
    return None


def _seconds(value: object) -> float | None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < LAST_SECOND
    return float(value) if fits else None  # type: ignore[arg-type]  # a number, as just checked


def _text(value: object) -> str | None:
    fits = isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT and value.isprintable()
    return str(value) if fits else None


def fhir_user(claim: object, issuer: Issuer) -> str | None:
    """``Practitioner/7`` for a user on this FHIR server, whether the claim was relative or absolute.

    The address itself where it is on another server, to which no token may be sent; None for what is no
    reference. https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html#fhiruser-claim
    """
    if not isinstance(claim, str) or len(claim) > LONGEST_URL:
        return None
    try:
        absolute = urljoin(f"{issuer.base}/", claim)
        *origin, path = server_of(absolute)
    except ValueError:
        return None
    *our_origin, our_path = server_of(issuer.base)
    if origin != our_origin or not f"{path}/".startswith(f"{our_path}/"):
        return absolute
    relative = path.removeprefix(f"{our_path}/")
    return relative if _RELATIVE_USER.fullmatch(relative) else None


def user_kind(claim: object) -> str | None:
    """The word before the last in the claim's path, whatever server or query it names; None where there is none.

    "Patient" of ``https://other.example/fhir/Patient/7/_history/2``. It refuses people and opens nothing.
    """
    if not isinstance(claim, str):
        return None
    path = claim.partition("#")[0].partition("?")[0]
    segments = [segment for segment in unquote(path).split("/") if segment]
    if segments[-2:-1] == ["_history"]:
        segments = segments[:-2]
    return _text(segments[-2]) if len(segments) > 1 else None


def _invalid(why: str) -> IdentityInvalid:
    log.warning("identity_invalid", why=why)
    return IdentityInvalid(
        f"The EHR's statement of who signed in (id_token) was not accepted: {why}.",
        advice="Nothing was opened. Try once more from the patient's chart; if it happens again, "
        "give this message to the administrator of Quarterhour.",
    )
