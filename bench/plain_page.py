"""A page that does next to nothing: what one costs here and now tells how our own time is to be read."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.fernet import Fernet
from flask import Flask, session
from sqlalchemy import Column, LargeBinary, MetaData, String, Table, bindparam, create_engine, select

ROWS = 20
TIMES = 5  # measured in a round, for its median
HOT = 50  # asked before anything is measured: imports, compiled template and statement
IN_A_LOOP = 20
# What its pieces took in a loop where the bound of our own time comes from: a session 0.388 ms, a table of twenty rows
# 0.209, a row by its key 0.086, a sealed value 0.015 (two cores of another machine, 21 November 2026).
THERE = 0.70e-3

TABLE = """\
<table>
{% for row in rows %}<tr><td>{{ row.code }}</td><td>{{ row.units }}</td><td>{{ row.words }}</td></tr>{% endfor %}
</table>
"""


class PlainPage:
    """Flask with a signed session, a value of 1.5 kB from the database that is unsealed, and a table of twenty rows."""

    def __init__(self, database: Path) -> None:
        stored = Table(
            "stored", MetaData(), Column("id", String(32), primary_key=True), Column("sealed", LargeBinary)
        )
        fernet = Fernet(Fernet.generate_key())
        self.engine = create_engine(f"sqlite:///{database}")
        with self.engine.begin() as connection:
            stored.create(connection)
            connection.execute(stored.insert().values(id="one", sealed=fernet.encrypt(b"x" * 1500)))
        query = select(stored.c.sealed).where(stored.c.id == bindparam("id"))
        app = Flask("plain_page")
        app.secret_key = Fernet.generate_key()
        table = app.jinja_env.from_string(TABLE)
        rows = [{"code": f"97{number}", "units": number, "words": "a service"} for number in range(ROWS)]

        @app.get("/")
        def page() -> str:
            session["seen"] = session.get("seen", 0) + 1
            with self.engine.connect() as connection:
                fernet.decrypt(connection.scalar(query, {"id": "one"}))
            return table.render(rows=rows)

        self._browser = app.test_client()
        for _ in range(HOT):
            self.seconds()

    def seconds(self) -> float:
        """What one page took."""
        started = time.perf_counter()
        self._browser.get("/")
        return time.perf_counter() - started

    def seconds_in_a_loop(self) -> float:
        """What one takes at the median where nothing else is done in between."""
        return statistics.median(self.seconds() for _ in range(IN_A_LOOP))

    def seconds_after(self, pause: float) -> float:
        """What one takes at the median after so many seconds in which this process waited."""
        taken = []
        for _ in range(TIMES):
            time.sleep(pause)
            taken.append(self.seconds())
        return statistics.median(taken)


@contextmanager
def plain_page(folder: Path) -> Iterator[PlainPage]:
    """A plain page with its database in ``folder``, until the end of the ``with``."""
    page = PlainPage(folder / "plain.sqlite3")
    try:
        yield page
    finally:
        page.engine.dispose()
