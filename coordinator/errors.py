"""The error family under the coordinator's name; defined in `events.errors`, because folds raise it too."""

from events.errors import (
    ERRORS,
    CoordinationError,
    Corrupt,
    Forbidden,
    NotFound,
    Refused,
    StaleLease,
    Unavailable,
    error_of,
)

__all__ = [
    "ERRORS",
    "CoordinationError",
    "Corrupt",
    "Forbidden",
    "NotFound",
    "Refused",
    "StaleLease",
    "Unavailable",
    "error_of",
]
