"""The new task that does a dead one again: its id, and its content."""

from __future__ import annotations

from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from coordinator.commands.requeue import requeued_id, submission_again
from coordinator.commands.task import SubmitTask
from events.ids import checked
from events.resources import Resources
from events.retry import RetryPolicy
from events.task import Gang, Payload, Prefer, TaskSubmitted

IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@given(task_id=IDS)
def test_each_task_that_does_one_again_has_an_id_of_its_own(task_id: str) -> None:
    """It follows from the one before, is a valid id, and none comes twice."""
    made = [task_id]
    for _ in range(12):
        before = made[-2] if len(made) > 1 else ""
        made.append(checked(requeued_id(made[-1], before)))
        assert made[-1] == requeued_id(made[-2], before)
    assert len({*made}) == len(made)


def test_ids_can_be_read() -> None:
    """They count how often a task was requeued; an id of the user's that only looks like one is kept whole."""
    assert requeued_id("job") == "job-r1"
    assert requeued_id("job-r1", "job") == "job-r2"
    assert requeued_id("job-r9", "job-r8") == "job-r10"
    assert requeued_id("job-r1") == "job-r1-r1"
    assert requeued_id("x" * 64) == f"{'x' * 46}-{crc32(b'x' * 64):08x}-r1"
    assert requeued_id("x" * 63 + "a") != requeued_id("x" * 63 + "b")


def test_the_content_is_that_of_the_submission() -> None:
    """All of it, but for the id, and for the idempotency key, which names the first task."""
    event = TaskSubmitted(
        task_id="t",
        task_name="n",
        task_type="x",
        priority=3,
        timeout_s=5.0,
        max_retries=7,
        resources=Resources(cpu_millis=500),
        payload=Payload(encoding="json", digest="0" * 64, data="1"),
        idempotency_key="k",
        program="p",
        traced=True,
        retry=RetryPolicy(factor=3.0),
    )
    again = submission_again(event)
    other = {name for name in SubmitTask.__struct_fields__ if getattr(again, name) != getattr(event, name)}
    assert other == {"task_id", "idempotency_key", "requeued_from"}
    assert (again.task_id, again.requeued_from, again.idempotency_key) == ("t-r1", "t", "")


def test_a_preference_is_repeated_unless_it_names_a_task() -> None:
    """That task may be forgotten by then."""
    for prefer, repeated in ((Prefer(filter="labels.x"), True), (Prefer(sticky_to="x"), False)):
        again = submission_again(TaskSubmitted(task_id="t", task_name="n", prefer=prefer))
        assert again.prefer == (prefer if repeated else None)


def test_a_task_waits_for_its_gang_again_if_that_did_not_begin() -> None:
    """One that ran goes on alone."""
    gang = Gang(gang_id="g", size=2, deadline_s=60.0)
    event = TaskSubmitted(task_id="t", task_name="n", gang=gang, gang_until=99.0)
    assert submission_again(event, has_begun=False).gang == gang
    assert submission_again(event).gang is None


def test_every_field_of_a_submission_is_repeated_or_left_out_on_purpose() -> None:
    """A field that a submission gets later is repeated too, if its event has it by the same name."""
    told = {*TaskSubmitted.__struct_fields__} - {"traced", "occurrence", "waits_for", "debounce", "prefers_worker"}
    told -= {"rule", "rule_filter", "gang_until"}
    assert {*SubmitTask.__struct_fields__} == told
