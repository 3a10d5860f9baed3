"""Read whole tables of the ledger: rows are fetched as they are used, all from one snapshot."""

from collections.abc import Iterator, Sequence
from itertools import chain

from sqlalchemy import Engine

from gaplab.ledger import queries
from gaplab.ledger.readonly import SqliteFile
from gaplab.ledger.retry import RetryPolicy
from gaplab.ledger.views import EpochLossesView, EvaluationView, PlainRow, TrialView

NO_RETRY = RetryPolicy()
_FETCHED = 1000  # rows in memory while a whole table is read
_PLAIN = 10_000  # the same for plain evaluations, which are small


class Streams:
    """What can be read from the ledger row by row. See `Reader` for the arguments."""

    def __init__(
        self, engine: Engine, retry: RetryPolicy = NO_RETRY, file: SqliteFile | None = None
    ) -> None:
        self._engine, self._retry, self._file = engine, retry, file

    def all_trials(self, sweep: str | None = None) -> Iterator[TrialView]:
        """Iterate over every trial by id, or over those of the sweep with this id in its order."""
        return map(queries.trial_view, self._rows(queries.all_trials(sweep)))

    def all_evaluations(
        self, sweep: str | None = None, truth: str | None = "", classes: bool = True
    ) -> Iterator[EvaluationView]:
        """Iterate over every evaluation, or over those of the trials of the sweep with this id.

        By trial, epoch, branch and protocol. `truth` as in `Reader.evaluations`. Without `classes`,
        the values of classes are not read.
        """
        query = queries.all_evaluations(sweep, truth, classes)
        return map(queries.evaluation_view, self._rows(query))

    def plain_evaluations(
        self, sweep: str | None = None, truth: str | None = ""
    ) -> Iterator[Sequence[PlainRow]]:
        """Iterate over parts of the evaluations that `all_evaluations` returns, as plain rows.

        A row has the values of `PLAIN_EVALUATION`: the columns of an evaluation without its classes
        and the rule of its protocol. Metrics without a column of their own are JSON text.
        """
        return self._parts(queries.plain_evaluations(sweep, truth), _PLAIN)

    def plain_classes(self, sweep: str | None = None) -> Iterator[Sequence[PlainRow]]:
        """Iterate over parts of the values of classes of all evaluations, as plain rows.

        A row has the key of an evaluation and JSON text: an array of its classes.
        """
        return self._parts(queries.plain_classes(sweep))

    def all_losses(
        self, sweep: str | None = None, trial: str | None = None
    ) -> Iterator[EpochLossesView]:
        """Iterate over losses and positives of every epoch, or of those of one sweep or trial.

        By trial and epoch.
        """
        return map(queries.losses_view, self._rows(queries.all_losses(sweep, trial)))

    def _rows(self, query: queries.Query) -> Iterator[queries.AnyRow]:
        return chain.from_iterable(self._parts(query))

    def _parts(
        self, query: queries.Query, size: int | None = None
    ) -> Iterator[Sequence[queries.AnyRow]]:
        engine = self._engine.execution_options(yield_per=size or _FETCHED)
        before = self._file.state if self._file else None
        # Only the start of a stream can be retried.
        connection = self._retry.run(engine.connect)
        with connection, connection.execute(query) as found:
            yield from found.partitions()
        if self._file and before:
            self._file.check_unchanged(before)
