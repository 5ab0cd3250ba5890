"""The authorization server's addresses: discovery, authorize, token, revocation, keys."""

from __future__ import annotations

from typing import Any

from authlib.oauth2 import OAuth2Error
from flask import Blueprint, Response, jsonify, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from .authorization import ASSERTION_ALGORITHMS, Authorized, SmartServer, public_keys
from .scopes import CONTEXT_SCOPES
from .store import Store

# SMART's style names: https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html
STYLE = {
    "color_background": "#ffffff",
    "color_error": "#a4262c",
    "color_highlight": "#0b5c6b",
    "color_modal_backdrop": "",
    "color_success": "#2f6b2f",
    "color_text": "#1d2b33",
    "dim_border_radius": "6px",
    "dim_font_size": "16px",
    "dim_spacing_size": "16px",
    "font_family_body": "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif",
    "font_family_heading": "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif",
}


def configuration(server: SmartServer) -> dict[str, Any]:
    """What this EHR can do (https://hl7.org/fhir/smart-app-launch/STU2.2/conformance.html)."""
    quirks = server.quirks
    permissions = {
        "both": ["permission-v1", "permission-v2"],
        "v1": ["permission-v1"],
        "v2": ["permission-v2"],
    }
    capabilities = [
        "launch-ehr",
        "launch-standalone",
        "authorize-post",
        "client-public",
        "client-confidential-symmetric",
        "client-confidential-asymmetric",
        "sso-openid-connect",
        "context-banner",
        "context-style",
        "permission-patient",
        "permission-user",
        *permissions[quirks.scope_syntax],
    ]
    if not quirks.no_patient_context:
        capabilities += ["context-ehr-patient", "context-standalone-patient"]
    if not quirks.no_encounter_context:
        capabilities += ["context-ehr-encounter", "context-standalone-encounter"]
    if not quirks.no_refresh_token:
        capabilities += ["permission-online", "permission-offline"]
    return {
        "issuer": server.issuer,
        "jwks_uri": f"{server.base_url}/oauth/jwks",
        "authorization_endpoint": f"{server.base_url}/oauth/authorize",
        "token_endpoint": server.token_url,
        "revocation_endpoint": f"{server.base_url}/oauth/revoke",
        "introspection_endpoint": f"{server.base_url}/oauth/introspect",
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": list(ASSERTION_ALGORITHMS),
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "response_types_supported": ["code"],
        "scopes_supported": [*CONTEXT_SCOPES, *_data_scopes(quirks.scope_syntax)],
        "code_challenge_methods_supported": ["S256"],
        "capabilities": capabilities,
    }


def _data_scopes(syntax: str) -> list[str]:
    forms = {"v1": ["read", "write"], "v2": ["rs", "cu"]}
    chosen = [form for name, each in forms.items() if syntax in (name, "both") for form in each]
    return [f"{level}/*.{form}" for level in ("patient", "user", "system") for form in chosen]


def blueprint(server: SmartServer, store: Store) -> Blueprint:  # noqa: C901 - one address after another
    """Discovery under the FHIR base, the rest under ``/oauth``."""
    smart = Blueprint("smart", __name__)

    @smart.get("/fhir/.well-known/smart-configuration")
    def smart_configuration() -> Response:
        response = jsonify(configuration(server))
        response.headers["Cache-Control"] = "public, max-age=300"
        return response

    @smart.get("/fhir/.well-known/openid-configuration")
    def openid_configuration() -> Response:
        smart_configuration = configuration(server)
        names = ("issuer", "jwks_uri", "authorization_endpoint", "token_endpoint", "scopes_supported")
        return jsonify(
            {name: smart_configuration[name] for name in names}
            | {
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": [server.quirks.id_token_alg],
            }
        )

    @smart.get("/oauth/jwks")
    def jwks() -> Response:
        return jsonify(public_keys())

    @smart.get("/smart-style.json")
    def style() -> Response:
        return jsonify(STYLE)

    @smart.route("/oauth/authorize", methods=["GET", "POST"])
    def authorize() -> AnyResponse:
        authorized = server.launched(request.values.get("launch", ""))
        return _authorized(server, store, authorized)

    @smart.post("/oauth/authorize/choose")
    def choose() -> AnyResponse:
        """The standalone launch's page comes back: the original query, and who was chosen in the form."""
        if "deny" in request.form:
            return _authorized(server, store, None, denied=True)
        encounter = store.get("Encounter", request.form.get("encounter", ""))
        patient = encounter.patient if encounter else f"Patient/{request.form.get('patient', '')}"
        user = request.form.get("user", "")
        if store.get("Practitioner", user) is None or _no_such_patient(patient, store):
            return _page("That choice is not in this EHR. Go back and choose again.")
        chosen = f"Encounter/{encounter.resource['id']}" if encounter else None
        return _authorized(server, store, Authorized(f"Practitioner/{user}", patient, chosen))

    @smart.post("/oauth/token")
    def token() -> AnyResponse:
        with server.lock:  # a code or refresh token must not be spent twice at once
            response: AnyResponse = server.create_token_response()
        return response

    @smart.post("/oauth/revoke")
    def revoke() -> AnyResponse:
        with server.lock:
            response: AnyResponse = server.create_endpoint_response("revocation")
        return response

    @smart.post("/oauth/introspect")
    def introspect() -> AnyResponse:
        with server.lock:
            response: AnyResponse = server.create_endpoint_response("introspection")
        return response

    return smart


def _no_such_patient(patient: str | None, store: Store) -> bool:
    return patient is None or store.get(*patient.split("/", 1)) is None


def _authorized(
    server: SmartServer, store: Store, authorized: Authorized | None, *, denied: bool = False
) -> AnyResponse:
    """Send the browser back with a code, ask who and for whom, or refuse."""
    try:
        with server.lock:
            grant = server.get_consent_grant(end_user=authorized)
            if authorized is not None or denied:
                response: AnyResponse = server.create_authorization_response(
                    grant_user=authorized, grant=grant
                )
                return response
    except OAuth2Error as error:
        if error.redirect_uri:
            # Only where the address was checked against the client's own (RFC 6749 section 4.1.2.1).
            error.state = request.values.get("state")
            _status, _body, headers = error()
            return redirect(dict(headers)["Location"])
        return _page(f"{error.description or error.error} Tell the person who set this app up.")
    return _choice(grant.request.scope, store)


def _choice(scope: str, store: Store) -> Response:
    patients = [filed.resource for filed in store.all("Patient")]
    encounters = [filed.resource for filed in store.all("Encounter")]
    page = render_template(
        "standalone.html",
        scopes=scope.split(),
        query=request.query_string.decode("ascii", "replace"),
        users=[filed.resource for filed in store.all("Practitioner")],
        patients=patients,
        encounters=encounters if "launch/encounter" in scope.split() else [],
    )
    return Response(page)


def _page(message: str) -> Response:
    return Response(render_template("refused.html", message=message), status=400)
