"""The wire format of commands and answers, and the errors for malformed input."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.commands import COMMANDS
from coordinator.commands.command import Command
from coordinator.commands.payloads import payload_of
from coordinator.commands.task import CancelTask, GetTask, ListTasks, SubmitTask
from coordinator.commands.wire import (
    MESSAGE_CHARS_MOST,
    MOST_COMMANDS,
    WIRE_COMMANDS,
    DoesNotFit,
    ListInTheMaking,
    WireCommand,
    check_command,
    decode_answers,
    decode_request,
    encode_answer,
    encode_command,
    encode_value,
    request_of,
    too_large,
    value_of,
)
from events.errors import ERRORS, CoordinationError, NotFound, Refused, StaleLease, Unavailable
from events.resources import Resources
from events.subjects import may_answer
from events.task import TaskStatus


def order(command: Command, **more: Any) -> WireCommand:
    return WIRE_COMMANDS[type(command)](data=command, **more)


def refusals(body: bytes | Any) -> list[str]:
    """Decode input that must be refused; return the messages."""
    read = decode_request(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert read
    messages = []
    for one in read:
        assert isinstance(one, Refused), one
        messages.append(one.message)
    return messages


def wrong(**data: Any) -> str:
    """Return the error message for a submit_task with *data*."""
    fields = {"task_id": "t", "task_name": "n", **data}
    (message,) = refusals([{"type": "submit_task", "data": fields}])
    return message


# --- there and back ---------------------------------------------------------------------------------------------------


def test_every_command_has_a_type_and_a_subject_of_its_own() -> None:
    """No two commands share a type or a subject: permissions by subject would not work otherwise."""
    assert len({(one.KIND, one.VERB) for one in COMMANDS.values()}) == len(COMMANDS) == len(WIRE_COMMANDS)


def test_a_command_comes_back_as_it_was() -> None:
    """An encoded command decodes to the same value, with its id, tenant and trace."""
    submit = SubmitTask(
        task_id="t",
        task_name="n",
        priority=3,
        timeout_s=1.5,
        resources=Resources(cpu_millis=5),
        payload=payload_of([1]),
    )
    sent = [
        order(submit, id="cmd_1", tenant="team", traceparent="00-ab-cd-01"),
        order(GetTask(task_id="t", wait_s=2)),
        order(ListTasks(status=TaskStatus.RUNNING)),
    ]
    assert decode_request(request_of([encode_command(one) for one in sent])) == sent


def test_an_empty_request_is_one() -> None:
    """An empty request gets an empty list of answers."""
    assert decode_request(b"[]") == []


def test_what_json_cannot_hold_is_refused_where_it_is_made() -> None:
    """The error for a value that JSON cannot express names the command and the reason."""
    bad: Any = object()
    with pytest.raises(Refused, match="CancelTask cannot be written as JSON"):
        encode_command(order(CancelTask(task_id=bad)))
    with pytest.raises(Refused, match="CancelTask cannot be written as JSON"):
        encode_command(order(CancelTask(task_id="\ud800")))


@pytest.mark.parametrize("error", [Refused("no"), NotFound("gone"), StaleLease("late"), Unavailable("full")])
def test_errors_come_back_as_the_class_they_were(error: CoordinationError) -> None:
    """Class, message, reason and retry hint of an error survive encoding and decoding."""
    error.reason, error.retry_after_s = "because", 0.5
    (answer,) = decode_answers(b"[%b]" % encode_answer(None, error, "1.2", "3.4"))
    assert (answer.epoch, answer.position) == ("1.2", "3.4")
    with pytest.raises(ERRORS[error.code]) as caught:
        value_of(answer, GetTask(task_id="t"))
    assert (caught.value.message, caught.value.reason, caught.value.retry_after_s) == (error.message, "because", 0.5)


def test_an_unknown_error_code_is_still_an_error() -> None:
    """An unknown error code of a newer coordinator becomes the base class."""
    (answer,) = decode_answers(b'[{"error": {"code": "brand_new", "message": "m"}}]')
    with pytest.raises(CoordinationError, match="m"):
        value_of(answer, GetTask(task_id="t"))


def test_values_come_back_by_the_type_that_the_command_says() -> None:
    """An answer has the type of its command, None if it has none; any other type is an error."""
    (answer,) = decode_answers(b"[%b]" % encode_answer(TaskStatus.CANCELLED, None, "1.2", "3.4"))
    assert value_of(answer, CancelTask(task_id="t")) is TaskStatus.CANCELLED
    (answer,) = decode_answers(b'[{"ok": 5}]')
    with pytest.raises(CoordinationError, match="CancelTask has the wrong type"):
        value_of(answer, CancelTask(task_id="t"))
    assert value_of(decode_answers(b'[{"ok": null}]')[0], COMMANDS["release_task"](task_id="t", lease="l")) is None


# --- what is refused, and how it is told ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"null", b"5", b'"x"', b"{}", b"[" * 100_000, b"[{}" * 5000, b"[1,", b"\0"],
)
def test_what_is_no_array_of_commands_gets_one_answer(body: bytes) -> None:
    """A body that is not a JSON array gets one error, which says what to send."""
    (message,) = refusals(body)
    assert "not a JSON array of commands" in message
    assert "'id', 'type', 'data'" in message


@pytest.mark.parametrize("part", [b"5", b"null", b"[]", b"{}", b'{"type":5}', b'{"type":"\xff"}', b'"x"'])
def test_what_is_no_command_leaves_the_others_alone(part: bytes) -> None:
    """One bad command in a request is refused alone."""
    good = encode_command(order(GetTask(task_id="t")))
    first, second, third = decode_request(request_of([good, part, good]))
    assert first == third == order(GetTask(task_id="t"))
    assert isinstance(second, Refused)
    assert "not an object with a type" in second.message


def test_a_request_of_too_many_commands_is_refused() -> None:
    """A thousand commands are accepted; one more gets one error with the limit."""
    one = encode_command(order(GetTask(task_id="t")))
    assert len(decode_request(request_of([one] * MOST_COMMANDS))) == MOST_COMMANDS
    assert refusals(request_of([one] * (MOST_COMMANDS + 1))) == ["the request has 1001 commands: send at most 1000"]
    assert refusals(request_of([b"5"] * (MOST_COMMANDS + 1))) == ["the request has 1001 commands: send at most 1000"]


def test_an_unknown_type_names_the_nearest() -> None:
    """The error for a misspelled type has the closest match, or all types if none is close."""
    assert refusals([{"type": "submit_tsk"}]) == ["unknown command type 'submit_tsk': did you mean 'submit_task'?"]
    (message,) = refusals([{"type": "*"}])
    assert message.startswith("unknown command type '*': use one of accept_silence,")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"priority": ["x"]}, "submit_task: priority is ['x']: expected `int | str`, got `array`"),
        ({"priority": 1.5}, "submit_task: priority is 1.5: expected `int | str`, got `float`"),
        ({"task_id": None}, "submit_task: task_id is None: expected `str`, got `null`"),
        ({"task_name": ["n"]}, "submit_task: task_name is ['n']: expected `str`, got `array`"),
        ({"timeout_s": "5"}, "submit_task: timeout_s is '5': expected `float | null`, got `str`"),
        ({"payload": 5}, "submit_task: payload is 5: expected `object | null`, got `int`"),
        ({"resources": {"cpu_millis": "1"}}, "submit_task: resources.cpu_millis is '1': expected `int`, got `str`"),
        ({"resources": {"cpu": "1"}}, "resources has an unknown field 'cpu'"),
        ({"max_retry": 1}, "submit_task: data has an unknown field 'max_retry': did you mean 'max_retries'?"),
        ({"zzz": 1}, "submit_task: data has an unknown field 'zzz': use one of after, attributes, delay_s,"),
    ],
)
def test_a_wrong_field_is_told_with_its_value_and_what_would_be_right(data: dict[str, Any], said: str) -> None:
    """The message has the field, its value, and what is allowed."""
    assert wrong(**data).startswith(said)


def test_further_ways_to_be_wrong_are_told_as_well() -> None:
    """Elements of lists, values of enums, missing fields, and the keys next to the type."""
    assert refusals(
        [
            {"type": "register_worker", "data": {"worker_id": "w", "handles": ["a", 5]}},
            {"type": "list_tasks", "data": {"status": "done"}},
            {"type": "get_task", "data": {}},
            {"type": "get_task"},
            {"type": "get_task", "data": {"task_id": "t"}, "tenants": "x"},
            {"type": "create_container", "data": {"container_id": "c", "environment": {"A": {"secrets": "s"}}}},
        ]
    ) == [
        "register_worker: handles[1] is 5: expected `str`, got `int`",
        "list_tasks: status is 'done': use one of pending, running, completed, failed, cancelled, timeout",
        "get_task: Object missing required field `task_id` - at `$.data`",
        "get_task: Object missing required field `data`",
        "get_task: the command has an unknown field 'tenants': did you mean 'tenant'?",
        "create_container: data.environment[...] has an unknown field 'secrets': leave it out",
    ]


@pytest.mark.parametrize("key", ["task_id", "priority", "nonsense" * 1000])
def test_what_is_large_is_shown_in_part(key: str) -> None:
    """An error does not send the input back: a megabyte in a field gets a short message."""
    (message,) = refusals([{"type": "get_task", "data": {"task_id": "t", key: [{"x" * 900_000: 1}]}}])
    assert len(message) <= MESSAGE_CHARS_MOST + 200
    answer = encode_answer(None, Refused("y" * 100_000), "1.1", "1.0")
    assert len(answer) < MESSAGE_CHARS_MOST + 300


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists))
def test_no_json_breaks_the_reading(value: Any) -> None:
    """Any JSON in place of a command or a field decodes to a list of commands or refusals."""
    for body in (value, [value], [{"type": value}], [{"type": "get_task", "data": value}]):
        read = decode_request(msgspec.json.encode(body))
        assert all(isinstance(one, Refused) for one in read)
    read = decode_request(
        msgspec.json.encode([{"type": "submit_task", "data": {"task_id": value, "task_name": value}}])
    )
    assert isinstance(read[0], Refused) is not isinstance(value, str)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading(body: bytes) -> None:
    """Any bytes decode to commands or refusals, and as answers they raise an error of the family."""
    assert isinstance(decode_request(body), list)
    with suppress(CoordinationError):
        decode_answers(body)


# --- what stands around a command -------------------------------------------------------------------------------------


def test_a_command_on_another_subject_than_its_own_is_refused() -> None:
    """Permissions are granted by subject: a submit on the subject of cancel is refused."""
    submit = order(SubmitTask(task_id="t", task_name="n"))
    check_command(submit, "task", "submit")
    with pytest.raises(Refused, match=r"SubmitTask must be sent to ….task.submit, not to ….task.cancel"):
        check_command(submit, "task", "cancel")


@pytest.mark.parametrize("value", ["*", ">", "a.b", "a b", "\0", "x" * 65, "ü", ""])
def test_ids_beside_a_command_are_checked(value: str) -> None:
    """Tenant and command id are identifiers; a command may go without an id, not without a tenant."""
    command = GetTask(task_id="t")
    with pytest.raises(Refused, match="tenant"):
        check_command(order(command, tenant=value), "task", "get")
    if value:
        with pytest.raises(Refused, match="command id"):
            check_command(order(command, id=value), "task", "get")


@pytest.mark.parametrize("value", ["x" * 65, "ü"])
def test_a_traceparent_that_is_none_is_refused(value: str) -> None:
    """A traceparent that is too long or not ASCII is refused."""
    with pytest.raises(Refused, match="W3C Trace Context"):
        check_command(order(GetTask(task_id="t"), traceparent=value), "task", "get")


@pytest.mark.parametrize(
    ("reply", "may"),
    [
        ("_INBOX.x.1", True),
        ("_INBOX_worker-7.x.1", True),
        ("_R_.a1B2.c3", True),
        ("", False),
        ("_INBOX", False),
        ("_INBOX.x.*", False),
        ("_INBOX.>", False),
        ("_INBOX.x y", False),
        ("coordination.journal", False),
        ("coordination.rpc.a.task.submit", False),
        ("$JS.API.STREAM.DELETE.COORDINATION_JOURNAL", False),
        ("$KV.COORDINATION_LEASE.writer", False),
        ("orders.created", False),
    ],
)
def test_answers_go_to_inboxes_alone(reply: str, may: bool) -> None:
    """The sender chooses the reply subject: never the journal, a lease, JetStream's own API, or a stream."""
    assert may_answer(reply) is may


# --- answers that do not fit ------------------------------------------------------------------------------------------


def made(value: Any, most: int) -> msgspec.Raw:
    """Encode a value at once, or a list in as many steps as it can have."""
    if isinstance(value, list):
        return encode_value(value, most)
    making = ListInTheMaking(value, most)
    while (encoded := making.go_on(lambda: True)) is None:
        pass
    return encoded


@given(st.lists(st.text(max_size=20), max_size=50), st.integers(2, 300))
def test_a_value_is_encoded_if_it_fits(items: list[str], most: int) -> None:
    """A list that comes item by item gives the same bytes as a whole one, or says how many items fit."""
    whole = msgspec.json.encode(items)
    for value in (items, iter(items)):
        short: DoesNotFit | None = None
        encoded = msgspec.Raw(b"")
        try:
            encoded = made(value, most)
        except DoesNotFit as error:
            short = error
        if short is None:
            assert bytes(encoded) == whole
            assert len(whole) <= most
        else:
            assert len(whole) + 1 > most
            assert len(msgspec.json.encode(items[: short.items])) <= most
            assert short.items < max(1, len(items))


def test_a_list_is_read_no_further_than_it_fits() -> None:
    """What comes after is never made."""
    made = []

    def items() -> Any:
        for number in range(1000):
            made.append(number)
            yield "x" * 10

    with pytest.raises(DoesNotFit) as short:
        ListInTheMaking(items(), 100).go_on(lambda: False)
    assert (short.value.items, len(made)) == (7, 8)


def test_an_answer_that_is_too_large_says_what_to_ask_instead() -> None:
    """A question is refused; a command was carried out, so it is not."""
    question = too_large(ListTasks(), 1000, 7)
    assert (question.code, question.reason) == ("refused", "too_large")
    assert "the first 7 items" in question.message
    assert "limit= and with after=" in question.message
    command = too_large(SubmitTask(task_id="t", task_name="n"), 1000)
    assert (command.code, command.reason) == ("error", "too_large")
    assert "SubmitTask was carried out" in command.message


def test_a_request_of_far_too_many_commands_is_not_decoded() -> None:
    """It is refused as a whole, like one command too many."""
    for count in (1001, 20_000):
        (refused,) = decode_request(msgspec.json.encode([{"type": "get_stats", "data": {}}] * count))
        assert isinstance(refused, Refused)
        assert f"the request has {count} commands" in refused.message
    metadata = {"type": "x" * 20}
    register = {"service_id": "s", "service_name": "s", "service_type": "t", "host": "h", "port": 1}
    several = [{"type": "register_service", "data": {**register, "metadata": metadata}}] * 600
    assert all(isinstance(one, WireCommand) for one in decode_request(msgspec.json.encode(several)))


def test_a_command_names_amounts_in_one_field_at_most() -> None:
    """The reader looks at one of them for each command, to know whether unknown amounts are to be looked for."""
    for command in COMMANDS.values():
        assert len({"resources", "capacity"} & set(command.__struct_fields__)) <= 1
