"""What a site says about its own EHR: the ``[issuer.site]`` table of the issuers' TOML file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from ..core.visit import Discipline, Setting
from .concept_map import codes_from
from .expression import compiled
from .systems import is_billing_code
from .views import CodeableConcept, billing_codes


class PolicyRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Coverages that agree with everything given here follow this policy; the first rule that fits decides.

    ``payer`` is the payor's reference (``Organization/medicare``: nothing more need be read) or one of its
    identifier values. ``type`` is a code of Coverage.type. ``plan`` is the Coverage.class value of type
    ``plan``. At least one of them is needed: no rule fits everybody.
    """

    policy: str
    payer: str | None = None
    type: str | None = None
    plan: str | None = None


class PractitionerFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the site knows of a practitioner, whatever the EHR says."""

    discipline: Discipline
    assistant: bool = False


class GroupFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The billing group behind an Organization of the EHR."""

    tin: str | None = None
    specialty: str | None = None


class ChartSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to read this issuer's charts. The defaults suit a server that keeps to the specification."""

    time_zone: ZoneInfo  # of the place of service; from the issuer, not its site table
    setting: Setting = Setting.PRACTITIONER
    # "date-and-encounter": the days around the visit, and the encounter's own, which finds Procedures
    # without a date. "date": for EHRs that cannot be searched by encounter (Epic, Oracle, MEDITECH,
    # NextGen). "patient": for one that cannot be searched by date either.
    procedure_search: Literal["date-and-encounter", "date", "patient"] = "date-and-encounter"
    # "patient": by date and by encounter. "context": the encounter's only. "none": the EHR shows no charges.
    charge_search: Literal["patient", "context", "none"] = "patient"
    # The first round reads so far back; an earlier visit costs a second one.
    look_back_days: Annotated[int, msgspec.Meta(ge=0, le=366)] = 14
    page_size: Annotated[int, msgspec.Meta(ge=1)] = 100  # _count
    codes: dict[str, str] = {}  # "system|code" of a local or SNOMED code to CPT or HCPCS
    concept_map: str | None = None  # a ConceptMap file with more of them, read into ``codes``
    # Where minutes stand that are not in performedPeriod: extension URLs on the Procedure, a FHIRPath
    # expression on it, and Observations ("system|code" to the CPT or HCPCS code whose minutes they are).
    minutes_extensions: frozenset[str] = frozenset()
    minutes_path: str | None = None
    minutes_observations: dict[str, str] = {}
    practitioners: dict[str, PractitionerFacts] = {}  # by reference, "Practitioner/t1"
    groups: dict[str, GroupFacts] = {}  # billing groups, by Organization reference
    policies: tuple[PolicyRule, ...] = ()  # in the order in which they are tried

    @classmethod
    def from_site(cls, site: Mapping[str, Any], time_zone: ZoneInfo, folder: Path = Path()) -> ChartSettings:
        """Read the issuer's table. Raises ``ValueError`` naming whatever is unknown or does not fit.

        ``folder`` is where the issuers file stands: a relative ``concept_map`` is looked for there.
        """
        if "time_zone" in site:
            raise ValueError("time_zone stands with the issuer, not in its site table.")
        try:
            settings = msgspec.convert({**site, "time_zone": time_zone}, type=cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"The issuer's site table does not fit: {error}.") from error
        wrong = " ".join(settings._mistakes())  # noqa: SLF001 - its own
        if wrong:
            raise ValueError(wrong)
        if settings.concept_map is None:
            return settings
        mapped = codes_from(folder / settings.concept_map)
        for known in mapped.keys() & settings.codes.keys():
            if mapped[known] != settings.codes[known]:
                raise ValueError(
                    f"codes: '{known}' is {settings.codes[known]} here and {mapped[known]} in the concept_map."
                )
        return msgspec.structs.replace(settings, codes={**mapped, **settings.codes})

    def _mistakes(self) -> Iterator[str]:
        for rule in self.policies:
            if not (rule.payer or rule.type or rule.plan):
                yield f"The rule for {rule.policy} names neither payer, type nor plan."
        if self.minutes_path is not None:
            try:
                compiled(self.minutes_path)
            except ValueError as error:
                yield f"minutes_path: {error}"
        for name, table in (("codes", self.codes), ("minutes_observations", self.minutes_observations)):
            for known, code in table.items():
                if "|" not in known or not is_billing_code(code):
                    yield f"{name}: '{known}' = '{code}' is not 'system|code' = CPT or HCPCS code."

    def codes_of(self, concept: CodeableConcept | None) -> tuple[str, ...]:
        """The concept's billing codes, else those that the site's map gives for its other codings."""
        codes = billing_codes(concept)
        if codes or concept is None:
            return codes
        mapped = (self.codes.get(f"{coding.system}|{coding.code}") for coding in concept.codings)
        return tuple(dict.fromkeys(code for code in mapped if code))
