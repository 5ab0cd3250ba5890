"""What somebody who wants in would try, over real HTTP. Each test fails if they get anywhere."""

import base64
import gzip
import hashlib
import hmac
import json
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
from joserfc import jws, jwt
from joserfc.jwk import OctKey

from quarterhour.plugin import database
from quarterhour.sandbox.authorization import signing_keys
from quarterhour.sandbox.ehr import running
from quarterhour.sandbox.quirks import Quirks

CONFIGURATION = "/fhir/.well-known/smart-configuration"


@pytest.fixture
def elsewhere():
    """Another server; whatever reaches it is a leak. Its address, and what it was asked."""
    asked = []

    def application(environ, start_response):
        asked.append((environ["PATH_INFO"], environ.get("HTTP_AUTHORIZATION")))
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b"{}"]

    with running(lambda _: application) as address:
        yield address, asked


def lie(site, path, **changed):
    """The EHR's JSON at a path, with members changed."""
    site.lies[path] = lambda honest: (json.dumps(json.loads(honest) | changed).encode(),)


# --- issuers (7-11) -------------------------------------------------------------------------------------------


def look_alikes(ehr, elsewhere):
    host = ehr.removeprefix("http://")
    return [
        f"{elsewhere}/fhir",
        f"{ehr}.evil.example/fhir",
        f"http://{host}@{elsewhere.removeprefix('http://')}/fhir",
        f"http://evil@{host}/fhir",
        f"{ehr}/fhir/../fhir",
        f"{ehr}/fhir%2f",
        f"{ehr}/fhir?x=1",
        f"{ehr}/fhir#",
        f"{ehr}/FHIR",
        f"{ehr}/fhir2",
        f"{ehr}\\@evil.example/fhir",
        f"https://{host}/fhir",
        f"ftp://{host}/fhir",
        f"//{host}/fhir",
        f"{ehr}/fhir\r\nX-Evil: 1",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/fhir",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://" + "a" * 3000,
        "",
    ]


def test_8_9_an_unknown_or_look_alike_issuer_is_refused_before_any_request(site, person, elsewhere):
    address, asked = elsewhere
    for iss in look_alikes(site.ehr_url, address):
        for page in (
            person.get(f"/launch?{urlencode({'iss': iss, 'launch': 'x'})}", allow_redirects=False),
            person.get(f"/start?{urlencode({'iss': iss})}", allow_redirects=False),
        ):
            assert page.status in {400, 403}, iss
            assert "Location" not in page.headers
            assert "What you can do:" in page.text
    assert asked == []
    assert site.ehr_side == []


@pytest.mark.parametrize(
    "query", ["", "iss=EHR", "launch=x", "iss=EHR&iss=EHR&launch=x", "iss=EHR&launch=x&launch=y"]
)
def test_7_a_launch_needs_iss_and_launch_once_each(site, person, query):
    page = person.get("/launch?" + query.replace("EHR", quote(f"{site.ehr_url}/fhir")))
    assert page.status == 400
    assert site.ehr_side == []


def test_refused_launches_are_on_record_without_what_was_sent(site, person):
    person.get("/launch?iss=https://evil.example/Jane-Doe&launch=secret-token")
    (entry,) = site.trail()
    assert (entry.action, entry.who, entry.what["why"]) == ("launch-refused", "", "UnknownIssuer")
    assert "Jane" not in str(entry)


# --- discovery that lies (20, 21, 13) -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("member", "path", "says"),
    [
        ("token_endpoint", "/oauth/token", "different servers"),
        ("authorization_endpoint", "/oauth/authorize", "different servers"),
        ("issuer", "", "names an issuer on another server"),
    ],
)
def test_12_an_ehr_whose_configuration_names_another_server_is_refused(
    site, person, elsewhere, member, path, says
):
    address, asked = elsewhere
    lie(site, CONFIGURATION, **{member: address + path})
    page = person.launch()
    assert page.status == 502
    assert says in page.text
    assert asked == []
    assert not site.asked("/oauth/token")


def test_21_an_ehr_that_switches_pkce_off_is_refused(site, person):
    for methods in ([], None, ["plain"]):
        lie(site, CONFIGURATION, code_challenge_methods_supported=methods)
        page = person.launch()
        assert page.status == 502
        assert "PKCE with S256" in page.text


def test_20_metadata_changes_nothing_of_what_we_ask(site, person):
    lie(
        site,
        CONFIGURATION,
        code_challenge_method=None,
        scope="user/*.cruds",
        response_type="token",
        response_types_supported=["token"],
        token_endpoint_auth_methods_supported=["none"],
    )
    asked = parse_qs(urlsplit(person.authorize()).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["response_type"] == ["code"]
    assert "user/*.cruds" not in asked["scope"][0]


# --- mix-up (11-13) -------------------------------------------------------------------------------------------


@pytest.fixture
def two_ehrs(a_site):
    """Quarterhour at an honest EHR with a secret, and a second EHR on its list that would like to have it."""
    second = a_site()
    table = (
        f'\n[issuers.second]\nname = "Second"\niss = "{second.ehr_url}/fhir"\nclient_id = "quarterhour-public"\n'
        'client_auth = "public"\ntime_zone = "UTC"\nallow_http = true\nallow_private_addresses = true\n'
    )
    return a_site(client="basic", issuers=table), second


def test_11_a_code_of_the_one_ehr_with_the_state_of_the_other_goes_to_the_others_token_endpoint(two_ehrs):
    site, second = two_ehrs
    person = site.person()
    state = parse_qs(urlsplit(person.callback()).query)["state"][0]
    second.ehr_side.clear()
    page = person.get(f"/callback?{urlencode({'code': 'code-of-second', 'state': state})}")
    assert page.status == 502
    assert site.asked("/oauth/token")[0].form["code"] == "code-of-second"
    assert second.ehr_side == []


def test_13_an_answer_that_names_the_other_ehr_is_refused(two_ehrs):
    site, second = two_ehrs
    person = site.person()
    back = person.callback()
    page = person.get(f"{back}&{urlencode({'iss': f'{second.ehr_url}/fhir'})}")
    assert page.status == 400
    assert "another server" in page.text
    assert not site.asked("/oauth/token")


def test_11_the_secret_of_the_one_ehr_never_reaches_the_other(two_ehrs):
    site, second = two_ehrs
    person = site.person()
    person.launch()
    person.get(f"/start?{urlencode({'iss': f'{second.ehr_url}/fhir'})}", allow_redirects=False)
    assert any("Authorization" in each.headers for each in site.asked("/oauth/token"))
    assert not any("Authorization" in each.headers for each in second.ehr_side)


# --- codes and states (26, 35, 36) ----------------------------------------------------------------------------


def test_35_a_callback_is_good_once(site, person):
    back = person.callback()
    assert person.get(back).status == 200
    again = person.get(back)
    assert again.status == 400
    assert "belongs to no launch that is waiting" in again.text
    assert len(site.asked("/oauth/token")) == 1


@pytest.mark.parametrize("changed", [{"state": "guess"}, {"state": ""}, {"code": ""}, {"state": ["a", "b"]}])
def test_35_a_callback_with_another_state_or_no_code_asks_for_no_token(site, person, changed):
    query = parse_qs(urlsplit(person.callback()).query) | changed
    page = person.get(f"/callback?{urlencode(query, doseq=True)}")
    assert page.status == 400
    assert not site.asked("/oauth/token")


@pytest.mark.parametrize(("seconds", "status"), [(599, 200), (600, 400)])
def test_26_a_sign_in_takes_less_than_ten_minutes(a_site, seconds, status):
    site = a_site()
    person = site.person()
    started = person.authorize()
    site.clock.forward(seconds=seconds)
    for launch in site.sandbox.smart.issued.launches.values():
        launch.expires_at = site.clock.now.replace(year=2030)
    back = person.http.get(started, allow_redirects=False, timeout=30).headers["Location"]
    assert person.get(back).status == status
    assert bool(site.asked("/oauth/token")) == (status == 200)


def test_36_a_state_from_another_browser_is_refused(site):
    attacker, victim = site.person(), site.person()
    victim.authorize()  # has a session of its own
    page = victim.get(attacker.callback())
    assert page.status == 400
    assert "begun in another browser" in page.text
    assert not site.asked("/oauth/token")


def test_36_login_csrf_the_victim_is_not_signed_in_as_the_attacker(site):
    attacker, victim = site.person(), site.person()
    page = victim.get(attacker.callback())
    assert page.status == 400
    assert "did not keep Quarterhour's cookie" in page.text
    assert site.rows(database.launch) == []


def test_77_a_browser_that_refuses_cookies_is_offered_a_tab_of_its_own(site):
    person = site.person()
    back = person.callback()
    person.adapter.jar.clear()
    page = person.get(back)
    assert page.status == 400
    assert 'target="_blank"' in page.html
    assert "/launch?iss=" in page.html
    assert parse_qs(urlsplit(back).query)["state"][0] not in page.html


def test_34_the_ehrs_error_is_shown_escaped_and_spends_the_state(site, person):
    state = parse_qs(urlsplit(person.callback()).query)["state"][0]
    error = {"state": state, "error": "access_denied", "error_description": "<script>alert(1)</script>"}
    page = person.get(f"/callback?{urlencode(error)}")
    assert page.status == 403
    assert "<script>alert" not in page.html
    assert "Access was declined" in page.text
    assert person.get(f"/callback?{urlencode({'state': state, 'code': 'x'})}").status == 400


def test_34_nobody_puts_words_on_our_page_by_a_link(site, person):
    page = person.get("/callback?error=access_denied&error_description=Call+555-0100+now&state=x")
    assert "555-0100" not in page.html


# --- identity (59, 60) ----------------------------------------------------------------------------------------


def forged(site, change):
    """From now on the token endpoint gives an id_token that ``change`` makes of the honest one's claims."""

    def answer(honest):
        token = json.loads(honest)
        claims = json.loads(jws.extract_compact(token["id_token"].encode()).payload)
        return (json.dumps(token | {"id_token": change(claims)}).encode(),)

    site.lies["/oauth/token"] = answer


def signed(claims, **changed):
    key = signing_keys()["RS256"]
    return jwt.encode({"alg": "RS256", "kid": key.kid}, claims | changed, key, algorithms=["RS256"])


def unsigned(claims):
    part = jwt.encode({"alg": "HS256"}, claims, OctKey.import_key("x" * 32), algorithms=["HS256"]).split(".")[
        1
    ]
    return f"eyJhbGciOiJub25lIn0.{part}."


def by_public_key(claims):
    """HS256 with the EHR's public key as the secret: what a verifier that believes the header would accept."""
    public = signing_keys()["RS256"].as_pem(private=False)
    header = encoded(json.dumps({"alg": "HS256", "kid": "sandbox-rs256"}).encode())
    unsigned_part = header + b"." + encoded(json.dumps(claims).encode())
    mac = hmac.new(public, unsigned_part, hashlib.sha256).digest()
    return (unsigned_part + b"." + encoded(mac)).decode()


def encoded(part):
    return base64.urlsafe_b64encode(part).rstrip(b"=")


FORGERIES = {
    "none": unsigned,
    "HS256 with the public key": by_public_key,
    "another audience": lambda claims: signed(claims, aud="another-app"),
    "several audiences without azp": lambda claims: signed(claims, aud=[claims["aud"], "another-app"]),
    "issued to another": lambda claims: signed(claims, azp="another-app"),
    "another issuer": lambda claims: signed(claims, iss="https://evil.example"),
    "another nonce": lambda claims: signed(claims, nonce="guess"),
    "no nonce": lambda claims: signed({name: claims[name] for name in claims if name != "nonce"}),
    "expired": lambda claims: signed(claims, iat=claims["iat"] - 7200, exp=claims["iat"] - 3600),
    "from the future": lambda claims: signed(claims, iat=claims["iat"] + 3600),
    "nobody": lambda claims: signed(claims, sub=""),
    "cut short": lambda claims: signed(claims)[:-10],
    "no token": lambda _: "abc",
    "a number": lambda _: 7,
    "missing": lambda _: None,
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_59_60_a_forged_or_foreign_id_token_lets_nobody_in(site, person, kind):
    forged(site, FORGERIES[kind])
    page = person.launch()
    assert page.status in {403, 502}
    assert "What you can do:" in page.text
    assert site.rows(database.launch) == []
    assert not [each for each in site.ehr_side if each.headers.get("Authorization")]


def test_59_an_honest_id_token_made_the_same_way_is_accepted(site, person):
    forged(site, signed)
    assert person.launch().status == 200


# --- tokens stay at their EHR (62, 65, 66) --------------------------------------------------------------------


def test_66_a_next_link_to_another_server_is_not_followed(a_site, elsewhere):
    address, asked = elsewhere
    site = a_site(quirks=Quirks(foreign_next_link=address, page_size=1))
    site.person().launch()
    assert asked == []


def test_66_absolute_references_to_another_server_are_not_followed(site, person, elsewhere):
    address, asked = elsewhere
    for filed in [*site.sandbox.store.all("Procedure"), *site.sandbox.store.all("Encounter")]:
        resource = filed.resource
        for performer in resource.get("performer", []):
            performer["actor"]["reference"] = f"{address}/fhir/Practitioner/1"
        if "serviceProvider" in resource:
            resource["serviceProvider"]["reference"] = f"{address}/fhir/Organization/1"
    for filed in site.sandbox.store.all("Coverage"):
        filed.resource["payor"] = [{"reference": f"{address}/fhir/Organization/1"}]
    person.launch()
    assert asked == []


def test_62_a_user_on_another_server_is_not_asked_there(site, person, elsewhere):
    address, asked = elsewhere
    forged(site, lambda claims: signed(claims, fhirUser=f"{address}/fhir/Practitioner/1"))
    page = person.launch()
    assert page.status == 200
    assert "Sign off…" not in page.html, "nothing says who that is"
    assert asked == []


NOT_STAFF = [
    "Patient/pat-adams",
    "RelatedPerson/1",
    "Person/3",
    "https://other.example/fhir/Patient/1",
    "https://other.example/fhir/Person/1/_history/2",
    "/other/Patient/1",
    "/other/RelatedPerson/1?x=1",
    "Patient/1?x=1",
    "patient/1",
]


@pytest.mark.parametrize("fhir_user", NOT_STAFF)
def test_62_a_patient_relative_or_person_is_refused_wherever_their_record_is(site, person, fhir_user):
    forged(site, lambda claims: signed(claims, fhirUser=fhir_user))
    page = person.launch()
    assert page.status == 403
    assert "Quarterhour is for the clinic's staff" in page.text
    assert site.rows(database.launch) == []
    assert not [each for each in site.ehr_side if each.headers.get("Authorization")]


@pytest.mark.parametrize(
    "fhir_user",
    [None, 7, "urn:uuid:1", "Device/1", "https://idp.example/users/robin", "https://o.example/Device/1"],
)
def test_62_a_user_of_whom_nothing_can_be_told_may_look_and_signs_nothing(site, person, fhir_user):
    forged(site, lambda claims: signed(claims, fhirUser=fhir_user))
    page = person.launch()
    assert page.status == 200
    assert "does not say whether you are a therapist" in page.text
    assert "Sign off…" not in page.html


def test_10_a_redirect_of_the_ehr_is_not_followed(site, person, elsewhere):
    address, asked = elsewhere
    for path in (CONFIGURATION, "/oauth/token", "/oauth/jwks"):
        site.installation.discovered.clear()
        site.lies.clear()
        site.installation.connections.close()
        site.lies[path] = lambda _: (b"", {"Location": f"{address}/x"}, "302 Found")
        page = person.launch()
        assert page.status >= 400
    assert asked == []


def test_65_the_bearer_token_goes_to_the_fhir_base_only(site, person):
    person.sign(person.launch())
    person.submit(person.launch("cms-ex2"), "/end")
    bearers = {
        each.path for each in site.ehr_side if each.headers.get("Authorization", "").startswith("Bearer")
    }
    assert bearers
    assert all(f"{path}/".startswith("/fhir/") for path in bearers)
    tokens = [token.access_token for token in site.sandbox.smart.issued.tokens.values()]
    assert not any(token in f"{each.path}?{each.query}" for each in site.ehr_side for token in tokens)


# --- redirects (37) -------------------------------------------------------------------------------------------


def test_37_nothing_that_is_sent_decides_where_the_browser_goes(site, person):
    evil = "https://evil.example"
    names = ("next", "return", "redirect_uri", "url", "continue", "target", "RelayState")
    more = "&".join(f"{name}={quote(evil)}" for name in names)
    page = person.launch()
    for path in (
        f"/?{more}",
        "//evil.example/",
        "//evil.example/%2e%2e",
        "/launches//evil.example",
        f"/launches/{page.launch_id}",
        f"/launches/{page.launch_id}/?{more}",
        f"/launches/{page.launch_id}/visits/1/?{more}",
        f"/launches/{page.launch_id}/visits/1/sign?{more}",
        f"/launches/{page.launch_id}/visits/1/receipt?{more}",
        f"{person.callback()}&{more}",
    ):
        headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"} if path.startswith("/") else {}
        answer = person.http.get(
            site.app_url + path if path.startswith("/") else path,
            headers=headers,
            allow_redirects=False,
            timeout=30,
        )
        assert "evil.example" not in answer.headers.get("Location", ""), path


def test_37_the_redirect_address_is_the_configured_one_whatever_the_host_header_says(site, person):
    started = person.http.get(
        site.launch_url(), headers={"Host": "evil.example"}, allow_redirects=False, timeout=30
    )
    asked = parse_qs(urlsplit(started.headers["Location"]).query)
    assert asked["redirect_uri"] == [f"{site.app_url}/callback"]


# --- other people's sessions (14, 15, 67, 82) -----------------------------------------------------------------


def routes(site, launch_id):
    """Every page of a launch, by method and address."""
    for rule in site.app.url_map.iter_rules():
        if "launch_id" in rule.arguments:
            known = {"launch_id": launch_id, "position": 1}
            values = {name: known.get(name, "0" * 64) for name in rule.arguments}
            with site.app.test_request_context():
                path = rule.build(values)[1]
            for method in rule.methods & {"GET", "POST"}:
                yield method, path


def test_67_82_every_page_of_a_launch_is_closed_to_every_other_browser(site):
    owner, stranger = site.person(), site.person()
    page = owner.launch()
    stranger.authorize("cms-ex2")
    csrf = dict(stranger.launch("cms-ex2").form("/visits/1")[1])["csrf_token"]
    name = site.sandbox.store.get("Patient", site.sandbox.scenario("cms-ex1").patient).resource["name"][0][
        "family"
    ]
    assert name in page.text
    seen = list(routes(site, page.launch_id))
    assert len(seen) >= 12
    for somebody in (stranger, site.person()):
        for method, path in seen:
            asked = somebody.get(path) if method == "GET" else somebody.post(path, {"csrf_token": csrf})
            assert asked.status in {400, 401}, (method, path)
            assert name not in asked.html
    assert owner.get(page.url).status == 200


def test_15_two_tabs_of_one_browser_show_each_its_own_patient(site, person):
    one = person.launch("cms-ex1")
    different = next(
        each for each in site.sandbox.scenarios if each.patient != site.sandbox.scenario("cms-ex1").patient
    )
    other = person.launch(different.id)
    family = {
        each: site.sandbox.store.get("Patient", each).resource["name"][0]["family"]
        for each in (site.sandbox.scenario("cms-ex1").patient, different.patient)
    }
    again, later = person.get(one.url), person.get(other.url)
    assert family[different.patient] not in again.text
    assert family[site.sandbox.scenario("cms-ex1").patient] not in later.text


def test_14_launches_begun_side_by_side_do_not_overwrite_each_other(site, person):
    backs = [person.callback(scenario) for scenario in ("cms-ex1", "cms-ex2", "cms-ex1")]
    pages = [person.get(back) for back in reversed(backs)]
    assert [page.status for page in pages] == [200] * 3
    assert len({page.launch_id for page in pages}) == 3


def test_58_a_record_of_another_patient_is_not_shown_and_not_charged(site, person):
    other = next(
        each for each in site.sandbox.scenarios if each.patient != site.sandbox.scenario("cms-ex1").patient
    )
    encounter = site.sandbox.store.get("Encounter", "enc-cms-ex1").resource
    encounter["subject"]["reference"] = f"Patient/{other.patient}"
    page = person.launch()
    assert page.status == 502
    assert "another patient's" in page.text
    assert site.rows(database.draft) == []


@pytest.mark.parametrize("position", [0, 2, 99, -1, 10**30])
def test_a_position_that_the_launch_has_not_is_no_page(site, person, position):
    page = person.launch()
    assert person.get(f"/launches/{page.launch_id}/visits/{position}").status == 404


def test_a_planted_cookie_opens_nothing_of_what_is_launched_under_it(site):
    """Session fixation: the id of a launch is new, and known to its tab alone."""
    attacker, victim = site.person(), site.person()
    attacker.authorize()
    for cookie in attacker.adapter.jar:
        victim.adapter.jar.set_cookie(cookie)
    page = victim.launch()
    assert page.status == 200
    mine = attacker.launch("cms-ex2")
    assert mine.launch_id != page.launch_id
    assert len(page.launch_id) == 32
    for guess in (
        page.launch_id[:-1],
        page.launch_id[:-1] + "A" * (page.launch_id[-1] != "A") or "B",
        "x" * 32,
    ):
        assert attacker.get(f"/launches/{guess}/").status in {401, 404}
    assert page.launch_id not in attacker.get("/").html


def test_a_forged_cookie_is_no_cookie(site, person):
    page = person.launch()
    for cookie in person.adapter.jar:
        cookie.value = cookie.value[:-3] + "abc"
    assert person.get(page.url).status == 401


# --- forms from elsewhere (79) --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["no mark", "mark of another session", "cross-site", "same-site", "foreign origin"]
)
def test_79_a_form_from_elsewhere_is_not_carried_out(site, person, how):
    page = person.launch()
    confirm = person.submit(page, "/visits/1", go="sign")
    address, fields = confirm.form("/sign")
    given = dict(fields)
    headers = {}
    if how == "no mark":
        del given["csrf_token"]
    elif how == "mark of another session":
        given["csrf_token"] = dict(site.person().launch().form("/visits/1")[1])["csrf_token"]
    elif how == "foreign origin":
        headers = {"Origin": "https://evil.example"}
    else:
        headers = {"Sec-Fetch-Site": how, "Origin": site.app_url}
    refused = person.post(address, given, headers=headers)
    assert refused.status in {400, 403}
    assert site.rows(database.decision) == []
    assert site.sandbox.charge_items("cms-ex1") == []
    assert person.post(address, dict(fields)).heading.startswith("Signed off")


def test_79_every_post_of_the_application_needs_the_mark(site, person):
    page = person.launch()
    posts = [path for method, path in routes(site, page.launch_id) if method == "POST"]
    assert len(posts) >= 5
    for path in posts:
        assert person.post(path).status == 400, path


# --- what the EHR puts into texts (81) ------------------------------------------------------------------------

SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
TEXTS = {"display", "text", "family", "given", "suffix", "name", "title", "description", "gender", "reason"}


def infected(value, key=""):
    """The same resource with the script in every text that people may see."""
    if isinstance(value, dict):
        return {name: infected(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [infected(each, key) for each in value]
    return SCRIPT if key in TEXTS and isinstance(value, str) else value


def test_81_no_text_of_the_chart_runs_on_any_page(a_site):
    site = a_site(roles='users = {"Practitioner/pr-reyes" = ["therapist", "administrator"]}')
    store = site.sandbox.store
    for kind in (
        "Patient",
        "Encounter",
        "Procedure",
        "Coverage",
        "Organization",
        "Practitioner",
        "PractitionerRole",
        "ChargeItem",
    ):
        for filed in store.all(kind):
            changed = infected(filed.resource)
            if kind == "Patient":
                changed["identifier"][0]["value"] = SCRIPT
            filed.resource.clear()
            filed.resource.update(changed)
    forged(site, lambda claims: signed(claims, name=SCRIPT[:200]))
    for scenario in site.sandbox.scenarios:
        person = site.person()
        pages = [person.launch(scenario.id), person.get(site.launch_url(scenario.id, encounter=False))]
        if "Sign off…" in pages[0].html:
            base = f"/launches/{pages[0].launch_id}/visits/1"
            pages += [person.get(f"{base}/{page}") for page in ("audit", "print", "sign", "charges.csv")]
        for page in pages:
            if page.headers["Content-Type"].startswith("text/html"):
                assert "<script>alert" not in page.html
                assert "<img src=x" not in page.html
                assert "onerror=alert(1)>" not in page.html
    assert any("&lt;script&gt;alert(1)" in each.answer.decode() for each in site.app_side)


def test_81_narrative_is_never_shown(site, person):
    for kind in ("Patient", "Encounter", "Procedure"):
        for filed in site.sandbox.store.all(kind):
            filed.resource["text"] = {"status": "generated", "div": "<div>NARRATIVE-CANARY</div>"}
    assert "NARRATIVE-CANARY" not in person.launch().html


def test_the_reviewers_own_words_do_not_run_either(site, person):
    page = person.launch()
    service = page.html.split('name="out:')[1].split('"')[0]
    again = person.submit(
        page, "/visits/1", **{f"minutes:{service}": "20", f"why:{service}": SCRIPT, "go": "recalculate"}
    )
    assert "<script>alert" not in again.html
    assert "&lt;script&gt;alert(1)" in again.html


# --- headers and logs -----------------------------------------------------------------------------------------


def test_what_is_sent_cannot_write_headers_or_log_lines(site, person, logged):
    nasty = "x\r\nX-Evil: 1\r\n\r\n<h1>evil</h1>"
    forged_line = '{"event": "forged", "level": "info"}'
    for path in (
        f"/launch?{urlencode({'iss': nasty, 'launch': nasty})}",
        f"/launch?{urlencode({'iss': f'{site.ehr_url}/fhir', 'launch': nasty})}",
        f"/callback?{urlencode({'error': nasty, 'error_description': nasty, 'state': nasty})}",
        f"/{quote(nasty)}",
        f"/launches/{quote(forged_line)}/",
        f"/launches/{quote(nasty)}/visits/1",
    ):
        page = person.get(path, headers={"User-Agent": forged_line, "X-Request-Id": forged_line})
        assert "X-Evil" not in page.headers
    lines = [json.loads(line) for line in logged().splitlines()]
    assert lines
    assert not [line for line in lines if line["event"] == "forged"]
    assert "evil" not in logged().lower()


# --- documents that are too much (10) -------------------------------------------------------------------------

DEEP = b"[" * 200_000 + b"]" * 200_000
BOMB = gzip.compress(b'{"a": "' + b"0" * 60_000_000 + b'"}')
DOCUMENTS = {
    "deeply nested": lambda _: (DEEP,),
    "deep in an object": lambda _: (b'{"a":' * 100_000 + b"1" + b"}" * 100_000,),
    "a gzip bomb": lambda _: (BOMB, {"Content-Encoding": "gzip"}),
    "too long": lambda _: (b'{"a": "' + b"0" * 17_000_000 + b'"}',),
    "not JSON": lambda _: (b"<html>proxy</html>",),
    "not UTF-8": lambda _: (b'{"a": "\xff\xfe"}',),
    "broken gzip": lambda _: (b"not gzip at all", {"Content-Encoding": "gzip"}),
    "null": lambda _: (b"null",),
    "a list": lambda _: (b"[]",),
    "empty": lambda _: (b"",),
}
READ = (CONFIGURATION, "/oauth/token", "/oauth/jwks", "/fhir/Procedure", "/fhir/Encounter/enc-cms-ex1")


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_10_a_document_that_is_too_much_or_no_document_ends_on_a_page_that_says_so(site, kind):
    for path in READ:
        site.installation.discovered.clear()
        site.installation.connections.close()
        site.lies.clear()
        site.lies[path] = DOCUMENTS[kind]
        page = site.person().launch()
        assert 400 <= page.status < 600, path
        assert page.status != 500, path
        assert "What you can do:" in page.text, path
        assert "Traceback" not in page.html


def test_a_form_that_is_too_long_is_not_read(site, person):
    page = person.launch()
    address, fields = page.form("/visits/1")
    assert person.post(address, [*fields, ("note:x", "y" * 300_000)]).status == 413
    assert person.post(address, [*fields, *[(f"note:{n}", "y") for n in range(3000)]]).status in {413, 200}
