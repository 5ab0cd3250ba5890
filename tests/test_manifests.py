"""What is published about launches: `make conformance` writes it, these tests hold it to the code and the tests."""

import ast
import json
import re
import tomllib
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from quarterhour.fhir.site import ChartSettings
from quarterhour.launch.issuers import Backend, Issuer
from quarterhour.launch.scopes import MINUTES, NEEDS, PAYER, SYSTEM_NEEDS, WRITING, scopes_for, system_scopes
from quarterhour.plugin.cli_manifests import EXAMPLE, backend_registration, documents, registration, toml
from quarterhour.plugin.vendors import VENDORS

ROOT = Path(__file__).parent.parent
MANIFESTS = ROOT / "manifests"
CONFORMANCE = ROOT / "docs" / "conformance.md"

# SMART App Launch 2.2 for an app of this kind, by our own numbers, which test names carry. What has no test says why.
REQUIREMENTS = {
    1: ("must", "The launch and redirect addresses are fixed and exact"),
    2: ("must", "Secrets, codes and tokens travel over TLS to authenticated servers only"),
    3: ("must", "Confidential clients by default; public ones where an EHR registers no other"),
    4: ("should", "A key pair rather than a shared secret"),
    5: ("must", "Registration documents with scopes and their reasons"),
    6: ("should", "A request for dynamic client registration"),
    7: ("must", "iss and launch once each, or a page that says so and nothing called"),
    8: ("must", "The issuer is compared exactly with the operator's list"),
    9: ("must", "Nothing is requested of an unknown issuer"),
    10: ("must", "Outbound: no redirects, limits of time and size, no private addresses"),
    11: ("must", "Credentials of one issuer never reach another"),
    12: ("must", "The callback uses the endpoints that the launch began with"),
    13: ("should", "An answer's iss is checked where it is given or promised"),
    14: ("must", "Launches side by side do not overwrite each other"),
    15: ("must", "A tab never shows another tab's patient"),
    16: ("must", "Discovery at .well-known/smart-configuration, asked for as JSON"),
    17: ("must", "Relative endpoints are resolved against the FHIR base"),
    18: ("should", "The CapabilityStatement's endpoints only where the operator says so"),
    19: ("must", "Discovery is kept for a bounded time"),
    20: ("must", "Metadata cannot loosen our own policy"),
    21: ("must", "An EHR that denies S256 is refused, unless the operator says otherwise"),
    22: ("should", "Capabilities are read and adapted to"),
    23: ("must", "response_type, client_id and redirect_uri as registered"),
    24: ("must", "launch is returned unchanged, or launch/patient is asked for"),
    25: ("must", "aud is iss as received"),
    26: ("must", "state is unguessable, used once, short-lived, bound to the browser"),
    27: ("must", "PKCE with S256 and a fresh verifier kept on the server"),
    28: ("must", "A nonce with openid"),
    29: ("must", "Few scopes, no wildcards, both syntaxes from one table"),
    30: ("should", "launch/encounter only where it is offered"),
    31: ("should", "A long authorization request by POST, where the EHR offers it"),
    32: ("must not", "No max_age and no auth_time"),
    33: ("should", "Fine-grained scopes are understood"),
    34: ("must", "The EHR's error is shown escaped, and spends the state"),
    35: ("must", "A state that is unknown, old or used asks for no token"),
    36: ("must", "A state belongs to the browser it was made for"),
    37: ("must not", "No open redirector"),
    38: ("must", "Code and state are not logged, and leave the address at once"),
    39: ("must", "The token request repeats the redirect address and shows the verifier"),
    40: ("must", "Public clients name themselves in the body, confidential ones do not"),
    41: ("must", "A secret goes form-encoded into the header; into the body only where the operator says so"),
    42: ("must", "RS384 and ES384"),
    43: ("must", "Assertion headers alg, kid, typ, and jku only as registered"),
    44: ("must", "Assertion claims, five minutes at most, a new jti each time"),
    45: ("must", "Our key set is public, without private members"),
    46: ("must", "Old and new keys are published together"),
    47: ("must", "Private keys come from file or environment, and are shown nowhere"),
    48: ("must", "Token answers are read with tolerance where that is safe"),
    49: ("must", "No patient: a page that says so"),
    50: ("must", "No encounter: the patient's recent ones to choose from"),
    51: ("must", "Context comes from the token answer, never from an address"),
    52: ("should", "fhirContext by roles, unknown ones left out"),
    53: ("must", "The patient banner unless the EHR shows its own"),
    54: ("should", "smart_style_url as validated values only"),
    55: ("should", "intent is read; an unknown one changes nothing"),
    56: ("should", "tenant is kept"),
    57: ("must", "Granted scopes are looked at before anybody works"),
    58: ("must", "Every record is checked to be the launch's patient's"),
    59: ("must", "id_token signature under an allowed algorithm"),
    60: ("must", "id_token iss, aud, azp, exp, iat, nonce"),
    61: ("must", "An id_token issuer on a third server only by the operator's word"),
    62: ("must", "fhirUser relative or absolute; no token to another server"),
    63: ("must", "Users are (issuer, sub); roles by mapping, never by display text"),
    64: ("should", "An unknown kid fetches keys once more, at a limited rate"),
    65: ("must", "The token goes in a header, to the FHIR base only"),
    66: ("must", "Links and references to other servers are not followed"),
    67: ("must", "Tokens stay on the server, encrypted; the browser holds an opaque id"),
    68: ("must", "Refresh: one at a time, rotation, no wider scope"),
    69: ("must", "No refresh token: a relaunch finds the draft"),
    70: ("should", "Renewed in the last minute; one more try after a 401"),
    71: ("should", "Signing out revokes and forgets"),
    72: (
        "should",
        "Introspection once a token, where its answer does not say what was granted; never a request",
    ),
    73: ("must not", "Access tokens are never read"),
    74: ("must", "Sessions end on the server: idle and in any case"),
    75: ("must", "The cookie: __Host-, Secure, HttpOnly, Partitioned where embedded"),
    76: ("must", "frame-ancestors from the issuers, no X-Frame-Options"),
    77: ("must", "Cookies blocked: a tab of its own is offered"),
    78: ("must", "No pop-ups in the main path; a page to print beside each download"),
    79: ("must", "A mark on every POST, and its origin checked"),
    80: ("must", "CSP, nosniff, HSTS, no-store, Permissions-Policy"),
    81: ("must", "Texts of the EHR are escaped, narrative is not shown"),
    82: ("should", "Sessions are held to their browser, issuer and person"),
    83: ("should", "CORS for the key sets and the discovery of CDS services alone"),
    84: ("should", "Narrow frames, keyboard, WCAG 2.2 AA"),
    85: ("must", "Backend services: client credentials with a key of their own"),
    86: ("must", "Backend tokens are used until shortly before they expire; no refresh token"),
    87: ("must not", "A backend token writes nothing for a clinician"),
    88: (
        "may",
        "App State",
        "Not used: drafts tell of a patient's visit, and App State may hold no clinical data.",
    ),
    89: (
        "may",
        "Brands",
        "Not used: they let a patient find their clinic; a clinician comes from the EHR that is open.",
    ),
    90: ("may", "Task launch: the visit that the Task (or a card's link) names is the one that opens"),
    91: ("must", "Inferno's checks of a client, replayed"),
    92: ("should", "A table of requirements and tests"),
    93: ("should", "The ten simulated errors of SMART Launcher"),
    94: ("should", "The matrix of clients, launches, scopes, contexts and algorithms"),
}


def numbered_tests() -> dict[int, list[str]]:
    """The names of the tests that carry a number: test_59_60_a_forged_... belongs to both."""
    found: dict[int, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            numbered = isinstance(node, ast.FunctionDef) and re.match(r"test_((?:\d{1,2}_)+)\D", node.name)
            if numbered:
                for number in numbered[1].strip("_").split("_"):
                    found.setdefault(int(number), []).append(
                        f"{path.relative_to(ROOT).as_posix()}::{node.name}"
                    )
    return found


def conformance() -> str:
    tests = numbered_tests()
    lines = [
        "# SMART App Launch 2.2: requirements and their tests",
        "",
        "<!-- Written by `make conformance`; do not edit. -->",
        "",
        "The specification: https://hl7.org/fhir/smart-app-launch/STU2.2/. Numbers are ours and in the tests' names.",
        "Tests in `access` run over real HTTP against the sandbox, those in `launch` against a fake at the wire.",
        "",
        "| | | Requirement | Tests |",
        "| --- | --- | --- | --- |",
    ]
    for number, (force, title, *why) in REQUIREMENTS.items():
        names = tests.get(number, [])
        held = "<br>".join(f"`{name.removeprefix('tests/')}`" for name in names) or "".join(why)
        lines.append(f"| {number} | {force} | {title} | {held} |")
    return "\n".join(lines) + "\n"


def test_92_the_conformance_table_is_not_stale():
    assert CONFORMANCE.read_text(encoding="utf-8") == conformance(), "run `make conformance`"


@pytest.mark.parametrize("number", REQUIREMENTS)
def test_92_every_requirement_has_a_test_or_says_why_not(number):
    _force, _title, *why = REQUIREMENTS[number]
    assert bool(why) != bool(numbered_tests().get(number)), "a test, or a reason: not both, not neither"


def test_92_no_test_carries_a_number_that_is_none():
    assert numbered_tests().keys() <= REQUIREMENTS.keys()


# --- registrations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", documents(EXAMPLE))
def test_05_a_published_document_is_not_stale(name):
    assert (MANIFESTS / name).read_text(encoding="utf-8") == documents(EXAMPLE)[name], (
        "run `make conformance`"
    )


@pytest.mark.parametrize("kind", ["public", "confidential-symmetric", "confidential-asymmetric"])
def test_06_the_request_for_dynamic_registration_says_where_and_what_we_are(kind):
    asked = registration("https://units.clinic.example", kind)
    assert asked["redirect_uris"] == ["https://units.clinic.example/callback"]
    assert asked["initiate_login_uri"] == "https://units.clinic.example/launch"
    assert ("jwks_uri" in asked) == (kind == "confidential-asymmetric")
    assert json.loads(documents("https://units.clinic.example")[f"registration-{kind}.json"]) == asked


def test_85_the_backend_registers_for_client_credentials_with_a_key_set_of_its_own():
    asked = backend_registration("https://units.clinic.example")
    assert asked["grant_types"] == ["client_credentials"]
    assert asked["token_endpoint_auth_method"] == "private_key_jwt"
    people = registration("https://units.clinic.example", "confidential-asymmetric")
    assert (
        asked["jwks_uri"]
        == "https://units.clinic.example/.well-known/backend-jwks.json"
        != people["jwks_uri"]
    )
    assert not {"redirect_uris", "initiate_login_uri"} & asked.keys()
    name = "registration-backend-services.json"
    assert json.loads(documents("https://units.clinic.example")[name]) == asked


@pytest.mark.parametrize("syntax", ["v1", "v2"])
def test_85_every_system_scope_that_the_code_asks_for_is_published_with_its_reason(syntax):
    published = (MANIFESTS / "scopes.md").read_text(encoding="utf-8")
    registered = backend_registration(EXAMPLE)["scope"].split()
    vendor = issuer_of(VENDORS[0])
    backend = Backend(
        client_id="b", signing_alg="ES384", key_env="K", also_for=("planned-charges", "subscriptions")
    )
    asked = system_scopes(vendor.model_copy(update={"scope_syntax": syntax}), backend)
    for scope in asked:
        assert f"`{scope}`" in published, scope
        assert scope.startswith("system/")
        assert "*" not in scope
    assert syntax == "v1" or set(asked) == set(registered)
    assert all(need.reason in published for needs in SYSTEM_NEEDS.values() for need in needs)


def test_05_every_scope_that_the_code_asks_for_is_published_with_its_reason():
    published = (MANIFESTS / "scopes.md").read_text(encoding="utf-8")
    for vendor in VENDORS:
        for ehr_launch in (True, False):
            for scope in scopes_for(issuer_of(vendor), ehr_launch=ehr_launch, capabilities=()):
                assert f"`{scope}`" in published, scope
    every = (*NEEDS, MINUTES, PAYER, *(need for needs in WRITING.values() for need in needs))
    for need in every:
        assert f"`{need.v2}` | `{need.v1}` | {need.reason}" in published


def issuer_of(vendor) -> Issuer:
    table = tomllib.loads(toml(vendor))["issuers"][vendor.id]
    return Issuer.model_validate({**table, "id": vendor.id}, context={"folder": MANIFESTS})


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.id)
def test_05_a_vendors_table_is_one_that_the_issuers_file_takes(vendor):
    issuer = issuer_of(vendor)
    ChartSettings.from_site(issuer.site, ZoneInfo(issuer.time_zone))
    assert f"[issuers.{vendor.id}]" in (MANIFESTS / "registrations.md").read_text(encoding="utf-8")


def test_03_no_vendors_table_is_a_public_client():
    assert all(vendor.auth != "public" for vendor in VENDORS)


def test_04_the_example_shows_a_key_pair_first():
    tables = tomllib.loads((MANIFESTS / "issuers.example.toml").read_text(encoding="utf-8"))["issuers"]
    assert next(iter(tables.values()))["client_auth"] == "private_key_jwt"


if __name__ == "__main__":
    CONFORMANCE.write_text(conformance(), encoding="utf-8")
