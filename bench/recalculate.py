"""What a recalculation costs on our side: time, database queries and weight.

    python bench/recalculate.py [ROUNDS]

See README.md beside this file for the method. Exits with 1 where a bound is missed.
"""

from __future__ import annotations

import gc
import gzip
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import requests
import structlog
from cryptography.fernet import Fernet
from flask.testing import FlaskClient
from sqlalchemy import event

from quarterhour.plugin.app import create_app
from quarterhour.plugin.config import Settings
from quarterhour.plugin.installation import Installation, install
from quarterhour.sandbox.ehr import create_sandbox, running

ROUNDS = 40
BEFORE = 5  # pay for imports and compiled templates, once in the life of a process
VISITS = ("cms-ex2", "cms-ex4", "missing-minutes", "assistant", "optum-cap", "evaluation")
MOST_MILLISECONDS, MOST_FIRST, MOST_AGAIN = 50.0, 120_000, 15_000  # at the median; compressed bytes
US = "https://quarterhour.example"  # served in this process; nothing is looked up

ISSUERS = """\
[issuers.sandbox]
name = "Sandbox EHR"
iss = "{url}/fhir"
client_id = "quarterhour-public"
client_auth = "public"
time_zone = "America/New_York"
allow_http = true
allow_private_addresses = true

[issuers.sandbox.writing]
way = "charge-item"

[issuers.sandbox.site]
policies = [
    {{policy = "cms-part-b", payer = "Organization/payer-medicare"}},
    {{policy = "optum-0048", payer = "Organization/payer-optum"}},
]
"""


@dataclass(frozen=True)
class Measured:
    """One recalculation. Times are milliseconds."""

    wall: float
    cpu: float
    queries: int
    transactions: int
    weight: int


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(io.StringIO()),
    )
    measured: list[Measured] = []
    first: list[int] = []
    with bench() as (here, sandbox, client):
        for visit in VISITS:
            address, page, weight = opened(client, sandbox, visit)
            first.append(weight)
            asked = len(sandbox.requests("*", "*"))
            assert asked, "the EHR counts what it is asked"
            measured += recalculated(here, client, address, fields_of(page), rounds)
            if len(sandbox.requests("*", "*")) != asked:
                raise SystemExit(f"{visit}: a recalculation asked the EHR.")
    sys.exit(0 if report(measured, first) else 1)


def recalculated(
    here: Installation, client: FlaskClient, address: str, fields: dict[str, list[str]], rounds: int
) -> list[Measured]:
    """The same visit over and over, a modifier taken off and put on again: each time something changes."""
    offered = next(name for name in fields if name.startswith("offered:"))
    box = offered.replace("offered:", "on:")
    found = []
    with counted(here) as seen:
        for number in range(BEFORE + rounds):
            changed = {**fields, "go": ["recalculate"], box: fields[offered] if number % 2 else []}
            seen.clear()
            since, cpu = time.perf_counter(), time.thread_time()
            answer = client.post(address, base_url=US, data=changed, headers={"X-Fragment": "1"})
            cpu, wall = time.thread_time() - cpu, time.perf_counter() - since
            body = answer.data
            answer.close()  # what is kept after the answer is counted, but nobody waits for it
            if answer.headers.get("X-Fragment") != "1":
                raise SystemExit(f"No fragment came: {answer.status}")
            found.append(
                Measured(
                    wall=wall * 1000,
                    cpu=cpu * 1000,
                    queries=seen.count("query"),
                    transactions=seen.count("commit"),
                    weight=len(gzip.compress(body)),
                )
            )
    return found[BEFORE:]


@contextmanager
def counted(here: Installation) -> Iterator[list[str]]:
    """What the database is asked, while it is."""
    seen: list[str] = []

    def query(*_: Any) -> None:
        seen.append("query")

    def commit(*_: Any) -> None:
        seen.append("commit")

    event.listen(here.engine, "before_cursor_execute", query)
    event.listen(here.engine, "commit", commit)
    yield seen
    event.remove(here.engine, "before_cursor_execute", query)
    event.remove(here.engine, "commit", commit)


def report(measured: list[Measured], first: list[int]) -> bool:
    """Prints the figures; gives whether every bound is held."""
    print(f"Recalculations of {len(VISITS)} visits, {len(measured) // len(VISITS)} each; median (min to max)")
    held = [
        bound("server time, ms", [each.wall for each in measured], MOST_MILLISECONDS),
        bound("compressed, first load, bytes", first, MOST_FIRST, worst=True),
        bound("compressed, a recalculation, bytes", [e.weight for e in measured], MOST_AGAIN, worst=True),
    ]
    bound("  CPU of the thread that serves it, ms", [each.cpu for each in measured], None)
    bound("  database queries", [each.queries for each in measured], None)
    bound("  transactions", [each.transactions for each in measured], None)
    print("Requests to the EHR: none")
    print(f"Load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return all(held)


def bound(name: str, figures: list[Any], most: float | None, *, worst: bool = False) -> bool:
    median = statistics.median(figures)
    held = most is None or (max(figures) if worst else median) <= most
    limit = "" if most is None else f"  at most {most:,.0f}: {'held' if held else 'MISSED'}"
    print(f"{name:42} {median:9,.1f}  ({min(figures):,.1f} to {max(figures):,.1f}){limit}")
    return held


@contextmanager
def bench() -> Iterator[tuple[Installation, Any, FlaskClient]]:
    """Quarterhour in this process, the EHR on loopback."""
    made: dict[str, Any] = {}

    def ehr(base_url: str) -> Any:
        made["ehr"] = create_sandbox(base_url=base_url, app_url=US)
        return made["ehr"]

    with tempfile.TemporaryDirectory(prefix="quarterhour-bench-") as name, running(ehr) as url:
        folder = Path(name)
        (folder / "issuers.toml").write_text(ISSUERS.format(url=url), encoding="utf-8")
        settings = Settings(
            public_url=US,
            issuers_file=folder / "issuers.toml",
            secret_keys=Fernet.generate_key().decode(),
            database_url=f"sqlite:///{folder / 'quarterhour.sqlite3'}",
        )
        with closing(install(settings)) as here:
            client = create_app(here).test_client()
            gc.collect()
            gc.freeze()  # as `quarterhour serve` does
            yield here, made["ehr"].extensions["sandbox"], client


def opened(client: FlaskClient, sandbox: Any, visit: str) -> tuple[str, str, int]:
    """From the chart to the review page: its address, its text, and what the first load weighs."""
    launch = client.get(sandbox.launch_url(visit).removeprefix(US), base_url=US)
    back = requests.get(launch.headers["Location"], timeout=20, allow_redirects=False)
    arrived = client.get(back.headers["Location"].removeprefix(US), base_url=US)
    address = arrived.headers["Location"]
    page = client.get(address, base_url=US)
    if "timed unit" not in page.text:
        raise SystemExit(f"No review page came: {page.status} {address}")
    parts = [address, "/static/quarterhour.css", "/static/review.js", f"{address}style.css"]
    weight = sum(len(gzip.compress(client.get(part, base_url=US).data)) for part in parts)
    return f"{address}visits/1", page.text, weight


class _Fields(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        unchecked = given.get("type") in {"radio", "checkbox"} and "checked" not in given
        if tag == "input" and given.get("name") and not unchecked:
            self.found.setdefault(str(given["name"]), []).append(given.get("value") or "")


def fields_of(page: str) -> dict[str, list[str]]:
    """What a browser would send along as the page stands."""
    fields = _Fields()
    fields.feed(page)
    return fields.found


if __name__ == "__main__":
    main()
