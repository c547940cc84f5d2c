"""
The few lines of POSIX shell between the process runtime and a container's command.

The shim leads the container's process group and survives a killed node agent: it records its identity before the
command runs, and how the command ended afterwards. A second process of it, the watcher, sleeps until the node's grant
has expired and then kills the whole group: the dead man's switch, which needs no node agent.

Nothing of a launch ever becomes shell text: the command is passed as arguments, the environment as environment, and
files have names relative to the working directory.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from coordinator.runtime.process.control_group import ControlGroup, Thaw

SHELL = "/bin/sh"

# - The shim survives signals to its group: a trapped signal, unlike an ignored one, is back at its default in the
#   command. The shell runs traps only after its foreground command has ended, so `$?` is always the command's.
# - Between fork and exec a shell may swallow a signal it traps. So the part that becomes the command creates `begun`
#   once it is past that, and the runtime sends no signal before.
# - The parts that set variables are subshells: otherwise a variable of the same name in the environment would reach the
#   command changed.
# - `ln` decides: it fails when the runtime has declared this start void. The runtime then renames the directory, and
#   only after that deletes its claim. So a link made later is detected: the directory's name no longer exists, or
#   belongs to another directory. All other names are relative to this directory, even after it is renamed.
# - Messages of the shell itself about the command's end, such as "Terminated", are not part of the output.
# - When memory runs out, the kernel kills the command first, not the shim or the node agent.
# - Processes that the command leaves in its group end with it, as in any container.
# - A signal that also reaches the shim was sent to the group or to everything (a service manager, a shutdown), and the
#   runtime has written its own cause before. Such an end is not the command's own, even with exit code 0; but the
#   command may have sent it, so it counts as a failure like any other signal.
# - The watcher is in the group: `kill 0` reaches nothing else, whoever has ended and whichever pid was reused, and it
#   ends with the group. The runtime wakes it when it has paused the group. It ignores the signals of a gentle stop from
#   its first moment, and so does its `sleep`: both inherit that.
# - The watcher reads the grant only when the last one that it knows has expired: it wakes about once in a lease, and
#   sleeping does not count the time that the machine sleeps, so an awakened agent renews the grant before it looks.
# - What cannot be read grants nothing. A grant of another boot is of another clock. A watcher that cannot go on, such
#   as one that cannot fork its `sleep`, kills at once: `kill` needs no fork.
# - Only the command enters the container's control group: memory, processes and processor time that it has used up must
#   not keep the shim from recording the end, nor the watcher from killing in time, and a frozen watcher would never
#   kill. A command that cannot enter does not run: it would have no limits.
# - What a group of processes has left by `setsid` is still in the control group, so it is killed there too. What is
#   frozen dies only once it is thawed.
# - `until` is checked before the command begins: a start that waited for longer than its grant (in a stopped agent, on
#   a busy machine) must not run, even if the node has a new grant meanwhile.
SCRIPT = r"""
clock() {
  if [ "$1" = proc ]; then
    read -r now rest </proc/uptime || return 1
    rest=${now#*.}
    now=$((${now%.*} * 100 + 1$rest - 100))
  else
    now=$(date +%s) || return 1
    now=$((now * 100 + 100))  # the end of this second: too early rather than too late
  fi
}
may_begin() {
  PATH=/usr/bin:/bin
  clock "$1" && [ "$now" -lt "$2" ]
}
kill_group() {
  [ -z "$1" ] || while read -r one; do kill -KILL "$one"; done <"$1"
  [ -z "$2" ] || echo "$3" >"$2"
}
kill_all() {
  kill_group "$@" 2>/dev/null
  kill -KILL 0
}
expired() {
  trap 'kill -KILL 0' EXIT
  PATH=/usr/bin:/bin
  umask 077
  echo cut_off >cause.watch && ln cause.watch cause
  : >kill
  kill_all "$@"
}
watch() {
  processes=$4 freezer=$5 thawed=$6
  trap 'kill_all "$processes" "$freezer" "$thawed"' EXIT
  PATH=/usr/bin:/bin
  boot=-
  [ "$1" = ps ] || read -r boot </proc/sys/kernel/random/boot_id
  until=$2
  while :; do
    clock "$1" || now=$until
    left=$((until - now))
    if [ "$left" -le 0 ]; then
      granted= of=
      read -r of granted rest <"../$3"
      case $granted in
        '' | *[!0-9]*) expired "$processes" "$freezer" "$thawed" ;;
      esac
      [ "$of" = "$boot" ] && [ "$granted" -gt "$now" ] || expired "$processes" "$freezer" "$thawed"
      until=$granted
      continue
    fi
    part=$((left % 100 + 100))
    sleep "$((left / 100)).${part#1}" || sleep 1 || exit
  done
}
told() {
  [ -e cause ] || (
    PATH=/usr/bin:/bin
    umask 077
    echo crashed >cause.shim && ln cause.shim cause
  )
}
ended() {
  trap '' HUP INT QUIT TERM
  PATH=/usr/bin:/bin
  umask 077
  echo "$1" >exit.new && mv exit.new exit
  shift
  kill_all "$@"
}
trap told HUP INT QUIT TERM
ulimit -c 0
(
  PATH=/usr/bin:/bin
  umask 077
  if [ "$1" = proc ]; then
    read -r boot </proc/sys/kernel/random/boot_id || boot=-
    read -r line <"/proc/$$/stat" || exit 1
    set -- ${line##*) }
    start="$boot/${20}"
    [ "${17}" = 0 ] || echo "${17}" 2>/dev/null >"/proc/$$/autogroup"
  else
    set -- $(LC_ALL=C TZ=UTC0 ps -o lstart= -p "$$")
    start="$*"
  fi
  [ "$start" ] && echo "$$ $start" >pid.new && ln pid.new pid
) && [ . -ef "$2" ] || exit 125
exec 2>/dev/null
if [ "$3" ]; then
  (may_begin "$1" "$3") || (expired "$5" "$6" "$7")
  trap '' HUP INT QUIT TERM
  (watch "$1" "$3" "$4" "$5" "$6" "$7") >/dev/null &
  watcher=$!
  (umask 077 && echo "$watcher" >watch)
  trap told HUP INT QUIT TERM
fi
(
  [ "$1" = ps ] || echo 500 2>/dev/null >/proc/self/oom_score_adj
  shift 7
  while [ "$1" != -- ]; do
    echo 0 >"$1" || exit 126
    shift
  done
  (umask 077 && echo >begun)
  cd -- "$2" || exit 126
  unset OLDPWD
  shift 2
  exec "$@"
) 2>&1
ended "$?" "$5" "$6" "$7"
"""


def spawn(
    directory: Path,
    *,
    command: Sequence[str],
    environment: Mapping[str, str],
    working_directory: Path,
    log: int,
    kind: Literal["proc", "ps"],
    until: str = "",
    grant: str = "",
    group: ControlGroup | None = None,
    enters: bool = True,
) -> int:
    """
    Start the shim of a container in *directory*, in its own session and process group, and return its pid.

    With *until*, as `Grants.shown` writes it, the container is killed at this time unless a longer grant has come in
    the file *grant*, beside *directory*.

    The command *enters* its *group*, unless it puts something there itself; when it cannot, it does not run, and the
    exit code is 126.

    All paths and `command[0]` must be absolute. Output goes to the descriptor *log*. The caller must reap the pid.

    Raises:
        OSError: it could not be started.
    """
    joins: tuple[str, ...] = group.joins if group is not None else ()
    thaw = group.thaw if group is not None else Thaw()
    control: tuple[str, ...] = (joins[0] if joins else "", thaw.file, thaw.word, *(joins if enters else ()))
    process = subprocess.Popen(
        (SHELL, "-c", SCRIPT, "container", kind, directory, until, grant, *control, "--", working_directory, *command),
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        close_fds=True,
        start_new_session=True,
    )
    # A container outlives this object and is reaped by pid; with a return code, Popen neither warns nor reaps.
    process.returncode = 0
    return process.pid
