"""Measure stored measurements again: under other protocols, or to explain their gap."""

from collections.abc import Iterator, Sequence

from detectors.evaluation.diagnosis import diagnose
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import filter_candidates
from detectors.structures import Candidates
from gaplab.errors import UserError
from gaplab.ledger import Ledger, Reader
from gaplab.ledger.measurements import as_evaluation
from gaplab.ledger.views import EvaluationView, MeasurementView
from gaplab.results.candidates.explain import Explanation, ceiling
from gaplab.results.candidates.needs import is_complete
from gaplab.results.measurement.inputs import reopen
from gaplab.results.measurement.measure import keep, measure, served_by, shortcomings_of
from gaplab.spec.protocols import protocol_key
from gaplab.storage.filesystem import Storage


def split_names(
    ledger: Reader, names: Sequence[str]
) -> tuple[list[list[MeasurementView]], list[str]]:
    """Divide names into those of measurements and all others.

    Returns:
        The measurements of each name, one for each protocol; and the other names.

    Raises:
        UserError: a name means measurements of several detections.
    """
    found = {name: ledger.find_measurements(name) for name in dict.fromkeys(names)}
    by_id = {views[0].id: views for views in found.values() if views}
    return [*by_id.values()], [name for name, views in found.items() if not views]


def remeasure(
    ledger: Ledger,
    found: Sequence[Sequence[MeasurementView]],
    protocols: Sequence[Protocol],
    storage: Storage,
    *,
    fitting: bool = False,
) -> Iterator[EvaluationView]:
    """Measure detections under each protocol and write new measurements to the ledger.

    A measurement that the ledger already has is not repeated, unless it lacks a metric or the
    matches that an earlier release did not store. All detections are read and checked before the
    first one is measured.

    Args:
        ledger: an open ledger.
        found: measurements of each set of detections.
        protocols: the protocols.
        storage: where match files are written.
        fitting: leave out, for each set of detections, the protocols that it does not serve, if
            it serves any.

    Yields:
        The measurements as evaluations, new and old ones.

    Raises:
        UserError: files are missing or have changed, or lack what a protocol needs.
    """
    inputs, todos, problems = [], [], list[str]()
    for views in found:
        known = {each.protocol: each for each in views}
        todo = [
            each
            for each in protocols
            if (stored := known.get(protocol_key(each))) is None or not is_complete(stored, each)
        ]
        try:
            given = reopen(views[0]) if todo else None
            if given and fitting and (able := served_by([given], protocols)):
                todo = [each for each in todo if each in able]
            problems += shortcomings_of(given, todo, allow_suppressed=True) if given else []
        except UserError as error:
            problems += error.problems
            continue
        inputs.append(given)
        todos.append(todo)
    if problems:
        raise UserError(*problems)
    wanted = {protocol_key(each) for each in protocols}
    for views, given, todo in zip(found, inputs, todos, strict=True):
        if given is not None:
            for measured in measure(given, todo, allow_suppressed=True):
                keep(ledger, storage, measured, views[0].name, views[0].family)
        kept = ledger.find_measurements(views[0].id)
        yield from (as_evaluation(each) for each in kept if each.protocol in wanted)


def explain_measurement(view: MeasurementView, protocol: Protocol) -> Explanation:
    """Diagnose the NMS gap of stored detections.

    Raises:
        UserError: its files are missing or have changed, or lack what the protocol needs.
    """
    given = reopen(view)
    if problems := shortcomings_of(given, [protocol], allow_suppressed=True):
        raise UserError(*problems)
    truth = given.truth_for([protocol])
    chunks = given.detections.chunks()
    parts = [filter_candidates(chunk, protocol, truth.sizes) for chunk in chunks]
    return Explanation(
        trial=view.id,
        assignment=view.name,
        dataset=view.dataset,
        epoch=0,
        branch=view.family,
        protocol=protocol_key(protocol),
        training={},
        recall_ceiling=ceiling(truth, protocol),
        diagnosis=diagnose(Candidates.join(parts), truth, protocol, levels=given.detections.placed),
        truth=view.truth,
    )
