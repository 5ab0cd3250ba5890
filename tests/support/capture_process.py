"""Workers of capture, and the command, in processes of their own, to be killed at any moment.

One helper is started that imports everything; it forks a process in milliseconds whenever it is asked to.
"""

from __future__ import annotations

import faulthandler
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

from quarterhour.plugin import cli_capture  # noqa: F401 - imported before the forks
from quarterhour.plugin.capture import Stopped
from quarterhour.plugin.cli import main
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


@dataclass(frozen=True)
class Command:
    """`quarterhour` with these arguments. What it says is in ``said``, its exit code beside it at the end."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    said: Path

    @property
    def code(self) -> Path:
        return self.said.with_suffix(".code")


def command(told: Command) -> None:
    """Runs it with its output in the file."""
    os.environ.update(told.environment)
    os.dup2(os.open(told.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    sys.stdout = os.fdopen(1, "w")
    code: object = 0
    try:
        main(list(told.arguments), standalone_mode=False)
    except SystemExit as error:
        code = error.code
    sys.stdout.flush()
    told.code.write_text(str(code))


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


def _ended(*_: object) -> None:
    """Somebody ended; said where it was neither killed nor told to."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        if code not in {0, -signal.SIGKILL}:
            sys.stderr.write(f"process {pid} ended with {code}\n")


def serve() -> None:
    """Reads what a process is to be told from standard input, forks it, and answers with its number."""
    structlog.configure(processors=[], logger_factory=structlog.ReturnLoggerFactory())
    faulthandler.enable()
    signal.signal(signal.SIGCHLD, _ended)
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
                (command if isinstance(told, Command) else work)(told)
            except BaseException:  # noqa: BLE001 - a worker that ends by itself has to be noticed
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        pickle.dump(child, sys.stdout.buffer)
        sys.stdout.buffer.flush()


class Helper:
    """The process that forks the others."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def start(self, told: Told | Command) -> int:
        """A new process; its number."""
        pickle.dump(told, self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


class Workers:
    """Some workers at once; whoever is killed is replaced."""

    def __init__(self, helper: Helper, told: Told, count: int) -> None:
        self._helper, self._told = helper, told
        self.most_memory = 0  # kB, of any worker that was looked at
        self.vanished = 0  # ended by themselves, which none should
        self.alive = [helper.start(told) for _ in range(count)]

    def kill(self, index: int) -> None:
        """SIGKILL, in the middle of whatever it does; and another one in its place."""
        self.look()
        try:
            os.kill(self.alive[index], signal.SIGKILL)
        except ProcessLookupError:
            self.vanished += 1
        self.alive[index] = self._helper.start(self._told)

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
        for pid in filter(is_alive, self.alive):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while any(map(is_alive, self.alive)) and time.monotonic() < deadline:
            time.sleep(0.02)


if __name__ == "__main__":
    # What is told is pickled under the name by which the tests import this file.
    sys.modules["capture_process"] = sys.modules["__main__"]
    serve()
