"""The two databases that Quarterhour runs on: a file of SQLite, and a PostgreSQL that the tests start."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

REQUIRED = "QUARTERHOUR_POSTGRES_REQUIRED"


def binaries() -> Path | None:
    """Where Debian's `postgresql` package or the PATH has initdb and postgres."""
    candidates = [*Path("/usr/lib/postgresql").glob("*/bin")]
    found = shutil.which("initdb")
    if found:
        candidates.append(Path(found).parent)
    return max((path for path in candidates if (path / "initdb").exists()), default=None)


def without_postgres() -> None:
    """Skips with the reason, or fails where it was promised."""
    reason = "PostgreSQL is not installed (Debian: apt install postgresql)"
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{reason}, and {REQUIRED}=1 says that it is")
    pytest.skip(reason)


@contextmanager
def running_postgres() -> Iterator[str]:
    """A server of its own in a temporary folder, on a Unix socket; gives the folder of the socket."""
    where = binaries()
    if where is None:
        without_postgres()
    with tempfile.TemporaryDirectory(prefix="qh-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # The server refuses to run as root; Debian's package makes a user for it.
        as_user: dict = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        folder.chmod(0o755)
        data = folder / "data"
        subprocess.run(
            [where / "initdb", "-D", data, "-U", "quarterhour", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True, capture_output=True, cwd=folder, **as_user,
        )  # fmt: skip
        server = subprocess.Popen(
            [where / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, **as_user,
        )  # fmt: skip
        try:
            _until_it_answers(folder, server)
            yield str(folder)
        finally:
            server.terminate()
            server.wait(timeout=30)


def _until_it_answers(folder: Path, server: subprocess.Popen) -> None:
    for _ in range(200):
        try:
            psycopg.connect(host=str(folder), user="quarterhour", dbname="postgres").close()
        except psycopg.OperationalError:
            assert server.poll() is None, "PostgreSQL ended by itself"
            time.sleep(0.05)
        else:
            return
    raise AssertionError("PostgreSQL did not answer in ten seconds")


def new_database(socket_folder: str) -> str:
    """An empty database on that server; its SQLAlchemy address."""
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(
        host=socket_folder, user="quarterhour", dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://quarterhour@/{name}?host={socket_folder}"
