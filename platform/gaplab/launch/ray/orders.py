"""Orders from a driver to its running attempts, through a Ray actor.

Events of attempts reach the driver through Tune; orders to stop and the verdicts of a stopping rule
reach the attempts through an `OrderBoard`. The driver writes to it with an `OrdersClient`, each
process of an attempt reads from it with an `OrdersControl`.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from gaplab.records import EpochDone
from gaplab.trial.control import Stop

Question = tuple[Any, ...]
"""("order", attempt), ("leave", node) or ("verdict", attempt, epoch)."""
TIMEOUT = 30.0
"""Seconds after which a question without an answer is asked again."""


class OrderBoard:
    """An actor that holds orders by attempt or node, and verdicts by attempt and epoch.

    A question waits until it has an answer, or `TIMEOUT` seconds.
    """

    def __init__(self) -> None:
        self._answers: dict[Question, Any] = {}
        self._answered: defaultdict[Question, asyncio.Event] = defaultdict(asyncio.Event)
        self._ended: set[int] = set()

    async def put(self, question: Question, answer: Any) -> None:
        """Answer a question for everybody who asks it; a second answer is ignored."""
        self._answers.setdefault(question, answer)
        self._answered[question].set()

    async def ask(self, *questions: Question) -> tuple[Question | None, Any]:
        """Wait for an answer to one of `questions`.

        Returns:
            The first question that is answered and its answer, or (None, None) after a timeout.
            Questions about an attempt that has ended are answered at once, by None unless it had an
            order.
        """
        ended = [each for each in questions if each[1] in self._ended]
        found = ended or await self._first_answered(questions)
        return (found[0], self._answers.get(found[0])) if found else (None, None)

    async def forget(self, attempt: int) -> None:
        """End an attempt: answer its open questions and drop its verdicts."""
        self._ended.add(attempt)
        for question in [each for each in self._answered if each[1] == attempt]:
            if question[0] != "order":
                self._answers.pop(question, None)
            self._answered.pop(question).set()

    async def _first_answered(self, questions: Sequence[Question]) -> list[Question]:
        events = {each: self._answered[each] for each in questions}
        waiting = [asyncio.create_task(event.wait()) for event in events.values()]
        await asyncio.wait(waiting, timeout=TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return [each for each, event in events.items() if event.is_set()]


class OrdersClient:
    """The driver's side of an order board, see `scheduler.Orders`; starts the actor."""

    def __init__(self, name: str) -> None:
        self.name = name
        """Name of the actor."""
        self._board = (
            ray.remote(num_cpus=0, max_concurrency=10_000)(OrderBoard).options(name=name).remote()
        )

    def stop(self, attempt: int, stop: Stop) -> None:
        """Order an attempt to stop."""
        self._board.put.remote(("order", attempt), stop)

    def stop_node(self, node: str, stop: Stop) -> None:
        """Order all attempts on a node to stop."""
        self._board.put.remote(("leave", node), stop)

    def answer(self, attempt: int, epoch: int, may_continue: bool) -> None:
        """Answer whether an attempt may continue after an epoch."""
        self._board.put.remote(("verdict", attempt, epoch), may_continue)

    def forget(self, attempt: int) -> None:
        """Drop what was stored for an attempt that has ended."""
        self._board.forget.remote(attempt)


@dataclass
class OrdersControl:
    """An attempt's side of an order board, see `trial.control.Control`.

    Every process of an attempt has its own; a thread waits for orders.

    Attributes:
        board: name of the actor.
        attempt: id of the attempt.
        judged: whether the sweep has a stopping rule, so that verdicts must be waited for.
        leaving: whether an order said that the node of this process is about to be taken away.
    """

    board: str
    attempt: int
    judged: bool

    def __post_init__(self) -> None:
        self.leaving = False
        self._stop: Stop | None = None
        self._thread: threading.Thread | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the thread: each process starts its own."""
        return OrdersControl, (self.board, self.attempt, self.judged)

    def order(self) -> Stop | None:
        """Return the order to stop, if there is one."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._wait, daemon=True)
            self._thread.start()
        return self._stop

    def beat(self) -> None:
        """Do nothing."""

    def may_continue(self, done: EpochDone) -> bool:
        """Wait for the verdict after an epoch; True without a rule, or if the driver is lost."""
        if not self.judged:
            return True
        _, answer = self._ask(("verdict", self.attempt, done.epoch))
        return answer is None or bool(answer)

    def _wait(self) -> None:
        here = ("leave", ray.get_runtime_context().get_node_id())
        question, stop = self._ask(("order", self.attempt), here)
        self.leaving, self._stop = question == here, stop

    def _ask(self, *questions: Question) -> tuple[Question | None, Any]:
        """Wait for the first answer, however long; None if the actor or the attempt has ended."""
        try:
            board, question, answer = ray.get_actor(self.board), None, None
            while question is None:
                question, answer = ray.get(board.ask.remote(*questions))
        except (ray.exceptions.RayError, ValueError):
            return None, None
        return question, answer
