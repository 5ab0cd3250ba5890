"""A site's map from its own or SNOMED codes to CPT and HCPCS, as a FHIR R4 ConceptMap file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from fhir.resources.R4B.conceptmap import ConceptMap
from pydantic import ValidationError

from .systems import BILLING_SYSTEMS, is_billing_code

# https://hl7.org/fhir/R4/valueset-concept-map-equivalence.html: every other word says that the two differ.
_SAME = frozenset({"equal", "equivalent"})


def codes_from(file: Path) -> dict[str, str]:
    """The billing code of each "system|code" of a ConceptMap (https://hl7.org/fhir/R4/conceptmap.html).

    Raises ``ValueError`` with every mistake and its place. What is not the same on both sides is a mistake:
    a wider or a narrower code would be charged for something else.
    """
    try:
        sent = msgspec.json.decode(file.read_bytes())
        concepts = ConceptMap.model_validate(sent)
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({type(error).__name__}).") from None
    except ValidationError as error:
        wrong = "; ".join(f"{_place(each['loc'])}: {each['msg']}" for each in error.errors())
        raise ValueError(f"{file} is no ConceptMap of FHIR R4: {wrong}.") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON: {error}.") from None
    codes: dict[str, str] = {}
    wrong = "; ".join([*_of_the_whole(sent, concepts), *_read(concepts, codes)])
    if wrong:
        raise ValueError(f"{file}: {wrong}.")
    return codes


def _of_the_whole(sent: Any, concepts: Any) -> Iterator[str]:
    if concepts.status != "active":
        yield f"status: '{concepts.status}', where only an active map is used"
    if concepts.implicitRules or _anywhere(sent, "modifierExtension"):
        yield "a modifierExtension or implicitRules may change its meaning"
    if not any(group.element for group in concepts.group or ()):
        yield "group: it maps nothing"


def _read(concepts: Any, codes: dict[str, str]) -> Iterator[str]:
    """Fills ``codes``; yields each mistake with its place."""
    for g, group in enumerate(concepts.group or ()):
        if not group.source:
            yield f"group[{g}].source: the system of the mapped codes is missing"
        if group.target not in BILLING_SYSTEMS:
            yield f"group[{g}].target: '{group.target}' is neither CPT nor HCPCS"
        if group.unmapped:
            yield f"group[{g}].unmapped: codes that are not listed cannot be mapped"
        for e, element in enumerate(group.element or ()):
            known, where = f"{group.source}|{element.code}", f"group[{g}].element[{e}]"
            if not element.code:
                yield f"{where}.code: missing"
            if len(element.target or ()) != 1:
                yield f"{where}.target: exactly one is needed"
            for t, target in enumerate(element.target or ()):
                yield from (f"{where}.target[{t}]{wrong}" for wrong in _of_target(target))
                if codes.setdefault(known, target.code) != target.code:
                    yield f"{where}.target[{t}].code: '{known}' is mapped to {codes[known]} before"


def _of_target(target: Any) -> Iterator[str]:
    if target.equivalence not in _SAME:
        yield f".equivalence: '{target.equivalence}', where only equal and equivalent are used"
    if not is_billing_code(target.code or ""):
        yield f".code: '{target.code}' is no CPT or HCPCS code"
    if target.dependsOn or target.product:
        yield ": dependsOn and product are not supported"


def _place(steps: tuple[int | str, ...]) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return path.removeprefix(".") or "the file"


def _anywhere(value: Any, name: str) -> bool:
    if isinstance(value, dict):
        return name in value or any(_anywhere(each, name) for each in value.values())
    return isinstance(value, list) and any(_anywhere(each, name) for each in value)
