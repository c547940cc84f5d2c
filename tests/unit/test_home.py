"""The state directory: who holds it, what runs in it, and what a killed process leaves behind."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from coordinator.home import Home, Running
from events.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HOLD = """
import sys, time
from pathlib import Path
from coordinator.home import Home
home = Home(Path(sys.argv[1]))
with home.lock(sys.argv[2]):
    home.write_running("nats://secret@127.0.0.1:1")
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "state" / "coordinator")


@pytest.fixture
def holder(home: Home) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock `up` and has written `running.json`."""
    argv = [sys.executable, "-c", _HOLD, str(home.path), "up"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_for_its_owner_alone(home: Home) -> None:
    """The directory is 0700, what is written into it 0600, whatever the umask says."""
    before = os.umask(0)
    try:
        made = Home(home.path.parent / "another")
        made.write_running("nats://secret@127.0.0.1:1")
        with made.lock("up"):
            made.instance("node")
    finally:
        os.umask(before)
    assert mode(made.path) == 0o700
    assert {mode(file) for file in made.path.iterdir()} == {0o600}


def test_its_token_stays(home: Home) -> None:
    """It is made once; a file that was emptied gets a new one, and one that cannot be read is refused by name."""
    assert home.token(lambda: "first-token") == "first-token"
    assert home.token(lambda: "second-token") == "first-token"
    assert mode(home.path / "token") == 0o600
    (home.path / "token").write_text("")
    assert home.token(lambda: "third-token") == "third-token"
    (home.path / "token").write_text("s3cret with spaces")
    with pytest.raises(Refused, match="does not hold a token: delete it") as caught:
        home.token(lambda: "another-token")
    assert "s3cret" not in str(caught.value)
    (home.path / "token").unlink()
    (home.path / "token").mkdir()
    with pytest.raises(Refused, match=r"token cannot be read.*delete it"):
        home.token(lambda: "fourth-token")


def test_what_another_holder_left_does_not_run(home: Home) -> None:
    """A `running.json` of a killed `up` is ignored also while another command holds the lock, such as `verify`."""
    write = "import sys; from pathlib import Path; from coordinator.home import Home; "
    write += "Home(Path(sys.argv[1])).write_running('nats://secret@127.0.0.1:1')"
    subprocess.run([sys.executable, "-c", write, str(home.path)], check=True, timeout=20)
    with home.lock("up"):
        assert home.read_running() is None
        assert home.holder("up") == str(os.getpid())
    assert home.holder("up") is None


def test_where_there_can_be_none_it_is_refused(tmp_path: Path) -> None:
    """The error for a file in its place has the path and what to set."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(Refused, match=r"file.* cannot be created: .*COORDINATOR_HOME"):
            Home(path)


def test_one_that_vanished_is_refused(home: Home) -> None:
    """A directory that is no longer writable raises Refused, not an OSError."""
    home.path.rmdir()
    with pytest.raises(Refused, match="is not writable"), home.lock("up"):
        pass
    with pytest.raises(Refused, match="is not writable"):
        home.write_running("nats://secret@127.0.0.1:1")


def test_a_second_holder_is_refused_with_the_pid_of_the_first(home: Home, holder: subprocess.Popen[str]) -> None:
    """The second process gets an error with the holder and what to do."""
    said = rf"in use by the up of process {holder.pid}: .*COORDINATOR_HOME"
    with pytest.raises(Refused, match=said) as caught, home.lock("up"):
        pass
    assert caught.value.reason == "home_in_use"
    with home.lock("node"):
        assert home.is_locked("node")


def test_a_full_disk_keeps_nobody_from_a_lock(home: Home) -> None:
    """The pid in it is for messages; what must end on a full disk needs the lock to do so."""
    code = "import resource, sys; from pathlib import Path; from coordinator.home import Home; "
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); home = Home(Path(sys.argv[1])); "
    code += "lock = home.lock('node'); lock.__enter__(); print(home.holder('node'))"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(home.path)], stdout=subprocess.PIPE, timeout=20, check=False, text=True
    )
    assert (ended.returncode, ended.stdout) == (0, "\n")


def test_on_a_disk_that_became_read_only_a_holder_is_seen(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds the lock still runs; without a holder nothing does, which is no error."""

    def read_only(file: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR and file.exists():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(file))
        return opened(file, flags, mode)

    with home.lock("up"):
        opened = os.open
        monkeypatch.setattr(os, "open", read_only)
        assert home.holder("up") == str(os.getpid())
    assert home.holder("up") is None
    assert home.holder("node") is None


def test_a_killed_holder_holds_nothing(home: Home, holder: subprocess.Popen[str]) -> None:
    """`kill -9` frees the directory at once, and the `running.json` left behind is ignored."""
    assert home.is_locked("up")
    assert home.read_running() == Running(url="nats://secret@127.0.0.1:1", pid=holder.pid)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not home.is_locked("up")
    assert (home.path / "running.json").exists()
    assert home.read_running() is None
    with home.lock("up"):
        pass


def test_looking_never_keeps_anybody_out(home: Home) -> None:
    """A lock can be taken even if others check all the time whether it is held."""
    with home.lock("up"):
        pass
    stop = threading.Event()
    seen = []

    def look() -> None:
        while not stop.is_set():
            seen.append(home.is_locked("up"))

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(100):
            with home.lock("up"):
                pass
    finally:
        stop.set()
        for looker in lookers:
            looker.join()
    assert len(seen) > 100


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"url": 5}', b"[" * 100_000])
def test_a_damaged_file_of_what_runs_counts_as_nothing(home: Home, content: bytes) -> None:
    """A half-written or foreign file is not an error."""
    (home.path / "running.json").write_bytes(content)
    with home.lock("up"):
        assert home.read_running() is None


def test_what_runs_is_told_until_it_is_taken_back(home: Home) -> None:
    """`running.json` has the URL and the pid, and is removed afterwards; removing it twice is no error."""
    with home.lock("up"):
        home.write_running("nats://secret@127.0.0.1:1")
        home.write_running("nats://secret@127.0.0.1:2")
        assert home.read_running() == Running(url="nats://secret@127.0.0.1:2", pid=os.getpid())
        home.remove_running()
        home.remove_running()
        assert home.read_running() is None
    assert sorted(file.name for file in home.path.iterdir()) == ["up.lock"]


def test_names_last(home: Home) -> None:
    """Each role has its own permanent name; a file left empty by a power failure gets a new one."""
    names = {role: home.instance(role) for role in ("coordinator", "node")}
    assert {role: Home(home.path).instance(role) for role in names} == names
    assert len(set(names.values())) == 2
    (home.path / "node.instance").write_bytes(b"")
    assert home.instance("node") not in ("", names["node"])


@pytest.mark.parametrize("kept", [b"a.b", b"*", b"\xff\xfe", b"x" * 65])
def test_a_name_that_is_none_is_refused(home: Home, kept: bytes) -> None:
    """A name written into the file by hand must be an identifier; the message names the file."""
    (home.path / "node.instance").write_bytes(kept)
    with pytest.raises(Refused, match=r"node\.instance.*is not an identifier"):
        home.instance("node")
