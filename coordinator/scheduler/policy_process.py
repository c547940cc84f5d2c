"""
The process of a policy of the operator's: `python -m coordinator.scheduler.policy_process FD MODULE:CLASS`.

It asks the policy again and again which of the offered tasks is next and which worker gets it, until no worker wants
more, or the policy selects none.
"""

from __future__ import annotations

import hashlib
import inspect
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from coordinator.engine.policy_child import Chosen, Hello, Offer, OfferedWorker
from coordinator.own_process.priority import yield_cpu
from coordinator.scheduler.scheduling_policy import SchedulingPolicy
from coordinator.scheduler.task_scheduler import task_info

ERROR_CHARS = 300


def main(argv: list[str]) -> None:
    """Answer offers until the other side closes the socket."""
    _, fd, name = argv
    yield_cpu(0)  # the writer comes first, and what an operator wrote does not
    with socket.socket(fileno=int(fd)) as connection, connection.makefile("rwb") as stream:
        try:
            policy, digest = load(name)
        except Exception as error:  # noqa: BLE001  # whatever the module does when it is imported
            _write(stream, Hello(error=_told(error)))
            return
        _write(stream, Hello(digest=digest))
        decode = msgspec.json.Decoder(Offer).decode
        for line in stream:
            offer = decode(line)
            try:
                answer = Chosen(number=offer.number, picks=choose(policy, offer))
            except Exception as error:  # noqa: BLE001  # whatever the policy does
                answer = Chosen(number=offer.number, error=_told(error))
            _write(stream, answer)


def load(name: str) -> tuple[SchedulingPolicy, str]:
    """
    Return the policy that *name*, `module:Class`, says, and the SHA-256 of its module's source.

    Raises:
        Exception: whatever the module raises; `TypeError` if the class is no SchedulingPolicy.
    """
    module_name, _, class_name = name.partition(":")
    sys.path.append(str(Path.cwd()))  # last, so that nothing there is taken for a library
    module = import_module(module_name)
    made = getattr(module, class_name)()
    if not isinstance(made, SchedulingPolicy):
        raise TypeError(f"{name} is not a SchedulingPolicy")
    source = inspect.getsourcefile(type(made)) or ""
    return made, hashlib.sha256(Path(source).read_bytes()).hexdigest()


def choose(policy: SchedulingPolicy, offer: Offer) -> list[tuple[str, str]]:
    """
    Return which task goes to which worker, as the policy selects them.

    Raises:
        ValueError: it selected something that was not offered.
    """
    tasks = [task_info(task) for task in offer.tasks]
    workers = {worker.worker_id: worker for worker in offer.workers}
    for worker in offer.workers:
        policy.update_worker_load(worker.worker_id, worker.load)
    wanted = {worker.worker_id: worker.slots for worker in offer.workers}
    picks: list[tuple[str, str]] = []
    while tasks and wanted:
        available: list[OfferedWorker] = [workers[worker_id] for worker_id in wanted]
        task = policy.select_task(tasks, available)
        if task is None:
            break
        worker = policy.select_worker(task, available)
        if worker is None:
            break
        at = next((at for at, one in enumerate(tasks) if one is task), None)
        worker_id = worker if isinstance(worker, str) else getattr(worker, "worker_id", None)
        if at is None or worker_id not in wanted:
            raise ValueError("the policy selected a task or a worker that it was not offered")
        picks.append((tasks.pop(at).task_id, worker_id))
        wanted[worker_id] -= 1
        if not wanted[worker_id]:
            del wanted[worker_id]
    return picks


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:ERROR_CHARS]


def _write(stream: Any, value: msgspec.Struct) -> None:
    stream.write(msgspec.json.encode(value) + b"\n")
    stream.flush()


if __name__ == "__main__":
    main(sys.argv)
