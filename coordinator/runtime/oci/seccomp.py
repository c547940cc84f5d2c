"""
The system calls that a container may not make, as the seccomp section of an OCI configuration.

All others are allowed: a container has no capability, so most of these would fail anyway. The list is for the paths of
the kernel that have had holes although they check rights, above all those that a namespace of users opens.
"""

from __future__ import annotations

from typing import Any

_EPERM = 1
_ENOSYS = 38
_DENIED = (
    *("mount", "umount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "mount_setattr"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "swapon", "swapoff", "quotactl", "quotactl_fd", "acct"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "process_madvise", "perf_event_open"),
    *("bpf", "keyctl", "add_key", "request_key", "userfaultfd"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "create_module"),
    *("unshare", "setns", "open_by_handle_at", "name_to_handle_at", "fanotify_init", "lookup_dcookie"),
    *("reboot", "syslog", "settimeofday", "clock_settime", "clock_adjtime", "clock_adjtime64", "clock_settime64"),
    *("sethostname", "setdomainname", "iopl", "ioperm", "vm86", "vm86old", "vhangup", "nfsservctl", "uselib", "ustat"),
    *("sysfs", "_sysctl", "get_mempolicy", "set_mempolicy", "mbind", "move_pages", "migrate_pages"),
)
_NEW_NAMESPACE = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
"""The flags of `clone` for a new namespace: mount, control group, uts, ipc, user, pid, network."""
_FAMILIES = (17, 38, 40)
"""Families of sockets that no agent needs: raw packets, the kernel's ciphers, the hypervisor's."""


def denied() -> dict[str, Any]:
    """Return the section; for programs of another architecture than the machine's, every call is denied."""
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            _refusal(list(_DENIED)),
            *(
                _refusal(["clone"], index=0, value=flag, valueTwo=flag, op="SCMP_CMP_MASKED_EQ")
                for flag in _NEW_NAMESPACE
            ),
            # Its flags are in memory, where no filter can read them: libraries then take `clone`.
            _refusal(["clone3"], errno=_ENOSYS),
            *(_refusal(["socket"], index=0, value=family, op="SCMP_CMP_EQ") for family in _FAMILIES),
        ],
    }


def _refusal(names: list[str], *, errno: int = _EPERM, **condition: int | str) -> dict[str, Any]:
    refusal: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno}
    return refusal | ({"args": [condition]} if condition else {})
