"""What inbox messages mean: commands, facts, or refusals; whatever one contains, the next is read."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.commands.container import CreateContainer
from coordinator.commands.inbox import COMMAND_OF_EVENT, KINDS, Item, refusal
from coordinator.commands.service import HeartbeatService, RegisterService
from coordinator.commands.task import CompleteTask, SubmitTask
from coordinator.commands.wire import MESSAGE_CHARS_MOST
from coordinator.doors.inbox_messages import DATA_BYTES_MOST, DEPTH_MOST, MOST_EVENTS, Incoming, items_of
from events import codec
from events.errors import NotFound
from events.ids import checked
from events.inbox import InboxRecorded, InboxRefused


def incoming(
    type_: str, body: Any, headers: dict[str, str] | None = None, *, sequence: int = 7, created: str = "then"
) -> Incoming:
    """Make a message: *body* as it is if bytes, otherwise as JSON; `_` in a header stands for `-`."""
    kind, _, event = type_.partition(".")
    return Incoming(
        domain="execution",
        kind=kind,
        event=event,
        sequence=sequence,
        body=body if isinstance(body, bytes) else msgspec.json.encode(body),
        stream_created=created,
        headers={name.replace("_", "-"): value for name, value in (headers or {}).items()},
    )


def event(type_: str = "order.placed", **attributes: Any) -> dict[str, Any]:
    """Make a CloudEvent; an attribute that is `...` is left out."""
    whole = {"specversion": "1.0", "id": "e1", "source": "/x", "type": type_, **attributes}
    return {name: value for name, value in whole.items() if value is not ...}


def only(message: Incoming) -> Item:
    """Return the only item of a message."""
    (item,) = items_of(message)
    assert (item.sequence, item.index, item.is_last) == (message.sequence, 0, True)
    return item


def refused(message: Incoming) -> InboxRefused:
    """Return the refusal that a message results in."""
    item = only(message)
    assert item.command is None
    assert isinstance(item.event, InboxRefused)
    return item.event


def recorded(message: Incoming) -> InboxRecorded:
    """Return the fact that a message results in."""
    item = only(message)
    assert item.command is None
    assert isinstance(item.event, InboxRecorded), item.event
    return item.event


# --- orders -----------------------------------------------------------------------------------------------------------


def test_bare_json_is_an_order_with_the_type_of_its_subject() -> None:
    """The simplest message: the fields of the command, on the subject of the type."""
    item = only(incoming("task.completed", {"task_id": "t", "execution_time_s": 1.5}, {"Nats-Msg-Id": "m1"}))
    assert item.command == CompleteTask(task_id="t", execution_time_s=1.5)
    assert (item.type, item.event_id, item.tenant) == ("task.completed", "m1", "default")


def test_a_cloud_event_is_an_order_with_its_tenant_and_trace() -> None:
    """Extension attributes give tenant and trace; other attributes are ignored."""
    attributes = {"tenant": "acme", "traceparent": "00-1-2-01", "partitionkey": "p", "time": "2026-11-23T17:15:00Z"}
    item = only(
        incoming("task.submitted", event("task.submitted", data={"task_id": "t", "task_name": "n"}, **attributes))
    )
    assert item.command == SubmitTask(task_id="t", task_name="n")
    assert (item.event_id, item.tenant, item.traceparent) == ("e1", "acme", "00-1-2-01")


@pytest.mark.parametrize("type_", COMMAND_OF_EVENT)
def test_the_subject_of_an_event_is_the_id_of_what_it_is_about(type_: str) -> None:
    """Every type in the table has a command with the field that the table names."""
    asks = COMMAND_OF_EVENT[type_]
    assert asks.field in asks.command.__struct_fields__
    item = only(incoming(type_, event(type_, subject="it", data={})))
    if isinstance(item.event, InboxRefused):  # for want of another field, not of this one
        assert item.event.reason == "bad_request"
        assert asks.field not in item.event.message
    else:
        assert getattr(item.command, asks.field) == "it"


@pytest.mark.parametrize(
    ("type_", "data", "field"),
    [
        ("task.submitted", {"task_name": "n"}, "task_id"),
        ("service.registered", {"service_name": "s", "service_type": "t", "host": "h", "port": 1}, "service_id"),
        ("container.requested", {"agent_id": "a", "agent_type": "t"}, "container_id"),
    ],
)
def test_what_is_to_be_made_gets_an_id_of_its_event(type_: str, data: dict[str, Any], field: str) -> None:
    """The same event has the same id when sent again in any message; another id or source gives another id."""

    def made(**attributes: Any) -> str:
        command = only(incoming(type_, event(type_, data=data, **attributes), sequence=len(attributes))).command
        assert isinstance(command, SubmitTask | RegisterService | CreateContainer)
        return checked(getattr(command, field))

    assert made() == made(time="2026-11-23T17:15:00Z")
    assert len({made(), made(id="e2"), made(source="/y"), made(id="é ü")}) == 4


def test_a_bare_message_without_an_id_is_known_by_its_place() -> None:
    """Without an id, the same data sent twice is two events; so is the same sequence in a recreated stream."""
    ids = {
        only(incoming("task.submitted", {"task_name": "n"}, sequence=sequence, created=created)).command.task_id  # type: ignore[union-attr]
        for sequence, created in [(7, "then"), (8, "then"), (7, "now"), (7, "then")]
    }
    assert len(ids) == 3


def test_the_data_may_be_empty_where_the_subject_says_it_all() -> None:
    """The id is added to missing data, to an empty object, and to one with spaces."""
    empty: tuple[dict[str, Any], ...] = ({}, {"data": {}})
    for attributes in empty:
        item = only(incoming("service.heartbeat", event("service.heartbeat", subject="s", **attributes)))
        assert item.command == HeartbeatService(service_id="s")
    body = b'{"specversion":"1.0","id":"1","source":"s","type":"service.heartbeat","subject":"s","data": { } }'
    assert only(incoming("service.heartbeat", body)).command == HeartbeatService(service_id="s")


def test_repeats_are_known_by_domain_source_and_id() -> None:
    """The command id is a valid identifier whatever the event's own id is."""
    one = only(incoming("task.failed", event("task.failed", id="a.b > *", data={"task_id": "t", "error": "e"})))
    again = only(incoming("task.failed", event("task.failed", id="a.b > *", data={"task_id": "t", "error": "e"})))
    assert checked(one.command_id) == again.command_id


def test_binary_mode_reads_the_attributes_from_the_headers() -> None:
    """As in the CloudEvents binding for NATS; header names are case-insensitive."""
    headers = {
        "ce_specversion": "1.0",
        "CE_id": "b1",
        "ce_source": "/x",
        "ce_type": "task.completed",
        "ce_subject": "t",
    }
    item = only(incoming("task.completed", b'{"execution_time_s":2}', headers))
    assert item.command == CompleteTask(task_id="t", execution_time_s=2.0)
    assert item.event_id == "b1"
    assert only(incoming("task.completed", b"null", headers)).event is not None
    empty = recorded(incoming("order.placed", b"", {**headers, "ce_type": "order.placed"}))
    assert bytes(empty.data) == b"null"


# --- facts ------------------------------------------------------------------------------------------------------------


def test_a_fact_is_kept_as_it_came() -> None:
    """The fact has the event's attributes, and its data byte for byte: number format and key order are kept."""
    data = b'{"b":1.50,"a":[1e2,12345678901234567890,"\\u00e9"], "b":2}'
    body = b'{"specversion":"1.0","type":"order.placed","id":"e1","source":"/x","subject":"o 1","data":' + data + b',"time":"2026-11-23T17:15:00+01:00"}'  # fmt: skip  # noqa: E501
    fact = recorded(incoming("order.placed", body))
    assert (fact.domain, fact.type, fact.event_id, fact.event_source) == ("execution", "order.placed", "e1", "/x")
    assert (fact.about, fact.event_time, bytes(fact.data)) == ("o 1", "2026-11-23T17:15:00+01:00", data)
    envelope = codec.envelope(fact, position="1.0", time="2026-11-23T17:15:00Z", source="/c")
    (read,) = codec.decode(codec.join([codec.encode(envelope)]))
    assert read == envelope
    assert data in codec.encode(read)


@pytest.mark.parametrize("body", [b"1", b' "text" ', b"null", b"{}", b'{"a":[{"b":null}]}'])
def test_any_bare_json_but_an_array_is_a_fact(body: bytes) -> None:
    """The event's id is the message's id, or else its sequence."""
    assert bytes(recorded(incoming("order.placed", body)).data) == body
    assert recorded(incoming("order.placed", body, {"Nats-Msg-Id": "m1"})).event_id == "m1"
    assert recorded(incoming("order.placed", body)).event_id == "7"


def test_a_fact_without_data_has_null() -> None:
    """The data of a fact is always JSON, also when there is none."""
    assert bytes(recorded(incoming("order.placed", event())).data) == b"null"
    assert bytes(recorded(incoming("order.placed", event(data=None, subject=None, time=None))).data) == b"null"


def test_data_may_be_so_deep_and_so_wide() -> None:
    """Many brackets are not many levels."""
    deep: Any = 1
    for _ in range(DEPTH_MOST):
        deep = [deep]
    recorded(incoming("order.placed", event(data=deep)))
    recorded(incoming("order.placed", event(data=[{"a": []}] * DEPTH_MOST)))
    assert refused(incoming("order.placed", event(data={"a": deep}))).reason == "too_deep"


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_its_events_in_order_whatever_one_of_them_is() -> None:
    """Items are numbered by index; an unreadable one does not stop the others."""
    message = incoming("order.placed", [event(id="a", data=1), 5, event("order.paid"), event(id="d", data=4)])
    items = items_of(message)
    assert [(item.sequence, item.index, item.is_last) for item in items] == [(7, n, n == 3) for n in range(4)]
    assert [type(item.event) for item in items] == [InboxRecorded, InboxRefused, InboxRefused, InboxRecorded]
    wrong = [item.event for item in items[1:3]]
    assert [(one.sequence, one.index, one.reason) for one in wrong if isinstance(one, InboxRefused)] == [
        (7, 1, "unreadable"),
        (7, 2, "wrong_subject"),
    ]


def test_an_empty_batch_is_read_and_means_nothing() -> None:
    """An empty batch is still one item, so the position moves past it."""
    item = only(incoming("order.placed", b" [ ] "))
    assert (item.command, item.event) == (None, None)


def test_a_batch_has_a_limit() -> None:
    """A batch that is too large is refused as a whole, in one event."""
    assert len(items_of(incoming("order.placed", [event()] * MOST_EVENTS))) == MOST_EVENTS
    assert refused(incoming("order.placed", [event()] * (MOST_EVENTS + 1))).reason == "too_large"


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, Any, str, str]] = [
    ("order.placed", b"", "unreadable", "the message is not JSON"),
    ("order.placed", b"{", "unreadable", "the message is not JSON"),
    ("order.placed", b'"\xff"', "unreadable", "the message is not JSON"),
    ("order.placed", b"[" * 100_000, "unreadable", "the message is not JSON"),
    ("order.placed", b"1 2", "unreadable", "the message is not JSON"),
    ("order.placed", b"\xef\xbb\xbf{}", "unreadable", "the message is not JSON"),
    ("order.placed", [7], "unreadable", "the event is not a CloudEvent"),
    ("order.placed", event(id=...), "unreadable", "missing required field `id`"),
    ("order.placed", event(id=7), "unreadable", "Expected `str`, got `int` - at `$.id`"),
    ("order.placed", event(id=""), "bad_text", "id has 0 characters: use 1 to 256"),
    ("order.placed", event(id="\x1b[2J"), "bad_text", "holds control characters"),
    ("order.placed", event(source="x" * 257), "bad_text", "source has 257 characters"),
    ("order.placed", event(subject="\n"), "bad_text", "subject '\\n' holds control characters"),
    ("order.placed", event(specversion="0.3"), "unreadable", "specversion '0.3' is not supported: use '1.0'"),
    (
        "order.placed",
        event("task.submitted"),
        "wrong_subject",
        "'task.submitted' was published on the subject of 'order.placed'",
    ),
    ("order.placed", event(time="yesterday"), "bad_time", "time 'yesterday' is not RFC 3339"),
    ("order.placed", event(time="2026-11-23T17:15:00"), "bad_time", "is not RFC 3339 with an offset"),
    ("order.placed", event(data_base64="AA=="), "bad_data", "data_base64 is not supported"),
    ("order.placed", event(tenant="a.*"), "bad_id", "tenant 'a.*' is not an identifier"),
    ("order.placed", event(traceparent="x" * 65), "bad_request", "the format of W3C Trace Context"),
    ("order.placed", event(data="x" * DATA_BYTES_MOST), "too_large", f"at most {DATA_BYTES_MOST} are allowed"),
    (
        "order.placed",
        b'{"specversion":"1.0","id":"1","source":"s","type":"order.placed","data":"\xff"}',
        "unreadable",
        "data is not JSON",
    ),
    (
        "order.placed",
        b'{"specversion":"1.0","id":"1","source":"s","type":"order.placed","data":1e999}',
        "unreadable",
        "data is not JSON",
    ),
    ("order.pla*ced", {}, "bad_id", "event (in the subject) 'pla*ced' is not an identifier"),
    ("or der.placed", {}, "bad_id", "kind (in the subject) 'or der' is not an identifier"),
    ("task.submited", {}, "unknown_type", "did you mean 'task.submitted'?"),
    ("inbox.read", {}, "unknown_type", "is not a command of the coordinator: use one of container.destroy_requested"),
    ("task.completed", {}, "bad_data", "data.task_id is missing: name there, or in subject"),
    ("task.completed", b"7", "bad_request", "data is 7: expected `object`, got `int`"),
    ("task.completed", {"task_id": 7}, "bad_request", "task_id is 7: expected `str`, got `int`"),
    ("task.completed", {"task_id": "t", "lease_": "x"}, "bad_request", "an unknown field 'lease_': did you"),
    (
        "task.completed",
        event("task.completed", subject="t", data={"task_id": "u"}),
        "bad_data",
        "subject 't' and data.task_id 'u' differ",
    ),
    (
        "task.submitted",
        {"task_name": "n", "resources": {"cpu": "2"}},
        "bad_request",
        "resources has an unknown field 'cpu'",
    ),
]


@pytest.mark.parametrize(("type_", "body", "reason", "says"), REFUSED)
def test_what_is_wrong_is_refused_with_what_would_be_right(type_: str, body: Any, reason: str, says: str) -> None:
    """The refusal has the position and the beginning of the message, and can be encoded."""
    message = incoming(type_, body)
    error = refused(message)
    assert (error.reason, error.domain, error.sequence, error.index) == (reason, "execution", 7, 0)
    assert says in error.message
    came = b"7" if body == [7] else message.body  # of a batch, the event alone
    assert error.digest == sha256(came).hexdigest()
    check_writable(error)


def check_writable(error: InboxRefused) -> None:
    """Check that a refusal is small, printable, and unchanged after reading it from the journal."""
    shown = (error.begins, error.type, error.event_id)
    assert all(text.isprintable() for text in shown)
    assert len(error.message) <= MESSAGE_CHARS_MOST + 50
    assert max(map(len, shown)) <= 4 * 80
    envelope = codec.envelope(error, position="1.0", time="2026-11-23T17:15:00Z", source="/c")
    assert codec.decode(codec.join([codec.encode(envelope)])) == [envelope]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"ce_id": "1"}, b"{}"),
        ({"ce_id": "1", "ce_data": "x", "ce_source": "s", "ce_specversion": "1.0"}, b"{}"),
        ({"ce_specversion": "1.0", "ce_id": "1", "ce_source": "s", "ce_type": "order.placed"}, b"not JSON"),
    ],
)
def test_binary_mode_wants_all_attributes_and_json(headers: dict[str, str], body: bytes) -> None:
    """A message with `ce-` headers must be a complete CloudEvent."""
    error = refused(incoming("order.placed", body, headers))
    assert error.reason == "unreadable"
    assert "has ce- headers but is not a CloudEvent" in error.message


def test_names_too_long_to_show_are_left_out() -> None:
    """Neither the subject nor the event's id may fill the journal."""
    error = refused(incoming("order." + "x" * 300, event(id="y" * 300)))
    assert (error.type, error.event_id) == ("", "")
    error = refused(incoming("order.placed", event(id="\x00")))
    assert (error.type, error.event_id) == ("order.placed", "")
    assert refused(incoming("a\x07.b", {})).type == ""


def test_an_order_that_is_refused_later_says_which_it_was() -> None:
    """A refusal by the decider gives the same event."""
    item = only(incoming("task.completed", event("task.completed", id="e9", subject="t")))
    error = refusal("execution", item, NotFound("task 't' not found"))
    assert (error.reason, error.type, error.event_id) == ("not_found", "task.completed", "e9")
    check_writable(error)


def test_every_kind_of_ours_is_ours() -> None:
    """No other domain can record a fact that looks like an event of this journal."""
    assert {name.partition(".")[0] for name in codec.EVENTS} == KINDS
    assert {name.partition(".")[0] for name in COMMAND_OF_EVENT} <= KINDS


@given(
    body=st.one_of(
        st.binary(max_size=60),
        st.recursive(st.none() | st.text(max_size=4) | st.floats(allow_nan=False), st.lists, max_leaves=5).map(
            msgspec.json.encode
        ),
        st.dictionaries(
            st.sampled_from(["specversion", "id", "source", "type", "subject", "data", "task_id", "tenant", "time"]),
            st.sampled_from(["1.0", "task.completed", "t", "", None, 7, {}, {"task_id": "t"}, []]),
        ).map(msgspec.json.encode),
    ),
    kind=st.sampled_from(["task", "order", "*", ""]),
    headers=st.dictionaries(st.sampled_from(["ce-id", "Nats-Msg-Id", "ce-type", "x"]), st.text(max_size=5), max_size=2),
)
def test_nothing_makes_it_raise(body: bytes, kind: str, headers: dict[str, str]) -> None:
    """Any input gives at least one item, numbered without gaps, and every refusal can be encoded."""
    message = Incoming(domain="d", kind=kind, event="completed", sequence=3, body=body, headers=headers)
    items = items_of(message)
    assert [item.index for item in items] == list(range(len(items)))
    assert [item.is_last for item in items] == [False] * (len(items) - 1) + [True]
    for item in items:
        if isinstance(item.event, InboxRefused):
            check_writable(item.event)
