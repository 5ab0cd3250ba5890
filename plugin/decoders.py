"""Decoders made ready before there are threads.

What msgspec knows of a type it builds when that type is decoded first, and two threads that are first together
crash the process: a chart's reads are ten threads. So every type is built once, at the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ..core.visit import Visit
from ..fhir.charge_item import Charge
from ..fhir.normalise import PreparedVisit
from .review import Answers

# What is stored, and is no Struct.
STORED = (tuple[PreparedVisit, ...], Answers, Charge, Visit)
_OURS = __name__.partition(".")[0] + "."


def make_ready() -> None:
    """Builds what is known of every Struct of ours that is imported by now, and of what is stored."""
    for kind in (*_structs(msgspec.Struct), *STORED):
        msgspec.json.Decoder(kind)


def _structs(kind: Any) -> Iterator[Any]:
    for each in kind.__subclasses__():
        if each.__module__.startswith(_OURS):
            yield each
        yield from _structs(each)
