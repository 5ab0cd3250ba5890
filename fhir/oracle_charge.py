"""Charges for Oracle Health Millennium: an operation that gives no id back, confirmed by a later search.

https://docs.oracle.com/en/industries/health/millennium-platform-apis/mfrap/op-chargeitem-create-post.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from typing import Any, Literal

from .charge_item import Charge, Written, item_in
from .errors import BadAnswer, Dropped, NotFound, OnRecord, ServerFailed, TimedOut, Unknown, WrongPatient
from .moments import moment
from .server import Server
from .systems import ORACLE_EXTENSIONS, is_hcpcs
from .views import ChargeItem, bare, resources

BillCode = Literal["CPT", "HCPCS", "MODIFIER"]

# What a search must name besides the visit; "unknown" until it is priced.
_STATUSES = "billable,billed,unknown,not-billable,planned"


@dataclass(frozen=True)
class OracleCharges:
    """``$create`` and ``$credit``, one charge at a time.

    The charge that comes of it carries nothing of ours, so it is known by likeness: patient, visit, code,
    units, modifiers and day, and not there before we sent it (``prepare``). A colleague who enters the very
    same charge between the two would be taken for us; reconciliation reports that there is one too few.
    """

    server: Server
    wait: timedelta
    source: str  # "https://fhir.cerner.com/<EHR source id>"
    schedules: Mapping[BillCode, str] = field(default_factory=dict)  # by type of bill code
    name: Literal["oracle"] = "oracle"
    finds: bool = True
    by_identifier: bool = False
    together: bool = False

    def prepare(self, charges: tuple[Charge, ...]) -> tuple[str, ...]:
        """The charges that look like ours and are not: they were there before."""
        (charge,) = charges
        return () if charge.withdraws else tuple(str(item.id) for item in self._alike(charge))

    def find(self, charge: Charge, prepared: tuple[str, ...]) -> Written | None:
        """The one that came since. Raises ``OnRecord`` where several did."""
        if charge.withdraws:
            return self._found_credit(charge)
        new = [item for item in self._alike(charge) if item.id not in prepared]
        if len(new) > 1:
            listed = ", ".join(f"ChargeItem/{item.id}" for item in new)
            raise OnRecord(
                f"The EHR holds {len(new)} such charges that came since: {listed}. "
                "Credit all but one in the EHR."
            )
        return Written(f"ChargeItem/{new[0].id}", new[0].version, "created") if new else None

    def write(self, charges: tuple[Charge, ...], prepared: tuple[str, ...]) -> tuple[Written, ...]:  # noqa: ARG002
        """Send it. 200 without a body means accepted, and no more."""
        (charge,) = charges
        try:
            if charge.withdraws:
                return (self._credit(charge),)
            self.server.operate("ChargeItem/$create", self.parameters(charge))
        except (TimedOut, Dropped, BadAnswer, ServerFailed, WrongPatient) as error:
            raise Unknown(
                "The EHR did not say clearly whether it took the charge. It will be looked for; "
                "nothing is sent again before that.",
                request_id=error.request_id,
                words=error.words,
            ) from error
        return (Written(f"transaction {charge.identifier}", None, "accepted"),)

    def parameters(self, charge: Charge) -> dict[str, Any]:
        """The body of ``$create``. Raises ``ValueError`` for a code whose schedule is not configured."""
        if not charge.performers:
            raise ValueError("A charge names who performed it.")
        item = {
            "resourceType": "ChargeItem",
            "status": "unknown",  # the one status it takes
            "extension": [
                {
                    "url": f"{ORACLE_EXTENSIONS}/modifier-code",
                    "extension": [
                        {"url": "code", "valueCodeableConcept": self._concept("MODIFIER", code)},
                        {"url": f"{ORACLE_EXTENSIONS}/priority", "valueUnsignedInt": rank},
                    ],
                }
                for rank, code in enumerate(charge.modifiers, start=1)
            ],
            "code": self._concept("HCPCS" if is_hcpcs(charge.code) else "CPT", charge.code),
            "subject": {"reference": charge.patient},
            "context": {"reference": charge.encounter},
            "occurrenceDateTime": (charge.start or charge.date_of_service).isoformat(),
            "performer": [
                {
                    "function": {
                        "coding": [
                            {
                                "system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType",
                                "code": "PRF",
                            }
                        ]
                    },
                    "actor": {"reference": performer},
                }
                for performer in charge.performers
            ],
            "quantity": {"value": charge.units},
        }
        if not charge.modifiers:
            del item["extension"]
        return {
            "resourceType": "Parameters",
            "parameter": [
                {"name": "transactionId", "valueUuid": f"urn:uuid:{charge.identifier}"},
                {"name": "chargeItem", "resource": item},
            ],
        }

    def _concept(self, kind: BillCode, code: str) -> dict[str, Any]:
        schedule = self.schedules.get(kind)
        if schedule is None:
            raise ValueError(
                f"The bill code schedule for {kind} codes is not configured, so {code} has none."
            )
        priced_by = {"system": f"{self.source}/codeSet/14002", "code": schedule}
        return {
            "coding": [
                {
                    "extension": [
                        {"url": f"{ORACLE_EXTENSIONS}/bill-code-schedule", "valueCoding": priced_by}
                    ],
                    "system": f"{self.source}/CodeSystem/BillCodes-{kind}",
                    "code": code,
                }
            ]
        }

    def _alike(self, charge: Charge) -> list[ChargeItem]:
        entries = self.server.search("ChargeItem", {"context": charge.encounter, "status": _STATUSES})
        items, unread = resources(entries, ChargeItem)
        if unread:
            raise BadAnswer("Some of the visit's charges cannot be read. Look at them in the EHR.")
        day = charge.date_of_service
        zone = (charge.start.tzinfo if charge.start else None) or UTC
        alike = []
        for item in items:
            at = moment(item.occurrence_date_time, zone)
            on = at.day if at else None
            codings = item.code.codings if item.code else ()
            if (
                bare(item.subject, self.server.base_uri) == charge.patient
                and bare(item.context, self.server.base_uri) == charge.encounter
                and charge.code in {coding.code for coding in codings}
                and item.units == charge.units
                and item.modifiers == charge.modifiers
                and on in {day, None}
            ):
                alike.append(item)
        return alike

    def _credit(self, withdrawal: Charge) -> Written:
        """https://docs.oracle.com/en/industries/health/millennium-platform-apis/mfrap/op-chargeitem-id-credit-post.html."""
        reference, item = self._taken_back(withdrawal)
        body = {
            "resourceType": "Parameters",
            "parameter": [
                {"name": "versionId", "valueId": item.version or "1"},
                {"name": "transactionId", "valueUuid": f"urn:uuid:{withdrawal.identifier}"},
                {"name": "subject", "valueReference": {"reference": withdrawal.patient}},
                {"name": "context", "valueReference": {"reference": withdrawal.encounter}},
            ],
        }
        self.server.operate(f"{reference}/$credit", body)
        return Written(reference, None, "accepted")

    def _found_credit(self, withdrawal: Charge) -> Written | None:
        """A credited charge names what offsets it."""
        reference, item = self._taken_back(withdrawal)
        offset = any(each.url == f"{ORACLE_EXTENSIONS}/offset-by" for each in item.extension or ())
        return Written(reference, item.version, "withdrawn") if offset else None

    def _taken_back(self, withdrawal: Charge) -> tuple[str, ChargeItem]:
        reference = withdrawal.withdrawn_reference
        if reference is None:
            raise OnRecord("It is not known where the charge to take back is.")
        try:
            item = item_in(self.server.read(reference))
        except NotFound as error:
            raise OnRecord(f"{reference} is no longer in the EHR.", words=error.words) from error
        if bare(item.subject, self.server.base_uri) != withdrawal.patient:
            raise WrongPatient("The EHR answered with a charge of another patient.")
        return reference, item
