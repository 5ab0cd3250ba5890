"""A clinic on loopback: the sandbox EHR, Quarterhour, and people who open it with and without a browser.

Everything is real HTTP between the two. The clock, the recorders of connections and addresses, and the
faults of the EHR are this side of the wire; nothing of ours is patched.
"""

import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from html.parser import HTMLParser
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit
from zoneinfo import ZoneInfo

import pytest
import requests
import structlog
from cryptography.fernet import Fernet
from requests.adapters import HTTPAdapter
from requests.cookies import extract_cookies_to_jar, get_cookie_header

from quarterhour.plugin.app import create_app
from quarterhour.plugin.cli_demo import demonstration
from quarterhour.plugin.config import Settings
from quarterhour.plugin.installation import install
from quarterhour.sandbox.ehr import create_sandbox, running
from quarterhour.sandbox.quirks import Quirks

BOSTON = ZoneInfo("America/New_York")
SATURDAY_NOON = datetime(2026, 11, 21, 12, 0, tzinfo=BOSTON)

ISSUER = """\
[issuers.sandbox]
name = "Sandbox EHR"
iss = "{ehr_url}/fhir"
client_id = "quarterhour-public"
client_auth = "public"
time_zone = "America/New_York"
embedding_origins = ["{ehr_url}"]
allow_http = true
allow_private_addresses = true
read_timeout = {read_timeout}
{more}

[issuers.sandbox.writing]
{writing}

[issuers.sandbox.site]
policies = [
    {{policy = "cms-part-b", payer = "Organization/payer-medicare"}},
    {{policy = "optum-0048", payer = "Organization/payer-optum"}},
]
"""


class Clock:
    """The time of both sides; a test moves it."""

    def __init__(self) -> None:
        self.now = SATURDAY_NOON

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


# --- pages as a person without a browser sees them ----------------------------------------------------------


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[dict] = []
        self.links: dict[str, str] = {}
        self.scripts = 0
        self.elements: list[str] = []
        self._words: list[str] = []
        self._open: list[tuple[str, dict, int]] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.elements.append(tag)
        if tag == "form":
            self.forms.append({"action": given["action"], "fields": [], "buttons": []})
        elif tag == "input" and self.forms and given.get("name"):
            kind = given.get("type", "text")
            if kind not in {"radio", "checkbox"} or "checked" in given:
                self.forms[-1]["fields"].append((given["name"], given.get("value", "")))
        if tag in {"button", "a", "h1"}:
            self._open.append((tag, given, len(self._words)))

    def handle_endtag(self, tag):
        if self._open and self._open[-1][0] == tag:
            _, given, since = self._open.pop()
            said = " ".join(" ".join(self._words[since:]).split())
            if tag == "button":
                self.forms[-1]["buttons"].append((said, given.get("name"), given.get("value", "")))
            elif tag == "a" and "href" in given:
                self.links[said] = given["href"]

    def handle_data(self, data):
        self._words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._words).split())


class Page:
    """An answer of the application, and what stands on it."""

    def __init__(self, answer: requests.Response) -> None:
        self.answer = answer
        self.status = answer.status_code
        self.url = answer.url
        self.html = answer.text
        reader = _Reader()
        reader.feed(self.html)
        self.text = reader.text
        self.forms = reader.forms
        self.links = reader.links
        self.elements = reader.elements
        heading = re.search(r"<h1>(.*?)</h1>", self.html, re.DOTALL)
        self.heading = heading[1] if heading else ""

    def form_with(self, button: str) -> tuple[str, list[tuple[str, str]]]:
        """Where a button sends its form, and everything that goes along as the page stands."""
        for form in self.forms:
            for said, name, value in form["buttons"]:
                if said == button:
                    pressed = [(name, value)] if name else []
                    return urljoin(self.url, form["action"]), [*form["fields"], *pressed]
        buttons = [said for form in self.forms for said, _, _ in form["buttons"]]
        raise AssertionError(f"No button {button!r} on '{self.heading}'; there are {buttons}.")


class _KeepsSecureCookies(HTTPAdapter):
    """As browsers do on loopback, and requests by itself does not."""

    def __init__(self) -> None:
        super().__init__()
        self.jar = CookieJar(DefaultCookiePolicy(secure_protocols=["http", "https"]))

    def send(self, request, **settings):
        request.headers.pop("Cookie", None)
        kept = get_cookie_header(self.jar, request)
        if kept:
            request.headers["Cookie"] = kept
        answer = super().send(request, **settings)
        extract_cookies_to_jar(self.jar, request, answer.raw)
        return answer


class Person:
    """Somebody with a browser of their own: keeps cookies, follows links, fills in forms."""

    def __init__(self, clinic: "Clinic") -> None:
        self.clinic = clinic
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.mount("http://", _KeepsSecureCookies())

    def open(self, url: str, **changed) -> Page:
        return Page(self.http.get(urljoin(self.clinic.app_url, url), timeout=30, **changed))

    def launch(self, scenario: str, **who) -> Page:
        """A click on Quarterhour in the chart of that visit."""
        return self.open(self.clinic.launch_url(scenario, **who))

    def callback_of(self, scenario: str, **who) -> str:
        """The address of ours that the EHR sends this browser back to, not yet followed."""
        authorize = self.open(self.clinic.launch_url(scenario, **who), allow_redirects=False)
        back = self.http.get(authorize.answer.headers["Location"], timeout=30, allow_redirects=False)
        return back.headers["Location"]

    def press(self, page: Page, button: str, entered: dict[str, str] | None = None, **changed) -> Page:
        """Fills in the form that this button belongs to, and presses it."""
        address, fields = page.form_with(button)
        entered = entered or {}
        fields = [(name, value) for name, value in fields if name not in entered]
        data = [*fields, *entered.items()]
        return Page(self.http.post(address, data=data, timeout=30, **changed))

    def confirm(self, scenario: str, entered: dict[str, str] | None = None) -> Page:
        """From the chart to the page before signing."""
        return self.press(self.launch(scenario), "Sign off…", entered)

    def sign(self, scenario: str, entered: dict[str, str] | None = None) -> Page:
        """From the chart to the receipt."""
        confirm = self.confirm(scenario, entered)
        return self.press(confirm, the_sign_button(confirm))


def the_sign_button(page: Page) -> str:
    """ "Sign off 2 charges"."""
    (button,) = [
        said
        for form in page.forms
        for said, _, _ in form["buttons"]
        if re.fullmatch(r"Sign off \d+ .*", said)
    ]
    return button


# --- the clinic ---------------------------------------------------------------------------------------------


@dataclass
class Clinic:
    """Both sides of the wire, and what passed over it."""

    app_url: str
    ehr_url: str
    sandbox: object
    installation: object
    app: object
    clock: Clock
    folder: Path
    addresses: list[str] = field(default_factory=list)  # every address that the application was asked for

    def person(self) -> Person:
        return Person(self)

    def launch_url(self, scenario: str, *, user: str = "") -> str:
        return self.sandbox.launch_url(scenario, user=user)

    def charged(self, scenario: str) -> dict[str, int]:
        """What the EHR has: units by code."""
        return {
            item["code"]["coding"][0]["code"]: item["quantity"]["value"]
            for item in self.sandbox.charge_items(scenario)
        }

    def written(self, scenario: str) -> list[dict]:
        return self.sandbox.charge_items(scenario)

    def posts(self) -> int:
        """How often the EHR was asked to make a ChargeItem."""
        return len(self.sandbox.requests("POST", "/fhir/ChargeItem*"))

    def database(self) -> bytes:
        """Every byte that is stored, the write-ahead log included."""
        return b"".join(path.read_bytes() for path in sorted(self.folder.glob("quarterhour.sqlite3*")))


@contextmanager
def a_clinic_in(
    folder: Path,
    *,
    quirks: Quirks | None = None,
    read_timeout: float = 20.0,
    writing: str = 'way = "charge-item"',  # most journeys watch each charge's own request
    more: str = "",  # of the issuer's table
    around_ehr=lambda application: application,
    **settings,
) -> Iterator[Clinic]:
    clock = Clock()
    addresses: list[str] = []
    made: dict[str, object] = {}

    def ehr(base_url: str):
        made["ehr"] = create_sandbox(
            base_url=base_url, app_url=app_url, clock=clock, quirks=quirks or Quirks()
        )
        return around_ehr(made["ehr"])

    def application(base_url: str):
        def recorded(environ, start_response):
            query = f"?{environ['QUERY_STRING']}" if environ["QUERY_STRING"] else ""
            addresses.append(environ["PATH_INFO"] + query)
            return made["app"](environ, start_response)

        return recorded

    with ExitStack() as stack:
        app_url = stack.enter_context(running(application, host="localhost"))
        ehr_url = stack.enter_context(running(ehr))
        issuers = folder / "issuers.toml"
        issuer = ISSUER.format(ehr_url=ehr_url, read_timeout=read_timeout, writing=writing, more=more)
        issuers.write_text(issuer, encoding="utf-8")
        installation = install(
            Settings(
                public_url=app_url,
                issuers_file=issuers,
                secret_keys=Fernet.generate_key().decode(),
                database_url=f"sqlite:///{folder / 'quarterhour.sqlite3'}",
                **settings,
            ),
            clock,
        )
        stack.enter_context(closing(installation))
        made["app"] = create_app(installation)
        sandbox = made["ehr"].extensions["sandbox"]
        yield Clinic(app_url, ehr_url, sandbox, installation, made["app"], clock, folder, addresses)


@pytest.fixture
def a_clinic(tmp_path):
    """Opens a clinic with settings of its own, for as long as the test runs."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(a_clinic_in(tmp_path, **settings))


@pytest.fixture
def clinic_in():
    """The same for a test that opens many, one after another, each in a folder of its own."""
    return a_clinic_in


@pytest.fixture
def clinic(a_clinic) -> Clinic:
    return a_clinic()


@pytest.fixture
def person(clinic) -> Person:
    return clinic.person()


# --- what leaves, and what is logged ------------------------------------------------------------------------


class Wire:
    """Every name that this process looked up and every address that it connected to, while watched."""

    def __init__(self) -> None:
        self.watching = False
        self.names: list[str] = []
        self.connected: list[tuple[str, int]] = []

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.watching:
            return
        if event == "socket.getaddrinfo":
            self.names.append(str(arguments[0]))
        elif event == "socket.connect" and isinstance(arguments[1], tuple):
            self.connected.append((arguments[1][0], arguments[1][1]))

    @contextmanager
    def watched(self):
        self.names, self.connected, self.watching = [], [], True
        try:
            yield self
        finally:
            self.watching = False

    @property
    def ports(self) -> set[int]:
        return {port for _, port in self.connected}


@pytest.fixture(scope="session")
def _wire() -> Wire:
    # Below every library: the interpreter itself reports sockets (https://docs.python.org/3/library/audit_events.html).
    wire = Wire()
    sys.addaudithook(wire)
    return wire


@pytest.fixture
def wire(_wire):
    with _wire.watched():
        yield _wire


@pytest.fixture
def logged():
    """Everything that was logged through structlog, as `quarterhour serve` writes it."""
    written = io.StringIO()
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(written),
        cache_logger_on_first_use=False,
    )
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    structlog.configure(**before)


@pytest.fixture(autouse=True)
def _quiet():
    """Keeps the application's log out of the test report, unless a test reads it."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.configure(**before)


def query_of(address: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(address).query)


# --- a real browser -----------------------------------------------------------------------------------------


@pytest.fixture
def a_browser(chromium):
    """A fresh profile, as new as a private window."""
    made = []

    def new(**settings):
        made.append(chromium.new_context(**settings))
        made[-1].set_default_timeout(15_000)
        return made[-1]

    yield new
    for context in made:
        context.close()


@pytest.fixture
def browser(a_browser):
    return a_browser()


@pytest.fixture
def a_browser_that(playwright, chromium_path, chromium_flags, tmp_path):
    """A profile with preferences, as somebody set them in the browser's settings."""
    made = []

    def new(preferences: dict):
        folder = tmp_path / f"profile-{len(made)}"
        (folder / "Default").mkdir(parents=True)
        (folder / "Default" / "Preferences").write_text(json.dumps({"profile": preferences}))
        made.append(
            playwright.chromium.launch_persistent_context(
                folder, executable_path=chromium_path, args=list(chromium_flags)
            )
        )
        made[-1].set_default_timeout(15_000)
        return made[-1]

    yield new
    for context in made:
        context.close()


@pytest.fixture
def demo():
    """What `quarterhour demo` runs, as it runs it."""
    with demonstration() as shown:
        yield shown
