"""A user's own modules named like ours, or like Python's, in the folder where `coordinator` runs."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import commands

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
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


# --- another package of that name is installed ------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder that holds our packages as `pip install` would, and comes first on Python's path."""
    made = tmp_path / "site-packages"
    for name in ("coordinator", *OURS):
        shutil.copytree(ROOT / name, made / name, ignore=shutil.ignore_patterns("__pycache__"))
    return made


def wheel(folder: Path, name: str, files: dict[str, str]) -> Path:
    """Make the wheel of a package *name*, with its list of files."""
    info = f"{name.replace('-', '_')}-1.2.dist-info"
    meta = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*files, *meta, f"{info}/RECORD"))
    made = folder / f"{name.replace('-', '_')}-1.2-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in (files | meta | {f"{info}/RECORD": record}).items():
            archive.writestr(path, text)
    return made


def install(made: Path, site: Path) -> None:
    """Unpack a wheel, which is all that an installer does with a pure one."""
    with zipfile.ZipFile(made) as archive:
        archive.extractall(site)


def imported(site: Path, code: str = "import coordinator.scheduler") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("name", OURS)
def test_an_installed_package_that_was_written_over_ours_is_named(site: Path, tmp_path: Path, name: str) -> None:
    """The message names the package, its path, and the two commands that mend it; nothing of the package runs."""
    assert imported(site).returncode == 0
    install(wheel(tmp_path, f"{name}-of-others", {f"{name}/__init__.py": "print('it runs')\n"}), site)
    ended = imported(site)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        f"ImportError: {site / name} was replaced by the package '{name}-of-others', but coordinator needs its own"
        f" '{name}' there: python -m pip uninstall {name}-of-others, then python -m pip install --force-reinstall"
        " --no-deps coordinator\n"
    )
    next(site.glob("*.dist-info/RECORD")).unlink()  # a package whose files nobody listed is told, too
    assert f"{site / name} was replaced by another package, but coordinator needs" in imported(site).stderr


def test_packages_that_were_compiled_and_lost_their_source_are_ours(site: Path) -> None:
    """As an image makes them that ships no source; only a source file can show whose it is."""
    compileall.compile_dir(site, quiet=2, legacy=True)
    for source in site.rglob("*.py"):
        source.unlink()
    hidden = "import sys; sys.path = [one for one in sys.path if one != {root!r}]; import coordinator.scheduler"
    ended = imported(site, hidden.format(root=str(ROOT)))
    assert (ended.returncode, ended.stderr) == (0, "")


def test_what_an_uninstaller_took_away_is_named(site: Path) -> None:
    """Uninstalling the other package removes our file as well."""
    shutil.rmtree(site / "events")
    hidden = "import sys; sys.path = [one for one in sys.path if one != {root!r}]; import coordinator"
    ended = imported(site, hidden.format(root=str(ROOT)))
    assert ended.stderr == (
        "ImportError: the package 'events' that comes with coordinator is missing, as after another package of that"
        " name was uninstalled: python -m pip install --force-reinstall --no-deps coordinator\n"
    )


@pytest.mark.parametrize("file", ["events/__init__.py", "events.py"])
def test_an_installed_package_that_is_found_first_is_named(tmp_path: Path, file: str) -> None:
    """As beside a checkout: site-packages comes before it on Python's path."""
    site = tmp_path / "site-packages"
    install(wheel(tmp_path, "events", {file: "print('it runs')\n"}), site)
    ended = imported(site)
    other = site / file.removesuffix("/__init__.py")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        f"ImportError: {other} of the installed package 'events' hides the package 'events' that comes with"
        " coordinator: python -m pip uninstall events, or install coordinator into an environment of its own\n"
    )
