"""One writer in a process of its own, which can be killed at any step: between two transactions, or requests.

The steps are counted where the process meets the outside (database, HTTP, sockets, renames), so that a
SIGKILL hits between any two of them without anything of ours being patched.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import requests
from cryptography.fernet import Fernet  # noqa: F401 - loaded before the process is forked
from requests.adapters import HTTPAdapter
from sqlalchemy import event

from quarterhour.fhir.server import Server
from quarterhour.fhir.way import WritingSettings
from quarterhour.plugin import outbox
from quarterhour.plugin.charge_files import InFolder
from quarterhour.plugin.database import connect
from quarterhour.plugin.dft import DftOverMllp
from quarterhour.plugin.vault import Vault
from quarterhour.plugin.ways import way_by


@dataclass(frozen=True)
class Job:
    """What one writer is told. Times in seconds."""

    database_url: str
    key: str
    index_key: bytes
    base_url: str
    token: str
    way: str
    writing: dict
    decision: str
    offset: float  # of the clock, from the real one
    timeout: float = 0.15
    by_hand: bool = True


class Steps:
    """Counts steps, and kills this process at one of them. ``during`` kills while an answer is awaited."""

    def __init__(self, kill_at: int | None = None, *, during: bool = False) -> None:
        self.kill_at, self.during, self.count = kill_at, during, 0

    def __call__(self, *_: object) -> None:
        self.count += 1
        if self.count == self.kill_at:
            if self.during:
                threading.Thread(target=self._soon, daemon=True).start()
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def _soon() -> None:
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)


class _Http(HTTPAdapter):
    def __init__(self, step: Steps) -> None:
        super().__init__()
        self._step = step

    def send(self, *args, **kwargs):
        self._step()
        response = super().send(*args, **kwargs)
        self._step()
        return response


class _Socket(socket.socket):
    step: Steps

    def sendall(self, *args):
        self.step()
        super().sendall(*args)
        self.step()

    def recv(self, *args):
        received = super().recv(*args)
        self.step()
        return received


def work(job: Job, step: Steps) -> None:
    """Sends once what the decision has to send."""
    engine = connect(job.database_url)
    event.listen(engine, "begin", step)
    event.listen(engine, "commit", step)
    vault = Vault((job.key,))
    vault.use_index_key(job.index_key)
    http = requests.Session()
    http.mount("http://", _Http(step))
    server = Server(
        job.base_url, job.token, http, connect_timeout=1, read_timeout=job.timeout, retries=0
    )
    settings = WritingSettings.from_table(job.writing)
    way = way_by(job.way, settings, server, provenance=True, timeout=job.timeout)
    if isinstance(way, DftOverMllp):

        def connected(address, timeout):
            made = _Socket(socket.AF_INET, socket.SOCK_STREAM)
            made.step = step
            made.settimeout(timeout)
            try:
                made.connect(address)
            except OSError:
                made.close()
                raise
            return made

        way = DftOverMllp(settings, job.timeout, connected)
    if isinstance(way, InFolder):
        sys.addaudithook(lambda name, _: step() if name in {"os.rename", "open"} and step.kill_at else None)

    def clock() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=job.offset)

    try:
        outbox.send(
            outbox.Outbox(engine, vault, clock), way, job.decision, who="Practitioner/t1", by_hand=job.by_hand
        )
    finally:
        http.close()
        engine.dispose()


def in_a_process(job: Job, kill_at: int | None, during: bool) -> None:
    """The target of a process."""
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(open(os.devnull, "w")))  # noqa: SIM115, PTH123
    work(job, Steps(kill_at, during=during))
