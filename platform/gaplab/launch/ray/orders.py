"""Orders from a driver to its running attempts, through a Ray actor.

Events of attempts reach the driver through Tune; orders to stop and the verdicts of a stopping rule
reach the attempts through an `OrderBoard`. The driver writes to it with an `OrdersClient`, each
process of an attempt reads from it with an `OrdersControl`. The steps of attempts, which are only
shown, take the same way back.
"""

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray

from gaplab.records import EpochDone, StepDone
from gaplab.trial.control import Stop

Question = tuple[Any, ...]
"""("order", attempt), ("leave", node) or ("verdict", attempt, epoch)."""
TIMEOUT = 30.0
"""Seconds after which a question without an answer is asked again."""
SHOWN = 1.0
"""Seconds between two steps of an attempt that are shown."""
SHOW_TIMEOUT = 5.0
"""Seconds to wait for the steps to show."""


class OrderBoard:
    """An actor that holds orders by attempt or node, and verdicts by attempt and epoch.

    A question waits until it has an answer, or `TIMEOUT` seconds.
    """

    def __init__(self) -> None:
        self._answers: dict[Question, Any] = {}
        self._answered: defaultdict[Question, asyncio.Event] = defaultdict(asyncio.Event)
        self._ended: set[int] = set()
        self._steps: dict[int, StepDone] = {}

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
        self._steps.pop(attempt, None)
        for question in [each for each in self._answered if each[1] == attempt]:
            if question[0] != "order":
                self._answers.pop(question, None)
            self._answered.pop(question).set()

    async def show(self, attempt: int, step: StepDone) -> None:
        """Store the last step of an attempt that has not ended."""
        if attempt not in self._ended:
            self._steps[attempt] = step

    async def steps(self) -> list[StepDone]:
        """Return the last step of every running attempt that has reported one."""
        return list(self._steps.values())

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

    @contextmanager
    def watched_steps(self, show: Callable[[Sequence[StepDone]], None]) -> Iterator[None]:
        """Call `show` with the last steps of running attempts once per second.

        It is called from a thread of its own while the context is entered. Steps that can't be read
        are left out: they are only shown.
        """
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(SHOWN):
                with suppress(ray.exceptions.RayError):
                    show(ray.get(self._board.steps.remote(), timeout=SHOW_TIMEOUT))

        thread = threading.Thread(target=run, name="gaplab-steps", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()  # `ray.get` after the shutdown of Ray would start another cluster


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
        self._reported = float("-inf")
        self._handle: Any = None

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

    def report(self, step: StepDone) -> None:
        """Send the step to the board, at most once per second; doesn't wait for it to arrive."""
        now = time.monotonic()
        if now - self._reported < SHOWN:
            return
        self._reported = now
        with suppress(ray.exceptions.RayError, ValueError):
            self._handle = self._handle or ray.get_actor(self.board)
            self._handle.show.remote(self.attempt, step)

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
