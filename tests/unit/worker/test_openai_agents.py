"""What runs of the OpenAI Agents SDK use is reported after each call: by its own runner, with a stub of a model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from agents import Agent, Model, ModelResponse, RunConfig, Runner, Usage, function_tool
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from coordinator.commands.task import ProgressTask
from coordinator.worker import Context
from coordinator.worker.openai_agents import tokens_of, usage_hooks
from events.errors import Refused, StaleLease
from events.task import TaskUsage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.commands.command import Command


def used(read: int, cached: int, written: int, reasoning: int) -> Usage:
    """Return a usage as the SDK has it: the parts are in the wholes."""
    return Usage(
        requests=1,
        input_tokens=read,
        output_tokens=written,
        total_tokens=read + written,
        input_tokens_details=InputTokensDetails.model_validate({"cached_tokens": cached, "cache_write_tokens": 0}),
        output_tokens_details=OutputTokensDetails(reasoning_tokens=reasoning),
    )


class Stub(Model):
    """Calls a tool first, and then answers."""

    def __init__(self) -> None:
        self._calls = [used(1000, 800, 60, 50), used(1100, 1000, 20, 0)]

    async def get_response(self, *_: Any, **__: Any) -> ModelResponse:
        usage = self._calls.pop(0)
        if self._calls:
            call = ResponseFunctionToolCall(arguments="{}", call_id="call_1", name="now", type="function_call")
            return ModelResponse(output=[call], usage=usage, response_id=None)
        text = ResponseOutputText(annotations=[], text="it is noon", type="output_text", logprobs=[])
        said = ResponseOutputMessage(id="m", content=[text], role="assistant", status="completed", type="message")
        return ModelResponse(output=[said], usage=usage, response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


@function_tool
def now() -> str:
    """Return the time."""
    return "12:00"


async def run(context: Context) -> str:
    agent = Agent(name="clock", model=Stub(), tools=[now])
    config = RunConfig(tracing_disabled=True)
    result = await Runner.run(agent, "what time is it?", hooks=usage_hooks(context), run_config=config)
    return str(result.final_output)


async def test_each_call_of_a_model_is_reported() -> None:
    """The sum is that of the attempt, no token is counted twice, and it goes with the outcome."""
    sent: list[Command[Any]] = []

    async def send(command: Command[Any]) -> None:
        sent.append(command)

    context = Context(task_id="t", lease="c.1.1", send=send)
    assert await run(context) == "it is noon"
    first = TaskUsage(input_tokens=200, cached_tokens=800, output_tokens=10, reasoning_tokens=50)
    both = TaskUsage(input_tokens=300, cached_tokens=1800, output_tokens=30, reasoning_tokens=50)
    assert sent == [ProgressTask(task_id="t", lease="c.1.1", usage=one) for one in (first, both)]
    assert context.usage == both


async def test_a_run_ends_when_its_attempt_is_no_longer_held() -> None:
    """Nobody pays for what nobody waits for."""

    async def send(_: Command[Any]) -> None:
        raise StaleLease

    with pytest.raises(StaleLease):
        await run(Context(task_id="t", lease="c.1.1", send=send))


def test_odd_usage_counts_as_little_as_it_can() -> None:
    """A provider may tell more of a part than of the whole, or nothing."""
    assert sum(tokens_of(used(10, 20, 5, 7)).values()) == 15
    assert sum(tokens_of(Usage()).values()) == 0


def test_without_the_sdk_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker itself does not need it."""
    monkeypatch.setitem(sys.modules, "agents", None)
    with pytest.raises(Refused, match="pip install openai-agents"):
        usage_hooks(Context(task_id="t"))
