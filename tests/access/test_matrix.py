"""Every kind of client, launch, scope and id_token against the sandbox (checklist 94), and what Inferno's client
suite checks of each ([T] in the checklist, 91), read from the requests as the EHR received them.

After each, everything that is kept or shown is searched for secrets and for what tells about people.
"""

import base64
import json
import re
from hashlib import sha256
from urllib.parse import unquote, urlencode

import pytest
from joserfc import jws, jwt
from joserfc.jwk import KeySet

from quarterhour.sandbox.clients import DEMO_SECRET
from quarterhour.sandbox.quirks import Quirks

CLIENTS = ("public", "basic", "RS384", "ES384")
LAUNCHES = [(kind, encounter) for kind in ("EHR", "standalone") for encounter in (True, False)]


def opened(site, person, kind, encounter):
    """The review page of one launch, with the visit chosen where the launch brings none."""
    scenario = site.sandbox.scenario("cms-ex1")
    if kind == "EHR":
        page = person.get(site.launch_url("cms-ex1", encounter=encounter))
    else:
        page = person.standalone(patient=scenario.patient, encounter=scenario.encounter if encounter else "")
    if not encounter:
        assert page.heading == "Which visit?"
        page = person.submit(page, "/encounters", encounter=scenario.encounter)
    return page


@pytest.mark.parametrize("alg", ["RS256", "ES384"])
@pytest.mark.parametrize("syntax", ["v1", "v2"])
@pytest.mark.parametrize("client", CLIENTS)
def test_01_91_94_every_kind_of_client_launch_scope_and_id_token(a_site, logged, client, syntax, alg):
    site = a_site(
        client=client,
        more=f'scope_syntax = "{syntax}"',
        quirks=Quirks(id_token_alg=alg, scope_syntax=syntax),
    )
    for kind, encounter in LAUNCHES:
        before = len(site.ehr_side)
        person = site.person()
        page = opened(site, person, kind, encounter)
        assert page.status == 200, (kind, encounter)
        assert "97112" in page.text
        assert "Read only." not in page.text, "all that was asked for was granted"
        seen = site.ehr_side[before:]
        challenge = check_authorization_request(site, seen, kind, syntax)
        check_token_request(site, seen, client, challenge)
    assert person.sign(page).heading.startswith("Signed off")
    check_that_nothing_leaked(site, logged())


# --- what Inferno checks --------------------------------------------------------------------------------------


def check_authorization_request(site, seen, kind, syntax):
    (exchange,) = [each for each in seen if each.path.startswith("/oauth/authorize")]
    asked = exchange.params
    assert all(len(values) == 1 for values in asked.values())
    asked = {name: values[0] for name, values in asked.items()}
    # 23: response_type, client_id and the registered redirect_uri
    assert asked["response_type"] == "code"
    assert asked["redirect_uri"] == f"{site.app_url}/callback"
    # 24: launch unchanged in an EHR launch, absent otherwise
    scopes = asked["scope"].split()
    if kind == "EHR":
        assert asked["launch"] in site.sandbox.smart.issued.launches
        assert "launch" in scopes
        assert "launch/patient" not in scopes
    else:
        assert "launch" not in asked
        assert "launch" not in scopes
        assert "launch/patient" in scopes
    # 25: aud is iss as received
    assert asked["aud"] == f"{site.ehr_url}/fhir"
    # 26: state of 122 bits or more; 28: nonce
    assert len(asked["state"]) * 6 >= 122
    assert len(asked["nonce"]) * 6 >= 122
    # 27: PKCE with S256
    assert asked["code_challenge_method"] == "S256"
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", asked["code_challenge"])
    # 29: no wildcards, the syntax of the issuer; 32: neither max_age nor auth_time
    resources = [scope for scope in scopes if "/" in scope and not scope.startswith("launch")]
    form = r"\.(read|write)" if syntax == "v1" else r"\.[cruds]+"
    assert resources
    assert all(re.fullmatch(rf"(patient|user)/[A-Z]\w+{form}", scope) for scope in resources)
    assert not {"max_age", "prompt"} & asked.keys()
    return asked["code_challenge"]


def check_token_request(site, seen, client, challenge):
    (exchange,) = [each for each in seen if each.path == "/oauth/token"]
    form = exchange.form
    # 39: a form with grant_type, code, the same redirect_uri and the verifier of the challenge
    assert exchange.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert form["grant_type"] == "authorization_code"
    assert form["redirect_uri"] == f"{site.app_url}/callback"
    assert 43 <= len(form["code_verifier"]) <= 128
    digest = sha256(form["code_verifier"].encode()).digest()
    assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == challenge
    core = {"grant_type", "code", "redirect_uri", "code_verifier"}
    if client == "public":  # 40: client_id in the body, no other proof
        assert form.keys() == core | {"client_id"}
        assert "Authorization" not in exchange.headers
    elif client == "basic":  # 40, 41: in the header, and nowhere else
        assert form.keys() == core
        kind, _, pair = exchange.headers["Authorization"].partition(" ")
        name, _, secret = base64.b64decode(pair).decode().partition(":")
        assert (kind, unquote(name), unquote(secret)) == ("Basic", "quarterhour-basic", DEMO_SECRET)
    else:
        assert form.keys() == core | {"client_assertion", "client_assertion_type"}
        assert "Authorization" not in exchange.headers
        check_assertion(site, form["client_assertion"], client)


def check_assertion(site, assertion, alg):
    header = jws.extract_compact(assertion.encode()).headers()
    assert (header["alg"], header["typ"]) == (alg, "JWT")  # 42, 43
    published = site.person().get("/.well-known/jwks.json").answer.json()
    claims = jwt.decode(assertion, KeySet.import_key_set(published), algorithms=[alg]).claims  # 45
    assert header["kid"] in [key["kid"] for key in published["keys"]]
    assert claims["iss"] == claims["sub"] == "quarterhour-jwt"  # 44
    assert claims["aud"] == f"{site.ehr_url}/oauth/token"
    assert 0 < claims["exp"] - site.clock.now.timestamp() <= 300
    assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & {name for key in published["keys"] for name in key}
    used = site.__dict__.setdefault("jtis", set())
    assert claims["jti"] not in used
    used.add(claims["jti"])


# --- what must stay where it is -------------------------------------------------------------------------------


def secrets_of(site):
    """Every secret that passed over the wire, by what it is."""
    found = {"client secret": {DEMO_SECRET}}
    issued = site.sandbox.smart.issued
    found["access token"] = set(issued.tokens)
    found["refresh token"] = {token.refresh_token for token in issued.tokens.values() if token.refresh_token}
    found["code"] = set(issued.codes)
    found["launch"] = set(issued.launches)
    for exchange in site.ehr_side:
        if exchange.path.startswith("/oauth/authorize"):
            found.setdefault("state", set()).update(exchange.params["state"])
            found.setdefault("nonce", set()).update(exchange.params["nonce"])
        if exchange.path == "/oauth/token":
            form, answer = exchange.form, json.loads(exchange.answer)
            found.setdefault("verifier", set()).add(form.get("code_verifier", ""))
            found.setdefault("assertion", set()).add(form.get("client_assertion", ""))
            found.setdefault("id_token", set()).add(answer.get("id_token", ""))
    return {kind: {secret for secret in values if secret} for kind, values in found.items()}


def people_of(site):
    """What tells who somebody is, of every patient: id, record number, date of birth, and the names that are
    long enough not to turn up in random letters by chance."""
    told = set()
    for filed in site.sandbox.store.all("Patient"):
        patient = filed.resource
        name = patient["name"][0]
        told |= {patient["id"], patient["identifier"][0]["value"], patient["birthDate"]}
        told |= {part for part in (name["family"], *name["given"]) if len(part) >= 6}
        told.add(f"{name['given'][0]} {name['family']}")
    return told


def found_in(text, words):
    return sorted(word for word in words if word in text)


def check_that_nothing_leaked(site, log):
    secrets, people = secrets_of(site), people_of(site)
    every = set().union(*secrets.values())
    assert len(every) > 20
    stored = site.database().decode("latin-1")
    # What sends the browser on to the EHR repeats the address, which has to hold state and nonce.
    shown = [
        each
        for each in site.app_side
        if not each.answer_headers.get("Location", "").startswith(f"{site.ehr_url}/oauth/authorize?")
    ]
    assert len(shown) < len(site.app_side)
    pages = [each.answer.decode("utf-8", "replace") for each in shown]
    assert not found_in(stored, every | people)
    assert not found_in(log, every | people)
    assert not found_in("".join(pages), every)
    # In an address only what the specification puts there: iss and launch, code and state.
    for each in site.app_side:
        address = unquote(f"{each.path}?{each.query}")
        allowed = {"/launch": secrets["launch"], "/callback": secrets.get("code", set()) | secrets["state"]}
        assert not found_in(address, (every | people) - allowed.get(each.path, set())), each.path
    assert not found_in("".join(each.answer_headers.get("Location", "") for each in shown), every | people)
    errors = [each.answer.decode("utf-8", "replace") for each in site.app_side if each.status >= 400]
    assert not found_in("".join(errors), people)


def test_the_search_for_leaks_finds_a_leak(a_site, logged):
    """So that its silence above means something."""
    site = a_site()
    person = site.person()
    person.launch()
    secrets = secrets_of(site)
    assert {"access token", "refresh token", "code", "launch", "state", "nonce", "verifier"} <= secrets.keys()
    for kind in ("access token", "code", "verifier"):
        secret = min(secrets[kind])
        assert found_in(f"... {secret} ...", set().union(*secrets.values())) == [secret]
    page = site.app_side[-1].answer.decode()
    assert len(found_in(page, people_of(site))) >= 3, "the review page shows whose chart it is"


# --- the ten simulated errors of SMART Launcher (93) ----------------------------------------------------------


@pytest.mark.parametrize(
    ("simulated", "error", "advice"),
    [
        ("auth_invalid_client_id", "invalid_client", "not registered for this EHR"),
        ("auth_invalid_redirect_uri", "invalid_request", "did not accept the launch"),
        ("auth_invalid_scope", "invalid_scope", "does not permit what was asked for"),
    ],
)
def test_93_an_error_at_the_authorization_page_ends_on_a_page_that_says_what_to_do(
    site, person, simulated, error, advice
):
    state = re.search(r"state=([^&]+)", person.authorize())[1]
    said = {"state": unquote(state), "error": error, "error_description": f"Simulated {simulated}"}
    page = person.get(f"/callback?{urlencode(said)}")
    assert page.status == 403
    assert f"Simulated {simulated}" in page.text
    assert advice in page.text
    assert "What you can do:" in page.text
    assert not site.asked("/oauth/token")


@pytest.mark.parametrize(
    ("simulated", "status", "error", "advice"),
    [
        (
            "auth_invalid_client_secret",
            "401 Unauthorized",
            "invalid_client",
            "client id, secret or key does not fit",
        ),
        ("token_invalid_token", "400 Bad Request", "invalid_grant", "Open Quarterhour again"),
        ("token_invalid_scope", "400 Bad Request", "invalid_scope", "does not permit what was asked for"),
        ("token_invalid_jti", "401 Unauthorized", "invalid_client", "client id, secret or key does not fit"),
    ],
)
def test_93_an_error_at_the_token_endpoint_ends_on_a_page_that_says_what_to_do(
    site, person, simulated, status, error, advice
):
    body = json.dumps({"error": error, "error_description": f"Simulated {simulated}"}).encode()
    site.lies["/oauth/token"] = lambda _: (body, {}, status)
    page = person.launch()
    assert page.status == 502
    assert f"({status[:3]}" in page.text.replace("HTTP ", "") or error in page.text
    assert advice in page.text
    assert "What you can do:" in page.text
    assert not [each for each in site.ehr_side if each.headers.get("Authorization")]


def test_93_an_expired_refresh_token_ends_on_a_page_that_says_what_to_do(a_site):
    site = a_site(quirks=Quirks(token_seconds=120))
    person = site.person()
    page = person.launch()
    body = json.dumps(
        {"error": "invalid_grant", "error_description": "Simulated expired refresh token"}
    ).encode()
    site.lies["/oauth/token"] = lambda _: (body, {}, "400 Bad Request")
    site.clock.forward(seconds=120)
    assert person.get(page.url).status == 200, "what was read can still be looked at"
    ended = person.get(f"/launches/{page.launch_id}/?again=1")
    assert ended.status == 401
    assert "Open Quarterhour again" in ended.text


@pytest.mark.parametrize("simulated", ["request_invalid_token", "request_expired_token"])
def test_93_a_token_that_the_fhir_server_refuses_ends_on_a_page_that_says_what_to_do(site, person, simulated):
    outcome = {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "error", "code": "login", "diagnostics": f"Simulated {simulated}"}],
    }
    path = "/fhir/Encounter/enc-cms-ex1"
    site.lies[path] = lambda _: (json.dumps(outcome).encode(), {}, "401 Unauthorized")
    page = person.launch()
    assert page.status == 401
    assert page.heading == "Your session at the EHR has ended"
    assert "What you can do: Open Quarterhour again" in page.text


def test_93_an_unregistered_client_and_a_foreign_redirect_are_refused_by_the_ehr_before_we_hear_of_it(a_site):
    site = a_site(more="# as registered", client="public")
    person = site.person()
    address = person.authorize().replace("client_id=quarterhour-public", "client_id=unknown")
    refused = person.get(address)
    assert refused.status == 400
    assert not site.asked("/oauth/token")
