"""
Checks that `events` and `projections` are the packages that come with `coordinator`, before anything imports them.

Both names are common. Python takes the first match on its path, and the current folder or the script's folder comes
first, so a user's own `events.py` hides ours. The check locates the modules without running them. It runs whenever a
program imports `coordinator`, so it must import nothing that Python has not loaded already.
"""

import os
import sys

TYPE_CHECKING = False  # as type checkers know it; importing `typing` would cost each start milliseconds
if TYPE_CHECKING:
    from types import TracebackType

OWN_PACKAGES = ("events", "projections")


class HiddenPackage(ImportError):
    """Another module has the same name as one of our packages and is found first."""


def check_own_packages() -> None:
    """
    Return when Python finds our own packages.

    Raises:
        HiddenPackage: it finds another module of that name; the message says where and what to do.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  # pathlib is slow to load
    for name in OWN_PACKAGES:
        ours = os.path.join(root, name, "__init__.py")  # noqa: PTH118  # as above
        found = _found(name)
        if found is not None and found != ours and _is_another_file(found, ours):
            other = found.removesuffix(f"{os.sep}__init__.py")
            _print_message_alone()
            msg = (
                f"{other} hides the package {name!r} that comes with coordinator: rename it, or remove its folder from"
                " Python's path (run from another folder; unset PYTHONPATH)"
            )
            raise HiddenPackage(msg, name=name, path=found)


def _found(name: str) -> str | None:
    """Return the file that Python uses for the module *name*; None if there is no such module or no file."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None)
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)  # hooks of old libraries have none, and Python passes them over
        spec = None if find_spec is None else find_spec(name, None)
        if spec is not None:
            return spec.origin if spec.has_location else None
    return None


def _is_another_file(found: str, ours: str) -> bool:
    # A program packed into an archive has no file of ours to compare with.
    return os.path.isfile(ours) and os.path.realpath(found) != os.path.realpath(ours)  # noqa: PTH113  # as above


def _print_message_alone() -> None:
    """Print no traceback if the error is not caught: the remedy does not depend on which module imported which."""
    before = sys.excepthook
    if before.__module__ == __name__:  # a program may catch the error and import again
        return

    def show(kind: type[BaseException], error: BaseException, trace: "TracebackType | None") -> None:
        if isinstance(error, HiddenPackage):
            sys.stderr.write(f"ImportError: {error}\n")
        else:
            before(kind, error, trace)

    sys.excepthook = show
