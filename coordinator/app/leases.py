"""The task leases that this process holds."""

from __future__ import annotations

HELD_MAX = 10_000
"""The number of leases that one heartbeat can hold. Beyond it, the lease that was taken first is dropped."""


class Held:
    """The leases claimed through facades of this process, by task. They are renewed until the process ends."""

    def __init__(self) -> None:
        self._leases: dict[str, tuple[str, str]] = {}

    def take(self, task_id: str, worker_id: str, lease: str) -> None:
        """Remember a lease, replacing an earlier one of the same task."""
        self._leases.pop(task_id, None)
        if len(self._leases) >= HELD_MAX:
            del self._leases[next(iter(self._leases))]
        self._leases[task_id] = (worker_id, lease)

    def lease(self, task_id: str) -> str:
        """Return the lease claimed for a task, or '' if there is none. It may have expired."""
        return self._leases.get(task_id, ("", ""))[1]

    def drop(self, task_id: str, lease: str) -> None:
        """Forget *lease*. A newer lease on the same task is kept."""
        if self.lease(task_id) == lease:
            self._leases.pop(task_id, None)

    def by_worker(self) -> dict[str, list[str]]:
        """Return the leases to renew, by worker."""
        grouped: dict[str, list[str]] = {}
        for worker_id, lease in self._leases.values():
            grouped.setdefault(worker_id, []).append(lease)
        return grouped
