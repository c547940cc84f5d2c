"""
Checks that `events` and `projections` are the packages that come with `coordinator`, before anything imports them.

Both names are common. Python takes the first match on its path, and the current folder or the script's folder comes
first, so a user's own `events.py` hides ours. Another installed package of that name is found instead of ours, or was
written over it: pip does not mind. The check locates the modules without running them. It runs whenever a program
imports `coordinator`, so it must import nothing that Python has not loaded already, unless something is wrong.
"""

import os
import sys

TYPE_CHECKING = False  # as type checkers know it; importing `typing` would cost each start milliseconds
if TYPE_CHECKING:
    from types import TracebackType

OWN_PACKAGES = ("events", "projections")
MARK = b'__distribution__ = "coordinator"'
"""A line in the `__init__.py` of each; other packages do not have it."""


class HiddenPackage(ImportError):
    """Another module has the same name as one of our packages and is found instead, or ours is gone."""


def check_own_packages() -> None:
    """
    Return when Python finds our own packages.

    Raises:
        HiddenPackage: it finds another module of that name, or none; the message says where and what to do.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  # pathlib is slow to load
    for name in OWN_PACKAGES:
        ours = os.path.join(root, name, "__init__.py")  # noqa: PTH118  # as above
        found = _found(name)
        problem = _problem(name, found, ours)
        if problem:
            _print_message_alone()
            raise HiddenPackage(problem, name=name, path=found)


def _problem(name: str, found: str | None, ours: str) -> str:
    """Return what is wrong with the module that is *found* as *name*, and what to do; '' if it is ours."""
    mend = "python -m pip install --force-reinstall --no-deps coordinator"
    if found is None:
        # A program packed into an archive has no files of ours.
        is_gone = os.path.isfile(__file__) and not os.path.isfile(ours)  # noqa: PTH113  # as above
        why = "is missing, as after another package of that name was uninstalled"
        return f"the package {name!r} that comes with coordinator {why}: {mend}" if is_gone else ""
    other = found.removesuffix(f"{os.sep}__init__.py")
    if found == ours or not _is_another_file(found, ours):
        if _is_marked(found):
            return ""
        distribution = _distribution_of(name, found)
        by = f"the package {distribution!r}" if distribution else "another package"
        remove = f"python -m pip uninstall {distribution}, then " if distribution else ""
        return f"{other} was replaced by {by}, but coordinator needs its own {name!r} there: {remove}{mend}"
    distribution = _distribution_of(name, found)
    if distribution:
        what = (
            f"{other} of the installed package {distribution!r} hides the package {name!r} that comes with coordinator"
        )
        return f"{what}: python -m pip uninstall {distribution}, or install coordinator into an environment of its own"
    return (
        f"{other} hides the package {name!r} that comes with coordinator: rename it, or remove its folder from"
        " Python's path (run from another folder; unset PYTHONPATH)"
    )


def _is_marked(file: str) -> bool:
    if not file.endswith(".py"):
        return True  # compiled, and its source was left out: nothing tells whose it is
    try:
        with open(file, "rb") as opened:  # noqa: PTH123  # as above
            return MARK in opened.read(4096)
    except OSError:
        return True  # in an archive, or not readable: Python will say so


def _distribution_of(name: str, found: str) -> str:
    """Return the name of the other distribution whose list of files has the module; '' if there is none."""
    from importlib.metadata import distributions

    folder, file = os.path.split(found)
    inside = os.path.dirname(folder) if file == "__init__.py" else folder  # noqa: PTH120  # as above
    wanted = f"{name}/{file}" if file == "__init__.py" else file
    for one in distributions(path=[inside]):
        files = {str(path) for path in one.files or ()}
        if wanted in files and "coordinator/own_packages.py" not in files:
            return str(one.metadata["Name"])
    return ""


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
