"""What an EHR says of its own endpoints, taken as claims to check and never as orders.

https://hl7.org/fhir/smart-app-launch/STU2.2/conformance.html#using-well-known
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import msgspec
import structlog

from .errors import DiscoveryFailed, EhrUnavailable
from .http import LARGEST_BODY, Http, ask, is_public, read_json
from .issuers import LONGEST_URL, Issuer, origin_of

log = structlog.get_logger()

FRESH = timedelta(hours=1)
USABLE = timedelta(hours=24)  # how long an old copy serves while the EHR gives no new one
OUR_PARAMETERS = {
    *("response_type", "client_id", "redirect_uri", "scope", "state", "aud", "nonce", "launch"),
    *("code_challenge", "code_challenge_method"),
}
OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"


@dataclass(frozen=True)
class Endpoints:
    """Where this EHR authorizes, after all checks. Every address is absolute.

    ``issuer`` is the authorization server's own name, if it gives one. ``id_token_issuer`` is what the
    id_token must say.
    """

    authorize: str
    token: str
    jwks_uri: str
    issuer: str | None
    id_token_issuer: str
    revocation: str | None
    introspection: str | None
    registration: str | None
    capabilities: tuple[str, ...]
    scopes_supported: tuple[str, ...]
    code_challenge_methods: tuple[str, ...] | None  # None: not said
    grant_types: tuple[str, ...] | None  # None: not said
    names_itself_in_the_answer: bool  # RFC 9207
    etag: str | None
    fetched_at: datetime


class SmartConfiguration(msgspec.Struct):
    """The members that we use; others are ignored. Lists may be null in the wild."""

    authorization_endpoint: str
    token_endpoint: str
    issuer: str | None = None
    jwks_uri: str | None = None
    revocation_endpoint: str | None = None
    introspection_endpoint: str | None = None
    registration_endpoint: str | None = None
    capabilities: list[str] | None = None
    scopes_supported: list[str] | None = None
    grant_types_supported: list[str] | None = None
    code_challenge_methods_supported: list[str] | msgspec.UnsetType | None = msgspec.UNSET
    authorization_response_iss_parameter_supported: bool | None = None


def discover(
    issuer: Issuer, http: Http, now: datetime, cache: dict[str, Endpoints], *, listed: Iterable[Issuer]
) -> Endpoints:
    """The issuer's endpoints, from ``cache`` (by issuer id) for an hour, then asked for again.

    ``listed`` is the operator's whole list: none of the endpoints may be another EHR's of it.

    While the EHR is down or its answer is unacceptable, the last good copy serves for a day. Without one:
    ``DiscoveryFailed`` or ``EhrUnavailable``.
    """
    known = cache.get(issuer.id)
    if known and now - known.fetched_at < FRESH:
        return known
    try:
        found = _fetch(issuer, http, now, known)
        _refuse_anothers(issuer, found, listed)
    except (DiscoveryFailed, EhrUnavailable) as error:
        if known and now - known.fetched_at < USABLE:
            log.warning("discovery_kept_old_copy", issuer=issuer.id, why=type(error).__name__)
            return known
        raise
    cache[issuer.id] = found
    return found


def _fetch(issuer: Issuer, http: Http, now: datetime, known: Endpoints | None) -> Endpoints:
    headers = {"Accept": "application/json"}
    if known and known.etag:
        headers["If-None-Match"] = known.etag
    response = ask(http, "GET", f"{issuer.base}/.well-known/smart-configuration", headers=headers)
    if response.status_code == 304 and known:  # noqa: PLR2004
        return replace(known, fetched_at=now)
    if response.status_code == 200:  # noqa: PLR2004
        try:
            said = read_json(response, SmartConfiguration)
        except ValueError as error:
            raise _failed(issuer, f"is not readable: {error}") from None
    elif issuer.capability_statement_fallback:
        said = _from_capability_statement(issuer, http)
    else:
        raise _failed(issuer, f"is not there (HTTP {response.status_code})")
    return _checked(issuer, said, etag=response.headers.get("ETag"), now=now)


def _checked(issuer: Issuer, said: SmartConfiguration, *, etag: str | None, now: datetime) -> Endpoints:
    """Our policy applied to the claims; nothing in them can loosen it."""
    authorize = _endpoint(issuer, "authorization_endpoint", said.authorization_endpoint)
    token = _endpoint(issuer, "token_endpoint", said.token_endpoint)
    if OUR_PARAMETERS & parse_qs(urlsplit(authorize).query, keep_blank_values=True).keys():
        raise _failed(issuer, "has an authorization_endpoint that already holds parameters of the request")
    # With both on one server, no code that one server gave can be sent to another (mix-up, RFC 9700 4.4).
    if not issuer.endpoint_origins and origin_of(authorize) != origin_of(token):
        raise _failed(issuer, "names different servers for authorization_endpoint and token_endpoint")
    methods = said.code_challenge_methods_supported
    if methods is not msgspec.UNSET and "S256" not in (methods or []) and issuer.pkce == "required":
        raise _failed(issuer, "says that PKCE with S256 is not supported")
    jwks_uri = issuer.jwks_uri or _optional(issuer, "jwks_uri", said.jwks_uri)
    if jwks_uri is None:
        raise _failed(issuer, "has no jwks_uri, so nobody's identity could be verified")
    return Endpoints(
        authorize=authorize,
        token=token,
        jwks_uri=jwks_uri,
        issuer=said.issuer,
        id_token_issuer=_id_token_issuer(issuer, said.issuer, token),
        revocation=_beside(token, issuer, "revocation_endpoint", said.revocation_endpoint),
        introspection=_beside(token, issuer, "introspection_endpoint", said.introspection_endpoint),
        registration=_optional(issuer, "registration_endpoint", said.registration_endpoint),
        capabilities=tuple(said.capabilities or ()),
        scopes_supported=tuple(said.scopes_supported or ()),
        code_challenge_methods=None if methods is msgspec.UNSET else tuple(methods or ()),
        grant_types=None if said.grant_types_supported is None else tuple(said.grant_types_supported),
        names_itself_in_the_answer=bool(said.authorization_response_iss_parameter_supported),
        etag=etag,
        fetched_at=now,
    )


def _refuse_anothers(issuer: Issuer, found: Endpoints, listed: Iterable[Issuer]) -> None:
    """Our credential would go to that other EHR, and what it gives for it to this one.

    What the operator names for this issuer is its own, shared or not. Issuers of one origin are tenants of
    one server: what is named for one of them is not another's.
    """
    own = {origin_of(url) for url in (issuer.iss, *issuer.endpoint_origins)}
    anothers = {
        origin_of(url): other
        for other in listed
        if origin_of(other.iss) != origin_of(issuer.iss)
        for url in (other.iss, *other.endpoint_origins)
        if origin_of(url) not in own
    }
    for member in ("authorize", "token", "jwks_uri", "revocation", "introspection", "registration", "issuer"):
        with suppress(ValueError):  # an issuer that is no address is nobody's
            origin = origin_of(getattr(found, member) or "")
            if origin in anothers and getattr(found, member) != issuer.jwks_uri:
                raise _failed(
                    issuer,
                    f"names {origin[1]} ({member}), which is the server of {anothers[origin].name} in the issuers "
                    f"file; if they share it, add it to endpoint_origins of issuers.{issuer.id}",
                )


def _id_token_issuer(issuer: Issuer, said: str | None, token: str) -> str:
    """The configured one; else the EHR's word, if it names a server that we know for this EHR."""
    if issuer.id_token_issuer is not None:
        return issuer.id_token_issuer
    if said is None:
        return issuer.iss
    try:
        if origin_of(said) in {origin_of(url) for url in (issuer.iss, token, *issuer.endpoint_origins)}:
            return said
    except ValueError:
        pass
    raise _failed(issuer, "names an issuer on another server; if that is right, set id_token_issuer")


def _optional(issuer: Issuer, member: str, url: str | None) -> str | None:
    return None if url is None else _endpoint(issuer, member, url)


def _beside(token: str, issuer: Issuer, member: str, url: str | None) -> str | None:
    """An endpoint that is sent tokens and our credentials: on the token endpoint's server, or one of the operator's.

    Anywhere else it is left unused, since the EHR works without it.
    """
    absolute = _optional(issuer, member, url)
    if absolute and not issuer.endpoint_origins and origin_of(absolute) != origin_of(token):
        log.warning("endpoint_unused", issuer=issuer.id, member=member, why="on another server")
        return None
    return absolute


def _endpoint(issuer: Issuer, member: str, url: str) -> str:
    """An absolute address that we may use, or ``DiscoveryFailed``."""
    try:
        absolute = urljoin(f"{issuer.base}/", url)
        _refuse_odd(issuer, absolute)
    except ValueError as error:
        raise _failed(issuer, f"names an unusable {member}: {error}") from None
    return absolute


def _refuse_odd(issuer: Issuer, url: str) -> None:
    if len(url) > LONGEST_URL or not (url.isascii() and url.isprintable()) or set(" \\#") & set(url):
        raise ValueError("it is too long, or holds a space, a fragment or a foreign letter")
    origin = origin_of(url)
    if "@" in urlsplit(url).netloc:
        raise ValueError("it holds a user name")
    if origin[1].endswith("."):
        raise ValueError("its host ends in a dot")  # the same server under a name that compares as another
    if origin[0] != "https" and not issuer.allow_http:
        raise ValueError("it is not https://")
    if issuer.endpoint_origins and origin not in {
        origin_of(allowed) for allowed in (issuer.iss, *issuer.endpoint_origins)
    }:
        raise ValueError("its server is not among endpoint_origins")
    if not issuer.allow_private_addresses and _names_a_private_address(origin[1]):
        raise ValueError("it is a private address")


def _names_a_private_address(host: str) -> bool:
    """For addresses the browser is sent to; where we connect ourselves, the connection checks again."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return not is_public(host)


def _from_capability_statement(issuer: Issuer, http: Http) -> SmartConfiguration:
    """The endpoints as servers gave them before SMART 2 (``oauth-uris``), where the operator allows it."""
    response = ask(http, "GET", f"{issuer.base}/metadata", headers={"Accept": "application/fhir+json"})
    try:
        statement = read_json(response, dict[str, Any], largest=LARGEST_BODY)
        uris = dict(_oauth_uris(statement))
        return msgspec.convert(
            {
                "authorization_endpoint": uris["authorize"],
                "token_endpoint": uris["token"],
                "revocation_endpoint": uris.get("revoke"),
                "introspection_endpoint": uris.get("introspect"),
            },
            SmartConfiguration,
        )
    except (ValueError, KeyError, TypeError, AttributeError, msgspec.ValidationError):
        raise _failed(issuer, "is not there, and the CapabilityStatement names no endpoints either") from None


def _oauth_uris(statement: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for rest in statement.get("rest", []):
        for extension in rest.get("security", {}).get("extension", []):
            if extension.get("url") == OAUTH_URIS:
                for part in extension.get("extension", []):
                    yield part["url"], part["valueUri"]


def _failed(issuer: Issuer, why: str) -> DiscoveryFailed:
    log.warning("discovery_failed", issuer=issuer.id, why=why)
    return DiscoveryFailed(
        f"The SMART configuration of {issuer.name} {why}.",
        advice="Please give this message to the administrator of Quarterhour; nothing was sent to the EHR.",
    )
