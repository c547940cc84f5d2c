"""
Every order and question the coordinator takes, the same on every door, by its name on the wire and by its subject.

The class name gives the type on the wire (`SubmitTask` → `submit_task`).
"""

from __future__ import annotations

import re

from coordinator.commands.cluster import (
    CheckOutcome,
    ClusterStats,
    FindServices,
    GetContainer,
    GetHealthHistory,
    GetPool,
    GetService,
    GetSession,
    GetStats,
    GetTask,
    ListContainers,
    ListInboxes,
    ListNodes,
    ListTasks,
    ListWorkers,
    Question,
    ServiceLoad,
    ServiceView,
)
from coordinator.commands.command import Command
from coordinator.commands.task import (
    AcceptSilence,
    AllocatePool,
    BindSession,
    CancelTask,
    ClaimTasks,
    CloseSession,
    CompleteTask,
    CordonNode,
    CreateContainer,
    DefinePool,
    DeregisterService,
    DesiredContainer,
    DestroyContainer,
    DrainWorker,
    FailTask,
    HeartbeatService,
    LeaveWorker,
    NodeOrders,
    ObservedContainer,
    PauseContainer,
    ProgressTask,
    RegisterNode,
    RegisterService,
    RegisterWorker,
    ReleasePool,
    ReleaseTask,
    ReportCheck,
    ResumeContainer,
    StartContainer,
    StopContainer,
    SubmitTask,
    SyncNode,
    UncordonNode,
    WithdrawClaim,
    WorkerTerms,
)

__all__ = [
    "BY_SUBJECT",
    "COMMANDS",
    "AcceptSilence",
    "AllocatePool",
    "BindSession",
    "CancelTask",
    "CheckOutcome",
    "ClaimTasks",
    "CloseSession",
    "ClusterStats",
    "Command",
    "CompleteTask",
    "CordonNode",
    "CreateContainer",
    "DefinePool",
    "DeregisterService",
    "DesiredContainer",
    "DestroyContainer",
    "DrainWorker",
    "FailTask",
    "FindServices",
    "GetContainer",
    "GetHealthHistory",
    "GetPool",
    "GetService",
    "GetSession",
    "GetStats",
    "GetTask",
    "HeartbeatService",
    "LeaveWorker",
    "ListContainers",
    "ListInboxes",
    "ListNodes",
    "ListTasks",
    "ListWorkers",
    "NodeOrders",
    "ObservedContainer",
    "PauseContainer",
    "ProgressTask",
    "Question",
    "RegisterNode",
    "RegisterService",
    "RegisterWorker",
    "ReleasePool",
    "ReleaseTask",
    "ReportCheck",
    "ResumeContainer",
    "ServiceLoad",
    "ServiceView",
    "StartContainer",
    "StopContainer",
    "SubmitTask",
    "SyncNode",
    "UncordonNode",
    "WithdrawClaim",
    "WorkerTerms",
    "command_type",
]


def command_type(command: type[Command]) -> str:
    """Name a command on the wire: `SubmitTask` → `submit_task`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", command.__name__).lower()


def _leaves(base: type[Command]) -> list[type[Command]]:
    return [leaf for child in base.__subclasses__() for leaf in (_leaves(child) or [child])]


COMMANDS: dict[str, type[Command]] = {command_type(command): command for command in _leaves(Command)}
"""Every command by its type on the wire."""

BY_SUBJECT: dict[tuple[str, str], type[Command]] = {(one.KIND, one.VERB): one for one in COMMANDS.values()}
"""Every command by the kind and verb of the subject it comes in on."""
