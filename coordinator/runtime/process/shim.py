"""
The few lines of POSIX shell that stand between the process runtime and a container's command.

The shim leads the container's process group and outlives a node agent that is killed: it writes down who it is before
the command runs, and how the command ended after. Nothing from a launch ever becomes shell text: the command comes in
as arguments, the environment as environment, the files by names relative to its working directory.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

SHELL = "/bin/sh"

# - The shim survives what its group is sent: a trap that is not "ignore" is put back to default in the command. In the
#   foreground, the shell runs traps only after the command has ended, so `$?` is always the command's.
# - Between fork and command a shell may swallow a signal it traps. So the part that becomes the command says when it is
#   past that, with `begun`, and the runtime sends nothing before.
# - The parts that set variables are subshells: a variable that is set here and came in the environment would otherwise
#   reach the command changed.
# - `ln` is the one moment of truth: it fails when the runtime has meanwhile declared this start void. Then the runtime
#   renames the directory, and only then deletes the claim: so a link made after that is known by the name being
#   nobody's, or another directory's. All other names are relative to this very directory, whatever its name now is.
# - What the shell itself has to say about the command's end, such as "Terminated", is no part of the output.
# - The command is made the kernel's first choice when memory runs out, not the shim and not the node agent.
# - What the command leaves behind in its group ends with it, as in any container.
SCRIPT = r"""
ended() {
  trap '' HUP INT QUIT TERM
  PATH=/usr/bin:/bin
  umask 077
  echo "$1" >exit.new && mv exit.new exit
  kill -KILL 0
}
trap : HUP INT QUIT TERM
ulimit -c 0
(
  PATH=/usr/bin:/bin
  umask 077
  if [ "$1" = proc ]; then
    read -r boot </proc/sys/kernel/random/boot_id || boot=-
    read -r line <"/proc/$$/stat" || exit 1
    set -- ${line##*) }
    start="$boot/${20}"
  else
    set -- $(LC_ALL=C TZ=UTC0 ps -o lstart= -p "$$")
    start="$*"
  fi
  [ "$start" ] && echo "$$ $start" >pid.new && ln pid.new pid
) && [ . -ef "$3" ] || exit 125
exec 2>/dev/null
(
  echo >begun
  cd -- "$2" || exit 126
  unset OLDPWD
  [ "$1" = ps ] || echo 500 2>/dev/null >/proc/self/oom_score_adj
  shift 3
  exec "$@"
) 2>&1
ended "$?"
"""


def spawn(
    directory: Path,
    *,
    command: Sequence[str],
    environment: Mapping[str, str],
    working_directory: Path,
    log: int,
    kind: Literal["proc", "ps"],
) -> int:
    """
    Start the shim of a container in *directory*, in a session and group of its own, and return its pid.

    All paths and `command[0]` must be absolute; output goes to the open file *log*. The caller must reap the pid.

    Raises:
        OSError: the machine could not start it.
    """
    process = subprocess.Popen(
        (SHELL, "-c", SCRIPT, "container", kind, working_directory, directory, *command),
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        close_fds=True,
        start_new_session=True,
    )
    # A container outlives this object by design and is reaped by pid; told so, Popen neither warns nor reaps.
    process.returncode = 0
    return process.pid
