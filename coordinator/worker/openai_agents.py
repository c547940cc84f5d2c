"""
Reports what runs of the OpenAI Agents SDK use, so that budgets are charged for them. Needs `pip install openai-agents`.

    @task("research")
    async def research(context: Context, question: str) -> str:
        result = await Runner.run(researcher, question, hooks=usage_hooks(context))
        return result.final_output

It reports after each call of a model, so little is lost with a worker that dies, and a budget can stop an agent that
uses more than its task said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from events.errors import Refused

if TYPE_CHECKING:
    from agents import Agent, ModelResponse, RunContextWrapper, RunHooks, Usage

    from coordinator.worker.handlers import Context


def tokens_of(usage: Usage) -> dict[str, int]:
    """Return the tokens of a call by kind, each once: the SDK's wholes contain those of the cache and of reasoning."""
    cached = min(usage.input_tokens_details.cached_tokens or 0, usage.input_tokens)
    reasoning = min(usage.output_tokens_details.reasoning_tokens or 0, usage.output_tokens)
    return {
        "input_tokens": usage.input_tokens - cached,
        "cached_tokens": cached,
        "output_tokens": usage.output_tokens - reasoning,
        "reasoning_tokens": reasoning,
    }


def usage_hooks(context: Context) -> RunHooks[Any]:
    """
    Return hooks for `Runner.run(…, hooks=…)` that report to *context* what each call of a model used.

    A lost lease, or a coordinator that refuses the report, ends the run with that error.

    Raises:
        Refused: the SDK is not installed.
    """
    try:
        from agents import RunHooks
    except ImportError as error:
        msg = f"the OpenAI Agents SDK cannot be imported ({error}): pip install openai-agents"
        raise Refused(msg, reason="no_module") from error

    class UsageHooks(RunHooks[Any]):
        """Reports each call; what it reports is that of the attempt, whichever agent of the run made the call."""

        async def on_llm_end(
            self, _context: RunContextWrapper[Any], _agent: Agent[Any], response: ModelResponse
        ) -> None:
            await context.report_usage(**tokens_of(response.usage))

    return UsageHooks()
