"""The EHR's records, in memory: current version of each resource, behind one lock."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

Resource = dict[str, Any]


@dataclass(frozen=True)
class Filed:
    """A resource as it lies in the chart.

    ``patient`` is whose chart it lies in (``Patient/x``, or none). Usually that is its subject; a misfiled
    resource is what a reader must be able to cope with.
    """

    resource: Resource
    patient: str | None
    version: int
    last_updated: datetime
    searchable_from: datetime

    @property
    def etag(self) -> str:
        return f'W/"{self.version}"'


class Store:
    """Resources by type and id. Give out copies only; what is filed never changes.

    ``filed`` is told of every version that is filed, with the one before it, under the lock: what it is told of
    within ``all_or_nothing`` may be taken back.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.lock = threading.RLock()
        self.search_lag = timedelta()  # how long what is filed from now on stays hidden from searches
        self.filed: Callable[[Filed | None, Filed], None] = lambda _before, _filed: None
        self._clock = clock
        self._filed: dict[str, dict[str, Filed]] = {}  # by type, then id
        # By type and patient, then id: a search in one chart does not look through all others.
        self._charts: dict[tuple[str, str], dict[str, Filed]] = {}
        self._last_id = 0

    def new_id(self) -> str:
        with self.lock:
            self._last_id += 1
            return f"sb-{self._last_id}"

    def put(self, resource: Resource, patient: str | None = None) -> Filed:
        """File a resource as the next version of its id. ``patient`` overrides whose chart it lies in."""
        with self.lock:
            of_type = self._filed.setdefault(resource["resourceType"], {})
            before = of_type.get(resource["id"])
            now = self._clock()
            version = before.version + 1 if before else 1
            stored = copy.deepcopy(resource)
            stored["meta"] = {
                **stored.get("meta", {}),
                "versionId": str(version),
                "lastUpdated": now.isoformat(timespec="milliseconds"),
            }
            searchable_from = before.searchable_from if before else now + self.search_lag
            filed = Filed(stored, patient or patient_of(stored), version, now, searchable_from)
            of_type[resource["id"]] = filed
            if before and before.patient and before.patient != filed.patient:
                del self._charts[resource["resourceType"], before.patient][resource["id"]]
            self._chart(filed)
            self.filed(before, filed)
            return filed

    def remove(self, resource_type: str, resource_id: str) -> bool:
        """Take a resource out; False where there is none."""
        with self.lock:
            filed = self._filed.get(resource_type, {}).pop(resource_id, None)
            if filed is not None and filed.patient:
                del self._charts[resource_type, filed.patient][resource_id]
            return filed is not None

    def get(self, resource_type: str, resource_id: str) -> Filed | None:
        with self.lock:
            return self._filed.get(resource_type, {}).get(resource_id)

    def all(self, resource_type: str) -> list[Filed]:
        """All resources of a type in the order in which they were first filed."""
        with self.lock:
            return list(self._filed.get(resource_type, {}).values())

    def searchable(self, resource_type: str, patient: str | None = None) -> list[Filed]:
        """What a search sees: a write only after the search lag. With a patient, only of that chart."""
        now = self._clock()
        with self.lock:
            there = self._filed if patient is None else self._charts
            key: Any = resource_type if patient is None else (resource_type, patient)
            return [filed for filed in there.get(key, {}).values() if filed.searchable_from <= now]

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Hold the lock; take everything back if the block raises."""
        with self.lock:
            before = {resource_type: dict(filed) for resource_type, filed in self._filed.items()}
            try:
                yield
            except BaseException:
                self._filed = before
                self._charts = {}
                for of_type in before.values():
                    for filed in of_type.values():
                        self._chart(filed)
                raise

    def _chart(self, filed: Filed) -> None:
        if filed.patient:
            chart = self._charts.setdefault((filed.resource["resourceType"], filed.patient), {})
            chart[filed.resource["id"]] = filed


def patient_of(resource: Resource) -> str | None:
    """The patient in whose compartment a resource lies; none for the staff, places and payers.

    https://hl7.org/fhir/R4/compartmentdefinition-patient.html
    """
    if resource["resourceType"] == "Patient":
        return f"Patient/{resource['id']}"
    for element in ("subject", "patient", "beneficiary"):
        reference = resource.get(element, {}).get("reference", "")
        if reference.startswith("Patient/"):
            return str(reference)
    return None
