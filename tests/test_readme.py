"""The generated parts of the README: `make readme` writes them, this test holds them to the code."""

import re
import sys
from pathlib import Path

import pytest

from quarterhour.core.library import Library
from quarterhour.plugin.config import Settings

README = Path(__file__).parent.parent / "README.md"


def policies() -> str:
    library = Library.load()
    rows = ["| policy | title | from | counting |", "| --- | --- | --- | --- |"]
    for id_ in library.ids:
        policy = library.policy(id_)
        counting = policy.terms["counting"]
        rows.append(f"| `{id_}` | {policy.title} | {counting[0].since} | {counting[-1].value} |")
    return "\n".join(rows)


def settings() -> str:
    rows = ["| variable | what | default |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = "**required**" if field.is_required() else f"`{field.default}`" if field.default else "none"
        rows.append(f"| `QUARTERHOUR_{name.upper()}` | {field.description} | {default} |")
    return "\n".join(rows)


PARTS = {"policies": policies, "settings": settings}


def block(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}: [^>]*-->\n)(.*?)(<!-- /{name} -->)", re.DOTALL)


@pytest.mark.parametrize("name", PARTS)
def test_a_generated_part_is_not_stale(name):
    found = block(name).search(README.read_text())
    assert found is not None
    assert found[2].strip() == PARTS[name](), "run `make readme`"


def test_the_pictures_are_there():
    for picture in re.findall(r"\]\((docs/[^)]+\.png)\)", README.read_text()):
        assert (README.parent / picture).stat().st_size > 10_000


if __name__ == "__main__":
    text = README.read_text()
    for name, make in PARTS.items():
        text = block(name).sub(lambda found, make=make: f"{found[1]}{make()}\n{found[3]}", text)
    README.write_text(text)
    sys.exit(0)
