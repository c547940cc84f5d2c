"""Handlers of every callable kind: each works, in a real worker, or is refused when its module is imported."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.payloads import payload_of, value_of
from coordinator.commands.task import GetTask, SubmitTask
from coordinator.guard import spawn
from coordinator.worker import load_handlers
from events.errors import Refused
from events.task import TaskStatus

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

PATIENCE_S = 30.0
START = """
import asyncio, contextlib, functools, types
from coordinator.worker import Context, task

def plain(function):
    "A decorator that knows nothing of coroutines."
    @functools.wraps(function)
    def inner(*given, **named):
        return function(*given, **named)
    return inner

def bare(function):
    "One without `functools.wraps`."
    def inner(*given, **named):
        return function(*given, **named)
    return inner

def fixed(function):
    "One that takes another number of arguments than what it wraps."
    @functools.wraps(function)
    def inner(payload):
        return function("db", payload)
    return inner

def bridge(function):
    "One that makes a coroutine function a plain one."
    @functools.wraps(function)
    def inner(payload):
        return asyncio.run(function(payload))
    return inner

async def add(payload):
    await asyncio.sleep(0)
    return payload + 1

def plus(payload):
    return payload + 1

async def add_for(context: Context, payload):
    assert context.task_id
    return await add(payload)

async def add_in(db, payload):
    assert db == "db"
    return await add(payload)

def numbers(payload):
    yield payload

async def numbers_later(payload):
    yield payload

class Async:
    async def __call__(self, payload):
        return await add(payload)
    async def method(self, payload):
        return await add(payload)
    @classmethod
    async def of_class(cls, payload):
        return await add(payload)
    @staticmethod
    async def of_nothing(payload):
        return await add(payload)

class Plain:
    def __call__(self, payload):
        return plus(payload)
    def method(self, context, payload):
        assert context.task_id
        return plus(payload)
    @classmethod
    def of_class(cls, payload):
        return plus(payload)

class Later:
    "Called it returns an awaitable, as callables of C do."
    def __call__(self, payload):
        return add(payload)

class Awaitable:
    def __init__(self, payload):
        self.payload = payload
    def __await__(self):
        return add(self.payload).__await__()

class Yields:
    def __call__(self, payload):
        yield payload

class YieldsLater:
    async def __call__(self, payload):
        yield payload

@types.coroutine
def of_generator(payload):
    yield from add(payload).__await__()
    return payload + 1

async def forgets(payload):
    return add(payload)

@functools.singledispatch
def dispatched(payload):
    raise TypeError(payload)

@dispatched.register
async def _(payload: int):
    return await add(payload)
"""

WORKS = {
    "async": "add",
    "sync": "plus",
    "with_context": "add_for",
    "lambda": "lambda payload: payload + 1",
    "lambda_of_async": "lambda payload: add(payload)",
    "lambda_with_context": "lambda context, payload: add_for(context, payload)",
    "partial": "functools.partial(add_in, 'db')",
    "partial_of_partial": "functools.partial(functools.partial(add_in, 'db'))",
    "partial_of_sync": "functools.partial(lambda by, payload: payload + by, 1)",
    "partial_of_object": "functools.partial(Async())",
    "partial_of_later": "functools.partial(Later())",
    "bound": "Async().method",
    "bound_sync": "Plain().method",
    "class_method": "Async.of_class",
    "class_method_sync": "Plain.of_class",
    "static_method": "Async.of_nothing",
    "static_object": "staticmethod(add)",
    "static_object_sync": "staticmethod(plus)",
    "object": "Async()",
    "object_sync": "Plain()",
    "object_later": "Later()",
    "decorated": "plain(add)",
    "decorated_sync": "plain(plus)",
    "decorated_twice": "plain(plain(add_for))",
    "decorated_object": "plain(Async())",
    "fixed": "fixed(add_in)",
    "bridge": "bridge(add)",
    "awaitable": "lambda payload: Awaitable(payload)",
    "of_generator": "of_generator",
    "forgets": "forgets",
    "cached": "functools.lru_cache(plus)",
    "dispatched": "dispatched",
    "builtin": "(1).__add__",
    "method_of_type": "int.__neg__",
}
RESULTS = {"method_of_type": -41}

REFUSED = {
    "generator": ("numbers", "is a generator"),
    "generator_later": ("numbers_later", "is a generator"),
    "partial_generator": ("functools.partial(numbers)", "is a generator"),
    "decorated_generator": ("plain(numbers)", "is a generator"),
    "context_manager": ("contextlib.contextmanager(numbers)", "is a generator"),
    "context_manager_later": ("contextlib.asynccontextmanager(numbers_later)", "is a generator"),
    "object_generator": ("Yields()", "is a generator"),
    "object_generator_later": ("YieldsLater()", "is a generator"),
    "partial_object_generator": ("functools.partial(Yields())", "is a generator"),
    "static_generator": ("staticmethod(numbers)", "is a generator"),
    "bare": ("bare(add)", "functools.wraps"),
    "class": ("Plain", "is a class"),
    "awaitable_class": ("Awaitable", "is a class"),
    "function_of_class": ("Plain.method", "self"),
    "function_of_class_with_one": ("Plain.__call__", "self"),
    "class_object": ("classmethod(plus)", "cannot be called"),
    "property": ("property(plus)", "cannot be called"),
    "coroutine": ("(lambda one: (one.close(), one)[1])(add(1))", "cannot be called"),
    "number": ("7", "cannot be called"),
    "nothing": ("None", "cannot be called"),
    "no_signature": ("max", "unknown arguments"),
    "keywords": ("lambda payload, *, more: 1", "takes"),
}


async def test_each_kind_of_callable_works(cluster: Cluster, tmp_path: Path) -> None:
    """Whether it is registered as a decorator would, or by a call whose result nobody keeps."""
    calls = "\n".join(f"task({name!r})({source})" for name, source in WORKS.items())
    (tmp_path / "kinds.py").write_text(f"{START}\n{calls}\n")
    argv = [
        *(sys.executable, "-W", "always", "-m", "coordinator.cli", "worker", "run", str(tmp_path / "kinds.py")),
        *("--nats", cluster.url),
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with (tmp_path / "log").open("wb") as log:
        worker = await spawn(argv, env=env, stdout=log, stderr=log)
    async with worker:
        for name in WORKS:
            command = SubmitTask(task_id=name, task_name=name, payload=payload_of(41), max_retries=0)
            await cluster.client.execute(command)
        asking = [cluster.client.execute(GetTask(task_id=name, wait_s=PATIENCE_S)) for name in WORKS]
        tasks = await asyncio.gather(*asking)
    wrong = {one.task_id: (one.status, one.error) for one in tasks if one.status is not TaskStatus.COMPLETED}
    assert not wrong, (tmp_path / "log").read_text()
    results: dict[str, Any] = {one.task_id: value_of(one.result) for one in tasks}
    assert results == dict.fromkeys(WORKS, 42) | RESULTS
    assert "never awaited" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("name", REFUSED)
def test_each_other_kind_is_refused_at_import(name: str, tmp_path: Path) -> None:
    """With its place, its task and the reason."""
    source, why = REFUSED[name]
    (tmp_path / "kinds.py").write_text(f"{START}\ntask({name!r})({source})\n")
    with pytest.raises(Refused, match=why) as caught:
        load_handlers(str(tmp_path / "kinds.py"))
    assert caught.value.reason == "bad_handler"
    assert repr(name) in caught.value.message
