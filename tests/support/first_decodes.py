"""Processes in which many threads are the first to decode; how many of them crash. For test_ready.py."""

from __future__ import annotations

import json
import os
import sys
import threading
from datetime import date

import msgspec

from quarterhour.fhir import views
from quarterhour.plugin.decoders import make_ready
from quarterhour.sandbox.synthetic import synthetic_charts

KINDS = (
    views.Encounter,
    views.Procedure,
    views.Patient,
    views.Coverage,
    views.ChargeItem,
    views.PractitionerRole,
)


def crashed(processes: int) -> int:
    charts = {each["resourceType"]: each for each, _ in synthetic_charts(date(2026, 11, 20)).resources}
    entries = {kind: msgspec.Raw(json.dumps({"resource": charts[kind.__name__]}).encode()) for kind in KINDS}
    return sum(_crashes(entries) for _ in range(processes))


def _crashes(entries: dict) -> bool:
    child = os.fork()
    if child == 0:
        sys.setswitchinterval(1e-6)
        together = threading.Barrier(4 * len(KINDS))

        def decode(kind: type) -> None:
            together.wait()
            views.resources([entries[kind]] * 5, kind)

        threads = [threading.Thread(target=decode, args=(kind,)) for kind in KINDS * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


if __name__ == "__main__":
    if sys.argv[1] == "ready":
        make_ready()
    sys.stdout.write(str(crashed(25)))
