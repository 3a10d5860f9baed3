"""The order board with many concurrent questions. No cluster."""

import asyncio
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from gaplab.launch.ray import orders as module
from gaplab.launch.ray.orders import OrderBoard, OrdersClient, OrdersControl
from gaplab.records import StepDone
from gaplab.states import TrialState
from gaplab.trial.control import Stop

STOP, OTHER = Stop(TrialState.CANCELLED, "somebody"), Stop(TrialState.INTERRUPTED, "somebody else")
ORDER, VERDICT, NODE = ("order", 1), ("verdict", 1, 3), ("leave", "ab12")


def run(scene: Any) -> Any:
    return asyncio.run(scene(OrderBoard()))


def test_questions_wait_for_their_answer_and_the_first_answer_stays() -> None:
    async def scene(board: OrderBoard) -> list[Any]:
        asking = [asyncio.create_task(board.ask(each)) for each in (ORDER, ORDER, VERDICT)]
        await asyncio.sleep(0)
        await board.put(ORDER, STOP)
        await board.put(ORDER, OTHER)
        await board.put(VERDICT, False)
        return [*[await each for each in asking], await board.ask(ORDER)]

    assert run(scene) == [(ORDER, STOP), (ORDER, STOP), (VERDICT, False), (ORDER, STOP)]


def test_the_first_answer_to_one_of_several_questions() -> None:
    async def scene(board: OrderBoard) -> list[Any]:
        asking = [asyncio.create_task(board.ask(("order", n), NODE)) for n in (1, 2)]
        await asyncio.sleep(0)
        await board.put(("order", 2), OTHER)
        first = await asking[1]
        await board.put(NODE, STOP)
        return [first, await asking[0], await board.ask(("order", 3), NODE)]

    assert run(scene) == [(("order", 2), OTHER), (NODE, STOP), (NODE, STOP)]


def test_a_question_without_an_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.01)
    assert run(lambda board: board.ask(ORDER, NODE)) == (None, None)


def test_an_attempt_that_has_ended_keeps_its_order_and_no_verdict() -> None:
    async def scene(board: OrderBoard) -> list[Any]:
        await board.put(ORDER, STOP)
        await board.put(VERDICT, True)
        asking = asyncio.create_task(board.ask(("verdict", 1, 4)))
        await asyncio.sleep(0)
        await board.forget(1)
        others = [await board.ask(each) for each in (ORDER, VERDICT, ("verdict", 1, 9))]
        return [await asking, *others]

    late = ("verdict", 1, 4), ("verdict", 1, 9)
    assert run(scene) == [(late[0], None), (ORDER, STOP), (VERDICT, None), (late[1], None)]


def test_an_attempt_that_has_ended_without_an_order_gets_none() -> None:
    async def scene(board: OrderBoard) -> list[Any]:
        asking = asyncio.create_task(board.ask(ORDER))
        await asyncio.sleep(0)
        await board.forget(1)
        return [await asking, await board.ask(ORDER)]

    assert run(scene) == [(ORDER, None), (ORDER, None)]


def test_the_last_step_of_every_running_attempt_is_kept() -> None:
    steps = [StepDone(f"t{n}", 1, step, 20, 1.5) for n in (1, 2) for step in (3, 4)]

    async def scene(board: OrderBoard) -> list[Any]:
        for attempt, each in zip((1, 1, 2, 2), steps, strict=True):
            await board.show(attempt, each)
        before = await board.steps()
        await board.forget(1)
        await board.show(1, steps[0])
        return [before, await board.steps()]

    assert run(scene) == [[steps[1], steps[3]], [steps[3]]]


STEP = StepDone("t1", 1, 3, 20, 1.5)


def test_steps_are_shown_while_the_context_is_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that doesn't come is left out."""
    answers: list[Any] = [ray.exceptions.GetTimeoutError(), [STEP]]
    found, seen = list[Sequence[StepDone]](), threading.Event()

    def get(answer: Any, timeout: float) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    def show(steps: Sequence[StepDone]) -> None:
        found.append(steps)
        seen.set()

    def remote() -> Any:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(module, "SHOWN", 0.0)
    client = object.__new__(OrdersClient)
    client._board = SimpleNamespace(steps=SimpleNamespace(remote=remote))
    with client.watched_steps(show):
        seen.wait()
    assert found[0] == [STEP]
    assert "gaplab-steps" not in {thread.name for thread in threading.enumerate()}


def test_a_trial_sends_a_step_at_most_once_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = list[Any]()
    clock: Any = SimpleNamespace(monotonic=lambda: clock.now, now=0.0)
    show = SimpleNamespace(remote=lambda *words: sent.append(words))
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(ray, "get_actor", lambda name: SimpleNamespace(show=show))
    control = OrdersControl("board", 7, judged=False)
    for clock.now in (0.0, 0.5, 1.0, 1.9, 2.5):
        control.report(STEP)
    assert sent == [(7, STEP)] * 3


@pytest.mark.parametrize("error", [ValueError("no such actor"), ray.exceptions.RaySystemError("")])
def test_a_step_that_nobody_receives_is_no_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def get_actor(name: str) -> Any:
        raise error

    monkeypatch.setattr(ray, "get_actor", get_actor)
    OrdersControl("board", 7, judged=False).report(STEP)
