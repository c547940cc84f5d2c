"""
`tools/bootstrap.sh` on a small project of its own: what it installs, and what it leaves behind when it fails.

The packages are wheels made here, in a folder; no network is used. The project contains its own build backend.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 100.0

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "thing"
version = "1.0"
"""
BACKEND = """
import zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{folder}/thing-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in FILES.items():
            wheel.writestr(name, text)
    return "thing-1.0-py3-none-any.whl"

FILES = {
    "thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: thing\\nVersion: 1.0\\nRequires-Dist: wants\\n",
    "thing-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "thing-1.0.dist-info/RECORD": "",
}
"""


class Project:
    """A folder with a bootstrap script, two lock files and the wheels they name; its path contains a space."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a project"
        self.wheels = folder / "wheels"
        self.wheels.mkdir()
        (self.folder / "tools").mkdir(parents=True)
        shutil.copy(ROOT / "tools/bootstrap.sh", self.folder / "tools")
        (self.folder / "pyproject.toml").write_text(PYPROJECT)
        (self.folder / "backend.py").write_text(BACKEND)
        # `wants` asks for an extra of `newer`, as pytest-cov asks for coverage[toml]; the newest `newer` is not pinned.
        pinned = [self.wheel("wants", "1.0", "Requires-Dist: newer[more]>=1"), self.wheel("newer", "1.0")]
        self.wheel("newer", "2.0")
        self.lock("requirements.lock", *pinned)
        self.lock("requirements-dev.lock", self.wheel("checks", "1.0", "Requires-Dist: newer[more]"))

    def wheel(self, name: str, version: str, *more: str) -> str:
        """Make a wheel; return the line that pins it."""
        file = self.wheels / f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Provides-Extra: more", *more]
        files = {
            f"{name}.py": f"version = {version!r}\n",
            f"{info}/METADATA": "\n".join(lines) + "\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "".join(f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in files.items())
        with zipfile.ZipFile(file, "w") as made:
            for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
                made.writestr(path, text)
        return f"{name}=={version} --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"

    def lock(self, name: str, *lines: str) -> None:
        (self.folder / name).write_text("\n".join(lines) + "\n")

    def bootstrap(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """Run the script with the folder of wheels as pip's only source; return its exit code and output."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
        ended = subprocess.run(
            ["sh", "tools/bootstrap.sh", *arguments],
            cwd=self.folder,
            env={
                **environment,
                "PYTHON": sys.executable,
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_NO_INDEX": "1",
                "PIP_FIND_LINKS": str(self.wheels),
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return ended.returncode, ended.stdout + ended.stderr

    def installed(self) -> dict[str, str]:
        """The packages in its venv, except those every venv has."""
        code = "from importlib.metadata import distributions as d; print(*(f'{x.name}=={x.version}' for x in d()))"
        python = self.folder / ".venv/bin/python"
        listed = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=30, check=True)
        found = dict(line.split("==") for line in listed.stdout.split())
        return {name: version for name, version in found.items() if name not in {"pip", "setuptools"}}


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


RUNNING = {"thing": "1.0", "wants": "1.0", "newer": "1.0"}


def test_what_is_pinned_is_installed_though_something_newer_is_out(project: Project) -> None:
    """First only the runtime packages; then the test packages, in the same venv; then there is nothing to do."""
    code, said = project.bootstrap()
    assert (code, project.installed()) == (0, RUNNING), said
    assert "installing 2 pinned packages" in said

    kept = project.folder / ".venv/kept"
    kept.touch()
    code, said = project.bootstrap("--dev")
    assert (code, project.installed()) == (0, {**RUNNING, "checks": "1.0"}), said
    assert project.bootstrap("--dev") == project.bootstrap() == (0, "")
    assert kept.exists()

    project.lock("requirements-dev.lock", project.wheel("checks", "1.1"))
    assert project.bootstrap() == (0, "")  # a user who only runs it does not wait for the test packages
    assert project.bootstrap("--dev")[0] == 0
    assert project.installed()["checks"] == "1.1"
    assert not kept.exists()


def test_a_venv_that_could_not_be_completed_is_made_again(project: Project) -> None:
    """A failed installation leaves no venv that looks complete: the next call creates it from scratch."""
    assert project.bootstrap()[0] == 0
    lines = (project.folder / "requirements-dev.lock").read_text().splitlines()
    project.lock("requirements-dev.lock", *lines, f"missing==1.0 --hash=sha256:{'0' * 64}")
    code, said = project.bootstrap("--dev")
    assert code == 1
    assert "installing requirements-dev.lock failed" in said
    assert "missing==1.0" in said

    code, said = project.bootstrap()
    assert (code, project.installed()) == (0, RUNNING), said
    assert "creating .venv" in said


def test_a_lock_that_lacks_something_is_told(project: Project) -> None:
    """A missing dependency is not resolved; `pip check` names it, and the venv does not count as complete."""
    project.lock("requirements.lock", project.wheel("wants", "1.0", "Requires-Dist: newer[more]>=1"))
    for _ in range(2):
        code, said = project.bootstrap()
        assert code == 1
        assert "wants 1.0 requires newer, which is not installed" in said


@pytest.mark.parametrize(
    ("configured", "variables"),
    [
        ("[install]\nuser = true\ntarget = elsewhere\n", {}),
        ("require-hashes = true\nno-binary = :all:\n", {}),
        ("", {"PIP_PYTHON": "nowhere/python", "PIP_DRY_RUN": "1", "PIP_ROOT": "elsewhere"}),
    ],
)
def test_settings_for_pip_change_only_where_packages_come_from(
    project: Project, configured: str, variables: dict[str, str]
) -> None:
    """The package index is read from the user's file; settings that would install elsewhere, or nothing, are not."""
    file = project.folder.parent / "pip.conf"
    file.write_text(f"[global]\nfind-links = {project.wheels}\n{configured}")
    code, said = project.bootstrap(PIP_CONFIG_FILE=str(file), PIP_FIND_LINKS="", **variables)
    assert (code, project.installed()) == (0, RUNNING), said
    assert not (project.folder / "elsewhere").exists()
