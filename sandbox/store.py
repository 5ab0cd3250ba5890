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
    """Resources by type and id. Give out copies only; what is filed never changes."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.lock = threading.RLock()
        self.search_lag = timedelta()  # how long what is filed from now on stays hidden from searches
        self._clock = clock
        self._filed: dict[str, dict[str, Filed]] = {}  # by type, then id
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
            return filed

    def get(self, resource_type: str, resource_id: str) -> Filed | None:
        with self.lock:
            return self._filed.get(resource_type, {}).get(resource_id)

    def all(self, resource_type: str) -> list[Filed]:
        """All resources of a type in the order in which they were first filed."""
        with self.lock:
            return list(self._filed.get(resource_type, {}).values())

    def searchable(self, resource_type: str) -> list[Filed]:
        """What a search sees: a write only after the search lag."""
        now = self._clock()
        return [filed for filed in self.all(resource_type) if filed.searchable_from <= now]

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Hold the lock; take everything back if the block raises."""
        with self.lock:
            before = {resource_type: dict(filed) for resource_type, filed in self._filed.items()}
            try:
                yield
            except BaseException:
                self._filed = before
                raise


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
