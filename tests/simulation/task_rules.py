"""Rules about who submits which task, other ones at each second instance, and what they permit, said a second time."""

from __future__ import annotations

from coordinator.deciders.rules import TaskRule

SECRET = "secret"
_WORK = ("work", "n")
_SECRET = TaskRule(name="secrets", users=("client0",), task_names=("sec*",))
_COMMON = TaskRule(name="common", users=("client*", "domain*", "inbox*", "ganger*", "lister*"), task_names=_WORK)
_SCHEDULES = TaskRule(name="schedules", users=("scheduleuser0",), task_names=_WORK)


def rules_of(instance: str) -> tuple[TaskRule, ...]:
    """Return the rules of an instance: those with an odd number do not permit what schedules submit."""
    return (_SECRET, _COMMON) if _is_odd(instance) else (_SECRET, _COMMON, _SCHEDULES)


def is_permitted(task_name: str, user: str, instance: str) -> bool:
    """Return whether a user may submit a task while this instance leads."""
    if task_name == SECRET:
        return user == "client0"
    return not (user.startswith("scheduleuser") and _is_odd(instance))


def _is_odd(instance: str) -> bool:
    return int(instance.removeprefix("coordinator")) % 2 == 1
