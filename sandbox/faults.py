"""Faults that a test orders in advance, and the log of what was asked. Both sit before the application."""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from werkzeug.wrappers import Request, Response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

DROPPED = 0


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong with the next ``times`` requests that fit ``method`` and ``path``.

    ``path`` is a shell pattern over the path of the request, such as ``/fhir/ChargeItem*``. With ``after``
    the request is processed first, and only its answer is lost or spoilt; ``truncate`` always is after, and so
    is ``foreign``, whose answer speaks of another patient.
    """

    kind: Literal["status", "drop", "delay", "truncate", "html", "foreign"]
    method: str = "*"
    path: str = "*"
    times: int = 1
    after: bool = False
    status: int = 500
    retry_after: str | None = None
    seconds: float = 0


@dataclass(frozen=True)
class LoggedRequest:
    """A request as a test may look back on it: no bodies, no tokens. Status 0 is a dropped connection."""

    method: str
    path: str
    query: str
    request_id: str | None
    status: int


class Faults:
    """The faults that are still to come, first ordered first served; and those that come by chance."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[Fault, int]] = []
        self._share, self._by_chance, self._chance = 0.0, tuple[Fault, ...](), random.Random()
        self.chances = 0  # how many came by chance

    def by_chance(self, share: float, faults: Iterable[Fault], seed: int) -> None:
        """From now on this share of all requests meets one of these faults, each as likely as the others."""
        with self._lock:
            self._share, self._by_chance, self._chance = share, tuple(faults), random.Random(seed)

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._waiting.extend((fault, fault.times) for fault in faults)

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()

    @property
    def waiting(self) -> int:
        """How many faulty answers are still to be given."""
        with self._lock:
            return sum(left for _, left in self._waiting)

    def take(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for index, (fault, left) in enumerate(self._waiting):
                if fnmatchcase(method, fault.method) and fnmatchcase(path, fault.path):
                    self._waiting[index : index + 1] = [(fault, left - 1)] if left > 1 else []
                    return fault
            if self._share and self._chance.random() < self._share:
                self.chances += 1
                return self._chance.choice(self._by_chance)
        return None


class RequestLog:
    """What was asked of the sandbox, in the order it was answered; ``under_way`` are not answered yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.under_way = 0
        self._entries: list[LoggedRequest] = []

    def begin(self) -> None:
        with self._lock:
            self.under_way += 1

    def add(self, entry: LoggedRequest) -> None:
        with self._lock:
            self._entries.append(entry)
            self.under_way -= 1

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()

    def __call__(self, method: str = "*", path: str = "*") -> list[LoggedRequest]:
        """The requests so far that fit a method and a path (shell patterns)."""
        with self._lock:
            return [
                entry
                for entry in self._entries
                if fnmatchcase(entry.method, method) and fnmatchcase(entry.path, path)
            ]


def with_faults(application: WSGIApplication, faults: Faults, log: RequestLog) -> WSGIApplication:
    """The application with the ordered faults in front of it, every request logged."""

    def faulty(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        log.begin()

        def process() -> Response:
            return Response.from_app(application, environ)

        fault = faults.take(request.method, request.path)
        response = process() if fault is None else _spoilt(fault, process)
        log.add(
            LoggedRequest(
                request.method,
                request.path,
                request.query_string.decode("latin-1"),
                request.headers.get("X-Request-Id"),
                response.status_code if response else DROPPED,
            )
        )
        if response is None:
            return hang_up(environ, start_response)
        return response(environ, start_response)

    return faulty


def _spoilt(fault: Fault, process: Callable[[], Response]) -> Response | None:
    """The answer that the client gets; None for no answer at all."""
    response = process() if fault.after or fault.kind in {"truncate", "foreign"} else None
    if fault.kind == "drop":
        return None
    if fault.kind == "delay":
        time.sleep(fault.seconds)
        return response or process()
    if fault.kind == "html":
        return Response("<html><h1>Proxy login</h1></html>", status=200, mimetype="text/html")
    if fault.kind == "status":
        answer = Response("{}", status=fault.status, mimetype="application/fhir+json")
        if fault.retry_after is not None:
            answer.headers["Retry-After"] = fault.retry_after
        return answer
    assert response is not None
    whole = response.get_data()
    if fault.kind == "foreign":
        response.set_data(re.sub(rb'"Patient/[^"]+"', b'"Patient/somebody-else"', whole))
        return response
    response.response = [whole[: len(whole) // 2]]
    # The length still promises the whole, as when a connection breaks in the middle of a body.
    response.headers["Content-Length"] = str(len(whole))
    return response


def hang_up(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Closes the connection without an answer."""
    # The bound method is the only way that waitress lets an application near the connection.
    channel = environ["waitress.client_disconnected"].__self__
    channel.socket.shutdown(socket.SHUT_RDWR)
    start_response("204 No Content", [])
    return []
