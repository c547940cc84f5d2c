"""A user's own modules named like ours, or like Python's, in the folder where `coordinator` runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import commands

pytestmark = pytest.mark.e2e

DEMO_TIMEOUT_S = 60.0
OURS = ("events", "projections")
PYTHONS = ("json", "secrets")
HANDLERS = """
from coordinator.worker import task

@task("double")
def double(payload):
    return 2 * payload
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with modules that must not be imported; `coordinator` is the installed command."""
    made = tmp_path / "a user's folder"
    made.mkdir()
    for name in OURS:
        (made / f"{name}.py").write_text("raise RuntimeError('the wrong one was imported')\n")
    monkeypatch.chdir(made)
    monkeypatch.setattr(commands, "PROGRAM", [str(Path(sys.executable).with_name("coordinator"))])
    return made


def test_up_and_its_workers_run_where_modules_have_our_names(folder: Path, coordinator_home: Path) -> None:
    """All four programs start, and handlers are loaded from that folder."""
    (folder / "handlers.py").write_text(HANDLERS)
    with (
        commands.up(coordinator_home) as up,
        commands.running("worker", "run", "handlers", written=folder / "out", COORDINATOR_HOME=str(up.home)),
    ):
        ended = commands.run("task", "submit", "double", "--payload", "21", "--wait", "20")
    assert (ended.code, ended.err) == (0, "")
    assert "42" in ended.out


def test_the_demo_runs_where_modules_have_the_names_of_ours_and_of_the_standard_library(folder: Path) -> None:
    """Child processes, agents in containers included, do not import from the current folder."""
    for name in PYTHONS:
        (folder / f"{name}.py").write_text("raise RuntimeError('the wrong one was imported')\n")
    ended = commands.run("demo", "--tasks", "20", timeout_s=DEMO_TIMEOUT_S)
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize("code", ["import coordinator.scheduler", "from coordinator.container import ContainerManager"])
@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("is_package", [False, True], ids=["module", "package"])
def test_a_module_that_hides_ours_is_named(folder: Path, name: str, code: str, is_package: bool) -> None:
    """The message names the file and what to do, and there is no traceback; nothing of the module runs."""
    for other in OURS:
        (folder / f"{other}.py").unlink()
    hiding = folder / (name if is_package else f"{name}.py")
    if is_package:
        hiding.mkdir()
    (hiding / "__init__.py" if is_package else hiding).write_text("print('it runs')\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        f"ImportError: {hiding} hides the package '{name}' that comes with coordinator: rename it, or remove its folder"
        " from Python's path (run from another folder; unset PYTHONPATH)\n"
    )


def test_it_is_an_import_error_to_a_program_that_catches_it(folder: Path) -> None:
    """The error has the name and the path, like Python's own; other errors are shown unchanged."""
    code = "try:\n import coordinator\nexcept ImportError as e:\n print(e.name, e.path)\nraise ValueError('other')"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.stdout == f"events {folder / 'events.py'}\n"
    assert "Traceback" in ended.stderr
    assert ended.stderr.endswith("ValueError: other\n")


def test_a_folder_without_a_module_in_it_hides_nothing(folder: Path) -> None:
    """A folder named `events` that is not a package comes after ours on Python's path."""
    for name in OURS:
        (folder / f"{name}.py").unlink()
        (folder / name).mkdir()
    code = "import coordinator.scheduler, events.codec, projections.world"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0


def test_import_hooks_without_find_spec_are_passed_over(folder: Path) -> None:
    """Libraries older than `find_spec` put such finders on `sys.meta_path`; Python itself skips them."""
    for name in OURS:
        (folder / f"{name}.py").unlink()
    code = (
        "import sys\n"
        "class Old:\n"
        "    def find_module(self, name, path=None): return None\n"
        "sys.meta_path.insert(0, Old())\n"
        "import coordinator\n"
        "print(coordinator.__version__)"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stdout.count(".")) == (0, 2), ended.stderr
