"""What every answer tells the browser, how often one may ask, and how the EHR's look comes in (checklist 75-84)."""

import html
import json
import re
import socket
import threading
from contextlib import closing, contextmanager

import pytest
import requests
from cryptography.fernet import Fernet
from waitress import create_server
from waitress.wasyncore import close_all

from quarterhour.plugin.cli_serve import proxied
from quarterhour.plugin.limits import SIGN_OFFS_PER_MINUTE
from quarterhour.plugin.style import contrast, css
from quarterhour.sandbox.faults import Fault
from quarterhour.sandbox.quirks import Quirks


def every_route(site, launch_id):
    """Each address of the application, filled in, and some that are none."""
    for rule in site.app.url_map.iter_rules():
        values = {"launch_id": launch_id, "position": 1, "filename": "quarterhour.css"}
        with site.app.test_request_context():
            path = rule.build({name: values.get(name, "0" * 64) for name in rule.arguments})[1]
        yield from ((method, path) for method in sorted(rule.methods & {"GET", "POST"}))
    yield from (
        ("GET", "/nowhere"),
        ("GET", f"/launches/{launch_id}/visits/99"),
        ("POST", "/"),
        ("GET", "/static/no"),
    )


def test_80_83_every_answer_carries_the_headers_errors_and_static_files_too(site, person):
    page = person.launch()
    asked = list(every_route(site, page.launch_id))
    assert len(asked) >= 22
    for method, path in asked:
        answer = person.http.request(method, site.app_url + path, allow_redirects=False, timeout=30)
        policy = answer.headers["Content-Security-Policy"].split("; ")
        assert "default-src 'self'" in policy
        assert "object-src 'none'" in policy
        assert "base-uri 'none'" in policy
        assert "form-action 'self'" in policy
        assert not [each for each in policy if "unsafe" in each or "script-src" in each or "*" in each], path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "camera=()" in answer.headers["Permissions-Policy"]
        assert "X-Frame-Options" not in answer.headers
        assert "Server" not in answer.headers or "Werkzeug" not in answer.headers["Server"]
        if not path.startswith("/static/quarterhour"):
            assert answer.headers["Cache-Control"] == "no-store", path
        public = {"/.well-known/jwks.json", "/.well-known/backend-jwks.json", "/cds-services"}
        assert ("Access-Control-Allow-Origin" in answer.headers) == (path in public)


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".x", "a" * 300])
def test_a_host_header_that_is_no_host_gets_a_page_too(person, host):
    """Found by fuzzing: there are no addresses to build then."""
    page = person.get("/", headers={"Host": host})
    assert page.status == 400
    assert "What you can do" in page.text


@pytest.mark.parametrize("host", ["xn--0", "[", "<script>", "", "a:b:c"])
def test_no_host_header_breaks_a_page_or_stands_on_it(person, host):
    page = person.get("/", headers={"Host": host})
    assert page.status in {200, 400}
    assert "<script>" not in page.html


def ancestors(answer):
    (found,) = [
        each
        for each in answer.headers["Content-Security-Policy"].split("; ")
        if each.startswith("frame-ancestors")
    ]
    return found.removeprefix("frame-ancestors ")


def test_76_a_launchs_pages_are_framed_by_its_ehr_alone(a_site):
    table = (
        '\n[issuers.second]\nname = "Second"\niss = "https://second.example/fhir"\nclient_id = "q"\n'
        'client_auth = "public"\ntime_zone = "UTC"\nembedding_origins = ["https://second.example"]\n'
    )
    site = a_site(issuers=table)
    person = site.person()
    page = person.launch()
    for path in ("", "/visits/1", "/visits/1/sign", "/visits/1/print"):
        answer = person.http.get(f"{site.app_url}/launches/{page.launch_id}{path}", timeout=30)
        assert ancestors(answer) == site.ehr_url
    # Whose launch it was is not known on these, and there is nothing on them.
    for path in ("/launches/none/", "/launch", "/callback"):
        assert ancestors(person.get(path)) == f"{site.ehr_url} https://second.example"


@pytest.mark.parametrize("path", ["/", "/nowhere", "/.well-known/jwks.json", "/static/quarterhour.css"])
def test_76_pages_that_no_ehr_frames_are_framed_by_nobody(person, path):
    assert ancestors(person.get(path)) == "'none'"


def test_76_an_ehr_without_embedding_origins_frames_nothing(a_site):
    site = a_site(embedded=False)
    started = site.person().get(site.launch_url(), allow_redirects=False)
    assert "SameSite=Lax" in started.headers["Set-Cookie"]
    assert "Partitioned" not in started.headers["Set-Cookie"]
    assert ancestors(site.person().launch()) == "'none'"


def test_80_over_tls_the_browser_is_told_to_stay_there(site):
    client = site.app.test_client()
    headers = client.get("/", base_url="https://units.clinic.example").headers
    assert headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"
    assert "Strict-Transport-Security" not in client.get("/", base_url="http://localhost").headers


def test_75_the_cookie_is_bound_to_the_host_and_partitioned_where_we_are_embedded(site, person):
    started = person.get(site.launch_url(), allow_redirects=False)
    cookie = started.headers["Set-Cookie"]
    assert cookie.startswith("__Host-quarterhour=")
    for part in ("Secure", "HttpOnly", "Path=/", "SameSite=None", "Partitioned"):
        assert part in cookie.split("; ")
    assert "Domain" not in cookie


def test_78_80_no_page_runs_script_of_its_own(site, person):
    person.sign(person.launch())
    for each in site.app_side:
        page = each.answer.decode("utf-8", "replace")
        if each.answer_headers.get("Content-Type", "").startswith("text/html"):
            assert page.count("<script") == page.count('<script src="/static/')
            assert " on" + "click=" not in page
            assert "javascript:" not in page
            assert "style=" not in page


# --- how often ------------------------------------------------------------------------------------------------


def test_launches_and_callbacks_from_one_address_are_limited_and_the_page_says_so(a_site):
    site = a_site(launches_per_minute=5)
    person = site.person()
    statuses = [
        person.get(path).status for path in ("/launch", "/start", "/callback", "/launch", "/callback")
    ]
    assert 429 not in statuses
    over = person.get("/launch")
    assert over.status == 429
    assert over.heading == "Too many at once"
    assert "Wait a minute" in over.text
    assert person.get("/").status == 200, "other pages are not limited"


def test_sign_offs_of_one_launch_are_limited_and_those_of_others_are_not(site):
    one, other = site.person(), site.person()
    page, elsewhere = one.launch("cms-ex1"), other.launch("cms-ex3")
    csrf = dict(page.form("/visits/1")[1])["csrf_token"]
    posted = [
        one.post(f"/launches/{page.launch_id}/visits/1/sign", {"csrf_token": csrf}).status
        for _ in range(SIGN_OFFS_PER_MINUTE)
    ]
    assert 429 not in posted
    assert one.post(f"/launches/{page.launch_id}/visits/1/sign", {"csrf_token": csrf}).status == 429
    assert other.sign(elsewhere).heading.startswith("Signed off")


@pytest.mark.parametrize(("trusted", "status"), [("127.0.0.1", 400), ("192.0.2.1", 429), (None, 429)])
def test_only_the_trusted_proxy_says_where_a_request_came_from(a_site, trusted, status):
    site = a_site(launches_per_minute=1, trusted_proxy=trusted)
    with serving(site.app, **proxied(site.installation.settings)) as address:
        for client in ("203.0.113.1", "203.0.113.2"):
            headers = {"X-Forwarded-For": client}
            last = requests.get(f"{address}/launch", headers=headers, timeout=30)
    assert last.status_code == status


@contextmanager
def serving(app, **settings):
    """The application on waitress as `quarterhour serve` sets it up."""
    connections = {}
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        server = create_server(app, map=connections, sockets=[listening], **settings)
        stopping = threading.Event()

        def loop():
            while not stopping.is_set():
                server.asyncore.loop(timeout=1, map=connections, count=1)

        thread = threading.Thread(target=loop)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        stopping.set()
        server.pull_trigger()
        thread.join()
        server.task_dispatcher.shutdown()
        close_all(connections)


def test_without_a_proxy_nobody_says_themselves_which_address_they_have(a_site):
    site = a_site(launches_per_minute=1)
    person = site.person()
    assert person.get("/launch", headers={"X-Forwarded-For": "203.0.113.1"}).status == 400
    assert person.get("/launch", headers={"X-Forwarded-For": "203.0.113.2"}).status == 429


# --- the patient banner (53) ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "shown"), [(True, True), (False, False), (None, True)])
def test_53_the_patient_banner_is_shown_unless_the_ehr_shows_its_own(a_site, said, shown):
    site = a_site(quirks=Quirks(need_patient_banner=said))
    page = site.person().launch()
    patient = site.sandbox.store.get("Patient", site.sandbox.scenario("cms-ex1").patient).resource
    for told in (patient["name"][0]["family"], patient["birthDate"], patient["identifier"][0]["value"]):
        assert (told in page.text) is shown


# --- the EHR's look (54) --------------------------------------------------------------------------------------


def test_54_the_ehrs_colours_come_as_a_style_sheet_of_our_own_address(site, person):
    page = person.launch()
    assert f'href="/launches/{page.launch_id}/style.css"' in page.html
    sheet = person.get(f"/launches/{page.launch_id}/style.css")
    assert sheet.headers["Content-Type"].startswith("text/css")
    assert "--color-highlight: #0b5c6b;" in sheet.html
    assert '"Segoe UI"' in sheet.html
    person.get(f"/launches/{page.launch_id}/style.css")
    assert len(site.asked("/smart-style.json")) == 1, "the address is the version"


def test_54_another_browser_does_not_get_the_style_of_a_launch(site, person):
    page = person.launch()
    assert site.person().get(f"/launches/{page.launch_id}/style.css").status == 401


def style_from(site, url):
    site.lies["/oauth/token"] = lambda honest: (
        json.dumps(json.loads(honest) | {"smart_style_url": url}).encode(),
    )
    page = site.person().launch()
    return "style.css" in page.html


def test_54_a_style_address_on_another_server_is_not_asked(site):
    assert style_from(site, f"{site.ehr_url}/smart-style.json")
    for url in (
        "http://127.0.0.1:9/style.json",
        "https://evil.example/s",
        "file:///etc/passwd",
        7,
        "/smart-style.json",
    ):
        assert not style_from(site, url), url


@pytest.mark.parametrize("body", [b"[]", b"null", b"{", b'{"a": "' + b"x" * 20_000 + b'"}', b"\xff", b""])
def test_54_a_style_that_is_none_leaves_ours(site, person, body):
    site.lies["/smart-style.json"] = lambda _: (body,)
    page = person.launch()
    sheet = person.get(f"/launches/{page.launch_id}/style.css")
    assert (sheet.status, sheet.html) == (200, "")


def test_54_an_ehr_without_its_style_leaves_ours(site, person):
    site.lies["/smart-style.json"] = lambda _: (b"gone", {}, "404 Not Found")
    page = person.launch()
    assert person.get(f"/launches/{page.launch_id}/style.css").html == ""


@pytest.mark.parametrize(("minutes", "asked"), [(4.99, 1), (5, 2)])
def test_54_a_style_that_could_not_be_had_is_asked_for_again_after_five_minutes(site, person, minutes, asked):
    site.sandbox.faults.add(Fault("status", path="/smart-style.json", status=503))
    page = person.launch()
    for _ in range(3):
        assert person.get(f"/launches/{page.launch_id}/style.css").html == ""
    site.clock.forward(minutes=minutes)
    sheet = person.get(f"/launches/{page.launch_id}/style.css")
    assert ("--color-highlight" in sheet.html) is (asked > 1)
    assert len(site.asked("/smart-style.json")) == asked


LEGIBLE = {"color_background": "#ffffff", "color_text": "#000", "color_highlight": "#0b5c6b"}


def test_54_colours_are_used_together():
    assert "--color-text: #000000;" in css(LEGIBLE)
    for name in LEGIBLE:
        assert css({each: value for each, value in LEGIBLE.items() if each != name}) == ""


@pytest.mark.parametrize(("text", "used"), [("#767676", True), ("#777777", False)])
def test_54_text_that_could_not_be_read_is_not_taken_over(text, used):
    """4.54 and 4.48 to 1 on white; WCAG asks for 4.5."""
    assert (contrast(text, "#ffffff") >= 4.5) is used
    assert bool(css(LEGIBLE | {"color_text": text})) is used


@pytest.mark.parametrize(
    "value",
    [
        "red; } body { display: none",
        "url(https://evil.example/x)",
        "#fff;background:url(//evil.example)",
        "expression(alert(1))",
        "var(--x)",
        "#ggg",
        "#ffffff\n}",
        "rgb(0,0,0)",
        7,
        None,
        ["#fff"],
        {"a": 1},
    ],
)
def test_54_only_plain_colours_are_colours(value):
    assert "evil" not in css(LEGIBLE | {"color_error": value})
    assert "--color-error" not in css(LEGIBLE | {"color_error": value})


@pytest.mark.parametrize(
    ("name", "value", "used"),
    [
        ("dim_font_size", "12px", True),
        ("dim_font_size", "11.9px", False),
        ("dim_font_size", "28px", True),
        ("dim_font_size", "28.1px", False),
        ("dim_font_size", "1rem", True),
        ("dim_font_size", "13pt", True),
        ("dim_font_size", "1000px", False),
        ("dim_border_radius", "0", True),
        ("dim_border_radius", "32px", True),
        ("dim_border_radius", "33px", False),
        ("dim_spacing_size", "4px", True),
        ("dim_spacing_size", "3px", False),
        ("dim_spacing_size", "calc(1px*100)", False),
        ("dim_spacing_size", "16px;}", False),
        ("dim_spacing_size", 16, False),
    ],
)
def test_54_only_lengths_that_leave_the_page_usable_are_lengths(name, value, used):
    assert bool(css({name: value})) is used


@pytest.mark.parametrize(
    ("value", "used"),
    [
        ("Georgia, Times, 'Times New Roman', serif", True),
        ("Arial; } * { color: red", False),
        ("Arial, url(x)", False),
        ('"Arial\\"', False),
        ("a" * 300, False),
        ("", False),
        (None, False),
    ],
)
def test_54_only_names_of_fonts_are_fonts(value, used):
    sheet = css({"font_family_body": value})
    assert bool(sheet) is used
    assert sheet.count("}") == used


# --- signing keys of the cookie -------------------------------------------------------------------------------


def test_a_rotated_key_throws_nobody_out(a_site):
    from quarterhour.plugin.vault import Vault  # noqa: PLC0415

    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    assert Vault((new, old)).older_cookie_keys() == [Vault((old,)).cookie_key()]


# --- a request that is too long for an address ------------------------------------------------------------------

MANY = [
    f"patient/{kind}{n}.rs"
    for n in range(24)
    for kind in ("Observation", "Condition", "CarePlan", "Goal", "Device")
]
OURS = ["openid", "fhirUser", "patient/*.rs", "user/ChargeItem.cu", "user/PractitionerRole.rs"]


@pytest.fixture
def long_site(a_site):
    return a_site(more=f"scopes = {json.dumps(OURS + MANY)}")


def test_31_a_long_request_goes_by_a_form_that_only_the_ehr_may_frame(long_site):
    person = long_site.person()
    page = person.get(long_site.launch_url(), allow_redirects=False)
    assert (page.status, page.heading) == (200, "On to Sandbox EHR")
    assert ancestors(page) == long_site.ehr_url
    assert "form-action 'self' https: http:" in page.headers["Content-Security-Policy"]
    assert "csrf_token" not in page.html
    arrived = person.submit(page, "/oauth/authorize")
    assert "Sign off…" in arrived.html
    (asked,) = long_site.asked("/oauth/authorize")
    assert (asked.method, asked.query) == ("POST", "")
    assert asked.form["scope"].split()[1:] == OURS + MANY


def framing(site, address):
    """A page of the EHR's with that address in a frame; where it is."""
    page = f'<iframe src="{html.escape(address)}" width="900" height="900"></iframe>'.encode()
    site.lies["/smart-style.json"] = lambda _: (page, {"Content-Type": "text/html"})
    return f"{site.ehr_url}/smart-style.json"


def test_31_a_real_browser_goes_on_by_itself_in_the_ehrs_frame(long_site, chromium):
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(framing(long_site, long_site.launch_url()))
        page.frame_locator("iframe").get_by_role("button", name="Sign off…").first.wait_for()
    assert [each.method for each in long_site.asked("/oauth/authorize")] == ["POST"]


# --- opened by the EHR in a window of its own ---------------------------------------------------------------------


def test_an_ehr_that_opens_a_window_keeps_no_hand_on_it_and_the_visit_is_signed_there(site, chromium):
    page = (
        f"""<a href="{html.escape(site.launch_url())}" target="quarterhour" rel="opener">Open</a>""".encode()
    )
    site.lies["/smart-style.json"] = lambda _: (page, {"Content-Type": "text/html"})
    with chromium.new_context() as context:
        ehr = context.new_page()
        ehr.goto(f"{site.ehr_url}/smart-style.json")
        with context.expect_page() as opened:
            ehr.get_by_role("link", name="Open").click()
        window = opened.value
        window.get_by_role("button", name="Sign off…").first.click()
        window.get_by_role("button", name="Sign off").first.click()
        window.get_by_role("heading", name="Signed off").wait_for()
        assert window.evaluate("window.opener") is None
    assert len(site.charges) > 0


LOADED = "() => document.readyState === 'complete' || new Promise((done) => addEventListener('load', done))"


def test_in_the_ehrs_frame_the_visit_is_signed_as_before(site, chromium):
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(framing(site, site.launch_url()))
        frame = page.frame_locator("iframe")
        frame.get_by_role("button", name="Sign off…").first.click()
        now = frame.get_by_role("button", name=re.compile(r"^Sign off \d"))
        now.evaluate(LOADED)  # in a frame Playwright waits for no page
        now.click()
        frame.get_by_role("heading", name="Signed off").wait_for()
    assert len(site.charges) > 0
