"""Who calls a CDS service of ours: the token that every call carries, verified before anything is done.

https://cds-hooks.hl7.org/2.0/#trusting-cds-clients
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from .errors import LaunchRefused
from .http import Http
from .identity import CLOCK_SKEW, FETCH_AGAIN_AFTER, FRESH, LAST_SECOND, SigningKeys, signing_keys
from .issuers import CdsAlg, CdsClient, Issuer, Issuers

LONGEST_TOKEN = 8 * 1024
LONGEST_ID = 255
# A token is remembered until it expires, so that it counts once: one for longer is not taken.
LONGEST_LIFE = timedelta(hours=1)
PAUSE = timedelta(seconds=15)


class NotTrusted(Exception):
    """The call proves nothing. ``why`` is for the operator's log and names what was wrong, not its value."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Caller:
    """The EHR that signed a token, and what tells this token from every other one of it."""

    issuer: Issuer
    cds: CdsClient
    jti: str
    expires_at: datetime


class _Header(msgspec.Struct):
    alg: str
    kid: str
    typ: str
    jku: str | None = None
    crit: msgspec.Raw | None = None


class _Claims(msgspec.Struct):
    iss: str
    aud: str | list[str]
    exp: float
    iat: float
    jti: str
    tenant: str | None = None


def verified(
    authorization: str | None,
    *,
    audiences: Collection[str],
    issuers: Issuers,
    http: Callable[[Issuer], Http],
    now: datetime,
) -> Caller:
    """Who calls, by an ``Authorization`` header; ``audiences`` are our addresses that it may be meant for.

    Raises ``NotTrusted``. No request is made for a token of an unknown ``iss``, with a ``jku`` that the
    operator did not name, or that is not for us and of this hour; and then only to the named ``jku``. Whether
    it was used before is for the caller to find out.
    """
    token = _bearer(authorization)
    header, claims = _unverified(token)
    issuer = issuers.calling(claims.iss, claims.tenant)
    cds = issuer.cds if issuer else None
    if issuer is None or cds is None:
        raise NotTrusted("no such CDS client (iss, tenant)")
    alg = next((alg for alg in cds.algs if alg == header.alg), None)
    if alg is None:
        raise NotTrusted("an algorithm that is not allowed (alg)")
    if header.typ != "JWT" or header.crit is not None:
        raise NotTrusted("another kind of token (typ, crit)")
    if header.jku not in {None, cds.jku}:
        raise NotTrusted("keys at another address than the operator's (jku)")
    if not set([claims.aud] if isinstance(claims.aud, str) else claims.aud) & set(audiences):
        raise NotTrusted("for another service (aud)")
    expires_at = _in_time(claims, now)
    if not 0 < len(claims.jti) <= LONGEST_ID:
        raise NotTrusted("no usable id of its own (jti)")
    _check_signature(token, alg, header.kid, cds.jku, http(issuer), now)
    return Caller(issuer, cds, claims.jti, expires_at)


def _bearer(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise NotTrusted("no bearer token")
    if len(token) > LONGEST_TOKEN or not token.isascii():
        raise NotTrusted("too long, or no token at all")
    return token


def _unverified(token: str) -> tuple[_Header, _Claims]:
    """What it says; good for choosing whose keys to try, and for nothing else before they verify it."""
    try:
        parts = jws.extract_compact(token.encode())
        header = msgspec.convert(parts.headers(), _Header)
        claims = msgspec.json.decode(parts.payload, type=_Claims)
    except (JoseError, msgspec.MsgspecError, ValueError, TypeError, AttributeError, RecursionError):
        raise NotTrusted("no signed token with the members it must have") from None
    return header, claims


def _in_time(claims: _Claims, now: datetime) -> datetime:
    if not (0 < claims.exp < LAST_SECOND and 0 < claims.iat < LAST_SECOND):
        raise NotTrusted("no time (exp, iat)")
    expires_at = datetime.fromtimestamp(claims.exp, UTC)
    if expires_at + CLOCK_SKEW <= now:
        raise NotTrusted("expired (exp)")
    if datetime.fromtimestamp(claims.iat, UTC) - CLOCK_SKEW > now:
        raise NotTrusted("from the future (iat)")
    if expires_at - CLOCK_SKEW > now + LONGEST_LIFE:
        raise NotTrusted("good for more than an hour (exp)")
    return expires_at


def _check_signature(token: str, alg: CdsAlg, kid: str, jku: str, http: Http, now: datetime) -> None:
    """Raises ``NotTrusted`` where none of the keys of that id verifies it, asked for again where it is new."""
    tried = None
    for fresh in (FRESH, FETCH_AGAIN_AFTER):
        keys = _keys(jku, http, now, fresh)
        if keys is tried:
            break
        tried = keys
        for key in keys.keys:
            if key.kid == kid and _fits(key, alg) and _verifies(token, key, alg):
                return
    raise NotTrusted("no key of that client verifies it (kid, signature)")


def _keys(jku: str, http: Http, now: datetime, fresh: timedelta) -> SigningKeys:
    """As ``signing_keys``; where it failed a moment ago nothing is asked, so that nobody makes all threads wait."""
    failed_at = http.keys_failed.get(jku)
    if failed_at and now - failed_at < PAUSE:
        raise NotTrusted("its keys could not be had a moment ago")
    try:
        return signing_keys(jku, http=http, now=now, fresh=fresh)
    except LaunchRefused as error:
        http.keys_failed[jku] = now
        raise NotTrusted(f"its keys could not be had ({type(error).__name__})") from None


def _fits(key: RSAKey | ECKey, alg: CdsAlg) -> bool:
    if alg == "ES384":
        return isinstance(key, ECKey) and key.curve_name == "P-384"
    return isinstance(key, RSAKey)


def _verifies(token: str, key: RSAKey | ECKey, alg: CdsAlg) -> bool:
    try:
        jws.deserialize_compact(token, key, algorithms=[alg])
    except (JoseError, ValueError, TypeError):
        return False
    return True
