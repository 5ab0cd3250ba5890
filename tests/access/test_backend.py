"""Backend services over real HTTP: Quarterhour's own access, and nothing of a clinician's with it."""

from __future__ import annotations

import ast
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from quarterhour.fhir.server import Server
from quarterhour.launch.errors import TokenRefused
from quarterhour.plugin.cli import main
from quarterhour.plugin.cli_demo import demonstration
from quarterhour.sandbox.quirks import Quirks

ROOT = Path(__file__).parents[2]
TOKEN = "/oauth/token"
CONFIGURATION = "/fhir/.well-known/smart-configuration"


def sandbox_issuer(site):
    return next(iter(site.installation.issuers))


def asked_with(site, client_id):
    """What the EHR was asked with tokens of that client."""
    issued = site.sandbox.smart.issued.tokens
    return [
        each
        for each in site.ehr_side
        if (held := issued.get(each.headers.get("Authorization", "").removeprefix("Bearer ")))
        and held.client_id == client_id
    ]


def own_requests(site):
    return [each for each in site.asked(TOKEN) if each.form["grant_type"] == "client_credentials"]


def command(site, *words):
    return CliRunner().invoke(main, [*words], catch_exceptions=False)


# --- the token ------------------------------------------------------------------------------------------------


def test_85_the_ehr_finds_the_backends_key_at_its_own_address_and_grants_system_scopes(a_site):
    site = a_site(client="ES384", backend="")
    granted = site.installation.access(sandbox_issuer(site))
    assert granted.lacks == ()
    assert all(scope.startswith("system/") for scope in granted.scopes)
    assert [each.path for each in site.app_side] == ["/.well-known/backend-jwks.json"]
    server = Server(
        f"{site.ehr_url}/fhir", granted.token, site.installation.connections.to(sandbox_issuer(site))
    )
    assert server.read(f"Encounter/{site.sandbox.scenario('cms-ex1').encounter}")


def test_86_the_token_serves_until_shortly_before_its_end_and_a_new_one_follows(a_site):
    site = a_site(backend="")
    issuer = sandbox_issuer(site)
    first = site.installation.access(issuer)
    site.clock.forward(seconds=269)
    assert site.installation.access(issuer) is first
    site.clock.forward(seconds=1)
    second = site.installation.access(issuer)
    assert second.token != first.token
    assert len(own_requests(site)) == 2
    assert not any("refresh_token" in json.loads(each.answer) for each in own_requests(site))


def test_85_the_demo_has_a_backend_client(a_site):
    with demonstration() as shown:
        granted = shown.installation.access(next(iter(shown.installation.issuers)))
    assert granted.lacks == ()
    assert {"system/ChargeItem.cu", "system/Subscription.rs", "system/Subscription.cud"} < set(granted.scopes)


def test_85_an_ehr_that_grants_too_little_gives_no_access(a_site):
    site = a_site(backend="", quirks=Quirks(withheld_scopes=("system/Procedure.rs",)))
    with pytest.raises(TokenRefused, match=r"without system/Procedure\.rs"):
        site.installation.access(sandbox_issuer(site))


def test_72_what_an_ehr_does_not_say_in_its_answer_is_found_by_introspection(a_site):
    site = a_site(backend="", quirks=Quirks(withheld_scopes=("system/Coverage.rs",)))
    site.lies[TOKEN] = lambda honest: (json.dumps({**json.loads(honest), "scope": None}).encode(),)
    granted = site.installation.access(sandbox_issuer(site))
    assert [need.v2 for need in granted.lacks] == ["system/Coverage.rs"]
    assert len(site.asked("/oauth/introspect")) == 1


# --- two identities, never one --------------------------------------------------------------------------------


def test_85_87_the_two_key_sets_have_no_key_in_common(a_site):
    site = a_site(client="ES384", backend="")
    person = site.person()
    clinicians, backends = (
        person.get(f"/.well-known/{name}.json").answer.json()["keys"] for name in ("jwks", "backend-jwks")
    )
    assert len(clinicians) == len(backends) == 1
    assert clinicians[0]["kid"] != backends[0]["kid"]
    assert not {"d", "p", "q"} & (clinicians[0].keys() | backends[0].keys())
    printed = command(site, "keys", "jwks", "--backend", str(site.folder / "issuers.toml"))
    assert json.loads(printed.output)["keys"] == backends


def test_87_what_a_clinician_reads_and_signs_off_is_done_with_the_clinicians_token(a_site):
    site = a_site(client="ES384", backend='also_for = ["planned-charges"]')
    site.installation.access(sandbox_issuer(site))  # a token that could write is there
    person = site.person()
    receipt = person.sign(person.launch())
    assert "Signed off" in receipt.heading or site.charges
    assert asked_with(site, "quarterhour-backend") == []
    written = [each for each in asked_with(site, "quarterhour-jwt") if each.method == "POST"]
    assert written
    assert len(own_requests(site)) == 1


def test_85_no_clinicians_token_comes_from_the_backend_client_or_the_reverse(a_site):
    site = a_site(client="ES384", backend="")
    site.installation.access(sandbox_issuer(site))
    site.person().launch()
    for each in site.sandbox.smart.issued.tokens.values():
        own = each.client_id == "quarterhour-backend"
        assert own == (each.authorized.user == "")
        assert own == any(scope.startswith("system/") for scope in each.scope.split())


CLINICIANS = {"plugin/flow.py", "plugin/review.py", "plugin/sign_off.py", "plugin/sessions.py"}


def test_87_nothing_that_serves_a_clinician_asks_for_quarterhours_own_access():
    asks = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "plugin").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").endswith("launch.backend"))
        or (isinstance(node, ast.Attribute) and node.attr == "backend_tokens")
        or (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "access"
        )
    }
    serve_clinicians = CLINICIANS | {path for path in asks if path.endswith("_views.py")}
    assert all((ROOT / path).exists() for path in CLINICIANS)
    assert "plugin/cli_issuers.py" in asks
    assert not asks & serve_clinicians


def test_67_85_the_backends_token_and_key_are_stored_and_logged_nowhere(a_site, logged):
    site = a_site(backend="")
    granted = site.installation.access(sandbox_issuer(site))
    site.person().launch()
    assertion = own_requests(site)[0].form["client_assertion"]
    for place in (
        logged(),
        site.database().decode("latin-1"),
        *(each.answer.decode() for each in site.app_side),
    ):
        assert granted.token not in place
        assert assertion not in place


# --- issuers check --------------------------------------------------------------------------------------------


def now():
    """The command has the wall clock, so these EHRs must have it too."""
    return datetime.now(UTC)


def check(site):
    return command(site, "issuers", "check", "--file", str(site.folder / "issuers.toml"))


def test_85_the_check_tells_that_backend_services_are_offered(a_site):
    told = check(a_site())
    assert "Backend services are offered, for what is done without a clinician; none is set up" in told.output


def test_85_the_check_tries_the_token_and_throws_it_away(a_site):
    site = a_site(backend="", clock=now)
    told = check(site)
    assert (told.exit_code, "Backend services: a token for 7 scopes" in told.output) == (0, True), told.output
    assert "  needs" not in told.output
    assert len(own_requests(site)) == 1
    assert asked_with(site, "quarterhour-backend") == []
    assert all(token not in told.output for token in site.sandbox.smart.issued.tokens)


@pytest.mark.parametrize(
    ("said", "backend", "status", "tells"),
    [
        (None, None, 0, "Whether it offers backend services is not said"),
        (["authorization_code"], None, 0, "No backend services: nothing is read without a clinician"),
    ],
)
def test_85_the_check_tells_what_an_ehr_without_backend_services_says(a_site, said, backend, status, tells):
    site = a_site(backend=backend)
    site.lies[CONFIGURATION] = lambda honest: (
        json.dumps(json.loads(honest) | {"grant_types_supported": said}).encode(),
    )
    told = check(site)
    assert (told.exit_code, tells in told.output) == (status, True), told.output


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"error": "invalid_client"}, "id or key does not fit the registration"),
        ({"error": "unsupported_grant_type"}, "the EHR offers no client_credentials"),
    ],
)
def test_85_the_check_fails_where_the_token_is_refused(a_site, answer, says):
    site = a_site(backend="")
    if answer["error"] == "unsupported_grant_type":
        site.lies[CONFIGURATION] = lambda honest: (
            json.dumps(json.loads(honest) | {"grant_types_supported": ["authorization_code"]}).encode(),
        )
    site.lies[TOKEN] = lambda _: (json.dumps(answer).encode(), {}, "400 Bad Request")
    told = check(site)
    assert (told.exit_code, says in told.output) == (1, True), told.output


def test_85_the_check_tells_what_was_granted_less_and_more_than_asked(a_site):
    site = a_site(backend="", clock=now, quirks=Quirks(withheld_scopes=("system/Coverage.rs",)))
    site.lies[TOKEN] = lambda honest: (
        json.dumps(
            json.loads(honest) | {"scope": f"{json.loads(honest)['scope']} system/Account.cruds"}
        ).encode(),
    )
    told = check(site)
    assert "system/Coverage.rs was not granted to the backend client. Tells the payer" in told.output
    assert "More was granted to the backend client than it asked for: system/Account.cruds" in told.output
