"""How long a CDS service takes to answer where the EHR is not read: 500 ms at the median at most.

    python bench/cds.py [CALLS]

A patient with 60 visits on the worklist of 6,000, 20 of them waiting, over real HTTP with a token signed
anew for each call. Exits with 1 where the bound is missed.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import msgspec
import requests
import structlog
from cryptography.fernet import Fernet

from quarterhour.core.visit import Discipline, History
from quarterhour.plugin import worklist
from quarterhour.plugin.app import create_app
from quarterhour.plugin.config import Settings
from quarterhour.plugin.installation import Installation, install
from quarterhour.plugin.worklist import Summary, Weight
from quarterhour.sandbox.ehr import create_sandbox, running

BOUND = 500.0  # milliseconds
PATIENTS, VISITS, WAITING = 100, 60, 20

ISSUER = """\
[issuers.sandbox]
name = "Sandbox EHR"
iss = "{ehr_url}/fhir"
client_id = "quarterhour-public"
client_auth = "public"
time_zone = "America/New_York"
allow_http = true
allow_private_addresses = true

[issuers.sandbox.cds]
iss = "{ehr_url}"
jku = "{ehr_url}/oauth/jwks"

[issuers.sandbox.site]
policies = [{{policy = "cms-part-b", payer = "Organization/payer-medicare"}}]
"""


def fill(here: Installation, patient: str) -> None:
    """The worklist of a clinic: the named patient and others, with as many visits each."""
    (issuer,) = here.issuers
    today = date.today()  # noqa: DTZ011 - a day of a benchmark
    for number in range(PATIENTS):
        who = f"Patient/{patient}" if number == 0 else f"Patient/p{number}"
        with here.engine.begin() as connection:
            for ago in range(VISITS):
                visit = Summary(
                    date_of_service=today - timedelta(days=ago + 1),
                    discipline=Discipline.PT,
                    patient="Synthetic",
                    record_number="1",
                    therapists=(),
                    units=3,
                    weight=Weight.NONE,
                    open_questions=0,
                    standing=worklist.Standing.OPEN if ago < WAITING else worklist.Standing.CHARGED,
                    chart={"97110": "30 min", "97140": "15 min"},
                    encounter=f"Encounter/e{number}-{ago}",
                    history=History(),
                )
                worklist.put(
                    connection,
                    here,
                    issuer.iss,
                    f"{number}-{ago}",
                    visit,
                    patient=who,
                    encounter=f"Encounter/e{number}-{ago}",
                )


def main() -> int:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    made: dict = {}

    def application(environ, start_response):
        return made["app"](environ, start_response)

    with (
        tempfile.TemporaryDirectory() as folder,
        running(lambda _: application, host="localhost") as app_url,
        running(lambda url: made.setdefault("ehr", create_sandbox(base_url=url, app_url=app_url))) as ehr_url,
    ):
        sandbox = made["ehr"].extensions["sandbox"]
        issuers = Path(folder) / "issuers.toml"
        issuers.write_text(ISSUER.format(ehr_url=ehr_url))
        settings = Settings(
            public_url=app_url,
            issuers_file=issuers,
            secret_keys=Fernet.generate_key().decode(),
            database_url=f"sqlite:///{folder}/bench.sqlite3",
        )
        with closing(install(settings)) as here, requests.Session() as http:
            made["app"] = create_app(here)
            http.trust_env = False
            scenario = sandbox.scenario("cms-ex1")
            fill(here, scenario.patient)
            address = f"{app_url}/cds-services/quarterhour-patient-view"
            coverages = [
                {"resource": filed.resource}
                for filed in sandbox.store.searchable("Coverage", f"Patient/{scenario.patient}")
            ]
            body = json.dumps(
                {
                    "hook": "patient-view",
                    "hookInstance": "bench",
                    "fhirServer": sandbox.fhir_url,
                    "context": {"userId": "Practitioner/pr-reyes", "patientId": scenario.patient},
                    "prefetch": {
                        "coverages": {"resourceType": "Bundle", "type": "searchset", "entry": coverages}
                    },
                }
            )
            took = []
            for _ in range(calls):
                headers = {"Authorization": f"Bearer {sandbox.cds.token(address)}"}
                begun = time.perf_counter()
                answer = http.post(address, data=body, headers=headers, timeout=30)
                took.append((time.perf_counter() - begun) * 1000)
                (card,) = msgspec.json.decode(answer.content)["cards"]
                assert card["summary"].startswith(f"{WAITING} visits have"), card["summary"]
    median, worst = statistics.median(took), sorted(took)[int(len(took) * 0.95) - 1]
    print(f"{calls} calls, {PATIENTS * VISITS:,} visits known, {VISITS} of the patient, {WAITING} waiting")
    print(
        f"answer {median:.1f} ms at the median, {worst:.1f} ms at the 95th percentile (at most {BOUND:.0f} ms)"
    )
    return int(median > BOUND)


if __name__ == "__main__":
    sys.exit(main())
