"""How a process connects to NATS: its credentials, and how long it waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordinator.settings.model import Settings


def credentials(settings: Settings, role: str = "admin", name: str = "") -> dict[str, Any]:
    """
    Return the NATS credentials from the settings as keyword arguments: those named, otherwise those of *role*.

    Raises:
        Refused: the credentials directory has none for *role*.
    """
    nats = settings.nats
    creds, tls_ca = nats.creds, nats.tls_ca
    if role == "follower" and settings.follower.creds is not None:
        creds = settings.follower.creds
    if nats.auth is not None:
        from coordinator.security.auth_directory import AuthDirectory

        directory = AuthDirectory(nats.auth)
        creds = creds if creds is not None else directory.find(role, name)
        tls_ca = tls_ca if tls_ca is not None else directory.authority_or_none()
    return {"creds": str(creds) if creds else None, "tls_ca": str(tls_ca) if tls_ca else None}


def patience(settings: Settings) -> dict[str, Any]:
    """Return the times of the settings, in seconds, as keyword arguments of `Client.open`."""
    return {
        "connect_timeout_s": settings.nats.connect_timeout_s,
        "call_timeout_s": settings.client.call_timeout_s,
        "attempt_timeout_s": settings.client.attempt_timeout_s,
    }
