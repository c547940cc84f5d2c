"""
Validates a launch before any runtime acts on it.

Names, paths and labels are built only from values that passed here, so a caller cannot redirect them. Messages never
contain a value of the environment, since it may be a secret.
"""

from __future__ import annotations

import math
import re

from coordinator.runtime.protocol import Launch
from events.errors import Refused, shown
from events.ids import checked

ARGUMENTS_MAX = 1_024
ARGUMENT_BYTES_MAX = 64 * 1024
VARIABLES_MAX = 512
LAUNCH_BYTES_MAX = 512 * 1024
IMAGE_LENGTH_MAX = 512
STOP_GRACE_S_MAX = 3_600.0
LOG_LINES_MAX = 10_000
PART_BYTES_LEAST = 64
PART_BYTES_MAX = 1024 * 1024

# These change what the dynamic loader or the shell runs before the command, so setting them can run anything.
# ENV is not listed: only interactive shells read it.
LOADER_PREFIXES = ("LD_", "DYLD_", "BASH_")
LOADER_VARIABLES = {
    "BASHOPTS",
    "CDPATH",
    "EUID",
    "GCONV_PATH",
    "GLOBIGNORE",
    "IFS",
    "LINENO",
    "MALLOC_TRACE",
    "OLDPWD",
    "OPTARG",
    "OPTERR",
    "OPTIND",
    "POSIXLY_CORRECT",
    "PPID",
    "PS4",
    "PWD",
    "SHELLOPTS",
    "UID",
}

_SHOWN = 80
_is_position = re.compile(r"[0-9]{1,20}\.[0-9]{1,10}").fullmatch
_is_count = re.compile(r"[0-9]{1,18}").fullmatch
_is_variable = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}").fullmatch
_is_control = re.compile(r"[\x00-\x1f\x7f]").search


def check_launch(launch: Launch, *, cluster: str, images: bool = False) -> None:
    """
    Check that a runtime of *cluster* may start this launch; one that runs *images* needs no command.

    Raises:
        Refused: a value is wrong; the message names it and what is allowed.
    """
    check_key(launch.container_id, launch.generation)
    checked(launch.cluster, "cluster")
    if launch.cluster != cluster:
        raise _refused("cluster", launch.cluster, f"use {cluster!r}, the cluster of this runtime")
    check_position(launch.epoch, "epoch")
    _check_name(launch)
    if type(launch.image) is not str or len(launch.image) > IMAGE_LENGTH_MAX or _is_control(launch.image):
        raise _refused(
            "image", launch.image, f"use at most {IMAGE_LENGTH_MAX} characters, none of them control characters"
        )
    if launch.command != () or not launch.image:
        _check_command(launch.command)
    elif not images:
        raise Refused(
            f"image {launch.image[:_SHOWN]!r} without a command cannot be run by this node: use nodes with "
            "node.runtime: docker, or give the agent type a command",
            reason="bad_launch",
        )
    _check_environment(launch.environment)
    _check_size(launch)
    _check_count(launch.cpu_millis, "cpu_millis")
    _check_count(launch.memory_bytes, "memory_bytes")
    check_grace(launch.stop_grace_s, "stop_grace_s")
    if launch.until is not None:
        check_until(launch.until)


def check_until(value: object) -> float:
    """Return *value* if it is a time of a monotonic clock; otherwise raise `Refused`."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        return float(value)
    raise _refused("until", value, "use seconds of the monotonic clock")


def check_key(container_id: object, generation: object) -> tuple[str, str]:
    """Return id and generation if they can name a container; otherwise raise `Refused`."""
    return checked(container_id, "container_id"), check_position(generation, "generation")


def check_position(value: object, name: str) -> str:
    """Return *value* if it is two numbers and a dot; otherwise raise `Refused`."""
    if type(value) is str and _is_position(value):
        return value
    raise _refused(name, value, "use two numbers and a dot, such as '1042.0'")


def check_grace(value: object, name: str) -> float:
    """Return *value* if it is an allowed grace period in seconds; otherwise raise `Refused`."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= STOP_GRACE_S_MAX:
        return float(value)
    raise _refused(name, value, f"use 0 to {STOP_GRACE_S_MAX:.0f} seconds")


def check_timeout(value: object) -> float:
    """Return *value* if it is a finite timeout in seconds; otherwise raise `Refused`."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        return float(value)
    raise _refused("timeout_s", value, "use a finite number of seconds, 0 or more")


def check_lines(value: object) -> int:
    """Return *value* if it is an allowed number of log lines; otherwise raise `Refused`."""
    if type(value) is int and 1 <= value <= LOG_LINES_MAX:
        return value
    raise _refused("lines", value, f"use 1 to {LOG_LINES_MAX}")


def check_part(lines: object, bytes_most: object, wait_s: object) -> None:
    """Accept what a part of a log may have; otherwise raise `Refused`."""
    check_lines(lines)
    check_timeout(wait_s)
    if type(bytes_most) is not int or not PART_BYTES_LEAST <= bytes_most <= PART_BYTES_MAX:
        raise _refused("bytes_most", bytes_most, f"use {PART_BYTES_LEAST} to {PART_BYTES_MAX}")


def count_before(position: str) -> int | None:
    """Return the count that a position is, where it is one; None for the last lines."""
    if not position:
        return None
    if not _is_count(position):
        raise bad_position(position)
    return int(position)


def bad_position(position: str) -> Refused:
    """Return the refusal of a text that is no position in a log."""
    return Refused(
        f"position {shown(position)} is none in a log: use that of an earlier answer, or '' for the last lines",
        reason="bad_cursor",
    )


def _check_name(launch: Launch) -> None:
    suffix = f"-{launch.container_id}-{launch.generation}"
    if type(launch.name) is not str or not launch.name.endswith(suffix):
        raise _refused("name", launch.name, f"use '<namespace>{suffix}'")
    checked(launch.name.removesuffix(suffix), "namespace in the name")


def _check_command(command: object) -> None:
    if type(command) is not tuple or not 1 <= len(command) <= ARGUMENTS_MAX:
        raise _refused("command", command, f"use a tuple of 1 to {ARGUMENTS_MAX} arguments")
    if not command[0]:
        raise _refused("command[0]", command[0], "use a program on the PATH, or an absolute path")
    for index, argument in enumerate(command):
        if not _is_text(argument):
            raise _refused(f"command[{index}]", argument, _TEXT)


def _check_environment(environment: object) -> None:
    if type(environment) is not dict or len(environment) > VARIABLES_MAX:
        raise Refused(
            f"environment cannot be used: use a dict of at most {VARIABLES_MAX} names and strings", reason="bad_launch"
        )
    for name, value in environment.items():
        if type(name) is not str or not _is_variable(name):
            raise _refused(
                "environment name", name, "use 1 to 128 characters of A-Z a-z 0-9 _, not starting with a digit"
            )
        if name.startswith(LOADER_PREFIXES) or name in LOADER_VARIABLES:
            raise _refused(
                "environment name", name, "it controls the loader or the shell; set it within the command instead"
            )
        if not _is_text(value):
            raise Refused(
                f"the value of environment variable {name!r} cannot be used: use {_TEXT}", reason="bad_launch"
            )


_TEXT = f"UTF-8 text without NUL, at most {ARGUMENT_BYTES_MAX} bytes"


def _is_text(value: object) -> bool:
    if type(value) is not str or "\0" in value or len(value) > ARGUMENT_BYTES_MAX:
        return False
    try:
        return len(value.encode()) <= ARGUMENT_BYTES_MAX
    except UnicodeEncodeError:
        return False


def _check_size(launch: Launch) -> None:
    texts = (*launch.command, *launch.environment, *launch.environment.values())
    size = sum(len(text.encode()) for text in texts)
    if size > LAUNCH_BYTES_MAX:
        raise Refused(f"command and environment have {size} bytes: use at most {LAUNCH_BYTES_MAX}", reason="bad_launch")


def _check_count(value: object, name: str) -> None:
    if type(value) is not int or value < 0:
        raise _refused(name, value, "use a whole number, 0 for no limit")


def _refused(name: str, value: object, allowed: str) -> Refused:
    shown = repr(value)
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}… ({len(shown)} characters)"
    return Refused(f"{name} {shown} cannot be used: {allowed}", reason="bad_launch")
