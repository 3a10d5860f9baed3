"""The contract of `detectors.assigners.base`, for every assigner and its options."""

from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from detectors.assigners import ASSIGNERS, matching
from detectors.assigners.aligned_dual import TalMany, TalOne
from detectors.assigners.anchor import Anchor
from detectors.assigners.base import Assigner
from detectors.assigners.center import Center
from detectors.assigners.deta import Deta
from detectors.assigners.fcos import Fcos
from detectors.assigners.hybrid import Hybrid
from detectors.assigners.min_cost import MinCost
from detectors.assigners.min_cost_many import MinCostMany
from detectors.assigners.o2f import O2F
from detectors.assigners.o2m import O2M
from detectors.assigners.o2o import O2O
from detectors.assigners.poto import Poto
from detectors.assigners.retinanet import RetinaNetIou
from detectors.assigners.tal import Aligned
from detectors.models.points import pyramid_points
from detectors.structures import (
    Assignment,
    Points,
    Predictions,
    Progress,
    TargetBatch,
    Targets,
)
from detectors.synchronisations import count_synchronisations
from tests.detectors.entries import quick

STRIDES, CLASSES = (4, 8, 16), 3
PROGRESS = Progress(step=3, steps=12, epoch=1, epochs=4)


def named(*assigners: Assigner) -> dict[str, Assigner]:
    """Return assigners by a readable id: their name and the options that are not the default."""
    found = {}
    for each in assigners:
        options = each.model_dump(exclude_defaults=True)
        words = (f"{key}={value}" for key, value in options.items())
        found[" ".join([each.model_dump()["name"], *words])] = each
    return found


EXACT = named(
    *(entry() for entry in O2O.values()),
    Poto(alpha=0.3, prior="box"),
    Poto(prior="global"),
    Poto(combine="add", radius=1.0),
    Poto(prior="global", combine="add"),
    Center(range_factor=4.0),
    MinCost(location="anchors"),
    MinCost(location="points"),
    MinCost(location="points", classification=False, compat_level_bug=True, range_factor=4.0),
    MinCost(l1_of="center_sides", classification=False),
    MinCost(level_range=True),
    MinCost(location="points", level_range=False),
    Hybrid(rho=0.0),
)
"""One positive point per object, as long as there are enough points."""

GREEDY = named(
    Poto(solver="argmax"),
    Poto(solver="argmax", prior="global", combine="add"),
    Center(solver="argmax"),
    Anchor(solver="argmax"),
    MinCost(solver="argmin"),
    MinCost(solver="argmin", location="points"),
    TalOne(),
    TalOne(topk=7, grow_small=True),
)
"""At most one positive point per object."""

MANY = named(
    *(quick(entry) for entry in O2M.values()),
    MinCostMany(repeats=2, location="anchors"),
    Fcos(prior="box"),
    RetinaNetIou(low_quality=False),
    RetinaNetIou(low_quality_owner="own"),
    Deta(low_quality=False, threshold=0.3),
    Hybrid(rho=1.0),
    TalMany(grow_small=True),
)
"""Any number of positive points per object."""

FEW = named(
    O2F(),
    O2F(t_per="step"),
    O2F(prior="box", k=3, k_includes_certain=True),
    O2F(prior="global", combine="add", alpha=0.5),
    O2F(ambiguous_weight=0.4, t_max=0.9, t_min=0.0),
)
"""One certain point per object and a few ambiguous ones."""

OTHERS = named(Center(solver="per_level"))
"""At most one positive point per object and level."""
EVERY = {**EXACT, **GREEDY, **MANY, **FEW, **OTHERS}


def is_soft(assigner: Assigner) -> bool:
    """Return whether degrees are the quality of the predictions, at most their highest IoU."""
    return isinstance(assigner, Aligned)


def over(*cases: dict[str, Assigner]) -> pytest.MarkDecorator:
    """Run a test for each of these assigners."""
    found = {key: value for each in cases for key, value in each.items()}
    return pytest.mark.parametrize("assigner", found.values(), ids=list(found))


@dataclass(frozen=True)
class Scene:
    """The inputs of an assigner for one image."""

    points: Points
    predictions: Predictions
    targets: Targets

    def assign(self, assigner: Assigner, progress: Progress = PROGRESS) -> Assignment:
        return assigner.assign(self.points, self.predictions, self.targets, progress)


def scene(height: int, width: int, boxes: list[tuple[float, ...]], seed: int) -> Scene:
    """Make an image with objects of random classes at `boxes` and random predictions.

    With an odd `seed`, its right and lower part is padding.
    """
    sizes = [(-(-height // s), -(-width // s)) for s in STRIDES]
    points = pyramid_points(sizes, STRIDES, torch.device("cpu"))
    rng = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(len(points), CLASSES, generator=rng) - 2
    reach = 3 * torch.rand(len(points), 4, generator=rng) * points.stride[:, None]
    predicted = torch.cat([points.xy - reach[:, :2], points.xy + reach[:, 2:]], dim=1)
    labels = torch.randint(CLASSES, (len(boxes),), generator=rng)
    extent = (0.75 * width, 0.9 * height) if seed % 2 else None
    targets = Targets(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels, extent)
    return Scene(points, Predictions(logits, predicted), targets)


def crowd(count: int, seed: int = 0) -> list[tuple[float, ...]]:
    """Return `count` boxes of all sizes in an image of 32 x 32 pixels."""
    rng = torch.Generator().manual_seed(seed)
    corner = 24 * torch.rand(count, 2, generator=rng)
    far = corner + 0.5 + (31.5 - corner) * torch.rand(count, 2, generator=rng)
    return [tuple(box) for box in torch.cat([corner, far], dim=1).tolist()]


UNUSUAL_BOXES: dict[str, list[tuple[float, ...]]] = {
    "identical": [(3.0, 3.0, 20.0, 20.0)] * 5,
    "tiny between points": [(3.5, 3.5, 4.5, 4.5), (15.9, 15.9, 16.1, 16.1)],
    "touching the border": [(0.0, 0.0, 32.0, 32.0), (0.0, 30.0, 2.0, 32.0), (28.0, 0.0, 32.0, 4.0)],
    "partly outside": [(-20.0, -20.0, 8.0, 8.0), (30.0, 10.0, 70.0, 12.0)],
    "outside": [(100.0, 100.0, 110.0, 110.0)],
    "thin": [(0.0, 8.9, 32.0, 9.1)],
    "centred on a point": [(4.0, 4.0, 8.0, 8.0), (2.0, 2.0, 10.0, 10.0)],
    "without area": [(5.0, 5.0, 5.0, 9.0), (8.0, 8.0, 8.0, 8.0), (4.0, 4.0, 12.0, 12.0)],
}

half = st.integers(-8, 80).map(lambda n: n / 2)
side = st.integers(1, 80).map(lambda n: n / 2)
any_box = st.tuples(half, half, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
scenes = st.builds(
    scene,
    st.integers(1, 33),
    st.integers(1, 33),
    st.lists(any_box, max_size=12),
    st.integers(0, 99),
)
examples = settings(max_examples=12)


def degrees_of(assignment: Assignment, index: int) -> list[float]:
    """Return the degrees of the points that are assigned to an object."""
    degrees: list[float] = assignment.degree[assignment.object == index].tolist()
    return degrees


def check_form(found: Assignment, of: Scene) -> None:
    """Assert shapes, types and ranges as `structures.Assignment` defines them."""
    n, g = len(of.points), len(of.targets)
    assert found.object.shape == (n,)
    assert found.object.dtype == torch.int64
    assert found.degree.shape == (n,)
    assert found.degree.dtype == torch.float32
    assert not found.degree.requires_grad
    assert ((found.object >= -1) & (found.object < g)).all()
    assert ((found.degree >= 0) & (found.degree <= 1)).all()
    assert torch.equal(found.degree > 0, found.object >= 0)
    if found.weight is not None:
        assert found.weight.shape in ((n, CLASSES), (n, 1))
        assert found.weight.isfinite().all()
        assert (found.weight >= 0).all()
        assert not found.weight.requires_grad


def same(a: Assignment, b: Assignment) -> bool:
    if a.weight is None or b.weight is None:
        weights = a.weight is b.weight
    else:
        weights = torch.equal(a.weight, b.weight)
    return weights and torch.equal(a.object, b.object) and torch.equal(a.degree, b.degree)


def batch_of(scenes: list[Scene]) -> tuple[Points, Predictions, TargetBatch]:
    """Put scenes with the same points into a batch whose padding has boxes and labels, too."""
    predictions = Predictions(
        torch.stack([of.predictions.logits for of in scenes]),
        torch.stack([of.predictions.boxes for of in scenes]),
    )
    targets = TargetBatch.of([of.targets for of in scenes], torch.device("cpu"))
    padding = ~targets.real
    targets.boxes[padding] = scenes[0].points.anchors[-1]
    targets.labels[padding] = CLASSES - 1
    return scenes[0].points, predictions, targets


def tensors(of: Scene) -> list[Tensor]:
    p, t = of.points, of.targets
    points = [p.xy, p.stride, p.level, p.anchors]
    return [*points, of.predictions.logits, of.predictions.boxes, t.boxes, t.labels]


META, SCENE = torch.device("meta"), scene(32, 32, crowd(7), seed=7)


class CountOperators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators in a `with` block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.operators += 1
        return func(*args, **(kwargs or {}))


def to_meta(predictions: Predictions) -> Predictions:
    return Predictions(predictions.logits.to(META), predictions.boxes.to(META))


def unmatched(value_BGN: Tensor, targets: TargetBatch, solve: object) -> Assignment:
    """Stand for an exact matching, which is made on the host, one image after the other."""
    nobody = torch.zeros_like(value_BGN[:, 0], dtype=torch.int64) - 1
    return Assignment(nobody, (nobody >= 0).float())


@over(EVERY)
class TestEveryAssigner:
    @examples
    @given(of=scenes)
    def test_it_is_a_pure_function(self, assigner: Assigner, of: Scene) -> None:
        before, found = deepcopy(tensors(of)), of.assign(assigner)
        check_form(found, of)
        assert same(found, of.assign(deepcopy(assigner)))
        assert all(torch.equal(a, b) for a, b in zip(before, tensors(of), strict=True))

    def test_form_for_unusual_boxes(self, assigner: Assigner) -> None:
        for boxes in UNUSUAL_BOXES.values():
            of = scene(32, 32, boxes, seed=1)
            check_form(of.assign(assigner), of)

    def test_image_without_objects_is_all_negative(self, assigner: Assigner) -> None:
        for height, width in ((32, 32), (1, 1), (5, 33)):
            of = scene(height, width, [], seed=2)
            found = of.assign(assigner)
            check_form(found, of)
            assert (found.object == -1).all()

    def test_a_single_point_at_the_centre_of_an_object(self, assigner: Assigner) -> None:
        points = pyramid_points([(1, 1)], (8,), torch.device("cpu"), anchors=((0.5, 0.5),))
        predictions = Predictions(torch.zeros(1, CLASSES), torch.tensor([[1.0, 1.0, 7.0, 7.0]]))
        targets = Targets(torch.tensor([[2.0, 2.0, 6.0, 6.0]]), torch.tensor([1]))
        found = assigner.assign(points, predictions, targets, PROGRESS)
        assert found.object.tolist() == [0]
        expected = 16 / 36 if is_soft(assigner) else 1.0
        assert found.degree.tolist() == [pytest.approx(expected)]

    @pytest.mark.parametrize("counts", [(3, 0, 12, 1), (0, 0), (1, 1), (90, 2)])
    def test_an_image_has_the_same_assignment_in_any_batch(
        self, assigner: Assigner, counts: tuple[int, ...]
    ) -> None:
        scenes = [scene(33, 28, crowd(n, seed=i), seed=i) for i, n in enumerate(counts)]
        found = assigner.assign_batch(*batch_of(scenes), PROGRESS)
        for i, of in enumerate(scenes):
            weight = None if found.weight is None else found.weight[i]
            assert same(Assignment(found.object[i], found.degree[i], weight), of.assign(assigner))
        image, point = (found.object >= 0).nonzero(as_tuple=True)
        assert all(map(torch.equal, found.positives(), (image, point)))

    def test_waits_for_the_device_once_at_most(self, assigner: Assigner) -> None:
        """Only an exact matching does: it copies its matrix to the host."""
        batch = batch_of([scene(32, 32, crowd(n, seed=n), seed=n) for n in (7, 0, 3)])
        with count_synchronisations() as found:
            assigner.assign_batch(*batch, PROGRESS)
        exact = assigner in EXACT.values() or isinstance(assigner, MinCostMany)
        assert list(found) == (["cpu in matching.py: _assignment"] if exact else []), found
        assert found.total() == exact

    def test_does_not_loop_over_images(self, assigner: Assigner) -> None:
        """On a device, a batch of five images has as many operators as one of two."""
        counts = list[int]()
        for size in (2, 5):
            points, predictions, targets = batch_of([SCENE] * size)
            batch = points.to("meta"), to_meta(predictions), TargetBatch.of(targets.images, META)
            with mock.patch.object(matching, "_assignment", unmatched), CountOperators() as found:
                assigner.assign_batch(*batch, PROGRESS)
            counts.append(found.operators)
        assert counts[0] == counts[1] > 0

    def test_draws_no_random_numbers(self, assigner: Assigner) -> None:
        of, state = scene(32, 32, crowd(7), seed=3), torch.get_rng_state()
        of.assign(assigner)
        assert torch.equal(torch.get_rng_state(), state)

    def test_order_of_objects_does_not_matter(self, assigner: Assigner) -> None:
        """But to `own`: as in mmdetection, the last of several objects gets an anchor."""
        if getattr(assigner, "low_quality_owner", "") == "own":
            pytest.skip("depends on the order by definition")
        of, order = scene(32, 32, crowd(7), seed=4), torch.tensor([3, 0, 6, 1, 5, 2, 4])
        shuffled = Targets(of.targets.boxes[order], of.targets.labels[order])
        found = of.assign(assigner)
        again = Scene(of.points, of.predictions, shuffled).assign(assigner)
        original = torch.where(again.object >= 0, order[again.object.clamp(min=0)], -1)
        assert torch.equal(original, found.object)
        assert torch.equal(again.degree, found.degree)


@over(EXACT)
class TestOneToOne:
    @pytest.mark.parametrize("count", [0, 1, 2, 7, 84, 90])
    def test_each_object_has_one_point_as_long_as_there_are_enough(
        self, assigner: Assigner, count: int
    ) -> None:
        of = scene(32, 32, crowd(count), seed=5)
        assert len(of.points) == 64 + 16 + 4
        self.check(of.assign(assigner), of)

    @examples
    @given(of=scenes)
    def test_any_boxes(self, assigner: Assigner, of: Scene) -> None:
        self.check(of.assign(assigner), of)

    def test_unusual_boxes(self, assigner: Assigner) -> None:
        for boxes in UNUSUAL_BOXES.values():
            of = scene(32, 32, boxes, seed=6)
            self.check(of.assign(assigner), of)

    @staticmethod
    def check(found: Assignment, of: Scene) -> None:
        per_object = [degrees_of(found, g) for g in range(len(of.targets))]
        assert all(degrees in ([], [1.0]) for degrees in per_object)
        assert sum(map(len, per_object)) == min(len(of.targets), len(of.points))


@over(GREEDY)
class TestGreedyOneToOne:
    @examples
    @given(of=scenes)
    def test_an_object_has_a_point_or_none(self, assigner: Assigner, of: Scene) -> None:
        found = of.assign(assigner)
        for index in range(len(of.targets)):
            degrees = degrees_of(found, index)
            assert len(degrees) <= 1
            assert is_soft(assigner) or degrees in ([], [1.0])

    def test_one_of_several_identical_objects_has_the_point(self, assigner: Assigner) -> None:
        crowded = scene(32, 32, UNUSUAL_BOXES["identical"], seed=6)
        labels = torch.zeros_like(crowded.targets.labels)
        identical = Targets(crowded.targets.boxes, labels)
        of = Scene(crowded.points, crowded.predictions, identical)
        assert (of.assign(assigner).object >= 0).sum() == 1

    def test_objects_far_apart_have_one_each(self, assigner: Assigner) -> None:
        boxes: list[tuple[float, ...]] = [(0.0, 0.0, 9.0, 9.0), (22.0, 22.0, 32.0, 32.0)]
        of = scene(32, 32, boxes, seed=7)
        assert sorted(i for i in of.assign(assigner).object.tolist() if i >= 0) == [0, 1]


@over(MANY)
class TestOneToMany:
    @examples
    @given(of=scenes)
    def test_positives_are_certain_or_of_the_quality_of_the_prediction(
        self, assigner: Assigner, of: Scene
    ) -> None:
        found = of.assign(assigner)
        assert is_soft(assigner) or set(found.degree.tolist()) <= {0.0, 1.0}

    def test_an_object_has_several_points_or_softens_its_neighbours(
        self, assigner: Assigner
    ) -> None:
        of = scene(64, 64, [(0.0, 0.0, 64.0, 64.0)], seed=7)
        of.predictions.boxes[100:104] = of.targets.boxes + torch.arange(4)
        found = of.assign(assigner)
        softened = found.weight is not None and bool((found.weight < 1).any())
        assert len(degrees_of(found, 0)) > 1 or softened


@over(OTHERS)
def test_an_object_has_at_most_one_point_per_level(assigner: Assigner) -> None:
    of = scene(64, 64, crowd(12), seed=11)
    found = of.assign(assigner)
    own = [of.points.level[found.object == index].tolist() for index in range(12)]
    assert any(own)
    assert all(len(levels) == len(set(levels)) for levels in own)


@over(FEW)
class TestOneToFew:
    @examples
    @given(of=scenes)
    def test_one_certain_point_and_ambiguous_ones_only_beside_it(
        self, assigner: O2F, of: Scene
    ) -> None:
        found = of.assign(assigner)
        temperature = assigner.temperature(PROGRESS)
        for index in range(len(of.targets)):
            degrees = sorted(degrees_of(found, index), reverse=True)
            assert degrees.count(1.0) == (1 if degrees else 0)
            assert len(degrees) <= 1 + assigner.k - assigner.k_includes_certain
            assert degrees[1:2] in ([], [pytest.approx(temperature)])

    def test_an_object_may_have_a_few_points(self, assigner: O2F) -> None:
        of = scene(32, 32, [(0.0, 0.0, 32.0, 32.0)], seed=8)
        assert len(degrees_of(of.assign(assigner), 0)) > 1

    @pytest.mark.parametrize("epochs", [1, 2, 12])
    def test_degrees_decrease_over_the_epochs(self, assigner: O2F, epochs: int) -> None:
        of = scene(32, 32, crowd(5), seed=9)
        stages = [Progress(2 * e, 2 * epochs, e, epochs) for e in range(epochs)]
        stages.append(Progress(2 * epochs - 1, 2 * epochs, epochs - 1, epochs))
        degrees = [of.assign(assigner, progress).degree for progress in stages]
        assert all((b <= a).all() for a, b in pairwise(degrees))
        highest = [d[d < 1].max().item() for d in (degrees[0], degrees[-1])]
        last = assigner.t_max if assigner.t_per == "epoch" and epochs == 1 else assigner.t_min
        assert highest == pytest.approx([assigner.t_max, last])


@over(EVERY)
def test_the_schedule_continues_after_a_resume(assigner: Assigner) -> None:
    """At every stage, an assigner built anew from the spec does the same as one used so far."""
    of = scene(32, 32, crowd(5), seed=10)
    stages = [Progress(step, 12, step // 3, 4) for step in range(12)]
    in_order = [of.assign(assigner, progress) for progress in stages]
    for progress, expected in reversed(list(zip(stages, in_order, strict=True))):
        resumed = type(assigner).model_validate(assigner.model_dump(mode="json"))
        assert same(of.assign(resumed, progress), expected)


@pytest.mark.parametrize("name", ASSIGNERS)
def test_every_assigner_and_value_of_its_options_is_among_the_cases(name: str) -> None:
    """Of options that are a choice, also those that several assigners inherit."""
    built = ASSIGNERS[name]()
    for supervision in [*built.branches().values(), *built.auxiliary().values()]:
        kind = type(supervision.assigner)
        assert any(type(case) is kind for case in EVERY.values()), kind
        for option, field in kind.model_fields.items():
            tried = [getattr(case, option) for case in EVERY.values() if hasattr(case, option)]
            assert all(value in tried for value in choices(field.annotation)), (kind, option)


def choices(annotation: Any) -> list[Any]:
    """Return the values of a choice: of a bool, a literal, or a union with one; else none."""
    if annotation is bool:
        return [False, True]
    if get_origin(annotation) is Literal:
        return [*get_args(annotation)]
    return [value for part in get_args(annotation) for value in choices(part)]


@pytest.mark.parametrize("name", ASSIGNERS)
def test_every_entry_has_its_name_family_and_branches(name: str) -> None:
    built = ASSIGNERS[name]()
    assert built.model_dump()["name"] == name
    branches = built.branches()
    own = {"dual": ["o2o", "o2m"], "hybrid": ["o2o"], "mixture": ["o2o"]}
    assert list(branches) == own.get(built.family, [built.family])
    assert set(built.auxiliary()) <= set(branches)
    for branch, supervision in branches.items():
        assert supervision.assigner.branch == branch
        assert supervision.weight >= 0


@pytest.mark.parametrize("name", ASSIGNERS)
def test_every_entry_is_the_same_after_a_round_trip_through_json(name: str) -> None:
    built = ASSIGNERS[name]()
    assert ASSIGNERS[name].model_validate(built.model_dump(mode="json")) == built
    assert ASSIGNERS[name].model_validate_json(built.model_dump_json()) == built
    assert ASSIGNERS[name].model_validate({"name": name}) == built


@over(EVERY)
def test_options_are_the_same_after_a_round_trip_through_json(assigner: Assigner) -> None:
    assert type(assigner).model_validate(assigner.model_dump(mode="json")) == assigner
