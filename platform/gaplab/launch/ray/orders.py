"""The driver's desk: an actor where running trials find their orders and a stopping rule's verdict.

What trials say goes to the driver through Tune; what the driver says to them goes through here.
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
PATIENCE = 30.0
"""Seconds after which a question that has no answer yet is asked again."""


class Board:
    """Orders by attempt or node, and verdicts by attempt and epoch. Who asks, waits for the answer.

    A question is ("order", attempt), ("leave", node) or ("verdict", attempt, epoch).
    """

    def __init__(self) -> None:
        self._answers: dict[Question, Any] = {}
        self._given: defaultdict[Question, asyncio.Event] = defaultdict(asyncio.Event)
        self._over: set[int] = set()

    async def put(self, question: Question, answer: Any) -> None:
        """Answer a question, for all who ask; the first answer stays."""
        self._answers.setdefault(question, answer)
        self._given[question].set()

    async def ask(self, *questions: Question) -> tuple[Question | None, Any]:
        """The first of `questions` that has an answer, and the answer; (None, None) where there is
        none yet after a while.

        None answers whatever is asked about an attempt that is over.
        """
        over = [each for each in questions if each[1] in self._over]
        found = over or await self._first(questions)
        return (found[0], self._answers.get(found[0])) if found else (None, None)

    async def _first(self, questions: Sequence[Question]) -> list[Question]:
        """Those of `questions` that are answered first, within PATIENCE."""
        events = {each: self._given[each] for each in questions}
        waiting = [asyncio.create_task(event.wait()) for event in events.values()]
        await asyncio.wait(waiting, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return [each for each, event in events.items() if event.is_set()]

    async def forget(self, attempt: int) -> None:
        """The attempt is over: answer those who still ask, and keep no verdicts."""
        self._over.add(attempt)
        for question in [each for each in self._given if each[1] == attempt]:
            if question[0] != "order":
                self._answers.pop(question, None)
            self._given.pop(question).set()


class DeskClient:
    """The desk for the driver."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._desk = (
            ray.remote(num_cpus=0, max_concurrency=10_000)(Board).options(name=name).remote()
        )

    def order(self, attempt: int, stop: Stop) -> None:
        """Tell an attempt to stop."""
        self._desk.put.remote(("order", attempt), stop)

    def leave(self, node: str, stop: Stop) -> None:
        """Tell all attempts on a node to stop."""
        self._desk.put.remote(("leave", node), stop)

    def judge(self, attempt: int, epoch: int, go_on: bool) -> None:
        """The stopping rule's verdict on an attempt after an epoch."""
        self._desk.put.remote(("verdict", attempt, epoch), go_on)

    def forget(self, attempt: int) -> None:
        """The attempt is over."""
        self._desk.forget.remote(attempt)


@dataclass
class DeskControl:
    """The desk for a trial, see `trial.control.Control`; a thread of each rank waits for orders.

    judged: whether a stopping rule is asked at all. leaving: whether the node of this process is
    about to be taken away, as far as was heard.
    """

    desk: str
    attempt: int
    judged: bool

    def __post_init__(self) -> None:
        self.leaving = False
        self._stop: Stop | None = None
        self._waiting: threading.Thread | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Each process waits by itself."""
        return DeskControl, (self.desk, self.attempt, self.judged)

    def order(self) -> Stop | None:
        """What the driver ordered."""
        if self._waiting is None:
            self._waiting = threading.Thread(target=self._wait, daemon=True)
            self._waiting.start()
        return self._stop

    def beat(self) -> None:
        """Nothing to do."""

    def may_go_on(self, done: EpochDone) -> bool:
        """The driver's verdict; True where no rule is asked. A driver that is gone asks nobody."""
        if not self.judged:
            return True
        _, answer = self._ask(("verdict", self.attempt, done.epoch))
        return answer is None or bool(answer)

    def _wait(self) -> None:
        here = ("leave", ray.get_runtime_context().get_node_id())
        question, stop = self._ask(("order", self.attempt), here)
        self.leaving, self._stop = question == here, stop

    def _ask(self, *questions: Question) -> tuple[Question | None, Any]:
        """The first answer, however long it takes; None if the desk goes away or we are over."""
        try:
            desk, question, answer = ray.get_actor(self.desk), None, None
            while question is None:
                question, answer = ray.get(desk.ask.remote(*questions))
        except (ray.exceptions.RayError, ValueError):
            return None, None
        return question, answer
