"""Workers of capture in processes of their own, to be killed at any moment.

One helper is started that imports everything; it forks a worker in milliseconds whenever it is asked to.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import captured
import structlog

from quarterhour.plugin.capture import Stopped
from quarterhour.plugin.installation import install
from quarterhour.plugin.worker import work_job


@dataclass(frozen=True)
class Clock:
    """The real time and an offset that stands in a file, so that all processes wait together."""

    file: Path

    def __call__(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=float(self.file.read_text()))

    def forward(self, seconds: float) -> None:
        after = float(self.file.read_text()) + seconds if self.file.exists() else seconds
        beside = self.file.with_suffix(".new")
        beside.write_text(str(after))
        beside.replace(self.file)


@dataclass(frozen=True)
class Told:
    """What a worker is told."""

    folder: Path
    ehr_url: str
    database_url: str
    clock: Clock


def work(told: Told) -> None:
    """Jobs as they come, until it is told to stop or killed."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def go_on() -> None:
        if stop.is_set():
            raise Stopped

    settings = captured.settings_in(told.folder, told.ehr_url, database_url=told.database_url)
    here = install(settings, told.clock)
    while not stop.is_set():
        if work_job(here, go_on) is None:
            time.sleep(0.02)
    here.close()


def serve() -> None:
    """Reads what a worker is to be told from standard input, forks one, and answers with its number."""
    structlog.configure(processors=[], logger_factory=structlog.ReturnLoggerFactory())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever ends is not waited for
    while True:
        try:
            told = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(0)
            try:
                work(told)
            except BaseException:  # noqa: BLE001 - a worker that ends by itself has to be noticed
                traceback.print_exc()
            finally:
                os._exit(0)
        pickle.dump(child, sys.stdout.buffer)
        sys.stdout.buffer.flush()


class Workers:
    """Some workers at once; whoever is killed is replaced."""

    def __init__(self, told: Told, count: int) -> None:
        self._helper = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._told = told
        self.most_memory = 0  # kB, of any worker that was looked at
        self.alive = [self._start() for _ in range(count)]

    def _start(self) -> int:
        pickle.dump(self._told, self._helper.stdin)
        self._helper.stdin.flush()
        return pickle.load(self._helper.stdout)

    def kill(self, index: int) -> None:
        """SIGKILL, in the middle of whatever it does; and another one in its place."""
        self.look()
        os.kill(self.alive[index], signal.SIGKILL)
        self.alive[index] = self._start()

    def look(self) -> None:
        """Notes the peak of each worker's memory."""
        for pid in self.alive:
            try:
                status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            except OSError:
                continue
            peaks = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
            self.most_memory = max(self.most_memory, *peaks, 0)

    def close(self) -> None:
        self.look()
        for pid in self.alive:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in self.alive) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._helper.stdin.close()
        self._helper.wait()
        self._helper.stdout.close()


if __name__ == "__main__":
    # What is told is pickled under the name by which the tests import this file.
    sys.modules["capture_process"] = sys.modules["__main__"]
    serve()
