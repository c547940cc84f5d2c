"""
The writer's turn: the only place where commands become events.

    1 take the waiting commands   4 place ready tasks with waiting claims
    2 answer questions            5 append events for what is due
    3 decide each command         6 commit all events as one message      7 answer

The next turn starts when the commit is acknowledged; it takes all commands that arrived until then, so load makes
batches larger and a single command waits for one fsync. Nothing is answered before its commit is acknowledged.
Questions have a budget of time and bytes; those that exceed it wait for the next turn, a long list goes on in the next
turn, and commands never wait for them. There is no `await` between reading the world and folding the decided events.
Only `journal.commit` writes; only this file calls it.
"""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from coordinator.clock import CommitClock
from coordinator.commands.acting import ids_of
from coordinator.commands.caller import COORDINATOR, Caller
from coordinator.commands.container import CreateContainer
from coordinator.commands.node import SyncNode
from coordinator.commands.plain_secrets import warning_of
from coordinator.commands.service import ReportCheck, ReportNotChecked
from coordinator.commands.task import ClaimTasks, WithdrawClaim
from coordinator.commands.wire import DoesNotFit, ask_again, encode_value, untold
from coordinator.commands.worker import DrainWorker, RegisterWorker
from coordinator.deciders.deadlines import Deadlines
from coordinator.deciders.dependencies import ToLook
from coordinator.deciders.dispatch import answer, decide
from coordinator.deciders.due import due
from coordinator.deciders.queue import policy_by_settings
from coordinator.deciders.rules import DecisionContext, Limits
from coordinator.deciders.signs import SIGNS_OF_LIFE, Signs
from coordinator.engine.budget import DISCOVERY_S, Budget, Share
from coordinator.engine.custom_policy import NOT_ASKED, Choice, CustomPolicy
from coordinator.engine.hints import Hints
from coordinator.engine.inboxes import InboxTurns
from coordinator.engine.intake import Asked, Intake, typed
from coordinator.engine.listening import Listening
from coordinator.engine.long_answer import LongAnswer, no_room
from coordinator.engine.questions import ask
from coordinator.engine.refusals import Refusals, facts_besides
from coordinator.engine.turn import FoldFailed, Turn, TurnFull
from coordinator.engine.unfit_tasks import UnfitTasks
from coordinator.engine.waiting_claims import SchedulingWorker
from coordinator.engine.waiting_questions import Waiting
from coordinator.journal.slots import Epoch
from coordinator.placement.blockages import Blockages
from coordinator.placement.estimates import Estimates
from coordinator.placement.explain import sample
from coordinator.security.gatekeeper import Access
from coordinator.task_groups import task_group
from events.coordinator import CoordinatorStarted, CoordinatorStopped
from events.errors import CoordinationError, Refused, Unavailable
from events.task import TaskSubmitted

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from coordinator.clock import Clock
    from coordinator.deciders.rules import Rules
    from coordinator.engine.hints import Notify
    from coordinator.engine.waiting_claims import Placement
    from coordinator.journal.slots import Journal
    from coordinator.security.authorization import AccessRules
    from events.base import Event
    from projections.world import World

log = structlog.get_logger(__name__)

CROWDED_PAUSE_S = 0.001
"""The pause before the next turn while answers wait for the network, if only questions are left."""

READ_STEPS = 3
"""Iterations of the event loop that a message needs from the socket to the intake."""
READ_S = 0.002
"""For so long what comes in is read before the next turn: behind giant requests there may be those of others."""

SYNC_SHARE = 4
"""The part of a turn that the events of one report of a node may fill; the rest is decided from its next report."""

BLOCKAGES_S = 0.002
"""For so long at most a tick looks why tasks wait; with very many shapes the next ones go on."""

_WITHDRAWS: tuple[Any, ...] = (WithdrawClaim, DrainWorker)


class Engine:
    """Leads from the moment its epoch is claimed until it is cancelled or deposed."""

    def __init__(
        self,
        *,
        world: World,
        journal: Journal,
        rules: Rules,
        clock: Clock,
        instance: str,
        version: str,
        limits: Limits | None = None,
        is_fresh: Callable[[], bool] = lambda: True,
        is_over: Callable[[], bool] = lambda: False,
        is_crowded: Callable[[], bool] = lambda: False,
        notify: Notify = lambda *_: None,
        access: AccessRules | None = None,
        spoiled: Container[str] = (),
    ) -> None:
        self.world = world
        self.signs = Signs()
        self.rules = rules
        self.epoch = Epoch(world.generation, world.epoch)
        self.committed = world.position
        self.turns = 0
        self._journal = journal
        self._clock = clock
        self._commit_clock = CommitClock(clock, world.time)
        self._instance, self._version = instance, version
        self._limits = limits if limits is not None else Limits()
        self._is_fresh = is_fresh
        self._is_over = is_over
        self._is_crowded = is_crowded
        self.intake = Intake(self._limits.intake_max, clock)
        most, wait_max_s = self._limits.waiting_max, self._limits.wait_max_s
        self._scheduling = SchedulingWorker(world, self.signs, rules, instance=instance, most=most)
        self._custom = CustomPolicy(world, self._scheduling, rules) if rules.custom_policy else None
        self._choice: Choice | None = NOT_ASKED
        self._refusals = Refusals(instance)
        self._access = None if access is None else Access(access, world)
        self.inboxes = InboxTurns(world, self._decide_from_inbox, self.intake.wake, self._limits, spoiled)
        self._budget, self._discovery = Budget(clock), Share(clock)
        again = self.intake.put_back
        self._waiting = Waiting(world, most=most, wait_max_s=wait_max_s, ask_again=again, budget=self._budget)
        self._long: LongAnswer | None = None
        self._hints = Hints(world, self.signs, self._waiting, notify)
        self._deadlines, self._blockages, self._estimates = Deadlines(world), Blockages(world), Estimates()
        self._to_look, self._unfit = ToLook(world), UnfitTasks(world)
        self._next_tick = self._heard = 0.0
        self._resigning = ""
        self.listening = Listening(
            world,
            self.signs,
            put=self.put,
            wake=self.intake.wake,
            clock=clock,
            commit_time=self._commit_clock.now,
            limits=self._limits,
            instance=instance,
            is_fresh=is_fresh,
            notify=notify,
        )

    async def run(self) -> None:
        """
        Lead until `resign` is called.

        Raises:
            Deposed: another instance leads now; this world must not be used any more.
            FoldFailed: this world must not be used any more; start with a new one.
            Corrupt: the journal was changed, or lost records.
        """
        if self._custom is None:
            await self._lead()
            return
        async with task_group() as tasks:
            self._custom.begin(tasks)
            await self._lead()

    async def _lead(self) -> None:
        self.listening.begin()
        limits = self._limits
        try:
            began = CoordinatorStarted(
                instance=self._instance,
                version=self._version,
                retention_s=limits.retention_s,
                ended_kept=limits.ended_kept,
            )
            await self._turn([began, *policy_by_settings(self.world, self.rules)])
            while not self._resigning:
                await self.intake.wait()
                if self._custom is not None:
                    self._choice = await self._custom.choose(self._clock.heard())
                if self._is_over():  # after a long standstill: another instance may claim the epoch at any moment
                    raise _not_leading()
                committed = await self._turn()
                if self._long is not None or self.intake.has_questions or (not committed and self.intake.has_commands):
                    await self._let_others_run()
            self.listening.end()
            self._choice = NOT_ASKED
            await self._turn([CoordinatorStopped(instance=self._instance, reason=self._resigning)])
        finally:
            if self._custom is not None:
                await self._custom.stop()
            self._stop(
                Unavailable("this instance does not lead any more: send the command again", reason="not_leading")
            )

    async def _let_others_run(self) -> None:
        """Let commands come in before the next turn: one of questions, or of what is refused, waits for nothing."""
        if self._is_crowded():
            await asyncio.sleep(CROWDED_PAUSE_S)
            return
        ends_at, idle, last = self._clock.heard() + READ_S, 0, self.intake.arrivals
        while idle < READ_STEPS:
            await asyncio.sleep(0)
            idle, before, last = idle + 1, last, self.intake.arrivals
            if last != before and self._clock.heard() < ends_at:
                idle = 0

    def resign(self, reason: str) -> None:
        """Stop leading: `run` ends after a last commit that records *reason*."""
        self._resigning = reason
        self.intake.wake()

    def put(self, asked: Asked) -> None:
        """Queue a command from a door; its reply is called when it is decided and committed, or refused."""
        if self.is_leading():
            self.intake.put(asked)
        else:
            asked.reply(None, _not_leading())

    def is_leading(self) -> bool:
        """Return whether commands are taken now: until the event loop runs something else, they may go to `intake`."""
        return self.listening.is_on and not self._is_over()

    async def execute(self, command: Any, caller: Caller) -> Any:
        """
        Execute a command or question from inside this process and return its answer.

        Raises:
            CoordinationError: it was refused.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.put(Asked(typed(command), caller, partial(_settle, future)))
        try:
            return await future
        except asyncio.CancelledError:
            if isinstance(command, ClaimTasks):  # nobody would run the tasks that it gets
                back = WithdrawClaim(claim_id=command.claim_id, worker_id=command.worker_id)
                self.put(Asked(back, caller, lambda *_: None))
            raise
        finally:
            del future  # its error refers to this frame: together they would be left to the garbage collector

    def ask_now(self, question: Any, caller: Caller | None = None) -> Any:
        """Answer a discovery question at once, from the current world; *caller* is None in this process."""
        if self._is_over():  # after a long standstill another instance may have led since
            raise _not_leading()
        if self._access is not None and caller is not None:
            self._check_now(question, caller)
        value = ask(self.world, self.signs, question, self._clock.heard(), self.rules)
        return list(value) if isinstance(value, Iterator) else value

    def discover(self, asked: Asked) -> None:
        """Answer a discovery question at once if their share of the time allows it, else in the next turn."""
        if self._long is not None or self._discovery.is_spent or self._is_crowded():
            self.put(asked)
            return
        began = self._clock.heard()
        try:
            if self._is_over():
                raise _not_leading()
            if self._access is not None:
                self._check_now(asked.command, asked.caller)
            value = self._value(asked, began, began + DISCOVERY_S)
        except CoordinationError as error:
            asked.reply(None, error)
        else:
            if value is not _GOES_ON:
                asked.reply(value, None)
        self._discovery.note_time(self._clock.heard() - began)

    def _check_now(self, question: Any, caller: Caller) -> None:
        """Check a question that is answered outside a turn; its refusal is recorded with the next tick."""
        assert self._access is not None
        try:
            self._access.check(caller, question)
        except CoordinationError as error:
            self._refusals.note(caller, question, error)
            raise

    # --- the turn -----------------------------------------------------------------------------------------------------

    async def _turn(self, about_itself: Sequence[Event] = ()) -> bool:
        """Take one turn; return whether it committed something."""
        turn = self._open_turn()
        try:
            is_collecting = gc.isenabled()
            gc.disable()  # what a turn needs for itself goes at its end: to look through it takes longer than the turn
            try:
                self._decide_turn(turn, about_itself)
            finally:
                if is_collecting:
                    gc.enable()
            if turn.events:
                await self._commit(turn)
            elif turn.answers and not self._is_fresh():
                msg = "this instance does not know whether it still leads: ask again"
                turn.withhold(Unavailable(msg, retry_after_s=0.5))
        except BaseException:
            # It is not known here whether the commit was stored; the same command, sent again, gets the right answer.
            msg = "this instance stopped leading before the commit was acknowledged: send the command again"
            turn.withhold(Unavailable(msg))
            raise
        finally:
            turn.answer_all()
        now = self._clock.heard()
        self._hints.tell(now)
        self.intake.note_turn(now - self._heard)
        return bool(turn.events)

    def _decide_turn(self, turn: Turn, about_itself: Sequence[Event]) -> None:
        """Take up what waits, and append the events of this turn."""
        if self._resigning:
            self._record_refusals(turn)
        if about_itself:
            turn.record(about_itself, COORDINATOR, are_apart=True)
        self._take(turn)
        looked = self._unblock(turn)
        if not self.intake.has_commands:
            self.signs.taken = self._heard
        self._place(turn)
        self._record_refusals(turn)
        self._record_due(turn)
        self._unblock(turn, looked)
        self.inboxes.close(turn)

    def _turn_id(self) -> str:
        return f"{self.epoch.generation}-{self.epoch.sequence}-{self.turns}"

    def _open_turn(self) -> Turn:
        self.turns += 1
        self._heard = self._clock.heard()
        turn = Turn(self.world, now=self._commit_clock.now(), bytes_max=self._limits.turn_bytes)
        self.world.indexes.advance(turn.now)
        self._budget.refill()
        self.intake.refill()
        return turn

    def _take(self, turn: Turn) -> None:
        if self._long is not None:
            if self._is_crowded():
                self.intake.wake()
            else:
                self._take_question(turn, self._long.asked)
        self._take_commands(turn)
        while (asked := self._next_question()) is not None:
            if not self._take_question(turn, asked):
                return

    def _take_commands(self, turn: Turn) -> None:
        """Take commands, and before each the questions that came before it."""
        self.inboxes.take_share(turn)
        questions = self.intake.by_source
        for _ in range(self._limits.turn_commands):
            while questions and (question := self._next_question(is_ordered=True)) is not None:
                if not self._take_question(turn, question):
                    return
            # Half of a turn is reserved for placements and due events: a flood of commands must not stop them.
            asked = self.intake.take() if turn.room > self._limits.turn_bytes // 2 else None
            if asked is None:
                self.inboxes.take_rest(turn)
                return
            if not self._take_one(turn, asked):
                self.inboxes.stand_back()
                return

    def _next_question(self, *, is_ordered: bool = False) -> Asked | None:
        """Return a question, if there is one and the turn has something left for it; there always is for the first."""
        intake = self.intake
        if not intake.has_questions or self._long is not None or self._budget.is_spent or self._is_crowded():
            return None
        return intake.take_question(is_ordered=is_ordered)

    def _take_question(self, turn: Turn, asked: Asked) -> bool:
        began = self._clock.heard()
        is_taken = self._take_one(turn, asked)
        self._budget.note_time(self._clock.heard() - began)
        return is_taken

    def _take_one(self, turn: Turn, asked: Asked) -> bool:
        """Take up a command or question; return False if it did not fit into the turn and was put back."""
        before = len(turn.events)
        try:
            try:
                self._take_up(turn, asked)
            except FoldFailed:
                raise
            except CoordinationError as error:
                # The facts of a refusal are recorded; if they do not fit, the command waits for the next turn.
                turn.record(facts_besides(error), asked.caller)
                self._refusals.note(asked.caller, asked.command, error)
                turn.answers.append((asked, None, error))
        except TurnFull:
            self.intake.put_back(asked)
            return False
        except Exception as error:  # one command must never stop the writer: log it and tell its caller
            told: CoordinationError = Refused(f"the coordinator failed on this command: {error}", reason="internal")
            if isinstance(error, FoldFailed):  # the next writer must refuse this command
                asked.reply(None, told)
                error.culprit = f"{asked.caller.actor} {asked.caller.command_id}"
                raise
            ids = ids_of(asked.caller.tenant, asked.caller.traceparent)
            log.exception("command_crashed", command=type(asked.command).__name__, actor=asked.caller.actor, **ids)
            if len(turn.events) > before:  # what was decided was not refused
                told = untold(asked.command, f"could not be made: {error}", "internal")
            turn.answers.append((asked, None, told))
        return True

    def _take_up(self, turn: Turn, asked: Asked) -> None:
        if self._long is not None and asked is self._long.asked:
            self._show(turn, asked, self._go_on(self._long, self._budget.ends_at))
            return
        found = None if self._access is None else self._access.check(asked.caller, asked.command)
        if self._access is not None and found is not None:
            self._access.meter(asked.command, found, turn.now)
        if asked.command.IS_QUESTION:
            self._answer_question(turn, asked)
            return
        try:
            self._decide(turn, asked)
        except TurnFull:  # it comes again with the next turn
            if self._access is not None and found is not None:
                self._access.give_back(asked.command, found)
            raise

    def _answer_question(self, turn: Turn, asked: Asked) -> None:
        """Answer from the world; events of this turn are committed before the answer is sent."""
        self._show(turn, asked, self._value(asked, self._heard, self._budget.ends_at))

    def _show(self, turn: Turn, asked: Asked, value: Any) -> None:
        if value is _WAITS:
            self._waiting.add(asked)
        elif value is not _GOES_ON:
            turn.answers.append((asked, value, None))

    def _value(self, asked: Asked, heard_now: float, ends_at: float) -> Any:
        """
        Return the answer to a question, encoded if it leaves this process; `_WAITS` if the question has to wait.

        If it is a list that is not complete by *ends_at*, return `_GOES_ON`: the turns that follow go on with it.

        Raises:
            CoordinationError: as `ask`; or it does not fit into one message (`Refused`, `Unavailable`).
        """
        room = asked.room
        if room is not None and room.left() <= 0:
            raise ask_again()
        value = ask(self.world, self.signs, asked.command, heard_now, self.rules, asked.caller, self._estimates)
        if Waiting.must_wait(asked.command, value):
            return _WAITS
        if room is None:
            return list(value) if isinstance(value, Iterator) else value
        if isinstance(value, Iterator):
            return self._go_on(LongAnswer(asked, value, str(self.committed)), ends_at)
        left = room.left()
        try:
            encoded = encode_value(value, left)
        except DoesNotFit:
            self._budget.note_bytes(left)
            raise no_room(asked.command, room, left) from None
        self._budget.note_bytes(len(memoryview(encoded)))
        return encoded

    def _go_on(self, answer: LongAnswer, ends_at: float) -> Any:
        self._long = None
        value = answer.go_on(self._budget, lambda: self._clock.heard() >= ends_at)
        if value is not None:
            return value
        self._long = answer
        self.intake.wake()
        return _GOES_ON

    def _decide_from_inbox(self, turn: Turn, asked: Asked) -> None:
        """Decide a command of another domain; its inbox limits the rate, so it is not metered here."""
        if self._access is not None:
            self._access.check(asked.caller, asked.command)
        self._decide(turn, asked)

    def _decide(self, turn: Turn, asked: Asked) -> None:
        command: Any = asked.command
        caller, kind = asked.caller, type(command)
        if kind in SIGNS_OF_LIFE:
            command = self.signs.before(command, self._heard)
        replaced = self._registration(command.worker_id) if kind is RegisterWorker else ""
        commandid = caller.command_id if command.REMEMBERED else ""
        outcome = self.world.outcome_of(caller.actor, commandid) or b"" if commandid else b""
        again = bool(outcome)
        if outcome or kind in SIGNS_OF_LIFE:
            context = msgspec.structs.replace(
                turn.context_of(caller, self.rules),
                streak=self.signs.streak(command),
                outcome=outcome,
                silent_s=self.signs.silence(command, self._heard),
            )
        else:
            context = turn.context_of(caller, self.rules)
        if kind is SyncNode:
            context = self._sized(context, asked)
        if again:
            events: tuple[Event, ...] = ()
        else:
            events = decide(self.world, command, context)
        if events:
            turn.record(events, caller, commandid=commandid)
            self._hints.note(events, self._heard)
            if kind is CreateContainer and (warning := warning_of(command.environment)):
                log.warning("plain_secrets", container_id=command.container_id, actor=caller.actor, why=warning)
        if kind in SIGNS_OF_LIFE:
            self.signs.accepted(command, self._heard, turn.now, self.world)
        if kind is ReportCheck or kind is ReportNotChecked:
            self._hints.note_check(command.service_id, f"{self.epoch.generation}.{self.epoch.sequence}")
            self._deadlines.service_changed(command.service_id)
        if kind is ClaimTasks:
            self._claim(turn, asked, command)
            return
        if kind in _WITHDRAWS:
            self._scheduling.withdraw(command)
        elif replaced and replaced != self._registration(command.worker_id):
            self._scheduling.replace(command)
        if asked.wants_answer:
            told = answer(self.world, command, context, events, again=again)
            if kind is SyncNode:
                told = self.signs.after(command, told, self._turn_id)
            turn.answers.append((asked, told, None))

    def _sized(self, context: DecisionContext, asked: Asked) -> DecisionContext:
        """Return the context of a command whose events and answer are made as long as fits."""
        answer_bytes = context.answer_bytes if asked.room is None else asked.room.alone()
        return msgspec.structs.replace(
            context, answer_bytes=answer_bytes, events_bytes=self._limits.turn_bytes // SYNC_SHARE
        )

    def _registration(self, worker_id: str) -> str:
        worker = self.world.workers.get(worker_id)
        return "" if worker is None else worker.registration

    def _claim(self, turn: Turn, asked: Asked, command: ClaimTasks) -> None:
        claimed = self.world.indexes.claims.get(command.claim_id)
        if claimed is None:
            self._scheduling.add(asked)
            return
        turn.answers.append((asked, [self.world.tasks[task_id] for task_id in claimed], None))

    def _unblock(self, turn: Turn, since: int = 0) -> int:
        """Decide what the ends of tasks, from the event *since* on, mean for some of those that wait for them."""
        to_look = self._to_look
        if self.world.awaited or to_look:
            to_look.note(turn.events[since:])
            try:
                for event in to_look.due():
                    turn.record([event], COORDINATOR)
                    self._hints.note([event], self._heard)
                    to_look.note([event])
            except TurnFull:
                pass  # the next turn has room
        if to_look:
            self.intake.wake()
        return len(turn.events)

    def _place(self, turn: Turn) -> None:
        room = turn.room
        custom: dict[str, Any] = {} if self._custom is None else self._custom.terms(self._choice)
        placement = self._scheduling.place(turn.now, self._heard, room=room, **custom)
        while placement.started and not self._record_placement(turn, placement):
            room //= 2  # it is larger than was thought
            placement = self._scheduling.place(turn.now, self._heard, room=room, **custom)
        if self._custom is not None and self._waits_for_choice(turn):
            return
        if placement.is_full and turn.events:  # the next turn may place more: claims that do not wait are told then
            self.intake.wake()
            return
        turn.answers += [(asked, [], None) for asked in self._scheduling.answer_impatient()]

    def _waits_for_choice(self, turn: Turn) -> bool:
        """
        Return whether a custom policy has to choose among what came in this turn, before claims are told of nothing.

        What went wrong with it is recorded; what does not fit into the turn is told in the log only.
        """
        custom = self._custom
        assert custom is not None
        is_news = self._choice is NOT_ASKED or bool(turn.events) or custom.has_arrivals
        with suppress(TurnFull):
            for event in custom.take_events():
                turn.record([event], COORDINATOR)
        if is_news and custom.may_choose(self._heard):
            self.intake.wake()
            return True
        return False

    def _record_placement(self, turn: Turn, placement: Placement) -> bool:
        """Record a placement and answer its claims; return False if it does not fit into the turn."""
        try:
            turn.record((*placement.started, *placement.why), COORDINATOR, are_apart=True)
        except TurnFull:
            self._scheduling.forget_recorded()
            return False
        self._hints.note(placement.started, self._heard)
        turn.answers += [(asked, tasks, None) for asked, tasks in self._scheduling.answer_placed(placement.started)]
        return True

    def _record_refusals(self, turn: Turn) -> None:
        """Record what was refused; the last turn of a reign records all that is left."""
        try:
            for event, caller in self._refusals.due(math.inf if self._resigning else self._heard):
                turn.record([event], caller)
        except TurnFull:
            self.intake.wake()

    def _record_due(self, turn: Turn) -> None:
        heard_now, deadlines = self._heard, self._deadlines
        deadlines.note(turn.events)
        if heard_now < self._next_tick and not deadlines.owners and not self.world.indexes.cancels.is_due(turn.now):
            return
        self.listening.look(heard_now)
        self._next_tick = heard_now + self._limits.tick_s
        self.signs.forget(self.world)
        sample(self.world, self.signs, self.rules, heard_now, self._estimates)
        context = DecisionContext(turn.now, self.rules)
        try:
            for event in due(self.world, self.signs, context, heard_now, deadlines):
                if type(event) is TaskSubmitted:
                    self.intake.wake()  # the next turn places it
                if not self._refusals.is_news(event, self.world):
                    continue
                turn.record([event], COORDINATOR)
                self._refusals.recorded(event, self.world)
                self._hints.note([event], self._heard)
                deadlines.note([event])
            began = self._clock.heard()
            for event in self._blockages.due(
                self.signs, self.rules, heard_now, lambda: self._clock.heard() - began > BLOCKAGES_S
            ):
                turn.record([event], COORDINATOR)
                self._unfit.note(event, heard_now)
        except TurnFull:
            self._next_tick = 0.0
            self.intake.wake()

    async def _commit(self, turn: Turn) -> None:
        before, body = turn.seal()
        await self._journal.commit(turn.sequence, self.epoch, before, body)
        self.committed = self.world.position
        self.inboxes.settle()

    def _stop(self, error: Unavailable) -> None:
        self.listening.end()
        if self._long is not None:
            self._long.asked.reply(None, error)
            self._long = None
        for waiting in (self.intake, self._scheduling, self._waiting):
            waiting.refuse_all(error)


_WAITS = object()
"""Instead of the value of a question that waits."""
_GOES_ON = object()
"""Instead of the value of a question whose answer is in the making."""


def _settle(future: asyncio.Future[Any], value: Any, error: CoordinationError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        error.__traceback__ = error.__context__ = None  # the frames of the turn
        future.set_exception(error)


def _not_leading() -> Unavailable:
    return Unavailable("this instance does not lead: ask the leader", reason="not_leading", retry_after_s=0.2)
