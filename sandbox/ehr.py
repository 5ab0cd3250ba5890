"""The EHR put together, and ways to run it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit
from zoneinfo import ZoneInfo

from flask import Flask
from waitress import create_server
from waitress import serve as waitress_serve
from waitress.wasyncore import close_all

from . import chart_pages, fhir_api, smart
from .authorization import Authorized, SmartServer
from .cds import CdsClient
from .clients import Client, demo_clients
from .faults import Faults, RequestLog, with_faults
from .fhir_api import Access, FhirServer
from .quirks import Quirks
from .scenarios import Scenario
from .store import Filed, Resource, Store
from .subscriptions import Subscriptions
from .synthetic import OPENS_BEFORE, synthetic_charts

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

CLINIC_ZONE = ZoneInfo("America/New_York")
COMPLETE = Quirks()
THREADS = 16


@dataclass(frozen=True)
class Sandbox:
    """A running EHR from the inside: what tests order of it, and what they look up in it."""

    base_url: str
    app_url: str
    clients: tuple[Client, ...]
    scenarios: tuple[Scenario, ...]
    store: Store
    faults: Faults
    requests: RequestLog
    smart: SmartServer
    subscriptions: Subscriptions
    cds: CdsClient

    @property
    def fhir_url(self) -> str:
        """The issuer: what a launch carries as ``iss``."""
        return self.smart.fhir_url

    def scenario(self, scenario_id: str) -> Scenario:
        return next(each for each in self.scenarios if each.id == scenario_id)

    def launch_url(
        self,
        scenario_id: str,
        client_id: str = "quarterhour-public",
        user: str = "",
        *,
        framed: bool = False,
        app_context: str | None = None,
    ) -> str:
        """Where a click in the chart of that visit sends the browser; ``user`` is a Practitioner id.

        ``app_context`` is what a card's link has the launch carry.
        """
        scenario = self.scenario(scenario_id)
        client = next(each for each in self.clients if each.client_id == client_id)
        launch = self.smart.launch(
            Authorized(
                f"Practitioner/{user or scenario.user}",
                f"Patient/{scenario.patient}",
                f"Encounter/{scenario.encounter}",
                app_context=app_context,
                framed=framed,
            )
        )
        return f"{client.launch_url}?{urlencode({'iss': self.fhir_url, 'launch': launch})}"

    def finish(self, scenario_id: str) -> Resource:
        """The visit ends, as by the button in its chart; one that has ended stays as it is."""
        with self.store.lock:
            filed = self.store.get("Encounter", self.scenario(scenario_id).encounter)
            assert filed is not None
            if filed.resource["status"] != "finished":
                filed = self.store.put(
                    {**filed.resource, "status": "finished", "period": self._period(filed)}
                )
            return filed.resource

    def _period(self, encounter: Filed) -> Resource:
        """Until a little after the last documented service, as the visits that ended have it."""
        reference = f"Encounter/{encounter.resource['id']}"
        ends = [
            datetime.fromisoformat(end)
            for filed in self.store.searchable("Procedure", encounter.patient)
            if filed.resource["encounter"]["reference"] == reference
            and (end := filed.resource.get("performedPeriod", {}).get("end"))
        ]
        start = encounter.resource["period"]["start"]
        end = max(ends, default=datetime.fromisoformat(start)) + OPENS_BEFORE
        return {"start": start, "end": end.isoformat(timespec="seconds")}

    def charge_items(self, scenario_id: str) -> list[Resource]:
        """The charges of that visit as the EHR has them, in the order they were filed."""
        context = f"Encounter/{self.scenario(scenario_id).encounter}"
        return [
            filed.resource
            for filed in self.store.all("ChargeItem")
            if filed.resource.get("context", {}).get("reference") == context
        ]


def create_sandbox(
    *,
    base_url: str,
    app_url: str,
    clients: tuple[Client, ...] | None = None,
    quirks: Quirks = COMPLETE,
    today: date | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Flask:
    """An EHR whose visits lie around ``today`` (default: the clinic's today by the clock).

    ``base_url`` is where it will be reached; its FHIR base is ``{base_url}/fhir``. ``app_url`` is where the
    app is. ``clients`` are ``demo_clients(app_url)`` if not given. The Sandbox itself is
    ``app.extensions["sandbox"]``.
    """
    store = Store(clock)
    chart = synthetic_charts(today or clock().astimezone(CLINIC_ZONE).date())
    for resource, patient in chart.resources:
        store.put(resource, patient)
    store.search_lag = timedelta(milliseconds=quirks.search_lag_ms)
    registered = clients if clients is not None else demo_clients(app_url)
    smart_server = SmartServer(base_url, registered, quirks, clock)
    subscriptions = Subscriptions(smart_server.fhir_url, app_url, store, quirks, clock)
    sandbox = Sandbox(
        base_url=base_url,
        app_url=app_url,
        clients=registered,
        scenarios=chart.scenarios,
        store=store,
        faults=Faults(),
        requests=RequestLog(),
        smart=smart_server,
        subscriptions=subscriptions,
        cds=CdsClient(base_url, app_url, smart_server.fhir_url, store, clock),
    )
    fhir_server = FhirServer(smart_server.fhir_url, store, quirks, subscriptions)

    def access_of(authorization: str | None) -> Access:
        token = smart_server.bearer(authorization)
        return Access(token.scope, token.authorized.patient)

    app = Flask(__name__)
    app.extensions["sandbox"] = sandbox
    app.register_blueprint(smart.blueprint(smart_server, store))
    app.register_blueprint(
        fhir_api.blueprint(
            fhir_server,
            access_of,
            fhir_server.capability_statement(f"{base_url}/oauth/authorize", smart_server.token_url),
        )
    )
    app.register_blueprint(chart_pages.blueprint(sandbox))
    app.wsgi_app = with_faults(  # type: ignore[method-assign, assignment]
        app.wsgi_app, sandbox.faults, sandbox.requests
    )
    return app


def serve(app: Flask, host: str, port: int) -> None:
    """Serve until interrupted."""
    waitress_serve(app, host=host, port=port, threads=THREADS, ident=None)


@contextmanager
def running(
    app_factory: Callable[[str], WSGIApplication], *, host: str = "127.0.0.1", port: int = 0
) -> Iterator[str]:
    """Run what the factory makes of its own address, on a loopback port of the system's choice.

    Gives the base URL. At the end all its threads and sockets are gone. ``host`` may be ``localhost``.
    """
    with closing(socket.create_server(("127.0.0.1", port), backlog=128)) as listening:
        base_url = f"http://{host}:{listening.getsockname()[1]}"
        connections: dict[int, Any] = {}
        server = create_server(
            app_factory(base_url), map=connections, sockets=[listening], threads=THREADS, ident=None
        )
        stopping = threading.Event()

        def loop() -> None:
            while not stopping.is_set():
                server.asyncore.loop(timeout=1, map=connections, count=1)

        thread = threading.Thread(target=loop, name=f"serving {urlsplit(base_url).netloc}")
        thread.start()
        try:
            yield base_url
        finally:
            stopping.set()
            server.pull_trigger()
            thread.join()
            server.task_dispatcher.shutdown()
            close_all(connections)


@contextmanager
def running_sandbox(*, app_url: str = "http://localhost:9", **settings: Any) -> Iterator[Sandbox]:
    """A sandbox running on loopback, with ``create_sandbox``'s settings; gives the Sandbox."""
    made: list[Flask] = []

    def factory(base_url: str) -> Flask:
        made.append(create_sandbox(base_url=base_url, app_url=app_url, **settings))
        return made[0]

    with running(factory):
        sandbox: Sandbox = made[0].extensions["sandbox"]
        try:
            yield sandbox
        finally:
            sandbox.subscriptions.close()
