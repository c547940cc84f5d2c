# ruff: noqa: INP001, T201  # a folder of programs, not a package; this one prints
"""
`make check-install`: installs a copy of this checkout in every way that users may, and runs what they would run.

It prints a line for each way as it ends: ok, FAILED with what was said, or skipped with the reason. It exits with 1
when one failed. It needs the network and takes some minutes. `--only WORD` tries those whose name has the word.

- A checkout, by `tools/bootstrap.sh`: each Python from 3.11 on that is on PATH or under ~/.pyenv, with the pip that it
  comes with and the newest; pip 22.3, the oldest that a Python 3.11 came with; a path with a space; as another user.
- A wheel, in a venv with nothing else, with the newest releases of what it asks for, far from the checkout: `schema`,
  `demo`, `up`, in a folder that has an `events.py` of the user's own.
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
    """This way cannot be tried here"""


class Failed(Exception):
    """A step ended otherwise than it must"""


class Way(NamedTuple):
    """One way to install, and what tries it in a folder of its own."""

    name: str
    attempt: Callable[[Path], None]


def main() -> int:
    """Try every way in turn."""
    parser = argparse.ArgumentParser(description="Install this checkout in every way that users may.")
    parser.add_argument("--only", default="", metavar="WORD", help="try the ways whose name has this word")
    only = parser.parse_args().only
    failed = 0
    for way in ways():
        if only not in way.name:
            continue
        began, said = time.monotonic(), ""
        # Not under the home of root, which another user cannot enter.
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
    """Everything that is tried, in order."""
    yield Way(f"checkout, Python 3.11, {OLDEST_PIP}", checkout("3.11", pip=OLDEST_PIP))
    for version in PYTHONS:
        yield Way(f"checkout, Python {version}, its own pip", checkout(version))
        yield Way(f"checkout, Python {version}, newest pip", checkout(version, pip="pip"))
    yield Way("checkout, path with a space, with what tests need", checkout("", name="a check out", develops=True))
    yield Way(f"checkout, user {OTHER_USER}", checkout("", user=OTHER_USER))
    for version in PYTHONS:
        yield Way(f"wheel, Python {version}, newest of everything, with an events.py", wheel(version))
    yield Way(f"unit tests in {YEARS_AHEAD} years", unit_tests_later)


def checkout(
    version: str, *, pip: str = "", name: str = "checkout", user: str = "", develops: bool = False
) -> Callable[[Path], None]:
    """Install a copy of the checkout by its bootstrap, and run the demo."""

    def attempt(folder: Path) -> None:
        copied = copy_of_checkout(folder / name)
        environment = {"PYTHON": find_python(version, user)} | ({"WITH_PIP": pip} if pip else {})
        if user:
            give(folder, user)
        run(["make", "demo", "ARGS=--tasks 50"], copied, user=user, **environment)
        has = run([".venv/bin/python", "-m", "pip", "--version"], copied, user=user)
        if "==" in pip and f"pip {pip.partition('==')[2]} " not in has:
            msg = f"it was not done with {pip}, but with {has}"
            raise Failed(msg)
        if develops:
            run(["sh", "tools/bootstrap.sh", "--dev"], copied, user=user, **environment)
            run([".venv/bin/python", "-m", "pytest", "-q", "tests/unit/test_locks.py"], copied, user=user)
            run(["sh", "tools/bootstrap.sh"], copied, user=user, PYTHON=environment["PYTHON"])

    return attempt


def wheel(version: str) -> Callable[[Path], None]:
    """Install a wheel with the newest of what it asks for, and run it elsewhere."""

    def attempt(folder: Path) -> None:
        python = find_python(version, "")
        copied = copy_of_checkout(folder / "checkout")
        # Built with what is installed here: the lock has the build backend.
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
    """Run the unit tests with a clock that is years ahead: no date in them, no token and no certificate may end."""
    faketime = shutil.which("faketime")
    if faketime is None:
        msg = "there is no program faketime; on Debian it is the package of that name"
        raise Skipped(msg)
    copied = copy_of_checkout(folder / "checkout")
    run(["sh", "tools/bootstrap.sh", "--dev"], copied, PYTHON=find_python("", ""))
    # It counts open files, of which faketime has one.
    but = "--deselect=tests/unit/test_guard.py::test_a_grandchild_inherits_nothing_of_the_pipe"
    run([faketime, "-f", f"+{YEARS_AHEAD}y", ".venv/bin/python", "-m", "pytest", "-q", "tests/unit", but], copied)


def try_up(program: str, folder: Path, home: dict[str, str]) -> None:
    """Run `coordinator up` until it is up, submit a task, and stop it."""
    written = folder / "up.out"
    with written.open("wb") as sink:
        process = subprocess.Popen([program, "up"], cwd=folder, env=clean(home), stdout=sink, stderr=sink)
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
    """Run a step to its end; give what it wrote to standard output."""
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
    """The environment of a user who has nothing of this checkout in it."""
    ours = ("COORDINATOR_", "PYTHON", "VIRTUAL_ENV", "MAKE", "MFLAGS")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | environment


def find_python(version: str, user: str) -> str:
    """Find a Python with venv that the user can run; any from 3.11 on when no version is named."""
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
    """Copy what git tracks, or would, as it is in the working tree."""
    command = ["git", "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    for path in filter(None, listed.stdout.split("\0")):
        if (ROOT / path).is_file():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, target / path)
    run(["git", "init", "-q"], target)  # as in a clone, where tests ask git for the files
    return target


def give(folder: Path, user: str) -> None:
    """Let *user* own a folder and all that is in it."""
    if os.geteuid() != 0:
        msg = f"only root can become {user}; you are no root, which tries as much"
        raise Skipped(msg)
    try:
        owner = pwd.getpwnam(user)
    except KeyError as error:
        msg = f"there is no user {user}"
        raise Skipped(msg) from error
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner.pw_uid, owner.pw_gid)


if __name__ == "__main__":
    sys.exit(main())
