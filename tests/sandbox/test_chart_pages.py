"""The pages of the EHR as a browser gets them; and the charts behind them."""

from datetime import UTC, date, datetime
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from click.testing import CliRunner

from quarterhour.plugin.cli_sandbox import sandbox as sandbox_command
from quarterhour.sandbox.ehr import create_sandbox
from quarterhour.sandbox.synthetic import synthetic_charts, working_day

BANNER = "Sandbox: synthetic patients, a demo and test tool"


class Page(HTMLParser):
    """The tags of a page, and the text between them."""

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(app):
    return lambda path: Page(app.http.get(f"{app.ehr.base_url}{path}").text)


@pytest.mark.parametrize(
    "path",
    ["/", "/visits/enc-cms-ex1", "/visits/enc-cms-ex1/app", "/nowhere", "/oauth/authorize?client_id=x"],
)
def test_every_page_says_that_it_is_a_sandbox(page, path):
    assert BANNER in page(path).text


def test_the_list_links_every_visit(app, page):
    links = {link["href"] for link in page("/").all("a")}
    assert {f"/visits/{scenario.encounter}" for scenario in app.ehr.scenarios} <= links


def test_a_visit_shows_its_services_and_the_published_answer(page):
    text = " ".join(page("/visits/enc-cms-ex2").text.split())
    assert "Walter Brennan" in text
    assert "9:05\N{EN DASH}9:25" in text
    assert "97112 x 2, 97110 x 1 or 97112 x 1, 97110 x 2" in text.replace("\N{MULTIPLICATION SIGN}", "x")
    assert "§20.2.C, example 2" in text


@pytest.mark.parametrize(
    ("encounter", "shown"),
    [
        ("enc-missing-minutes", ["unknown", "entered-in-error"]),
        ("enc-problem-no-code", ["no code", "GYM-7"]),
        ("enc-problem-end-before-start", ["unknown"]),
        ("enc-problem-no-services", ["None."]),
    ],
)
def test_what_is_missing_in_a_chart_is_shown_as_missing(page, encounter, shown):
    text = page(f"/visits/{encounter}").text
    assert all(each in text for each in shown)


@pytest.mark.parametrize(
    "path", ["/", "/visits/enc-problem-hostile-text", "/visits/enc-problem-hostile-text/app"]
)
def test_hostile_text_is_shown_as_text(app, path):
    html = app.http.get(f"{app.ehr.base_url}{path}").text
    page = Page(html)
    assert "<script>alert('given')</script>" in page.text
    assert all(script.get("src", "").startswith("/static/") for script in page.all("script"))
    assert page.all("img") == []
    assert page.all("b") == []


def test_a_written_charge_is_shown_with_all_that_billing_looks_at(app, page, charge):
    token = app.token()
    modifiers = [
        {
            "url": "https://app.example/StructureDefinition/charge-modifier",
            "extension": [
                {"url": "rank", "valuePositiveInt": rank},
                {"url": "code", "valueCodeableConcept": {"coding": [{"code": code}]}},
            ],
        }
        for rank, code in ((2, "GP"), (1, "59"))
    ]
    body = charge(
        app.ehr,
        extension=modifiers,
        note=[{"text": "47 timed minutes, 3 units <b>"}],
        enterer={"reference": "Practitioner/pr-cole"},
        enteredDate="2026-11-20T15:02:11Z",
    )
    reference = f"ChargeItem/{app.fhir(token, 'POST', '/ChargeItem', json=body).json()['id']}"
    for path in ("/visits/enc-cms-ex1", "/visits/enc-cms-ex1/charges"):
        text = page(path).text
        for shown in ("59 GP", "billable", "Marcus Cole, PTA", "2026-11-20 10:02", "charge-1", reference):
            assert shown in text
        assert "47 timed minutes, 3 units <b>" in text


@pytest.mark.parametrize(
    "extension",
    [
        {
            "url": "http://hl7.org/fhir/StructureDefinition/chargeitem-modifier",
            "valueCodeableConcept": {"coding": [{"code": "KX"}]},
        },
        {
            "url": "https://fhir-ehr.cerner.com/r4/StructureDefinition/modifier-code",
            "extension": [
                {"url": "code", "valueCodeableConcept": {"coding": [{"code": "KX"}]}},
                {"url": "priority", "valueInteger": 1},
            ],
        },
    ],
)
def test_modifiers_are_read_in_the_forms_of_other_ehrs(app, page, charge, extension):
    app.fhir(app.token(), "POST", "/ChargeItem", json=charge(app.ehr, extension=[extension]))
    assert "KX" in page("/visits/enc-cms-ex1/charges").text


def test_the_app_opens_in_a_frame_with_a_launch_of_this_visit(app, page, redirected):
    (frame,) = page("/visits/enc-cms-ex1/app?user=pr-cole").all("iframe")
    address, _, query = frame["src"].partition("?")
    launch = dict(part.split("=") for part in query.split("&"))["launch"]
    assert address == "http://localhost:9/launch"
    back = redirected(app.authorize(app.query("launch openid fhirUser patient/*.rs", launch=launch)))
    token = app.exchange(back["code"]).json()
    assert (token["patient"], token["encounter"]) == ("pat-adams", "enc-cms-ex1")
    assert app.ehr.smart.issued.tokens[token["access_token"]].authorized.user == "Practitioner/pr-cole"


def test_the_app_opens_in_a_tab_of_its_own(app):
    answer = app.http.get(f"{app.ehr.base_url}/visits/enc-cms-ex1/tab", allow_redirects=False)
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("http://localhost:9/launch?iss=http%3A%2F%2F127.0.0.1")


def test_every_opening_gets_a_launch_of_its_own(app):
    assert app.ehr.launch_url("cms-ex1") != app.ehr.launch_url("cms-ex1")


def test_nobody_unknown_opens_the_app(app):
    assert app.http.get(f"{app.ehr.base_url}/visits/enc-cms-ex1/app?user=nobody").status_code == 404


def test_pages_frame_only_themselves_and_the_app(app):
    headers = app.http.get(f"{app.ehr.base_url}/visits/enc-cms-ex1/app").headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["frame-src"] == "'self' http://localhost:9"
    assert policy["frame-ancestors"] == "'self'"
    assert policy["script-src"] == "'self'"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_pages_do_not_reload_themselves_by_meta(page):
    assert all("http-equiv" not in meta for meta in page("/visits/enc-cms-ex1/app").all("meta"))


# The charts


def test_the_same_day_gives_the_same_charts():
    assert synthetic_charts(date(2026, 11, 20)) == synthetic_charts.__wrapped__(date(2026, 11, 20))


@pytest.mark.parametrize("today", [date(2026, 11, day) for day in range(16, 23)])
def test_visits_lie_on_working_days_before_today_but_for_the_one_to_come(today):
    for scenario in synthetic_charts(today).scenarios:
        assert scenario.date_of_service.isoweekday() <= 5
        assert (scenario.date_of_service > today) is (scenario.id == "problem-future")
        assert scenario.date_of_service != today


@pytest.mark.parametrize(
    ("today", "ago", "day"),
    [
        (date(2026, 11, 20), 1, date(2026, 11, 19)),
        (date(2026, 11, 21), 1, date(2026, 11, 20)),
        (date(2026, 11, 23), 1, date(2026, 11, 20)),
        (date(2026, 11, 20), -1, date(2026, 11, 23)),
        (date(2026, 11, 20), 0, date(2026, 11, 20)),
    ],
)
def test_working_days_skip_the_weekend(today, ago, day):
    assert working_day(today, ago) == day


def test_no_therapist_is_in_two_visits_at_once(app):
    busy = sorted(
        (
            each["participant"][0]["individual"]["reference"],
            each["period"]["start"],
            each["period"].get("end", each["period"]["start"]),
        )
        for each in (filed.resource for filed in app.ehr.store.all("Encounter"))
    )
    for (who, _, end), (next_who, start, _) in pairwise(busy):
        assert who != next_who or end <= start


@pytest.mark.parametrize(
    ("scenario", "minutes"),
    [
        ("cms-ex1", {"97112": 24, "97110": 23}),
        ("cms-ex2", {"97112": 20, "97110": 20}),
        ("cms-ex3", {"97110": 33, "97140": 7}),
        ("cms-ex4", {"97110": 18, "97140": 13, "97116": 10, "97035": 8}),
        ("untimed", {"97110": 25, "G0283": 10}),
    ],
)
def test_published_examples_have_the_minutes_of_their_source(page, scenario, minutes):
    text = page(f"/visits/enc-{scenario}").text.split()
    shown = {code: int(text[text.index("completed", text.index(code)) - 1]) for code in minutes}
    assert shown == minutes


def test_a_charge_that_is_already_there_says_so(app):
    (charge,) = app.ehr.charge_items("first-visit-charged")
    assert charge["quantity"]["value"] == 1
    assert app.ehr.scenario("second-visit").patient == app.ehr.scenario("first-visit-charged").patient


def test_the_visits_follow_the_clock_of_the_clinic_when_no_day_is_given():
    late_on_the_19th_in_boston = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
    made = create_sandbox(
        base_url="http://127.0.0.1:1", app_url="http://localhost:9", clock=lambda: late_on_the_19th_in_boston
    )
    assert made.extensions["sandbox"].scenario("cms-ex1").date_of_service == date(2026, 11, 18)


def test_the_command_explains_itself():
    answer = CliRunner().invoke(sandbox_command, ["--help"])
    assert answer.exit_code == 0
    assert "--app-url" in answer.output
