"""The order board with many concurrent questions. No cluster."""

import asyncio
from typing import Any

import pytest

from gaplab.launch.ray import orders as module
from gaplab.launch.ray.orders import OrderBoard
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
