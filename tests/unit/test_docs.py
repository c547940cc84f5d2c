"""What is written from the code says what the code says now, nothing is left out, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from coordinator.cli import cli
from coordinator.commands import COMMANDS
from coordinator.settings.model import KNOWN_KEYS
from events import codec
from tools import event_reference, operation_reference, schemas, settings_reference

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

_link = re.compile(r"(?<!!)\[[^]]*\]\(([^)\s]+)\)")
_fenced = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_heading = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


@pytest.mark.parametrize("page", event_reference.PAGES)
def test_pages_written_from_the_code_are_up_to_date(page: str) -> None:
    """The event reference and the state diagrams are what `python -m tools.event_reference` would write."""
    assert page not in event_reference.outdated(), "run python -m tools.event_reference"


def test_the_table_of_settings_is_up_to_date() -> None:
    """The settings guide holds what `python -m tools.settings_reference` would write, every key of it."""
    assert not settings_reference.is_outdated(), "run python -m tools.settings_reference"
    rows = [line for line in settings_reference.render().splitlines() if line.startswith("| `")]
    assert len(rows) == len(KNOWN_KEYS)


@pytest.mark.parametrize("page", schemas.PAGES)
def test_the_schemas_are_up_to_date(page: str) -> None:
    """The JSON Schema and the AsyncAPI document are what `python -m tools.schemas` would write."""
    assert page not in schemas.outdated(), "run python -m tools.schemas"


def test_a_schema_that_was_changed_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` names the file that is missing or differs; writing puts that right."""
    monkeypatch.setattr(schemas, "ROOT", tmp_path)
    assert schemas.main(["--check"]) == 1
    assert schemas.main([]) == 0
    assert schemas.main(["--check"]) == 0
    events = tmp_path / "docs/schema/events.json"
    events.write_text(events.read_text().replace("integer", "number", 1))
    assert schemas.main(["--check"]) == 1
    assert "docs/schema/events.json is out of date" in capsys.readouterr().err


def test_every_event_says_when_it_is_recorded() -> None:
    """No event type is without its sentence, and no sentence without its type."""
    assert set(event_reference.RECORDED) == set(codec.EVENTS)


def test_every_legal_step_has_an_event_that_takes_it() -> None:
    """A step that no event can take would be a mistake in the table, or in the diagram."""
    steps = [line for line in event_reference.render_states().splitlines() if line.startswith("    ")]
    assert [step for step in steps if ":" not in step and not step.endswith("[*]")] == []


def test_a_page_that_was_changed_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--check` fails on a page that is missing or differs in one character; writing puts that right, and only then."""
    monkeypatch.setattr(event_reference, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    assert event_reference.main(["--check"]) == 1
    assert event_reference.main([]) == 0
    assert event_reference.main(["--check"]) == 0
    states = tmp_path / "docs/states.md"
    states.write_text(states.read_text().replace("RUNNING", "RUNING", 1))
    assert event_reference.outdated() == ["docs/states.md"]


def test_the_reference_of_operations_is_up_to_date() -> None:
    """It is what `python -m tools.operation_reference` would write."""
    assert not operation_reference.is_outdated(), "run python -m tools.operation_reference"


def test_a_changed_reference_of_operations_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` fails on a page that is missing or differs in one character; writing puts that right."""
    monkeypatch.setattr(operation_reference, "PAGE", tmp_path / "operation-reference.md")
    assert operation_reference.main(["--check"]) == 1
    assert operation_reference.main([]) == 0
    assert operation_reference.main(["--check"]) == 0
    operation_reference.PAGE.write_text(operation_reference.PAGE.read_text().replace("required", "requird", 1))
    assert operation_reference.main(["--check"]) == 1
    assert "operation-reference.md is out of date: run python -m tools.operation_reference" in capsys.readouterr().out


def test_a_changed_table_of_settings_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands between the marks is compared and rewritten; what stands around them is left alone."""
    page = tmp_path / "settings.md"
    page.write_text(f"before\n{settings_reference.BEGIN}\nold\n{settings_reference.END}\nafter\n")
    monkeypatch.setattr(settings_reference, "PAGE", page)
    assert settings_reference.main(["--check"]) == 1
    assert settings_reference.main([]) == 0
    assert settings_reference.main(["--check"]) == 0
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("after\n")


def test_the_protocol_names_every_command() -> None:
    """Each command and question stands in the protocol with its type and its subject."""
    page = (ROOT / "docs/protocol.md").read_text()
    missing = [
        name for name, command in COMMANDS.items() if f"| `{name}` | `{command.KIND}.{command.VERB}` |" not in page
    ]
    assert missing == []


def options_of(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Give each command with each of its options, the groups' own included, but for those made from operations."""
    if path == ("call",):
        return []
    own = [
        (" ".join(path), option)
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in [max(parameter.opts, key=len)]
    ]
    if not isinstance(command, click.Group):
        return own
    context = click.Context(command)
    children = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
    return own + [found for name, child in children if child is not None for found in options_of(child, (*path, name))]


def test_the_guide_to_the_command_line_names_every_command_and_option() -> None:
    """Nobody has to find an option by trying."""
    page = (ROOT / "docs/guide/cli.md").read_text()
    missing = [
        f"{path} {option}".strip()
        for path, option in options_of(cli)
        if f"`{option}" not in page or (path and f"coordinator {path}" not in page)
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    """A relative link names a file that is there, and a heading in it where it names one."""
    broken = []
    for link in _link.findall(_fenced.sub("", page.read_text())):
        if ":" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Give the anchors that a page's headings make: lower case, without punctuation, spaces as hyphens."""
    titles = _heading.findall(_fenced.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
