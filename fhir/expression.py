"""A site's FHIRPath expression for the minutes of a Procedure (https://hl7.org/fhirpath/N1/)."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Any

import msgspec

_EMPTY = {"resourceType": "Procedure"}


@cache
def compiled(expression: str) -> Callable[[dict[str, Any]], list[Any]]:
    """The expression as a function of a Procedure. Raises ``ValueError`` saying what is wrong with it.

    The library passes over whatever it cannot parse ("value junk" is "value"), so the grammar is asked
    first. One that gives something for an empty Procedure would invent minutes, and is refused.
    """
    # Half a second to import, and only sites with an expression need it.
    from antlr4 import CommonTokenStream, InputStream, Token  # noqa: PLC0415
    from fhirpathpy import compile as compile_path  # noqa: PLC0415
    from fhirpathpy.models import models  # noqa: PLC0415
    from fhirpathpy.parser.generated.FHIRPathLexer import FHIRPathLexer  # noqa: PLC0415
    from fhirpathpy.parser.generated.FHIRPathParser import FHIRPathParser  # noqa: PLC0415

    lexer = FHIRPathLexer(InputStream(expression))
    lexer.removeErrorListeners()
    tokens = CommonTokenStream(lexer)
    parser = FHIRPathParser(tokens)
    parser.removeErrorListeners()
    parser.expression()
    if parser.getNumberOfSyntaxErrors() or tokens.LA(1) != Token.EOF:
        raise ValueError(f"'{expression}' is no FHIRPath expression.")
    try:
        evaluate: Callable[[dict[str, Any]], list[Any]] = compile_path(expression, models["r4"])
        of_nothing = evaluate(dict(_EMPTY))
    except Exception as error:  # the library raises bare exceptions
        raise ValueError(f"'{expression}' cannot be evaluated: {error}.") from error
    if of_nothing:
        raise ValueError(f"'{expression}' gives something even for a procedure that says nothing.")
    return evaluate


def values_of(expression: str, sent: msgspec.Raw) -> list[Any] | None:
    """What the expression gives for a Procedure as it was sent; None where it cannot be evaluated."""
    try:
        return compiled(expression)(json.loads(bytes(sent), parse_float=Decimal))
    except Exception:  # noqa: BLE001 - hostile data under a library that raises whatever it meets
        return None
