"""Re-exports the errors of `events.errors`; they are defined there because folds raise them too."""

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
