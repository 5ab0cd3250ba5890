"""The authorization server: who may have which token, on Authlib's server side.

https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html.
Everything issued lives in memory, behind one lock.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any, ClassVar, cast

import requests
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import (
    AuthorizationCodeMixin,
    ClientMixin,
    InvalidClientError,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Request,
    TokenMixin,
)
from authlib.oauth2.rfc6749.grants import (
    AuthorizationCodeGrant,
    ClientCredentialsGrant,
    RefreshTokenGrant,
)
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oidc.core import OpenIDCode
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeyParameters, KeySet, KeySetSerialization, RSAKey

from .clients import Client
from .outcome import Refused
from .quirks import Quirks
from .scopes import granted_scope

LAUNCH_LIFETIME = timedelta(minutes=10)
CODE_LIFETIME = timedelta(minutes=5)
ASSERTION_ALGORITHMS = ("RS384", "ES384")
ASSERTION_SECONDS = 300
BACKEND_SECONDS = 300  # the life that SMART recommends for a backend service's token
_AUTH_METHODS = ["none", "client_secret_basic", "private_key_jwt"]


@dataclass(frozen=True)
class Authorized:
    """Who authorises an app, and for which patient and encounter: what a token will stand for."""

    user: str  # Practitioner/...
    patient: str | None
    encounter: str | None
    launch: str | None = None  # the launch token it came from
    app_context: str | None = None  # what a CDS card's link or a Task had it carry
    framed: bool = False  # the app stands in the chart, which shows the patient above it


NOBODY = Authorized("", None, None)  # a backend service acts for no user, and in every chart


@dataclass
class Launch:
    """A click in the chart, handed to the app as an opaque token; good until a code for it was exchanged."""

    token: str
    authorized: Authorized
    expires_at: datetime
    used: bool = False


@dataclass
class Code(AuthorizationCodeMixin):  # type: ignore[misc]
    """An authorization code, with all that the token request is checked against."""

    code: str
    client_id: str
    redirect_uri: str
    scope: str
    nonce: str | None
    code_challenge: str
    code_challenge_method: str
    authorized: Authorized
    expires_at: datetime
    used: bool = False

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> None:
        return None

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


@dataclass
class Token(TokenMixin):  # type: ignore[misc]
    """An access token and its refresh token; ``family`` is the code that both descend from."""

    access_token: str
    refresh_token: str | None
    client_id: str
    scope: str
    authorized: Authorized
    family: str
    expires_at: datetime
    revoked: bool = False
    refreshed: bool = False

    def check_client(self, client: RegisteredClient) -> bool:
        return self.client_id == client.get_client_id()

    def get_scope(self) -> str:
        return self.scope


class RegisteredClient(ClientMixin):  # type: ignore[misc]
    """A client as Authlib asks about it."""

    def __init__(self, client: Client, quirks: Quirks) -> None:
        self.client = client
        self.quirks = quirks
        self.id_token_signed_response_alg = quirks.id_token_alg

    def get_client_id(self) -> str:
        return self.client.client_id

    def get_default_redirect_uri(self) -> None:
        return None

    def get_allowed_scope(self, scope: str | None) -> str | None:
        return granted_scope(scope or "", self.quirks, backend=self.client.backend) or None

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in self.client.redirect_uris

    def check_client_secret(self, client_secret: str) -> bool:
        expected = self.client.secret or ""
        return bool(expected) and secrets.compare_digest(expected.encode(), client_secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:  # noqa: ARG002 - Authlib's
        return method == ("none" if self.client.auth == "public" else self.client.auth)

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code" and not self.client.backend

    def check_grant_type(self, grant_type: str) -> bool:
        if self.client.backend:
            return grant_type == "client_credentials"
        return grant_type in ("authorization_code", "refresh_token")


@dataclass
class Issued:
    """Everything that was given out and may come back."""

    launches: dict[str, Launch] = field(default_factory=dict)
    codes: dict[str, Code] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)  # by access token
    assertion_ids: set[tuple[str, str]] = field(default_factory=set)

    def revoke_family(self, family: str) -> None:
        for token in self.tokens.values():
            if token.family == family:
                token.revoked = True


class SmartServer(AuthorizationServer):  # type: ignore[misc]
    """Authlib's server with SMART's launch context, and the refusals that SMART asks for."""

    def __init__(
        self, base_url: str, clients: tuple[Client, ...], quirks: Quirks, clock: Callable[[], datetime]
    ) -> None:
        self.base_url = base_url
        self.fhir_url = f"{base_url}/fhir"
        self.token_url = f"{base_url}/oauth/token"
        self.issuer = quirks.id_token_issuer or self.fhir_url
        self.quirks = quirks
        self.clock = clock
        self.issued = Issued()
        self.lock = threading.RLock()
        registered = {client.client_id: RegisteredClient(client, quirks) for client in clients}
        super().__init__(query_client=registered.get, save_token=self._save)
        self.load_config(
            {
                "OAUTH2_REFRESH_TOKEN_GENERATOR": True,
                "OAUTH2_TOKEN_EXPIRES_IN": {
                    "authorization_code": quirks.token_seconds,
                    "refresh_token": quirks.token_seconds,
                    "client_credentials": min(quirks.token_seconds, BACKEND_SECONDS),
                },
            }
        )
        self.register_grant(CodeGrant, [SmartCode(self), IdToken(self)])
        self.register_grant(RefreshGrant, [LaunchContext(self)])
        self.register_grant(BackendGrant)
        self.register_client_auth_method("private_key_jwt", ClientAssertion(self))
        self.register_endpoint(Revocation)
        self.register_endpoint(Introspection)

    def launch(self, authorized: Authorized) -> str:
        """A fresh launch token for what the chart's user has open."""
        token = secrets.token_urlsafe(24)
        with self.lock:
            self.issued.launches[token] = Launch(token, authorized, self.clock() + LAUNCH_LIFETIME)
        return token

    def launched(self, token: str) -> Authorized | None:
        """What a launch token stands for, if it is known, in time and not used up."""
        with self.lock:
            launch = self.issued.launches.get(token)
            if launch is None or launch.used or launch.expires_at <= self.clock():
                return None
            return replace(launch.authorized, launch=token)

    def bearer(self, authorization: str | None) -> Token:
        """The token of an Authorization header; ``Refused`` (401) when it is unknown, expired or revoked."""
        kind, _, value = (authorization or "").partition(" ")
        if kind.lower() != "bearer":
            raise Refused(401, "login", "A bearer token is needed.", {"WWW-Authenticate": "Bearer"})
        with self.lock:
            token = self.issued.tokens.get(value.strip())
            if token is not None and not token.revoked and token.expires_at > self.clock():
                return token
        raise Refused(
            401,
            "login",
            "The access token is unknown, expired or revoked.",
            {"WWW-Authenticate": 'Bearer error="invalid_token"'},
        )

    def _save(self, token: dict[str, Any], request: OAuth2Request) -> None:
        if request.authorization_code:
            family = request.authorization_code.code
        else:
            family = request.refresh_token.family if request.refresh_token else token["access_token"]
        self.issued.tokens[token["access_token"]] = Token(
            access_token=token["access_token"],
            refresh_token=token.get("refresh_token"),
            client_id=request.client.get_client_id(),
            scope=token["scope"],
            authorized=request.user or NOBODY,
            family=family,
            expires_at=self.clock() + timedelta(seconds=token["expires_in"]),
        )


def wants_refresh(scope: str, quirks: Quirks) -> bool:
    """Whether a grant comes with a refresh token."""
    asked = {"online_access", "offline_access"} & set(scope.split())
    return bool(asked) and not quirks.no_refresh_token


class CodeGrant(AuthorizationCodeGrant):  # type: ignore[misc]
    """The code of one authorization, exchanged once."""

    TOKEN_ENDPOINT_AUTH_METHODS = _AUTH_METHODS
    server: SmartServer

    @staticmethod
    def validate_authorization_redirect_uri(request: OAuth2Request, client: RegisteredClient) -> str:
        redirect_uri = request.payload.redirect_uri
        if not redirect_uri or not client.check_redirect_uri(redirect_uri):
            # Without the address: it may hold characters that an error description must not.
            raise InvalidRequestError("The redirect_uri is missing or is not registered for this client.")
        return str(redirect_uri)

    def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
        asked = request.payload.data
        self.server.issued.codes[code] = Code(
            code=code,
            client_id=request.client.get_client_id(),
            redirect_uri=request.payload.redirect_uri,
            scope=request.scope,
            nonce=asked.get("nonce"),
            code_challenge=asked["code_challenge"],
            code_challenge_method=asked["code_challenge_method"],
            authorized=request.user,
            expires_at=self.server.clock() + CODE_LIFETIME,
        )

    def query_authorization_code(self, code: str, client: RegisteredClient) -> Code | None:
        found = self.server.issued.codes.get(code)
        if found is None or found.client_id != client.get_client_id():
            return None
        if found.used:
            # Somebody has this code besides its owner: what it gave is taken back (RFC 6749 section 4.1.2).
            self.server.issued.revoke_family(code)
            return None
        return found if found.expires_at > self.server.clock() else None

    def delete_authorization_code(self, authorization_code: Code) -> None:
        authorization_code.used = True
        launch = self.server.issued.launches.get(authorization_code.authorized.launch or "")
        if launch is not None:
            launch.used = True

    def authenticate_user(self, authorization_code: Code) -> Authorized:
        return authorization_code.authorized

    def generate_token(self, *, scope: str, **settings: Any) -> dict[str, Any]:
        settings["include_refresh_token"] = wants_refresh(scope, self.server.quirks)
        return dict(super().generate_token(scope=scope, **settings))


class RefreshGrant(RefreshTokenGrant):  # type: ignore[misc]
    """A refresh token buys a new pair once; coming back a second time, it ends the whole family."""

    TOKEN_ENDPOINT_AUTH_METHODS = _AUTH_METHODS
    INCLUDE_NEW_REFRESH_TOKEN = True
    server: SmartServer

    def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
        for token in self.server.issued.tokens.values():
            if token.refresh_token == refresh_token:
                if token.refreshed:
                    self.server.issued.revoke_family(token.family)
                return None if token.revoked else token
        return None

    def authenticate_user(self, refresh_token: Token) -> Authorized:
        return refresh_token.authorized

    def revoke_old_credential(self, refresh_token: Token) -> None:
        # The old access token lives to its end: requests under way may still carry it.
        refresh_token.refreshed = True


class BackendGrant(ClientCredentialsGrant):  # type: ignore[misc]
    """A backend service's token: system scopes, no user, no refresh token.

    https://hl7.org/fhir/smart-app-launch/STU2.2/backend-services.html
    """

    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = ["private_key_jwt"]
    server: SmartServer

    def validate_requested_scope(self) -> None:
        asked = self.request.payload.scope or ""
        if not asked or not all(scope.startswith("system/") for scope in asked.split()):
            raise InvalidScopeError("A backend service asks for system scopes, and for no others.")
        if self.client.get_allowed_scope(asked) is None:
            raise InvalidScopeError("None of the scopes is granted.")

    def generate_token(self, *, scope: str, **settings: Any) -> dict[str, Any]:
        return dict(super().generate_token(scope=self.client.get_allowed_scope(scope), **settings))


class LaunchContext:
    """SMART's additions to a token response."""

    def __init__(self, server: SmartServer) -> None:
        self.server = server

    def __call__(self, grant: Any) -> None:
        grant.register_hook("after_create_token_response", self.add_context)

    def add_context(self, grant: Any, response: tuple[int, dict[str, Any], Any]) -> None:
        token, authorized, quirks = response[1], grant.request.user, self.server.quirks
        if authorized.patient and not quirks.no_patient_context:
            token["patient"] = authorized.patient.removeprefix("Patient/")
        if authorized.encounter and not quirks.no_encounter_context:
            token["encounter"] = authorized.encounter.removeprefix("Encounter/")
        if authorized.app_context is not None:
            token["appContext"] = authorized.app_context
        if quirks.need_patient_banner is not None:
            token["need_patient_banner"] = quirks.need_patient_banner and not authorized.framed
        token["smart_style_url"] = f"{self.server.base_url}/smart-style.json"


class SmartCode(LaunchContext, CodeChallenge):  # type: ignore[misc]
    """What SMART asks of an authorization request beyond OAuth: PKCE with S256, aud, state, launch."""

    SUPPORTED_CODE_CHALLENGE_METHOD = ("S256",)

    def __init__(self, server: SmartServer) -> None:
        LaunchContext.__init__(self, server)
        CodeChallenge.__init__(self, required=True)

    def __call__(self, grant: Any) -> None:
        CodeChallenge.__call__(self, grant)
        LaunchContext.__call__(self, grant)
        grant.register_hook("after_validate_authorization_request_payload", self.validate_smart)

    def validate_smart(self, grant: Any, _redirect_uri: str) -> None:
        asked = grant.request.payload.data
        if not asked.get("state"):
            raise InvalidRequestError("Missing 'state'.")
        if asked.get("code_challenge_method") != "S256" or not asked.get("code_challenge"):
            raise InvalidRequestError("A 'code_challenge' with the method S256 is needed.")
        if asked.get("aud") != self.server.fhir_url:
            raise InvalidRequestError("The 'aud' is not this FHIR server.")
        wants_launch = "launch" in (grant.request.payload.scope or "").split()
        if wants_launch != bool(asked.get("launch")):
            raise InvalidScopeError("The scope 'launch' and the parameter 'launch' go together.")
        if asked.get("launch") and self.server.launched(asked["launch"]) is None:
            raise InvalidRequestError("The 'launch' is unknown, expired or used.")


class IdToken(OpenIDCode):  # type: ignore[misc]
    """The id_token, with fhirUser (https://openid.net/specs/openid-connect-core-1_0.html#IDToken)."""

    def __init__(self, server: SmartServer) -> None:
        super().__init__(require_nonce=False)
        self.server = server

    def resolve_client_private_key(self, _client: RegisteredClient) -> RSAKey | ECKey:
        return signing_keys()[self.server.quirks.id_token_alg]

    def get_encode_header(self, client: RegisteredClient) -> dict[str, str]:
        key = self.resolve_client_private_key(client)
        return {"alg": self.server.quirks.id_token_alg, "kid": str(key.kid)}

    def get_client_claims(self, client: RegisteredClient) -> dict[str, Any]:
        now = int(self.server.clock().timestamp())
        return {
            "iss": self.server.issuer,
            "aud": client.get_client_id(),
            "iat": now,
            "exp": now + self.server.quirks.token_seconds,
        }

    def exists_nonce(self, _nonce: str, _request: OAuth2Request) -> bool:
        return False  # replays are the client's to notice; a reload of this page is not one

    def generate_user_info(self, user: Authorized, scope: str) -> dict[str, str]:
        claims = {"sub": f"sandbox-{user.user.removeprefix('Practitioner/')}"}
        if "fhirUser" in scope.split():
            claims["fhirUser"] = f"{self.server.fhir_url}/{user.user}"
        if "profile" in scope.split():
            claims["profile"] = f"{self.server.fhir_url}/{user.user}"
        return claims


class ClientAssertion(JWTBearerClientAssertion):  # type: ignore[misc]
    """private_key_jwt as SMART narrows it.

    https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html
    """

    CLIENT_AUTH_METHOD = "private_key_jwt"

    def __init__(self, server: SmartServer) -> None:
        super().__init__(validate_jti=True, leeway=0)
        self.server = server

    def get_audiences(self) -> list[str]:
        return [self.server.token_url]

    def resolve_client_public_key(self, client: RegisteredClient) -> KeySet:
        jwks = client.client.jwks
        if isinstance(jwks, str):
            try:
                answer = requests.get(jwks, timeout=5, allow_redirects=False)
                answer.raise_for_status()
                jwks = answer.json()
            except (requests.RequestException, ValueError) as error:
                raise InvalidClientError(
                    description="The key set of the client cannot be fetched."
                ) from error
        try:
            return KeySet.import_key_set(cast("KeySetSerialization", jwks or {"keys": []}))
        except (JoseError, KeyError, TypeError, ValueError) as error:
            raise InvalidClientError(description="The key set of the client cannot be read.") from error

    def process_assertion_claims(self, assertion: str, resolve_key: KeySet) -> dict[str, Any]:
        header = jws.extract_compact(assertion.encode()).headers()
        if header.get("typ") != "JWT" or not header.get("kid"):
            raise InvalidClientError(description="The assertion needs the headers typ JWT and kid.")
        try:
            token = jwt.decode(assertion, resolve_key, algorithms=list(ASSERTION_ALGORITHMS))
        except (JoseError, ValueError) as error:
            raise InvalidClientError(
                description="The assertion is not signed by a registered key."
            ) from error
        self.verify_claims(token.claims)
        return dict(token.claims)

    def verify_claims(self, claims: dict[str, Any]) -> None:
        now = int(self.server.clock().timestamp())
        options: dict[str, Any] = {
            "iss": {"essential": True},
            "sub": {"essential": True},
            "aud": {"essential": True, "values": self.get_audiences()},
            "exp": {"essential": True},
            "jti": {"essential": True},
        }
        try:
            jwt.JWTClaimsRegistry(now=now, leeway=self.leeway, **options).validate(claims)
        except JoseError as error:
            raise InvalidClientError(description=f"The assertion is refused: {error.error}.") from error
        if claims["sub"] != claims["iss"]:
            raise InvalidClientError(description="The assertion must have the client as iss and sub.")
        if claims["exp"] > now + ASSERTION_SECONDS:
            raise InvalidClientError(description="The assertion may live five minutes at most.")
        if not self.validate_jti(claims, claims["jti"]):
            raise InvalidClientError(description="The jti of the assertion was used before.")

    def validate_jti(self, claims: dict[str, Any], jti: str) -> bool:
        seen = (claims["iss"], str(jti))
        if seen in self.server.issued.assertion_ids:
            return False
        self.server.issued.assertion_ids.add(seen)
        return True


class Revocation(RevocationEndpoint):  # type: ignore[misc]
    """https://www.rfc-editor.org/rfc/rfc7009: either token of a pair ends all of its family."""

    CLIENT_AUTH_METHODS = _AUTH_METHODS
    server: SmartServer

    def query_token(self, token_string: str, _token_type_hint: str | None) -> Token | None:
        return next(
            (
                token
                for token in self.server.issued.tokens.values()
                if token_string in (token.access_token, token.refresh_token)
            ),
            None,
        )

    def revoke_token(self, token: Token, _request: OAuth2Request) -> None:
        self.server.issued.revoke_family(token.family)


class Introspection(IntrospectionEndpoint):  # type: ignore[misc]
    """https://www.rfc-editor.org/rfc/rfc7662: a client is told of its own tokens, and of no others."""

    CLIENT_AUTH_METHODS: ClassVar = _AUTH_METHODS
    server: SmartServer

    def query_token(self, token_string: str, _token_type_hint: str | None) -> Token | None:
        return self.server.issued.tokens.get(token_string)

    def check_permission(self, token: Token, client: RegisteredClient, _request: OAuth2Request) -> bool:
        return token.check_client(client)

    def create_introspection_payload(self, token: Token | None) -> dict[str, Any]:
        if token is None or token.revoked or token.expires_at <= self.server.clock():
            return {"active": False}
        told = {
            "active": True,
            "scope": token.scope,
            "client_id": token.client_id,
            "exp": int(token.expires_at.timestamp()),
        }
        if token.authorized.patient:
            told["patient"] = token.authorized.patient.removeprefix("Patient/")
        return told


@cache
def _signing_keys() -> dict[str, RSAKey | ECKey]:
    def described(alg: str) -> KeyParameters:
        return {"use": "sig", "alg": alg, "kid": f"sandbox-{alg.lower()}"}

    return {
        "RS256": RSAKey.generate_key(2048, described("RS256")),
        "RS384": RSAKey.generate_key(2048, described("RS384")),
        "ES256": ECKey.generate_key("P-256", described("ES256")),
        "ES384": ECKey.generate_key("P-384", described("ES384")),
    }


_MAKING_KEYS = threading.Lock()


def signing_keys() -> dict[str, RSAKey | ECKey]:
    """The EHR's own keys by algorithm, made once a process, also where two requests ask at once."""
    with _MAKING_KEYS:
        return _signing_keys()


def public_keys() -> dict[str, Any]:
    return {"keys": [key.as_dict(private=False) for key in signing_keys().values()]}
