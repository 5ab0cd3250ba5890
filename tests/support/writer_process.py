"""One writer in a process of its own, which can be killed at any step: between two transactions, or requests.

The steps are counted where the process meets the outside (database, HTTP, sockets, renames), so that a
SIGKILL hits between any two of them without anything of ours being patched.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import requests
import structlog
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
    """Counts steps, and kills this process at one of them: the third, or the first ``"send"``.

    With ``during`` it dies a moment later, while an answer is awaited.
    """

    def __init__(self, kill_at: int | str | None = None, *, during: bool = False) -> None:
        self.kill_at, self.during, self.count = kill_at, during, 0

    def __call__(self, *what: object) -> None:
        self.count += 1
        if self.kill_at is not None and self.kill_at in (self.count, *what):
            if self.during:
                threading.Thread(target=self._soon, daemon=True).start()
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def _soon() -> None:
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)


SENT_AT = "X-Sent-At"  # seconds by the clock of both sides, on every write


class _Http(HTTPAdapter):
    def __init__(self, step: Steps, clock) -> None:
        super().__init__()
        self._step, self._clock = step, clock

    def send(self, request, *args, **kwargs):
        if request.method != "GET":
            request.headers[SENT_AT] = str(self._clock().timestamp())
        self._step("get" if request.method == "GET" else "send")
        response = super().send(request, *args, **kwargs)
        self._step("answered")
        return response


class _Socket(socket.socket):
    step: Steps

    def sendall(self, *args):
        self.step("send")
        super().sendall(*args)
        self.step("sent")

    def recv(self, *args):
        received = super().recv(*args)
        self.step("answered")
        return received


def work(job: Job, step: Steps) -> None:
    """Sends once what the decision has to send."""
    engine = connect(job.database_url)
    event.listen(engine, "begin", step)
    event.listen(engine, "commit", step)
    vault = Vault((job.key,))
    vault.use_index_key(job.index_key)

    def clock() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=job.offset)

    http = requests.Session()
    http.mount("http://", _Http(step, clock))
    server = Server(job.base_url, job.token, http, connect_timeout=1, read_timeout=job.timeout, retries=0)
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
    if isinstance(way, InFolder) and step.kill_at is not None:  # a hook stays as long as its process
        steps_of_files = {"os.rename": "send", "open": "open"}
        sys.addaudithook(lambda name, _: step(steps_of_files[name]) if name in steps_of_files else None)
    try:
        outbox.send(
            outbox.Outbox(engine, vault, clock), way, job.decision, who="Practitioner/t1", by_hand=job.by_hand
        )
    finally:
        http.close()
        engine.dispose()


def serve() -> None:
    """Reads lists of (job, kill at, during) from standard input and runs each job in a fork of this process.

    This process has one thread and everything imported, so that a fork costs milliseconds.
    """
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(Path(os.devnull).open("w")))  # noqa: SIM115
    while True:
        try:
            jobs = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        children = []
        for job, kill_at, during in jobs:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    work(job, Steps(kill_at, during=during))
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        pickle.dump(codes, sys.stdout.buffer)
        sys.stdout.buffer.flush()


class Processes:
    """Writers in processes of their own, forked by one helper that is started once."""

    def __init__(self) -> None:
        self._helper = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, *jobs: tuple[Job, int | str | None, bool]) -> list[int]:
        """Runs these at once; their exit codes, -9 for a killed one."""
        pickle.dump(list(jobs), self._helper.stdin)
        self._helper.stdin.flush()
        return pickle.load(self._helper.stdout)

    def close(self) -> None:
        self._helper.stdin.close()
        self._helper.wait()
        self._helper.stdout.close()


if __name__ == "__main__":
    # Jobs are pickled under the name by which the tests import this file.
    sys.modules["writer_process"] = sys.modules["__main__"]
    serve()
