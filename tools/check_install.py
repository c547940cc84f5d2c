# ruff: noqa: INP001, T201  # a folder of programs, not a package; this one prints its results
"""
`make check-install`: install a copy of this checkout in every supported way, and run the main commands.

Prints a line for each way: ok, FAILED with the output, or skipped with the reason. Exits with 1 if one failed. Needs
the network and takes some minutes. `--only WORD` runs the ways whose name contains the word.

- A checkout, with `tools/bootstrap.sh`: each Python from 3.11 on that is on PATH or in ~/.pyenv, with its own and the
  newest pip; pip 22.3, the oldest shipped with Python 3.11; a path with a space; as another user.
- A wheel, in an empty venv with the newest releases of its requirements, outside the checkout: `schema`, `demo`, `up`,
  in a folder with a user's own `events.py`.
- The unit tests, with a clock that is years ahead; needs the program `faketime`.
"""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
OLDEST_PIP = "pip==22.3"
OTHER_USER = "nobody"
STEP_TIMEOUT_S = 600.0
UP_TIMEOUT_S = 60.0
YEARS_AHEAD = 11
SHOWN_LINES = 12


class Skipped(Exception):
    """This way cannot run on this machine"""


class Failed(Exception):
    """A step did not end as expected"""


class Way(NamedTuple):
    """One way to install, and the function that tries it in a separate folder."""

    name: str
    attempt: Callable[[Path], None]


def main() -> int:
    """Run every way in turn."""
    parser = argparse.ArgumentParser(description="Install this checkout in every supported way.")
    parser.add_argument("--only", default="", metavar="WORD", help="run the ways whose name contains this word")
    only = parser.parse_args().only
    failed = 0
    for way in ways():
        if only not in way.name:
            continue
        began, said = time.monotonic(), ""
        # Not in root's home, which another user cannot enter.
        with tempfile.TemporaryDirectory(prefix="check-install-", ignore_cleanup_errors=True) as folder:
            try:
                way.attempt(Path(folder))
                result = "ok"
            except Skipped as reason:
                result = f"skipped: {reason}"
            except Failed as error:
                failed += 1
                result, said = "FAILED", str(error)
        print(f"{way.name:62} {time.monotonic() - began:5.0f} s  {result}", flush=True)
        if said:
            print("\n".join(f"    {line}" for line in said.splitlines()[-SHOWN_LINES:]), flush=True)
    return 1 if failed else 0


def ways() -> Iterator[Way]:
    """Yield all ways, in order."""
    yield Way(f"checkout, Python 3.11, {OLDEST_PIP}", checkout("3.11", pip=OLDEST_PIP))
    for version in PYTHONS:
        yield Way(f"checkout, Python {version}, its own pip", checkout(version))
        yield Way(f"checkout, Python {version}, newest pip", checkout(version, pip="pip"))
    yield Way("checkout, path with a space, development packages", checkout("", name="a check out", develops=True))
    yield Way(f"checkout, user {OTHER_USER}", checkout("", user=OTHER_USER))
    for version in PYTHONS:
        yield Way(f"wheel, Python {version}, newest requirements, with an events.py", wheel(version))
    yield Way(f"unit tests in {YEARS_AHEAD} years", unit_tests_later)


def checkout(
    version: str, *, pip: str = "", name: str = "checkout", user: str = "", develops: bool = False
) -> Callable[[Path], None]:
    """Install a copy of the checkout with its bootstrap, and run the demo."""

    def attempt(folder: Path) -> None:
        copied = copy_of_checkout(folder / name)
        environment = {"PYTHON": find_python(version, user)} | ({"WITH_PIP": pip} if pip else {})
        if user:
            give(folder, user)
        run(["make", "demo", "ARGS=--tasks 50"], copied, user=user, **environment)
        has = run([".venv/bin/python", "-m", "pip", "--version"], copied, user=user)
        if "==" in pip and f"pip {pip.partition('==')[2]} " not in has:
            msg = f"the venv was not created with {pip} but with {has}"
            raise Failed(msg)
        if develops:
            run(["sh", "tools/bootstrap.sh", "--dev"], copied, user=user, **environment)
            run([".venv/bin/python", "-m", "pytest", "-q", "tests/unit/test_locks.py"], copied, user=user)
            run(["sh", "tools/bootstrap.sh"], copied, user=user, PYTHON=environment["PYTHON"])

    return attempt


def wheel(version: str) -> Callable[[Path], None]:
    """Install a wheel with the newest releases of its requirements, and run it outside the checkout."""

    def attempt(folder: Path) -> None:
        python = find_python(version, "")
        copied = copy_of_checkout(folder / "checkout")
        # Built with the packages installed here: the lock includes the build backend.
        build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, "."]
        run(build, copied)
        (built,) = folder.glob("*.whl")
        run([python, "-m", "venv", "venv"], folder)
        run(["venv/bin/python", "-m", "pip", "install", "-q", built], folder)
        run(["venv/bin/python", "-m", "pip", "check"], folder)
        shutil.rmtree(copied)
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "events.py").write_text("raise RuntimeError('not the one of the wheel')\n")
        program = str(folder / "venv/bin/coordinator")
        home = {"COORDINATOR_HOME": str(folder / "home")}
        if '"$schema"' not in run([program, "schema", "json"], elsewhere, **home):
            msg = "`coordinator schema json` printed no schema"
            raise Failed(msg)
        run([program, "demo", "--tasks", "50"], elsewhere, **home)
        try_up(program, elsewhere, home)

    return attempt


def unit_tests_later(folder: Path) -> None:
    """Run the unit tests with a clock that is years ahead: no date, token or certificate in them may expire."""
    faketime = shutil.which("faketime")
    if faketime is None:
        msg = "program faketime not found; on Debian install the package faketime"
        raise Skipped(msg)
    copied = copy_of_checkout(folder / "checkout")
    run(["sh", "tools/bootstrap.sh", "--dev"], copied, PYTHON=find_python("", ""))
    # This test counts open files, and faketime keeps one open.
    deselected = "--deselect=tests/unit/test_guard.py::test_a_grandchild_inherits_nothing_of_the_pipe"
    run(
        [faketime, "-f", f"+{YEARS_AHEAD}y", ".venv/bin/python", "-m", "pytest", "-q", "tests/unit", deselected], copied
    )


def try_up(program: str, folder: Path, home: dict[str, str]) -> None:
    """Run `coordinator up` until it is up, submit a task, and stop it."""
    written = folder / "up.out"
    with written.open("wb") as sink:
        words = [program, "up", "--port", "0"]
        process = subprocess.Popen(words, cwd=folder, env=clean(home), stdout=sink, stderr=sink)
    try:
        give_up_at = time.monotonic() + UP_TIMEOUT_S
        while "coordinator is up" not in written.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise Failed(f"`coordinator up` did not come up:\n{written.read_text(errors='replace')}")
            time.sleep(0.05)
        run([program, "task", "submit", "hello"], folder, **home)
        process.send_signal(signal.SIGTERM)
        if code := process.wait(UP_TIMEOUT_S):
            raise Failed(f"`coordinator up` ended with {code}:\n{written.read_text(errors='replace')}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def run(command: list[str | Path], folder: Path, *, user: str = "", **environment: str) -> str:
    """Run a step to its end; return its standard output."""
    owner = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
    if user:
        environment = {"HOME": str(folder), **environment}
    ended = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=clean(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=STEP_TIMEOUT_S,
        check=False,
        **owner,  # type: ignore[call-overload]
    )
    if ended.returncode:
        raise Failed(f"{' '.join(map(str, command))} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def clean(environment: dict[str, str]) -> dict[str, str]:
    """Return *environment* plus this process's variables, without those that belong to this checkout."""
    ours = ("COORDINATOR_", "PYTHON", "VIRTUAL_ENV", "MAKE", "MFLAGS")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | environment


def find_python(version: str, user: str) -> str:
    """Return a Python with venv that the user can run; any from 3.11 on if no version is given."""
    wanted = [version] if version else list(PYTHONS)
    candidates = [found for one in wanted if (found := shutil.which(f"python{one}"))]
    candidates += [f"/usr/bin/python{one}" for one in wanted]
    for one in wanted:
        candidates += map(str, sorted(Path.home().glob(f".pyenv/versions/{one}.*/bin/python3")))
    probe = f"import ensurepip, sys, venv; sys.exit('{version or '3.'}' not in sys.version)"
    for candidate in candidates:
        with suppress(Failed, OSError):
            run([candidate, "-I", "-c", probe], Path("/"), user=user)
            return candidate
    msg = f"no Python {version or '3.11 or newer'} with venv" + (f" that {user} can run" if user else "")
    raise Skipped(msg)


def copy_of_checkout(target: Path) -> Path:
    """Copy the working tree: tracked files and untracked files that are not ignored."""
    command = ["git", "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    for path in filter(None, listed.stdout.split("\0")):
        if (ROOT / path).is_file():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, target / path)
    run(["git", "init", "-q"], target)  # as in a clone, because tests list the files with git
    return target


def give(folder: Path, user: str) -> None:
    """Make *user* the owner of a folder and its contents."""
    if os.geteuid() != 0:
        msg = f"only root can run as {user}"
        raise Skipped(msg)
    try:
        owner = pwd.getpwnam(user)
    except KeyError as error:
        msg = f"user {user} not found"
        raise Skipped(msg) from error
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner.pw_uid, owner.pw_gid)


if __name__ == "__main__":
    sys.exit(main())
