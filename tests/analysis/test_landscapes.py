"""Landscapes that are known: a quadratic bowl, a net with two basins, hits that are counted."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bowls import Bowl, Whole, ingredient
from ladle.analysis import Grid, Ground, Landscape, Survey, beyond, drawn, lay_out, looked_at
from ladle.analysis.path import steps
from ladle.errors import BadInput
from ladle.evaluate import Evaluator, Store
from ladle.files import as_json
from ladle.predictions import METRICS
from ladle.soup import Ingredient, Pool, Soup, uniform_soup
from ladle.tasks import Split

SMALL = Grid(4, 3)


def models(n: int, *, dims: int = 5, outputs: int = 1, seed: int = 0) -> list[Any]:
    generator = np.random.default_rng(seed)
    return [ingredient(f"m{i}", weight=generator.normal(size=(outputs, dims))) for i in range(n)]


def weights_of(one: Ingredient) -> Any:
    """(outputs, dims) float64."""
    return uniform_soup(Pool.of([one])).state_dict()["weight"].double().numpy()


def measured(task: Any, given: list[Any], **options: Any) -> Landscape:
    store = options.pop("store", None)
    samples, seed = options.pop("samples", None), options.pop("seed", 0)
    splits = looked_at(task, options.pop("splits", ()), samples=samples)
    evaluator = Evaluator(task, store=store)
    ground = lay_out(Pool.of(given), **{"grid": SMALL, **options})
    counted: list[int] = []
    survey = Survey(evaluator, splits, samples=samples, seed=seed, advance=counted.append)
    found = ground.survey(survey)
    assert sum(counted) == ground.evaluations(len(splits))
    return found


def curve(found: Any, split: str, quantity: str) -> Any:
    return next(
        one for one in found.curves if (one.group.name, one.measure.name) == (split, quantity)
    )


def squared(task: Bowl, split: str, weights: Any) -> float:
    said = task.inputs[split].astype(np.float64) @ weights
    return float(np.mean((said - task.splits[split].labels) ** 2))


# --- a bowl -------------------------------------------------------------------------------


@pytest.mark.parametrize("with_base", [True, False])
def test_the_plane_of_a_linear_model_is_its_quadratic_bowl(with_base: bool) -> None:
    task, given = Bowl(), models(3)
    rows = [weights_of(one)[0] for one in given]
    found = measured(task, given[1:], base=given[0]) if with_base else measured(task, given)
    u1 = (rows[1] - rows[0]) / np.linalg.norm(rows[1] - rows[0])
    w = (rows[2] - rows[0]) - (rows[2] - rows[0]) @ u1 * u1
    u2 = w / np.linalg.norm(w)
    for split in ("train", "test", "near"):
        bowl = curve(found, split, "loss")
        assert bowl.values.shape == (3, 4)
        expected = [
            [squared(task, split, rows[0] + a * u1 + b * u2) for a in found.a] for b in found.b
        ]
        assert bowl.values == pytest.approx(np.array(expected), rel=1e-5)
    mean = curve(found, "mean of shifts", "loss")
    both = [curve(found, name, "loss") for name in ("near", "far")]
    assert mean.values == pytest.approx((both[0].values + both[1].values) / 2)
    assert mean.n == both[0].n + both[1].n
    errors = [one.standard_error for one in both]
    assert mean.standard_error == pytest.approx(np.hypot(*errors) / 2)
    # The mean squared error is the loss, and is not shown a second time.
    assert {one.measure.name for one in found.curves} == {"loss"}


def test_a_path_in_a_bowl_has_no_barrier_and_a_path_is_part_of_a_plane() -> None:
    task, given = Bowl(), models(3)
    plane = measured(task, given[1:], base=given[0])
    path = measured(task, given[1:])
    assert path.record()["kind"] == "path"
    assert plane.record()["kind"] == "plane"
    (inside,), (alone,) = plane.paths, path.paths
    assert inside.names == alone.names == ("m1", "m2")
    assert inside.t == alone.t
    rows = [weights_of(one)[0] for one in given]
    for one in (inside, alone):
        assert one.distance == pytest.approx(np.linalg.norm(rows[1] - rows[2]))
        expected = [squared(task, "test", (1 - t) * rows[1] + t * rows[2]) for t in one.t]
        assert curve(one, "test", "loss").values == pytest.approx(np.array(expected), rel=1e-5)
        assert {barrier.height for barrier in one.barriers} == {0.0}


def test_three_models_have_a_path_for_each_pair_and_a_base_is_marked() -> None:
    task, given = Bowl(), models(5)
    found = measured(task, given[1:4], base=given[0], marks=given[4:])
    assert [one.names for one in found.paths] == [("m1", "m2"), ("m1", "m3"), ("m2", "m3")]
    places = {one.name: one for one in found.places}
    assert [(one.name, one.role) for one in found.places] == [
        ("m1", "model"), ("m2", "model"), ("m3", "model"), ("base", "base"), ("m4", "model"),
        ("soup of m1, m2, m3", "soup"),
    ]  # fmt: skip
    for name in ("base", "m4"):
        assert places[name].off > 0.1
        assert places[name].weights is None
    assert places["m2"].weights == (0.0, 1.0, 0.0)
    assert places["soup of m1, m2, m3"].weights == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    # What is marked is measured as it is, not where it is projected to.
    weights = weights_of(given[4])[0]
    at = [f"{group.name} {measure.name}" for group, measure in found.kinds].index("test loss")
    assert places["m4"].values[at].value == pytest.approx(squared(task, "test", weights), rel=1e-5)


def test_one_model_and_the_base_are_a_path_from_the_base() -> None:
    given = models(2)
    found = measured(Bowl(), given[1:], base=given[0])
    assert [(one.name, one.role, one.at) for one in found.places] == [
        ("base", "base", (0.0,)), ("m1", "model", (1.0,)),
    ]  # fmt: skip
    assert found.paths[0].names == ("base", "m1")


def test_a_model_beyond_the_grid_is_named() -> None:
    given = models(3)
    rows = [weights_of(one) for one in given]
    far = ingredient("far", weight=rows[0] + 3 * (rows[1] - rows[0]))
    assert beyond(measured(Bowl(), given, marks=[far])) == ["far"]
    assert beyond(measured(Bowl(), given[:2], marks=[far])) == ["far"]
    assert beyond(measured(Bowl(), given, marks=[far], grid=Grid(3, 3, Fraction(2)))) == []


# --- two basins ---------------------------------------------------------------------------


class Odd(nn.Module):
    """v·tanh(W x): the weights -W and -v make the same function."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v = nn.Linear(5, 3, bias=False), nn.Linear(3, 1, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.v(torch.tanh(self.w(inputs)))
        return found


def test_two_basins_of_one_function_have_the_barrier_that_is_between_them() -> None:
    task = Bowl(lambda: Odd().eval())
    generator = np.random.default_rng(0)
    w, v = generator.normal(size=(3, 5)), generator.normal(size=(1, 3))
    # A network that fits its data: what it says with these weights is the truth.
    for name, inputs in task.inputs.items():
        truth = (np.tanh(inputs.astype(np.float64) @ w.T) @ v.T)[:, 0]
        task.splits[name].labels[:] = truth
    ends = [ingredient("plus", **{"w.weight": w, "v.weight": v})]
    ends.append(ingredient("minus", **{"w.weight": -w, "v.weight": -v}))
    found = measured(task, ends, grid=Grid(11, 11, Fraction(0))).paths[0]
    for split in ("train", "test", "far"):
        inputs, truth = task.inputs[split].astype(np.float64), task.splits[split].labels
        expected = [
            np.mean(((1 - 2 * t) * np.tanh((1 - 2 * t) * inputs @ w.T) @ v.T - truth[:, None]) ** 2)
            for t in found.t
        ]
        values = curve(found, split, "loss").values
        assert values == pytest.approx(np.array(expected), rel=1e-4, abs=1e-9)
        number = found.curves.index(curve(found, split, "loss"))
        assert found.barriers[number].at == pytest.approx(np.argmax(expected) / 10)
        assert found.barriers[number].height == pytest.approx(max(expected), rel=1e-4)
        # In the middle all weights are 0, and so is what is said.
        assert values[5] == pytest.approx(np.mean(truth**2), rel=1e-5)


# --- what is measured ---------------------------------------------------------------------


def test_hits_are_counted_as_errors_with_their_sampling_error() -> None:
    task, given = Bowl(classes=3), models(2, outputs=3)
    found = measured(task, given)
    error = curve(found.paths[0], "test", "error")
    loss = curve(found.paths[0], "test", "loss")
    labels = task.splits["test"].labels
    for i, t in enumerate(found.paths[0].t):
        weights = sum(share * weights_of(one) for share, one in zip((1 - t, t), given, strict=True))
        logits = task.inputs["test"].astype(np.float64) @ weights.T
        wrong = float(np.mean(logits.argmax(axis=1) != labels))
        assert error.values[i] == pytest.approx(wrong)
        # The standard deviation of hits and misses, with n - 1: √(p(1 - p) / (n - 1)).
        spread = math.sqrt(wrong * (1 - wrong) / (len(labels) - 1))
        assert error.standard_error[i] == pytest.approx(spread)
        chosen = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
        assert loss.values[i] == pytest.approx(chosen.mean(), rel=1e-5)
        assert loss.standard_error[i] == pytest.approx(
            chosen.std(ddof=1) / math.sqrt(len(labels)), rel=1e-4
        )


def test_a_metric_that_is_no_mean_has_its_own_name_and_no_sampling_error() -> None:
    task = Bowl(classes=3, metric=METRICS["f1"])
    found = measured(task, models(2, outputs=3)).paths[0]
    assert {one.measure.name for one in found.curves} == {"loss", "f1"}
    f1 = curve(found, "test", "f1")
    assert f1.standard_error is None
    assert f1.measure.metric.higher_is_better
    assert f1.record()["standard_error"] is None


def test_a_point_that_says_nothing_finite_is_null_in_the_record() -> None:
    """The soup far beyond overflows float32 in its logits, not in its weights."""
    given = [ingredient(f"m{i}", weight=np.full((3, 5), v)) for i, v in enumerate((0.0, 3e38))]
    found = measured(Bowl(classes=3), given, grid=Grid(3, 3, Fraction(0)))
    record = json.loads(as_json(found.record()))
    test = next(one for one in record["curves"] if one["split"] == "test")
    assert test["values"][0] is not None
    assert test["values"][-1] is None
    assert test["standard_error"][-1] is None
    barrier = next(one for one in record["barriers"] if one["split"] == "test")
    assert barrier["height"] is None


def test_without_a_training_split_there_is_no_train_loss() -> None:
    splits = looked_at(Bowl(without=("train",)))
    assert [one.role for one in splits] == ["test", "shift", "shift"]


def test_held_out_is_shown_where_nothing_else_is_or_by_name() -> None:
    alone = Bowl(without=("test", "near", "far"))
    assert [one.name for one in looked_at(alone)] == ["train", "dev"]
    assert [one.name for one in looked_at(Bowl(), ["dev", "far"])] == ["dev", "far"]
    with pytest.raises(BadInput, match=r"--split 'valid': task bowl has train, dev, test"):
        looked_at(Bowl(), ["valid"])


# --- samples ------------------------------------------------------------------------------


def test_a_subset_is_the_same_at_every_point_and_in_its_order() -> None:
    task, given = Bowl(), models(3)
    found = measured(task, given, samples=10, seed=3)
    chosen = drawn(task.splits["test"], 10, 3)
    assert chosen is not None
    assert list(chosen) == sorted({*chosen.tolist()})
    rows = [weights_of(one)[0] for one in given]
    expected = (task.inputs["test"] @ rows[1] - task.splits["test"].labels)[chosen] ** 2
    at = [f"{group.name} {measure.name}" for group, measure in found.kinds].index("test loss")
    value = found.places[1].values[at]
    assert value.value == pytest.approx(expected.mean(), rel=1e-5)
    assert value.standard_error == pytest.approx(expected.std(ddof=1) / 10**0.5, rel=1e-4)
    assert value.n == 10
    assert {count for _, count in task.passes} == {10}


def test_more_samples_are_the_same_ones_and_others_and_splits_get_their_own() -> None:
    labels = np.zeros(1000, np.int64)
    one, other = Split("fog", "shift", labels, "1"), Split("snow", "shift", labels, "2")
    few, many = drawn(one, 100, 0), drawn(one, 200, 0)
    assert few is not None
    assert many is not None
    assert {*few.tolist()} < {*many.tolist()}
    assert not np.array_equal(few, drawn(other, 100, 0))
    assert not np.array_equal(few, drawn(one, 100, 1))
    assert drawn(one, 1000, 0) is None
    # On every machine and with every numpy.
    assert few[:5].tolist() == [26, 27, 33, 37, 50]


def test_a_split_with_fewer_examples_is_seen_in_full() -> None:
    task = Bowl(n=24)
    found = measured(task, models(2), samples=26)
    sizes = {one.group.name: one.n for one in found.paths[0].curves}
    assert sizes == {"train": 24, "test": 26, "near": 26, "far": 26, "mean of shifts": 52}


def test_a_task_that_cannot_predict_some_is_refused_before_any_work() -> None:
    task: Any = Whole(Bowl())
    with pytest.raises(BadInput, match="cannot predict some examples alone, so leave out"):
        looked_at(task, samples=10)
    assert len(measured(task, models(2)).paths) == 1


# --- the store ----------------------------------------------------------------------------


def soups(ground: Ground) -> set[tuple[Fraction, ...]]:
    """The weights of all that a plane through three models measures."""
    plane, margin = ground.plane, ground.grid.margin
    assert plane is not None
    columns = plane.columns(ground.grid.columns, margin).at
    rows = plane.rows(ground.grid.rows, margin).at
    found = {plane.shares(x, y) for x in columns for y in rows}
    for i, j in ((0, 1), (0, 2), (1, 2)):
        for t in steps(ground.grid.columns, margin).at:
            shares = [Fraction(0)] * 3
            shares[i], shares[j] = 1 - t, t
            found.add(tuple(shares))
    return found | {(Fraction(1, 3),) * 3}


@pytest.mark.slow
def test_nothing_that_the_store_has_is_evaluated_again(tmp_path: Path) -> None:
    task, given, store = Bowl(), models(3), Store(tmp_path / "store.sqlite")
    first = measured(task, given, store=store, grid=Grid(8, 8))
    assert task.passes
    task.passes.clear()
    again = measured(task, given, store=store, grid=Grid(8, 8))
    assert task.passes == []
    assert as_json(again.record()) == as_json(first.record())
    # Twice as fine: of 15 x 15 points, at least 8 x 8 are known.
    finer = measured(task, given, store=store, grid=Grid(15, 15))
    known, wanted = (soups(lay_out(Pool.of(given), grid=Grid(n, n))) for n in (8, 15))
    assert len(wanted - known) <= 15 * 15 - 8 * 8 + 3 * (15 - 8)
    assert len(task.passes) == len(wanted - known) * len(looked_at(task))
    assert finer.curves[0].values[::2, ::2] == pytest.approx(first.curves[0].values)


def test_a_model_is_loaded_in_full_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tunings share their frozen layers, which need not be merged at every point."""
    seen: list[Any] = []
    load = Soup.load_into

    def noted(self: Soup, model: Any, *, only: Any = None) -> Any:
        seen.append(only)
        return load(self, model, only=only)

    monkeypatch.setattr(Soup, "load_into", noted)
    measured(Bowl(), models(3))
    assert seen[0] is None
    assert len(seen) > 12
    assert set(seen[1:]) == {("weight",)}


def test_the_order_of_the_models_makes_no_new_points_on_a_path(tmp_path: Path) -> None:
    task, (one, other), store = Bowl(), models(2), Store(tmp_path / "store.sqlite")
    forth = measured(task, [one, other], store=store)
    task.passes.clear()
    back = measured(task, [other, one], store=store)
    assert task.passes == []
    for a, b in zip(forth.paths[0].curves, back.paths[0].curves, strict=True):
        assert np.array_equal(a.values, b.values[::-1])


def test_a_subset_and_the_whole_are_never_mixed_up(tmp_path: Path) -> None:
    task, given, store = Bowl(), models(2), Store(tmp_path / "store.sqlite")
    few = measured(task, given, store=store, samples=10)
    whole = measured(task, given, store=store)
    alone = measured(Bowl(), given)
    for a, b, c in zip(
        few.paths[0].curves, whole.paths[0].curves, alone.paths[0].curves, strict=True
    ):
        assert np.array_equal(b.values, c.values)
        assert not np.array_equal(a.values, b.values)
        assert a.n < b.n
        assert b.n == c.n
    # Of what is known in full, any subset is known.
    task.passes.clear()
    measured(task, given, store=store, samples=11)
    assert task.passes == []
    other = measured(Bowl(), given, samples=11)
    known = measured(task, given, store=store, samples=11)
    for a, b in zip(known.paths[0].curves, other.paths[0].curves, strict=True):
        assert a.values == pytest.approx(b.values, rel=1e-6)


# --- what is no landscape -----------------------------------------------------------------


def test_too_few_and_too_many_models_are_refused() -> None:
    with pytest.raises(BadInput, match=r"4 checkpoints are no landscape; give two .* --mark"):
        lay_out(Pool.of(models(4)))
    with pytest.raises(BadInput, match="1 checkpoint is no landscape"):
        lay_out(Pool.of(models(1)))


@pytest.mark.parametrize("grid", [(1, 5), (5, 1)])
def test_a_grid_needs_two_points(grid: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match="at least two points"):
        Grid(*grid)


def test_a_margin_is_not_negative() -> None:
    with pytest.raises(BadInput, match="margin"):
        Grid(margin=Fraction(-1, 10))


def test_marks_may_have_the_names_of_models() -> None:
    given, other = models(2), models(2, seed=7)
    found = measured(Bowl(), given, marks=[other[1]])
    names = [one.name for one in found.places]
    assert len(names) == len(set(names)) == 4
