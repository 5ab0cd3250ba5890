"""How many round trips to the EHR a launch takes from the code to the page, and what we add of our own.

    python bench/round_trips.py [ROUNDS] [--waits]

``--waits`` lists, for the last round of each, what waited for what.

See README.md beside this file for the method. Exits with 1 where a bound is missed.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import secrets
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import requests
import structlog
from cryptography.fernet import Fernet
from far_away import TRIP, Exchange, FarAway, Span, Wait, ehr_far_away
from plain_page import THERE, plain_page
from werkzeug.wsgi import ClosingIterator

from quarterhour.launch.keys import generate_key
from quarterhour.plugin.app import create_app
from quarterhour.plugin.cli_serve import settle_memory
from quarterhour.plugin.config import Settings
from quarterhour.plugin.installation import Installation, install
from quarterhour.sandbox.ehr import running

ROUNDS = 9
AT_AUTHORIZATION = 0.5  # seconds: what an EHR's own redirects take there, if nobody has to sign in
SCENARIOS = ("cms-ex1", "cms-ex2", "cms-ex3", "cms-ex4")
MOST_WARM, MOST_COLD, MOST_OWN = 2.5, 4.5, 10.0  # trips, trips, milliseconds

ISSUERS = """\
[issuers.far]
name = "Sandbox EHR"
iss = "{url}/fhir"
client_id = "quarterhour-jwt"
client_auth = "private_key_jwt"
signing_alg = "ES384"
key_file = "key.pem"
ca_file = "{ca_file}"
time_zone = "America/New_York"
allow_private_addresses = true

[issuers.far.site]
policies = [{{policy = "cms-part-b", payer = "Organization/payer-medicare"}}]
"""


@dataclass(frozen=True)
class Measured:
    """One way from the code to the page. Times are seconds."""

    wall: float  # inside the application
    waited: float  # of that, while something was under way to or from the EHR
    at_ehr: float  # of that, while the EHR worked on a request or a handshake
    cpu: float  # of the threads that serve the browser
    cpu_of_all: float  # with the threads that read side by side, and the browser's
    waits: tuple[Wait, ...]
    exchanges: tuple[Exchange, ...]
    since: float
    plain_page: float = 0.0  # what a plain page took in the same round, after a trip's wait
    in_a_loop: float = 0.0  # the same in a loop

    @property
    def trips(self) -> float:
        return (self.waited - self.at_ehr) / TRIP

    @property
    def own(self) -> float:
        return self.wall - self.waited


class Served(NamedTuple):
    """One request of the browser: from when to when, and what its thread had of the CPU."""

    path: str
    span: Span
    cpu: float  # seconds

    @property
    def counts(self) -> bool:
        """The EHR fetches our public keys by itself; that is its time."""
        return self.path == "/callback" or self.path.startswith("/launches/")


class Stopwatch:
    """When the application was busy with which request."""

    def __init__(self, application: Callable) -> None:
        self.application = application
        self.served: list[Served] = []

    def __call__(self, environ, start_response) -> Iterable[bytes]:
        started, cpu = time.monotonic(), time.thread_time()
        answer = self.application(environ, start_response)
        body = list(answer)  # whole, so that the browser can have it; what is done after it is not waited for
        span = Span(started, time.monotonic())
        self.served.append(Served(environ["PATH_INFO"], span, time.thread_time() - cpu))
        return ClosingIterator(body, answer.close if hasattr(answer, "close") else None)


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    rounds = numbers[0] if numbers else ROUNDS
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(io.StringIO()),
    )
    warm, cold, usual = [], [], []
    with (
        bench() as (ehr, here, app_url, stopwatch),
        tempfile.TemporaryDirectory(prefix="quarterhour-bench-") as folder,
        plain_page(Path(folder)) as plain,
    ):
        browser = Browser(ehr, app_url)
        for number in range(rounds + 1):
            scenario = SCENARIOS[number % len(SCENARIOS)]
            pages = {"plain_page": plain.seconds_after(TRIP), "in_a_loop": plain.seconds_in_a_loop()}
            warm.append(replace(launch(ehr, here, browser, stopwatch, scenario), **pages))
            cold.append(replace(launch(ehr, here, browser, stopwatch, scenario, forget=True), **pages))
            usual.append(usual_code(ehr, app_url, scenario))
    # The first round pays for imports and compiled templates, once in the life of a process.
    kept = {"warm pool": warm[1:], "cold pool": cold[1:], "usual code": usual[1:]}
    if "--waits" in sys.argv:
        for name, measured in kept.items():
            print(f"{name}:")
            print("\n".join(waits(measured[-1])))
    held = report(kept)
    sys.exit(0 if held else 1)


def report(kept: dict[str, list[Measured]]) -> bool:
    """Prints the figures; gives whether every bound is held."""
    rounds = len(kept["warm pool"])
    print(f"Code to page, EHR {TRIP * 1000:.0f} ms away over TLS 1.3; median (min to max) of {rounds} rounds")
    trips = {name: [each.trips for each in measured] for name, measured in kept.items()}
    bounds = [
        bound(f"trips, {name}", trips[name], most)
        for name, most in (("warm pool", MOST_WARM), ("cold pool", MOST_COLD), ("usual code", None))
    ]
    for name, measured in kept.items():
        if name == "usual code":
            continue
        # Cold, ten TLS handshakes of our own come on top: shown, and no part of the bound.
        most = MOST_OWN if name == "warm pool" else None
        bounds.append(bound(f"our own time, {name}, ms", [each.own * 1000 for each in measured], most))
        bound("  in plain pages", [each.own / each.plain_page for each in measured], None)
        bound(
            "  at the speed that the bound comes from, ms",
            [each.own * 1000 * THERE / each.in_a_loop for each in measured],
            None,
        )
        bound(f"  CPU of our own time, {name}, ms", [each.cpu * 1000 for each in measured], None)
        bound(
            f"  CPU with reads and browser, {name}, ms", [each.cpu_of_all * 1000 for each in measured], None
        )
        bound(f"  the EHR's time, {name}, ms", [each.at_ehr * 1000 for each in measured], None)
        bound(f"  all of it, {name}, ms", [each.wall * 1000 for each in measured], None)
        bound(f"  requests, {name}", [len(each.exchanges) for each in measured], None)
    bound(
        "a plain page after a trip's wait, ms", [each.plain_page * 1000 for each in kept["warm pool"]], None
    )
    bound("a plain page in a loop, ms", [each.in_a_loop * 1000 for each in kept["warm pool"]], None)
    bound("all of it, usual code, ms", [each.wall * 1000 for each in kept["usual code"]], None)
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    print(f"Load {load:.1f} on {cores} cores" + (": too busy to trust our own time" if load > cores else ""))
    return all(bounds)


def bound(name: str, figures: list[float], most: float | None) -> bool:
    median = statistics.median(figures)
    held = most is None or median <= most
    limit = "" if most is None else f"  at most {most:g}: {'held' if held else 'MISSED'}"
    print(f"{name:45} {median:7.1f}  ({min(figures):.1f} to {max(figures):.1f}){limit}")
    return held


def waits(measured: Measured) -> Iterator[str]:
    """One line a wait: when, on which connection, and what the EHR was asked meanwhile."""
    for wait in sorted(measured.waits, key=lambda wait: wait.span):
        asked = [
            exchange.request
            for exchange in measured.exchanges
            if exchange.connection == wait.connection
            and wait.span.start <= exchange.span.start <= wait.span.end
        ]
        start, end = ((instant - measured.since) * 1000 for instant in wait.span)
        print_as = ", ".join(asked) or "connecting"
        yield f"  {start:7.1f} to {end:7.1f} ms  connection {wait.connection:3}  {print_as}"
    for exchange in sorted(measured.exchanges, key=lambda exchange: exchange.span):
        start, end = ((instant - measured.since) * 1000 for instant in exchange.span)
        yield f"  EHR {start:7.1f} to {end:7.1f} ms  {exchange.request}"


@contextmanager
def bench() -> Iterator[tuple[FarAway, Installation, str, Stopwatch]]:
    """Quarterhour in this process, the EHR far away."""
    with tempfile.TemporaryDirectory(prefix="quarterhour-bench-") as name:
        folder = Path(name)
        app_port = _free_port()
        app_url = f"http://localhost:{app_port}"
        with ehr_far_away(folder, app_url) as ehr, closing(install(_settings(folder, app_url, ehr))) as here:
            stopwatch = Stopwatch(create_app(here))
            settle_memory()
            with running(lambda _: stopwatch, host="localhost", port=app_port):
                yield ehr, here, app_url, stopwatch


def launch(
    ehr: FarAway,
    here: Installation,
    browser: Browser,
    stopwatch: Stopwatch,
    scenario: str,
    *,
    forget: bool = False,
) -> Measured:
    """A launch into a process that has no connection yet; with ``forget``, again none when it comes back."""
    _forget(here)
    callback = browser.until_code(ehr.launch_url(scenario, "quarterhour-jwt"))
    if forget:
        _forget(here)
    ehr.record()
    stopwatch.served.clear()
    since, cpu = time.monotonic(), time.process_time()
    page = browser.follow(callback)
    cpu = time.process_time() - cpu
    if "timed unit" not in page.text:
        raise SystemExit(f"No review page came: {page.status_code} {page.url}")
    return _measured(ehr, [served for served in stopwatch.served if served.counts], since, cpu)


def usual_code(ehr: FarAway, app_url: str, scenario: str) -> Measured:
    """What is commonly written: one requests call after the other, a connection for each."""
    verifier = secrets.token_urlsafe(64)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    launched = parse_qs(urlsplit(ehr.launch_url(scenario, "quarterhour-public")).query)
    client = {"client_id": "quarterhour-public", "redirect_uri": f"{app_url}/callback"}
    asked = {
        **client,
        "response_type": "code",
        "scope": "launch openid fhirUser user/*.rs",
        "state": "state",
        "nonce": "nonce",
        "aud": launched["iss"][0],
        "launch": launched["launch"][0],
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    back = _once(ehr, "GET", f"{ehr.url}/oauth/authorize?{urlencode(asked)}", allow_redirects=False)
    code = parse_qs(urlsplit(back.headers["Location"]).query)["code"][0]
    time.sleep(AT_AUTHORIZATION)
    ehr.record()
    since, cpu = time.monotonic(), time.process_time()
    started = time.thread_time()
    known = _once(ehr, "GET", f"{launched['iss'][0]}/.well-known/smart-configuration").json()
    form = {"grant_type": "authorization_code", "code": code, "code_verifier": verifier, **client}
    token = _once(ehr, "POST", known["token_endpoint"], data=form).json()
    _once(ehr, "GET", known["jwks_uri"])
    patient = token["patient"]
    for read in (
        f"Encounter/{token['encounter']}",
        f"Procedure?patient={patient}",
        f"Patient/{patient}",
        f"Coverage?patient={patient}",
        f"ChargeItem?patient={patient}",
        "Practitioner/pr-reyes",
    ):
        headers = {"Authorization": f"Bearer {token['access_token']}"}
        _once(ehr, "GET", f"{launched['iss'][0]}/{read}", headers=headers)
    served = Served("", Span(since, time.monotonic()), time.thread_time() - started)
    return _measured(ehr, [served], since, time.process_time() - cpu)


def _once(ehr: FarAway, method: str, url: str, **kwargs) -> requests.Response:
    answer = requests.request(method, url, verify=str(ehr.ca_file), timeout=20, **kwargs)
    answer.raise_for_status()
    return answer


class Browser:
    """Keeps connections, and the application's cookie; that one by hand, since it is Secure and we are not."""

    def __init__(self, ehr: FarAway, app_url: str) -> None:
        self.app_url = app_url
        self.cookie = ""
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.verify = str(ehr.ca_file)

    def until_code(self, url: str) -> str:
        """From a click in the chart to the address that the EHR sends the browser back to."""
        authorize = self._get(url).headers["Location"]
        time.sleep(AT_AUTHORIZATION)
        back = self._get(authorize).headers["Location"]
        assert back.startswith(f"{self.app_url}/callback"), "the sandbox sends the browser straight back"
        return back

    def follow(self, url: str) -> requests.Response:
        """The page that an address of ours leads to."""
        answer = self._get(url)
        while answer.is_redirect:
            answer = self._get(urljoin(answer.url, answer.headers["Location"]))
        return answer

    def _get(self, url: str) -> requests.Response:
        ours = url.startswith(f"{self.app_url}/")
        headers = {"Cookie": self.cookie} if ours else {}
        answer = self.http.get(url, headers=headers, allow_redirects=False, timeout=20)
        if ours and "Set-Cookie" in answer.headers:
            self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        return answer


def _forget(here: Installation) -> None:
    """As a process that has just started: no connection, no key, no endpoint known."""
    here.connections.close()
    here.discovered.clear()


def _measured(ehr: FarAway, served: list[Served], since: float, cpu: float) -> Measured:
    ours = [each.span for each in served]
    time.sleep(2 * TRIP)  # until the record has settled
    record = ehr.record()
    waits = tuple(wait for wait in record.near if wait.span.end > since)
    exchanges = [exchange for exchange in record.exchanges if exchange.span.end > since]
    waiting = _within(_union(wait.span for wait in waits), ours)
    return Measured(
        wall=_total(ours),
        waited=_total(waiting),
        at_ehr=_total(_within(_union(wait.span for wait in record.far), waiting)),
        cpu=sum(each.cpu for each in served),
        cpu_of_all=cpu,
        waits=waits,
        exchanges=tuple(exchanges),
        since=since,
    )


def _union(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


def _within(spans: Iterable[Span], frame: Iterable[Span]) -> list[Span]:
    """The parts of ``spans`` that lie in ``frame``; both without overlaps."""
    frame = list(frame)
    cut = [Span(max(a.start, b.start), min(a.end, b.end)) for a in spans for b in frame]
    return [span for span in cut if span.end > span.start]


def _total(spans: Iterable[Span]) -> float:
    return sum(span.end - span.start for span in spans)


def _settings(folder: Path, app_url: str, ehr: FarAway) -> Settings:
    key = folder / "key.pem"
    key.touch(mode=0o600)
    key.write_text(generate_key("ES384"))
    issuers = folder / "issuers.toml"
    issuers.write_text(ISSUERS.format(url=ehr.url, ca_file=ehr.ca_file), encoding="utf-8")
    return Settings(
        public_url=app_url,
        issuers_file=issuers,
        secret_keys=Fernet.generate_key().decode(),
        database_url=f"sqlite:///{folder / 'quarterhour.sqlite3'}",
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
