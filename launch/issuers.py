"""The EHRs that may launch us: the operator's list, and nothing else."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import structlog
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from .errors import IssuersInvalid, UnknownIssuer
from .keys import Key, SigningAlg, alg_of, import_key

log = structlog.get_logger()

LONGEST_URL = 2048
DEFAULT_PORTS = {"https": 443, "http": 80}
CLINICIANS_SCOPE = re.compile(
    r"(user|patient)/|(launch\b|openid|fhirUser|profile|online_access|offline_access)"
)
NO_QUERY_OR_FRAGMENT = re.compile(r"[\x21-\x7e]+")

CdsHook = Literal["patient-view", "encounter-start", "encounter-discharge", "appointment-book"]
CDS_HOOKS: tuple[CdsHook, ...] = get_args(CdsHook)
CdsAlg = Literal["ES384", "RS384", "RS256"]
BackendPurpose = Literal["planned-charges", "subscriptions"]
IdTokenAlg = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]


def server_of(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path by which two addresses are compared; a trailing slash does not count.

    Nothing is decoded and no dot segment is resolved: whatever is spelt differently is another server.
    Raises ValueError for an address with user information, query or fragment (even empty ones), with a
    character that is not printable ASCII, with a backslash, or without an http(s) scheme and a host.
    """
    if len(url) > LONGEST_URL or not NO_QUERY_OR_FRAGMENT.fullmatch(url) or set("?#@\\") & set(url):
        raise ValueError("not a plain address: no user, query, fragment, space or foreign letter is allowed")
    parts = urlsplit(url)
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ValueError("not an address that starts with https:// and names a host")
    if parts.port == 0:
        raise ValueError("port 0 is no port")
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/")


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an absolute address; raises ValueError where it has none."""
    parts = urlsplit(url)
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ValueError("not an absolute http(s) address")
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]


def _plain_url(url: str) -> str:
    server_of(url)
    return url


def _origin(url: str) -> str:
    if server_of(url)[3] or url.endswith("/"):
        raise ValueError("an origin has no path: https://host or https://host:port")
    return url


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # whichever the place of the zone data leads to
        raise ValueError(f"{name!r} is no IANA time zone; an example: America/New_York") from None
    return name


def _beside_the_issuers_file(path: Path, info: ValidationInfo) -> Path:
    folder: Path = (info.context or {}).get("folder", Path())
    return folder / path


PlainUrl = Annotated[str, AfterValidator(_plain_url)]
Origin = Annotated[str, AfterValidator(_origin)]
Word = Annotated[str, Field(min_length=1, max_length=200)]
Seconds = Annotated[float, Field(gt=0, le=60)]
File = Annotated[Path, AfterValidator(_beside_the_issuers_file)]


class Backend(BaseModel):
    """How Quarterhour itself is registered with an EHR, without a clinician: its table ``backend``.

    A client of its own with a key of its own: what a clinician may do never comes from here, nor the reverse.
    https://hl7.org/fhir/smart-app-launch/STU2.2/backend-services.html#registering-a-smart-backend-service
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    client_id: Word
    signing_alg: SigningAlg
    key_env: Word | None = None
    key_file: File | None = None
    kid: Word | None = None
    jku: PlainUrl | None = None
    also_publish: tuple[File, ...] = ()
    scopes: Annotated[tuple[Word, ...], Field(min_length=1)] | None = None
    also_for: tuple[BackendPurpose, ...] = ()  # what is asked for besides reading

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.key_env is None) == (self.key_file is None):
            raise ValueError("a backend client needs one of key_env and key_file")
        # Some EHRs want scopes of their own making besides (athenahealth, Azure); a person's never belong here.
        if odd := [scope for scope in self.scopes or () if CLINICIANS_SCOPE.match(scope)]:
            raise ValueError(f"no clinician signs in to a backend client; take {', '.join(odd)} away")
        return self


class CdsClient(BaseModel):
    """How this EHR calls our CDS services: its table ``cds``.

    Its tokens name ``iss`` and, where they name a ``jku``, this one; nothing is fetched from anywhere else.
    https://cds-hooks.hl7.org/2.0/#trusting-cds-clients
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    iss: Word
    jku: PlainUrl
    algs: Annotated[tuple[CdsAlg, ...], Field(min_length=1)] = ("ES384", "RS384")
    tenant: Word | None = None  # what its tokens say, where several clinics share one iss
    hooks: Annotated[tuple[CdsHook, ...], Field(min_length=1)] = CDS_HOOKS


class Issuer(BaseModel):
    """One EHR and how we are registered with it; documented line by line in manifests/issuers.example.toml.

    Holds no secret: only the name of the variable or file where the secret is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    id: Word  # the name of its table
    iss: PlainUrl
    name: Word
    time_zone: Annotated[str, AfterValidator(_zone)]

    client_id: Word
    client_auth: Literal["public", "client_secret_basic", "client_secret_post", "private_key_jwt"]
    client_secret_env: Word | None = None
    client_secret_file: File | None = None
    signing_alg: SigningAlg | None = None
    key_env: Word | None = None
    key_file: File | None = None
    kid: Word | None = None
    jku: PlainUrl | None = None
    also_publish: tuple[File, ...] = ()  # the next or the previous key, while EHRs still cache the JWKS

    scope_syntax: Literal["v1", "v2"] = "v2"
    scopes: Annotated[tuple[Word, ...], Field(min_length=1)] | None = None
    refresh: Literal["online", "offline", "none"] = "online"
    pkce: Literal["required", "legacy"] = "required"

    id_token_issuer: PlainUrl | None = None
    id_token_algs: Annotated[tuple[IdTokenAlg, ...], Field(min_length=1)] = (
        "RS256",
        "ES256",
        "RS384",
        "ES384",
    )
    jwks_uri: PlainUrl | None = None
    endpoint_origins: tuple[Origin, ...] = ()
    capability_statement_fallback: bool = False

    embedding_origins: tuple[Origin, ...] = ()
    connect_timeout: Seconds = 5.0
    read_timeout: Seconds = 20.0
    ca_file: File | None = None
    allow_http: bool = False
    allow_private_addresses: bool = False

    role_claim: Word | None = None  # the member of the id_token that names roles, where the EHR has one
    roles: dict[str, Any] = {}
    site: dict[str, Any] = {}
    writing: dict[str, Any] = {}
    capture: dict[str, Any] = {}
    backend: Backend | None = None
    cds: CdsClient | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = [*self._credential_problems(), *self._plain_http_problems()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _credential_problems(self) -> Iterator[str]:
        secrets = [key for key in ("client_secret_env", "client_secret_file") if getattr(self, key)]
        keys = [key for key in ("key_env", "key_file") if getattr(self, key)]
        if self.client_auth in {"client_secret_basic", "client_secret_post"}:
            if len(secrets) != 1:
                yield f"{self.client_auth} needs one of client_secret_env and client_secret_file"
        elif secrets:
            yield f"{self.client_auth} uses no secret; take {secrets[0]} away"
        if self.client_auth == "private_key_jwt":
            if len(keys) != 1:
                yield "private_key_jwt needs one of key_env and key_file"
            if self.signing_alg is None:
                yield "private_key_jwt needs signing_alg, RS384 or ES384"
        elif keys or self.signing_alg or self.kid or self.jku or self.also_publish:
            yield f"{self.client_auth} uses no key; take key_*, signing_alg, kid, jku and also_publish away"
        if self.backend and self.backend.client_id == self.client_id:
            yield "backend.client_id is the clinicians' client_id; register a client of its own"

    def _plain_http_problems(self) -> Iterator[str]:
        if self.allow_http:
            return
        urls = (
            self.iss,
            self.id_token_issuer,
            self.jwks_uri,
            self.jku,
            self.backend and self.backend.jku,
            self.cds and self.cds.jku,
        )
        for url in (*urls, *self.endpoint_origins, *self.embedding_origins):
            if url and urlsplit(url).scheme == "http":
                yield f"{url} is not https:// (allow_http = true permits it, for development only)"

    @property
    def base(self) -> str:
        """The FHIR base without a trailing slash."""
        return self.iss.rstrip("/")

    def client_secret(self) -> str:
        """Read when used, so that a rotated secret needs no restart. Raises IssuersInvalid if it is gone."""
        return _secret(f"issuers.{self.id}.client_secret", self.client_secret_env, self.client_secret_file)

    def signing_key(self) -> Key:
        """The active private key, read as ``client_secret`` is."""
        return _signing_key(f"issuers.{self.id}", self)

    def published_keys(self) -> tuple[Key, ...]:
        """The active key, and those that are published beside it while keys are changed."""
        return _published_keys(f"issuers.{self.id}", self) if self.client_auth == "private_key_jwt" else ()

    def backend_signing_key(self) -> Key:
        """The active private key of the backend client; raises IssuersInvalid where there is none."""
        if self.backend is None:
            raise IssuersInvalid([f"issuers.{self.id}.backend: there is no such table"])
        return _signing_key(f"issuers.{self.id}.backend", self.backend)

    def backend_published_keys(self) -> tuple[Key, ...]:
        """As ``published_keys``, of the backend client; never in one key set with those."""
        return _published_keys(f"issuers.{self.id}.backend", self.backend) if self.backend else ()


def _signing_key(where: str, client: Issuer | Backend) -> Key:
    try:
        key = import_key(_secret(f"{where}.key", client.key_env, client.key_file), client.kid)
    except ValueError as error:
        raise IssuersInvalid([f"{where}.key: {error}"]) from None
    if not key.is_private or alg_of(key) != client.signing_alg:
        raise IssuersInvalid([f"{where}.key: not a private key for {client.signing_alg}"])
    return key


def _published_keys(where: str, client: Issuer | Backend) -> tuple[Key, ...]:
    try:
        others = tuple(import_key(path.read_text(encoding="ascii")) for path in client.also_publish)
    except (OSError, ValueError) as error:
        raise IssuersInvalid([f"{where}.also_publish: {error}"]) from None
    return (_signing_key(where, client), *others)


def _secret(where: str, variable: str | None, file: Path | None) -> str:
    try:
        text = os.environ[variable] if variable else Path(file or "").read_text(encoding="utf-8")
    except KeyError:
        raise IssuersInvalid([f"{where}_env: {variable} is not set"]) from None
    except (OSError, UnicodeDecodeError) as error:
        why = type(error).__name__
        raise IssuersInvalid([f"{where}_file: {file} cannot be read ({why})"]) from None
    if not text.strip():
        raise IssuersInvalid([f"{where}: {variable or file} is empty"])
    return text.strip()


@dataclass(frozen=True)
class Issuers:
    """The operator's list."""

    all: tuple[Issuer, ...]

    def __iter__(self) -> Iterator[Issuer]:
        return iter(self.all)

    def match(self, iss: str) -> Issuer:
        """The one issuer with this address, or ``UnknownIssuer``; makes no request.

        https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#launch-app-ehr-launch
        """
        try:
            server = server_of(iss)
        except ValueError:
            raise _unknown(iss) from None
        for issuer in self.all:
            if server_of(issuer.iss) == server:
                return issuer
        raise _unknown(iss)

    def calling(self, iss: str, tenant: str | None) -> Issuer | None:
        """The one issuer whose CDS client says so of itself; None where there is none."""
        return next(
            (issuer for issuer in self.all if issuer.cds and _client(issuer.cds) == (iss, tenant)), None
        )


def _client(cds: CdsClient) -> tuple[str, str | None]:
    return cds.iss, cds.tenant


def _unknown(iss: str) -> UnknownIssuer:
    shown = "".join(letter if letter.isprintable() else "?" for letter in iss[:200])
    return UnknownIssuer(
        f"The EHR at {shown} is not known here, so nothing was sent to it.",
        advice="If this is your EHR, ask the administrator of Quarterhour to add it to the issuers file.",
    )


def load_issuers(path: Path) -> Issuers:
    """The issuers of a TOML file, one table each: ``[issuers.riverside]``.

    Relative paths in it are beside the file. Raises ``IssuersInvalid`` with every mistake named by table
    and key, among them a secret or key that is not where the file says.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise IssuersInvalid([f"{path}: cannot be read ({type(error).__name__})"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise IssuersInvalid([f"{path}: {error}"]) from None
    problems = [
        f"{key}: unknown; issuers stand in tables [issuers.NAME]" for key in tables.keys() - {"issuers"}
    ]
    named = tables.get("issuers", {})
    if not isinstance(named, dict) or not named:
        raise IssuersInvalid([*problems, "issuers: no table [issuers.NAME] found"])
    issuers: list[Issuer] = []
    for id_, table in named.items():
        try:
            issuer = Issuer.model_validate(_with_id(id_, table), context={"folder": path.parent})
            _check_credentials(issuer)
        except ValidationError as error:
            problems += [_problem(id_, detail) for detail in error.errors(include_input=False)]
        except IssuersInvalid as error:
            problems += error.problems
        else:
            problems += [
                f"issuers.{id_}.iss: the same server as issuers.{other.id}.iss"
                for other in issuers
                if server_of(other.iss) == server_of(issuer.iss)
            ]
            problems += [
                f"issuers.{id_}.cds: the same iss and tenant as issuers.{other.id}.cds"
                for other in issuers
                if issuer.cds and other.cds and _client(issuer.cds) == _client(other.cds)
            ]
            issuers.append(issuer)
    problems += _key_problems(issuers)
    if problems:
        raise IssuersInvalid(problems)
    return Issuers(tuple(issuers))


def _key_problems(issuers: Sequence[Issuer]) -> Iterator[str]:
    """A backend's key that something else uses too, and one kid for two keys, of which an EHR would see one."""
    clinicians = [(f"issuers.{each.id}", key) for each in issuers for key in each.published_keys()]
    backends = [
        (f"issuers.{each.id}.backend", key) for each in issuers for key in each.backend_published_keys()
    ]
    used = {key.thumbprint(): where for where, key in clinicians}
    for where, key in backends:
        other = used.setdefault(key.thumbprint(), where)
        if other != where:
            yield f"{where}.key: the same key as that of {other}; make it one of its own"
    for key_set in (clinicians, backends):
        by_kid: dict[str | None, tuple[str, Key]] = {}
        for where, key in key_set:
            other, first = by_kid.setdefault(key.kid, (where, key))
            if first.thumbprint() != key.thumbprint():
                yield f"{where}.kid: {key.kid} is another key's in {other}"


def _with_id(id_: str, table: object) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise IssuersInvalid([f"issuers.{id_}: a table [issuers.{id_}] is expected"])
    if "id" in table:
        raise IssuersInvalid([f"issuers.{id_}.id: unknown key; the table's name is the id"])
    return {**table, "id": id_}


def _problem(id_: str, detail: Any) -> str:
    where = ".".join(["issuers", id_, *(str(step) for step in detail["loc"])])
    says = (
        "unknown key" if detail["type"] == "extra_forbidden" else detail["msg"].removeprefix("Value error, ")
    )
    return f"{where}: {says}"


def _check_credentials(issuer: Issuer) -> None:
    if issuer.client_auth in {"client_secret_basic", "client_secret_post"}:
        issuer.client_secret()
    issuer.published_keys()
    issuer.backend_published_keys()
    for file in (issuer.client_secret_file, issuer.key_file, issuer.backend and issuer.backend.key_file):
        if file and file.stat().st_mode & 0o077:
            log.warning("secret_file_readable_by_others", issuer=issuer.id, file=file.name)
