"""Who may import whom, as a table; read from the source with ``ast``, so nothing has to be imported."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("core", "fhir", "launch", "plugin", "sandbox")

# package -> our other packages it may import; None stands for "any third-party library".
OURS = {
    "core": set(),
    "fhir": {"core"},
    "launch": set(),
    "plugin": {"core", "fhir", "launch"},
    "sandbox": set(),
}
THEIRS = {
    "core": {"msgspec", "pydantic"},
    "launch": {
        "authlib", "cryptography", "joserfc", "msgspec", "pydantic", "requests", "structlog", "urllib3",
    },
    "fhir": {"antlr4", "fhir", "fhirclient", "fhirpathpy", "msgspec", "pydantic", "requests", "structlog", "urllib3"},
    "plugin": None,
    "sandbox": None,
}  # fmt: skip
# One file each, where a layer opens a door of its own.
EXCEPTIONS = {
    ("core/library.py", "ruamel"),  # the only reader of files
    ("plugin/cli_sandbox.py", "sandbox"),  # the command line starts the demo
    ("plugin/cli_demo.py", "sandbox"),
}


def imports(path: Path) -> list[tuple[int, str, str]]:
    """Each import of a file as (line, 'ours' or 'theirs', top name)."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 2:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found += [(node.lineno, "ours", name.split(".")[0]) for name in names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append((node.lineno, "theirs", node.module.split(".")[0]))
        elif isinstance(node, ast.Import):
            found += [(node.lineno, "theirs", alias.name.split(".")[0]) for alias in node.names]
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_its_row_allows(package):
    wrong = []
    for path in sorted((ROOT / package).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for line, whose, top in imports(path):
            if (name, top) in EXCEPTIONS or top in sys.stdlib_module_names:
                continue
            allowed = OURS[package] if whose == "ours" else THEIRS[package]
            if allowed is not None and top not in allowed:
                wrong.append(f"{name}:{line} imports {top}")
            if whose == "theirs" and top == "quarterhour":
                wrong.append(f"{name}:{line} names its neighbour absolutely")
    assert not wrong, "\n".join(wrong)


def test_the_table_itself_can_fail(tmp_path):
    (tmp_path / "bad.py").write_text("import flask\nfrom ..launch import issuers\n")
    assert imports(tmp_path / "bad.py") == [(1, "theirs", "flask"), (2, "ours", "launch")]


def test_core_knows_no_clock_and_no_environment():
    for path in sorted((ROOT / "core").glob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"now", "today", "utcnow", "environ", "getenv"}, (path, node.lineno)


def test_fhir_has_no_init_file():
    """A regular package ``fhir`` at the root would hide the installed ``fhir.resources``."""
    assert not (ROOT / "fhir" / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))
