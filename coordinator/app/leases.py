"""The leases of the attempts that this program claimed."""

from __future__ import annotations

HELD_MAX = 10_000
"""As many leases as one heartbeat may name; beyond it the oldest, never reported on, is given up."""


class Held:
    """The leases that this process claimed through facades, by task: renewed while it lives, given up with it."""

    def __init__(self) -> None:
        self._leases: dict[str, tuple[str, str]] = {}

    def take(self, task_id: str, worker_id: str, lease: str) -> None:
        """Keep a lease."""
        self._leases.pop(task_id, None)
        if len(self._leases) >= HELD_MAX:
            del self._leases[next(iter(self._leases))]
        self._leases[task_id] = (worker_id, lease)

    def lease(self, task_id: str) -> str:
        """Give the lease claimed for a task, empty when there is none; it may be lost by now."""
        return self._leases.get(task_id, ("", ""))[1]

    def drop(self, task_id: str, lease: str) -> None:
        """Forget *lease*, which is over; another on the same task, claimed meanwhile, is kept."""
        if self.lease(task_id) == lease:
            self._leases.pop(task_id, None)

    def by_worker(self) -> dict[str, list[str]]:
        """Give the leases to renew, by worker."""
        grouped: dict[str, list[str]] = {}
        for worker_id, lease in self._leases.values():
            grouped.setdefault(worker_id, []).append(lease)
        return grouped
