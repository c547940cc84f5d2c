# ruff: noqa: INP001  # a folder of programs, not a package
"""
Write docs/operation-reference.md from the registry: `python -m tools.operation_reference`; `--check` only compares.

All of it comes from the classes in `coordinator/commands/`. It writes no other file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.cli.operations import call_line, field_text, json_text
from coordinator.commands import command_type
from coordinator.commands.command import Command
from coordinator.commands.operations import (
    OPERATIONS,
    always_of,
    answer_of,
    description_of,
    fields_of,
    refusals_of,
    roles_of,
    structs_in,
    summary_of,
)

if TYPE_CHECKING:
    from coordinator.commands.command import Operation

PAGE = Path(__file__).resolve().parent.parent / "docs/operation-reference.md"

_HEAD = """\
# All operations

<!-- Written by `python -m tools.operation_reference` from coordinator/commands/; do not edit. -->

What can be asked of the coordinator, and of its followers (`read.…`). The same table makes the
[subjects of NATS](protocol.md#commands-and-questions), the permissions of [roles](guide/security.md), the client,
[`coordinator call`](guide/cli.md#any-operation), `$SRV.INFO` and the [AsyncAPI document](guide/schemas.md).
`coordinator operations NAME` prints one of them.

```python
task = await client.execute(GetTask(task_id="task_1"))  # a Task, also for the type checker
```

The administrator may ask for everything. An example is a command line and what it prints with `-o json`; a test sends
all of them to a running coordinator. An id is 1 to 64 of `A-Z a-z 0-9 _ -`.
"""


def render() -> str:
    """Return the page."""
    parts = [_HEAD, _table()]
    kinds = dict.fromkeys(one.KIND for one in OPERATIONS.values())
    for kind in kinds:
        parts.append(f"## {kind}\n")
        parts += [_section(one) for one in OPERATIONS.values() if kind == one.KIND]
    return "\n".join([*parts, _reasons(), _objects()])


def _table() -> str:
    rows = [
        f"| [`{name}`](#{_anchor(name)}) | {', '.join(sorted(one.FOR)) or 'administrator'} | {summary_of(one)} |\n"
        for name, one in OPERATIONS.items()
    ]
    return "".join(["| operation | roles | |\n| --- | --- | --- |\n", *rows])


def _section(operation: type[Operation]) -> str:
    description = "\n\n".join(description_of(operation).split("\n"))
    lines = [
        f"### {operation.NAME}",
        "",
        description,
        "",
        f"{_where(operation)} For {', '.join(roles_of(operation))}.",
        "",
    ]
    fields = fields_of(operation)
    if fields:
        lines += ["| field | |", "| --- | --- |"]
        lines += [f"| `{one.name}` | {_escaped(field_text(one))} |" for one in fields]
        lines.append("")
    told = _linked(operation.Answer, answer_of(operation))
    lines.append(f"Answer: {told}. Refused as: {', '.join(f'`{code}`' for code in refusals_of(operation)) or '—'}.")
    lines += ["", "```console", f"$ {call_line(operation)}", json_text(operation.EXAMPLE.answer), "```", ""]
    return "\n".join(lines)


def _where(operation: type[Operation]) -> str:
    if issubclass(operation, Command):
        return f"`….rpc.<source>.{operation.KIND}.{operation.VERB}`, type `{command_type(operation)}`."
    return f"`….read.<source>.{operation.VERB}`, answered by followers."


def _reasons() -> str:
    found: dict[str, str] = {}
    for one in OPERATIONS.values():
        found |= refusals_of(one)
    doors = {one.ALWAYS: "read.…" if one.KIND == "read" else "the others" for one in OPERATIONS.values()}
    lines = ["## Refusals", "", "Any operation may be refused with these [reasons](reasons.md), whatever it is:", ""]
    for codes, whose in doors.items():
        meanings = always_of(next(one for one in OPERATIONS.values() if codes == one.ALWAYS))
        lines += [f"| {whose} | |", "| --- | --- |", *_rows(meanings), ""]
    return "\n".join(
        [*lines, "And these, where they are named:", "", "| reason | |", "| --- | --- |", *_rows(found), ""]
    )


def _rows(meanings: dict[str, str]) -> list[str]:
    return [f"| `{code}` | {meaning} |" for code, meaning in sorted(meanings.items())]


def _objects() -> str:
    """Describe the objects in requests and answers, and the objects in these."""
    found: dict[str, type[msgspec.Struct]] = {}
    waiting = [hint for one in OPERATIONS.values() for hint in (one.Answer, *(field.hint for field in fields_of(one)))]
    while waiting:
        for one in structs_in(waiting.pop(0)):
            if one.__name__ not in found:
                found[one.__name__] = one
                waiting += [field.hint for field in fields_of(one)]
    lines = ["## Objects", "", "A field of an answer that has its default value is left out.", ""]
    for name in sorted(found):
        lines += [
            f"### {name}",
            "",
            "\n\n".join(description_of(found[name]).split("\n")),
            "",
            "| field | |",
            "| --- | --- |",
        ]
        lines += [f"| `{one.name}` | {_escaped(field_text(one))} |" for one in fields_of(found[name])]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _linked(hint: Any, words: str) -> str:
    for one in structs_in(hint):
        words = words.replace(one.__name__, f"[{one.__name__}](#{_anchor(one.__name__)})")
    return words


def _anchor(title: str) -> str:
    return title.lower().replace(".", "")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def is_outdated() -> bool:
    """Return True if the page differs from the code."""
    return not PAGE.exists() or PAGE.read_text(encoding="utf-8") != render()


def main(argv: list[str]) -> int:
    """Write the page, or with `--check` only report whether it is out of date."""
    if not is_outdated():
        return 0
    if "--check" in argv:
        sys.stdout.write(f"{PAGE.name} is out of date: run python -m tools.operation_reference\n")
        return 1
    PAGE.write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
