"""Names of code systems and extensions, and the few codes of FHIR that we decide by."""

from __future__ import annotations

import re

from ..core.visit import Discipline

# CPT appears under its URL and its OID (https://terminology.hl7.org/CPT.html); the canonical HCPCS URL is the
# http one (https://terminology.hl7.org/HCPCS.html), vendors also send https.
CPT = "http://www.ama-assn.org/go/cpt"
HCPCS = "http://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets"
BILLING_SYSTEMS = frozenset(
    {
        CPT,
        "https://www.ama-assn.org/go/cpt",
        "urn:oid:2.16.840.1.113883.6.12",
        HCPCS,
        "https://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets",
        "urn:oid:2.16.840.1.113883.6.14",
        "urn:oid:2.16.840.1.113883.6.285",
    }
)

NUCC = frozenset({"http://nucc.org/provider-taxonomy", "urn:oid:2.16.840.1.113883.6.101"})

# The discipline of a plan of care, as a claim line says it (HCPCS level II).
DISCIPLINE_MODIFIERS = {Discipline.PT: "GP", Discipline.OT: "GO", Discipline.SLP: "GN"}

PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
COVERAGE_CLASS = "http://terminology.hl7.org/CodeSystem/coverage-class"

# Names that we chose; nothing need answer at these addresses.
CHARGE_IDENTIFIER = "https://quarterhour.org/fhir/charge"
CHARGE_MODIFIER = "https://quarterhour.org/fhir/StructureDefinition/charge-modifier"
CLAIM_IDENTIFIER = "https://quarterhour.org/fhir/claim"
CHARGE_TAG = "https://quarterhour.org/fhir/tag"
SUGGESTED = {"system": CHARGE_TAG, "code": "suggested", "display": "Suggested, not reviewed by anybody"}
AWAITS_RELEASE = {"system": CHARGE_TAG, "code": "awaits-release", "display": "Awaits release by a coder"}

APP = "Quarterhour"

# Medplum's own; the URL looks official but HL7 defines no such extension.
MEDPLUM_MODIFIER = "http://hl7.org/fhir/StructureDefinition/chargeitem-modifier"
# https://docs.oracle.com/en/industries/health/millennium-platform-apis/mfrap/op-chargeitem-create-post.html
ORACLE_EXTENSIONS = "https://fhir-ehr.cerner.com/r4/StructureDefinition"

# https://hl7.org/fhir/R4/valueset-chargeitem-status.html (required binding)
CHARGE_ITEM_STATUS = frozenset(
    {"planned", "billable", "not-billable", "aborted", "billed", "entered-in-error", "unknown"}
)
# Those that stand for units which somebody means to bill, or has billed.
CHARGED_STATUS = frozenset({"planned", "billable", "billed", "unknown"})

_HCPCS_CODE = re.compile(r"[A-V][0-9]{4}")
_BILLING_CODE = re.compile(r"[0-9]{4}[0-9FMTU]|[A-V][0-9]{4}")
# Two characters; level I are the CPT's own, all digits (59, 76), the others are HCPCS level II.
_MODIFIER = re.compile(r"[0-9A-Z]{2}")


def is_billing_code(code: str) -> bool:
    """Whether this has the form of a CPT or HCPCS level II code; not whether it is valid on a date."""
    return _BILLING_CODE.fullmatch(code) is not None


def is_hcpcs(code: str) -> bool:
    """Whether a billing code is of HCPCS level II, by its form."""
    return _HCPCS_CODE.fullmatch(code) is not None


def system_of_code(code: str) -> str:
    """The system that a billing code belongs to, by its form: G0283 is HCPCS, 97110 is CPT."""
    return HCPCS if is_hcpcs(code) else CPT


def system_of_modifier(code: str) -> str:
    """The system of a two-character modifier: 59 is CPT, GP is HCPCS level II."""
    if not _MODIFIER.fullmatch(code):
        raise ValueError(f"'{code}' is not a modifier: two capital letters or digits are needed.")
    return CPT if code.isdigit() else HCPCS
