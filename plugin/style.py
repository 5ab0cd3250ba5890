"""The EHR's look: its smart_style_url, of which only values that we understand are used.

https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html#styling
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import structlog

from ..launch.errors import LaunchRefused
from ..launch.http import ask, read_json
from .installation import Installation
from .sessions import Opened

log = structlog.get_logger()

LARGEST = 16 * 1024
NOT_ASKED_AGAIN = timedelta(minutes=5)  # after it could not be had: each page of a launch asks for its style
KEPT = 100  # style sheets; the address is the version, so an old one is simply never asked for again

COLOR = re.compile(r"#(?:[0-9a-fA-F]{3}|[0-9a-fA-F]{6})")
LENGTH = re.compile(r"(?:0|(?P<number>[0-9]{1,2}(?:\.[0-9]{1,2})?)(?P<unit>px|pt|rem|em))")
FONTS = re.compile(r"[A-Za-z0-9 \-]{1,40}(?:, ?[A-Za-z0-9 \-]{1,40}){0,9}")

COLORS = ("color_background", "color_error", "color_highlight", "color_success", "color_text")
# In CSS pixels: beyond these the page stops being legible or its targets too small to hit.
LENGTHS = {"dim_border_radius": (0.0, 32.0), "dim_font_size": (12.0, 28.0), "dim_spacing_size": (4.0, 48.0)}
FONT_NAMES = ("font_family_body", "font_family_heading")
PIXELS = {"px": 1.0, "pt": 4 / 3, "rem": 16.0, "em": 16.0}
ENOUGH_CONTRAST = 4.5  # https://www.w3.org/TR/WCAG22/#contrast-minimum


def style_sheet(here: Installation, launch: Opened) -> str:
    """A style sheet of custom properties; empty where the EHR gives no style, or none that can be used."""
    url = launch.session.context.smart_style_url
    if url is None:
        return ""
    sheet, until = here.styles.get(url, ("", here.clock()))
    if until is not None and until <= here.clock():
        fetched = _fetched(here, launch, url)
        sheet, until = ("", here.clock() + NOT_ASKED_AGAIN) if fetched is None else (fetched, None)
        while len(here.styles) >= KEPT:
            here.styles.pop(next(iter(here.styles)), None)
        here.styles[url] = sheet, until
    return sheet


def _fetched(here: Installation, launch: Opened, url: str) -> str | None:
    """None where it could not be had, or is none."""
    try:
        answer = ask(here.connections.to(launch.issuer), "GET", url, headers={"Accept": "application/json"})
        if answer.status_code != 200:  # noqa: PLR2004
            raise ValueError(f"HTTP {answer.status_code}")  # noqa: TRY301 - one way out for all that fails
        return css(read_json(answer, dict[str, Any], largest=LARGEST))
    except (LaunchRefused, ValueError) as error:
        log.info("style_not_used", issuer=launch.issuer.id, why=type(error).__name__)
        return None


def css(said: dict[str, Any]) -> str:
    """The values that are colours, lengths and font names, as custom properties of the page."""
    values = {name: value for name in COLORS if (value := _color(said.get(name)))}
    _drop_illegible(values)
    values |= {name: value for name in LENGTHS if (value := _length(name, said.get(name)))}
    values |= {name: value for name in FONT_NAMES if (value := _fonts(said.get(name)))}
    lines = [f"  --{name.replace('_', '-')}: {value};\n" for name, value in values.items()]
    # :root twice, so that an EHR's own look also holds where the browser prefers dark.
    return f":root:root {{\n{''.join(lines)}}}\n" if lines else ""


def _drop_illegible(values: dict[str, str]) -> None:
    """Colours are used together or not at all, and only where text stays legible on the background."""
    needed = {"color_background", "color_text", "color_highlight"}
    background = values.get("color_background", "")
    legible = needed <= values.keys() and all(
        contrast(values[name], background) >= ENOUGH_CONTRAST
        for name in COLORS
        if name in values and name != "color_background"
    )
    if not legible:
        for name in COLORS:
            values.pop(name, None)
    else:
        # What the EHR has no name for follows from what it has.
        dark = _luminance(background) < 0.18  # noqa: PLR2004 - as far from black as from white
        values["color_ground"] = _mixed(background, "#ffffff" if dark else "#000000", 0.05)
        values["color_line"] = _mixed(background, values["color_text"], 0.2)
        values["color_quiet"] = values["color_text"]
        values["color_warning"] = values["color_text"]


def contrast(one: str, other: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: str) -> float:
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4  # noqa: PLR2004 - the definition's
        for part in (channel / 255 for channel in _channels(color))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _mixed(color: str, other: str, share: float) -> str:
    mixed = (
        round(a * (1 - share) + b * share) for a, b in zip(_channels(color), _channels(other), strict=True)
    )
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _color(value: object) -> str | None:
    if not isinstance(value, str) or not COLOR.fullmatch(value):
        return None
    digits = value[1:].lower()
    return "#" + (digits if len(digits) == 6 else "".join(digit * 2 for digit in digits))  # noqa: PLR2004


def _length(name: str, value: object) -> str | None:
    found = LENGTH.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    pixels = float(found["number"]) * PIXELS[found["unit"]] if found["number"] else 0.0
    least, most = LENGTHS[name]
    return found[0] if least <= pixels <= most else None


def _fonts(value: object) -> str | None:
    """Names of families, quoted again by us."""
    if not isinstance(value, str) or len(value) > 200:  # noqa: PLR2004
        return None
    plain = value.replace("'", "").replace('"', "")
    if not FONTS.fullmatch(plain):
        return None
    names = [name.strip() for name in plain.split(",")]
    return ", ".join(name if re.fullmatch(r"[a-z\-]+", name) else f'"{name}"' for name in names if name)
