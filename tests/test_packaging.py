"""The wheel: everything is in it, and installed elsewhere it starts."""

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE_DIR = PYPROJECT["tool"]["setuptools"]["package-dir"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    tree = tmp_path_factory.mktemp("tree") / "source"
    # A copy of what git would hand out, so that stale build folders cannot hide a lack.
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(tree)],
        check=True, capture_output=True,
    )  # fmt: skip
    (built,) = out.glob("*.whl")
    return built


def test_every_file_of_the_packages_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    missing = []
    for package, folder in PACKAGE_DIR.items():
        for path in (ROOT / folder).rglob("*"):
            relative = path.relative_to(ROOT / folder)
            if path.is_file() and "__pycache__" not in relative.parts:
                name = f"{package.replace('.', '/')}/{relative.as_posix()}"
                if name not in inside:
                    missing.append(name)
    assert not missing


def test_every_folder_with_code_is_listed_in_pyproject():
    listed = set(PYPROJECT["tool"]["setuptools"]["packages"])
    for package, folder in PACKAGE_DIR.items():
        for path in (ROOT / folder).rglob("*.py"):
            name = ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
            assert name in listed, path


def test_an_installed_wheel_starts_the_application_elsewhere(wheel, tmp_path):
    """In an environment of its own, in a folder that has no source to import by accident."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    site = next((environment / "lib").glob("python*/site-packages"))
    # The dependencies are those of this environment; the wheel itself is unpacked, as an installer does.
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(ours))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    start = (
        "import quarterhour.core, sys; sys.path[:] = [p for p in sys.path if '__editable__' not in p];"
        "from quarterhour.plugin.cli_demo import demonstration\n"
        "import requests, quarterhour.plugin.app as app\n"
        "assert 'venv' in app.__file__, app.__file__\n"
        "with demonstration() as running:\n"
        "    page = requests.get(running.app_url, timeout=10)\n"
        "    assert page.status_code == 200 and 'Sandbox EHR' in page.text\n"
        "    assert requests.get(running.app_url + '/static/quarterhour.css', timeout=10).ok\n"
        "print('started')\n"
    )
    done = subprocess.run(
        [str(environment / "bin" / "python"), "-c", start],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.stdout.strip().endswith("started"), done.stderr


def test_the_project_works_from_its_own_root():
    """Our bare ``fhir`` folder must not hide the installed ``fhir.resources`` (design, section 6)."""
    done = subprocess.run(
        [sys.executable, "-c", "import fhir.resources.R4B.chargeitem, quarterhour.fhir.server; print('ok')"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "ok", done.stderr


def test_requirements_are_pinned_with_hashes_and_without_addresses():
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines = (ROOT / name).read_text().splitlines()
        assert not [line for line in lines if "://" in line]
        pins = [line for line in lines if line and not line.startswith((" ", "#"))]
        assert all("==" in line for line in pins), name
        text = "\n".join(lines)
        assert text.count("--hash=sha256:") >= len(pins)


def test_the_pins_cover_what_pyproject_asks_for():
    pinned = (ROOT / "requirements.txt").read_text().lower().replace(".", "-").replace("_", "-")
    for wanted in PYPROJECT["project"]["dependencies"]:
        name = wanted.lower().replace(".", "-").split("[")[0].split(">")[0].strip()
        assert f"\n{name}==" in "\n" + pinned or f"\n{name}[" in "\n" + pinned, wanted
