"""Comparisons of real networks whose truth is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from digits import Digits, make_runs
from ladle.analysis import Comparison, Positions, Said, agreement, compare, plan, with_origin
from ladle.analysis.comparison_record import comparison_record
from ladle.checkpoint import MemoryCheckpoint, open_checkpoint
from ladle.evaluate import MEAN_OF_SHIFTS, Evaluator
from ladle.files import as_json
from ladle.predictions import METRICS, Predictions, ensemble, fit_temperature, scaled
from ladle.soup import Ingredient, Pool, open_pool, uniform_soup
from ladle.tasks import Split

State = dict[str, torch.Tensor]


def compared(
    evaluator: Evaluator, models: Pool, base: Ingredient | None = None, **options: Any
) -> Comparison:
    together = with_origin(models, base)
    own = together.subset(range(len(together) - len(models), len(together)))
    return compare(plan(own, **options), Said(evaluator), Positions.of(together))


def pool_of(**states: State) -> Pool:
    return Pool.of(
        Ingredient(name, MemoryCheckpoint(Path(name), state)) for name, state in states.items()
    )


def permuted(state: State, seed: int) -> State:
    """The same function: hidden units in another order."""
    order = torch.randperm(32, generator=torch.Generator().manual_seed(seed))
    moved = {"0.weight": state["0.weight"][order], "0.bias": state["0.bias"][order]}
    return {**state, **moved, "2.weight": state["2.weight"][:, order]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder, 4)
    return folder


@pytest.fixture(scope="module")
def digits(runs: Path) -> tuple[Comparison, Evaluator]:
    evaluator = Evaluator(Digits())
    models = open_pool(sorted(runs.glob("run-*.pt")))
    base = Ingredient("base", open_checkpoint(runs / "base.pt"))
    return compared(evaluator, models, base, orders=3), evaluator


# --- two basins ---------------------------------------------------------------------------------


def test_networks_whose_units_are_permuted_are_another_basin(runs: Path) -> None:
    """Four fine-tunings and the same four with hidden units in another order: two basins, each the
    mirror of the other, although every model is as good as its mirror image."""
    states = [torch.load(path, weights_only=True) for path in sorted(runs.glob("run-*.pt"))]
    here = {f"run{i}": state for i, state in enumerate(states)}
    there = {f"mirror{i}": permuted(state, 1) for i, state in enumerate(states)}
    mixed = pool_of(run0=here["run0"], **there, **{n: s for n, s in here.items() if n != "run0"})
    evaluator = Evaluator(Digits())
    found = compared(evaluator, mixed, orders=1)
    assert found.basins.clusters == (0, 1, 1, 1, 1, 0, 0, 0)
    assert found.basins.order[:4] == (0, 5, 6, 7)
    between = found.barriers[0, 1]
    assert between > 5 * found.barriers[np.ix_([0, 5, 6, 7], [0, 5, 6, 7])].max()
    # The ensemble of a model and its mirror image is that model; their soup is a ruin.
    pair = next(one for one in found.pairs if one.models == (0, 1))
    test = pair.on["test"]
    assert test.first == test.second == test.ensemble
    assert test.first_loss == pytest.approx(test.ensemble_loss, rel=1e-6)
    assert test.soup < test.ensemble - 0.1
    assert test.advantage == pytest.approx(test.soup - test.ensemble)
    assert test.error_difference == pytest.approx(test.ensemble - test.soup)
    # Both say so: the loss bends downwards at the top of the barrier.
    assert test.loss_difference > 0
    assert test.approximation > 0
    assert found.from_base.tolist() == pytest.approx([np.nan] * 8, nan_ok=True)
    assert "Without a base there are no angles" in found.remarks[0]


# --- fine-tunings of one network ----------------------------------------------------------------


def test_fine_tunings_of_one_network_are_one_basin(digits: tuple[Comparison, Evaluator]) -> None:
    found, _ = digits
    assert found.basins.clusters == (0, 0, 0, 0)
    assert len(found.pairs) == 6
    assert found.remarks == ()


def test_angles_and_distances_are_those_of_the_weights(
    digits: tuple[Comparison, Evaluator], runs: Path
) -> None:
    found, _ = digits
    states = [torch.load(runs / f"{n}.pt", weights_only=True) for n in ("base", "run-0", "run-2")]
    base, one, other = (
        np.concatenate([t.numpy().astype(np.float64).ravel() for t in state.values()])
        for state in states
    )
    pair = next(p for p in found.pairs if p.models == (0, 2))
    assert pair.distance == pytest.approx(np.linalg.norm(one - other), rel=1e-9)
    u, v = one - base, other - base
    cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
    assert pair.angle == pytest.approx(np.degrees(np.arccos(cosine)), rel=1e-9)
    assert found.angles[2, 0] == found.angles[0, 2] == pair.angle
    assert found.distances[2, 0] == pair.distance
    assert found.from_base[[0, 2]] == pytest.approx([np.linalg.norm(u), np.linalg.norm(v)])


def test_soup_and_ensemble_are_those_that_are_evaluated(
    digits: tuple[Comparison, Evaluator],
) -> None:
    found, evaluator = digits
    pool = found.plan.pool
    pair = next(p for p in found.pairs if p.models == (1, 3))
    ends = [evaluator.predict(uniform_soup(pool.subset([i])), "noisy") for i in (1, 3)]
    soup = evaluator.predict(uniform_soup(pool.subset([1, 3])), "noisy")
    accuracy, nll = METRICS["accuracy"], METRICS["nll"]
    noisy = pair.on["noisy"]
    assert [noisy.first, noisy.second] == [accuracy(end) for end in ends]
    assert [noisy.soup, noisy.ensemble] == [accuracy(soup), accuracy(ensemble(ends))]
    assert noisy.soup_loss == pytest.approx(nll(soup))
    assert noisy.ensemble_loss == pytest.approx(nll(ensemble(ends)), rel=1e-6)
    mean = (noisy.first + noisy.second) / 2
    assert noisy.advantage == pytest.approx(noisy.soup - mean)
    # The temperature is fitted once, on held-out data, to the soup of this pair.
    held_out = evaluator.predict(uniform_soup(pool.subset([1, 3])), "held-out")
    assert {round(on.beta, 9) for on in pair.on.values()} == {round(noisy.beta, 9)}
    assert 1 / noisy.beta == pytest.approx(fit_temperature(held_out))
    temperature = 1 / noisy.beta
    calibrated = nll(scaled(soup, temperature)) - nll(scaled(ensemble(ends), temperature))
    assert noisy.loss_difference == pytest.approx(calibrated, abs=1e-6)
    assert pair.advantage == pytest.approx(
        (pair.on["test"].advantage + pair.on["noisy"].advantage) / 2
    )
    assert pair.barrier == pair.on["held-out"].barrier


def test_a_barrier_is_the_rise_above_the_line_between_the_ends(
    digits: tuple[Comparison, Evaluator],
) -> None:
    found, evaluator = digits
    nll = METRICS["nll"]
    for pair in found.pairs:
        on = pair.on["test"]
        rises = [0.0]
        soups = found.plan.around_the_middle(pair.models)
        for at, soup in zip((0.4, 0.5, 0.6), soups, strict=True):
            line = (1 - at) * on.first_loss + at * on.second_loss
            rises.append(nll(evaluator.predict(soup, "test")) - line)
        assert on.barrier == pytest.approx(max(rises), abs=1e-9)


def test_the_approximation_goes_with_the_truth_on_real_fine_tunings(
    digits: tuple[Comparison, Evaluator],
) -> None:
    found, _ = digits
    for split in ("held-out", "test", "noisy"):
        seen = agreement(
            found.column(split, "loss_difference"), found.column(split, "approximation")
        )
        assert seen.pairs == 6
        assert seen.pearson > 0.7
        assert seen.same_sign >= 5


def test_nothing_is_evaluated_that_the_plan_does_not_count(runs: Path) -> None:
    passes: list[str] = []

    class Counted(Digits):
        def predict(self, model, split, **options):
            passes.append(split)
            return super().predict(model, split, **options)

    said = Said(Evaluator(Counted()))
    models = open_pool(sorted(runs.glob("run-*.pt")))
    planned = plan(models, orders=2)
    expected = said.missing(planned)
    assert expected == len(planned.soups) * 3
    progress: dict[str, list[int]] = {}

    @contextmanager
    def watch(text: str, amount: int) -> Iterator[Callable[[int], None]]:
        progress[text] = [amount, 0]

        def advance(done: int) -> None:
            progress[text][1] += done

        yield advance

    compare(planned, said, Positions.of(models), watch=watch)
    assert len(passes) == expected
    assert progress["evaluating"] == [expected, expected]
    assert all(done == amount for amount, done in progress.values())
    assert said.missing(planned) == 0
    compare(planned, said, Positions.of(models))
    assert len(passes) == expected
    assert "train" not in passes


# --- growing ------------------------------------------------------------------------------------


def test_soups_and_ensembles_grow_together(digits: tuple[Comparison, Evaluator]) -> None:
    found, evaluator = digits
    pool, ece = found.plan.pool, METRICS["ece"]
    singles = [uniform_soup(pool.subset([i])) for i in range(4)]
    for one in found.grown:
        if one.split != "test" or one.kind == "single":
            continue
        members = sorted(one.members)

        def say(split: str, kind: str = one.kind, members: list[int] = members) -> Predictions:
            if kind == "soup":
                return evaluator.predict(uniform_soup(pool.subset(members)), split)
            return ensemble([evaluator.predict(singles[i], split) for i in members])

        temperature = fit_temperature(say("held-out"))
        assert one.score == pytest.approx(METRICS["accuracy"](say("test")))
        assert one.loss == pytest.approx(METRICS["nll"](say("test")), rel=1e-5)
        assert one.ece == pytest.approx(ece(say("test")), abs=1e-6)
        assert one.temperature == pytest.approx(temperature, rel=1e-3)
        assert one.ece_scaled == pytest.approx(ece(scaled(say("test"), temperature)), abs=2e-3)
    kinds = [(one.kind, one.size) for one in found.grown if one.split == "test"]
    assert kinds.count(("single", 1)) == 4
    assert kinds.count(("soup", 2)) == kinds.count(("ensemble", 3)) == 3
    assert kinds.count(("soup", 4)) == kinds.count(("ensemble", 4)) == 1
    whole = {(one.order, one.members) for one in found.grown if one.size == 4}
    assert whole == {(None, (0, 1, 2, 3))}
    assert {one.order for one in found.grown if one.size == 3} == {0, 1, 2}


def test_the_spread_is_that_of_the_orders(digits: tuple[Comparison, Evaluator]) -> None:
    found, _ = digits
    (three,) = (s for s in found.sizes if (s.kind, s.size, s.split) == ("soup", 3, "noisy"))
    scores = [
        one.score for one in found.grown if (one.kind, one.size, one.split) == ("soup", 3, "noisy")
    ]
    assert three.orders == len(scores) == 3
    assert three.mean == pytest.approx(np.mean(scores))
    assert [three.low, three.high] == [min(scores), max(scores)]
    ones = [s for s in found.sizes if s.size == 1 and s.split == "noisy"]
    assert [s.kind for s in ones] == ["soup", "ensemble"]
    assert ones[0].mean == ones[1].mean
    assert ones[0].orders == 4
    (whole,) = (s for s in found.sizes if (s.kind, s.size, s.split) == ("ensemble", 4, "test"))
    assert whole.low == whole.mean == whole.high


# --- models whose soup is their ensemble --------------------------------------------------------


class Linear(Digits):
    """One layer: logits are linear in the weights. A second shift makes a mean of shifts."""

    digest = "linear digits"

    def __init__(self) -> None:
        super().__init__()
        self.images["dim"] = self.images["noisy"] * 0.5
        digest = hashlib.sha256(self.images["dim"].tobytes()).hexdigest()
        dim = Split("dim", "shift", self.splits["noisy"].labels, digest)
        self.splits = {**self.splits, "dim": dim}

    def build(self) -> nn.Module:
        return nn.Linear(64, 10).eval()


class Numbers(Linear):
    """The same with one output, that is to be the digit's value."""

    digest = "numbers"
    metric = METRICS["mse"]

    def __init__(self) -> None:
        super().__init__()
        self.splits = {
            name: replace(split, labels=split.labels.astype(np.float64))
            for name, split in self.splits.items()
        }

    def build(self) -> nn.Module:
        return nn.Linear(64, 1).eval()


def lines(outputs: int, n: int = 3) -> Pool:
    generator = torch.Generator().manual_seed(0)
    return pool_of(
        **{
            f"line{i}": {
                "weight": torch.randn(outputs, 64, generator=generator) / 4,
                "bias": torch.randn(outputs, generator=generator),
            }
            for i in range(n)
        }
    )


def test_where_models_are_linear_the_soup_is_the_ensemble() -> None:
    found = compared(Evaluator(Linear()), lines(10), orders=1)
    for pair in found.pairs:
        for on in pair.on.values():
            assert on.loss_difference == pytest.approx(0, abs=1e-6)
            assert on.soup_loss == pytest.approx(on.ensemble_loss, rel=1e-6)
            assert on.error_difference == pytest.approx(0, abs=0.005)
            assert on.barrier == 0
            # Both terms are there, and cancel but for the step of the difference.
            assert on.plain_variance > 0.01
            assert on.plain_curvature == pytest.approx(on.plain_variance, rel=0.02)
            assert abs(on.approximation) < 0.02 * on.variance
    both = {(s.size, s.split, s.kind): s.mean for s in found.sizes}
    assert both[3, "test", "soup"] == pytest.approx(both[3, "test", "ensemble"], abs=0.005)


def test_shifts_are_averaged() -> None:
    found = compared(Evaluator(Linear()), lines(10), orders=1)
    (pair, *_) = found.pairs
    mean, shifts = pair.on[MEAN_OF_SHIFTS], [pair.on[name] for name in ("noisy", "dim")]
    for name in ("soup", "ensemble", "first_loss", "loss_difference", "approximation", "barrier"):
        assert getattr(mean, name) == pytest.approx(np.mean([getattr(s, name) for s in shifts]))
    errors = [s.standard_error for s in shifts]
    assert mean.standard_error == pytest.approx(np.hypot(*errors) / 2)
    (size,) = (s for s in found.sizes if (s.kind, s.size, s.split) == ("soup", 3, MEAN_OF_SHIFTS))
    parts = [
        s.mean
        for s in found.sizes
        if (s.kind, s.size) == ("soup", 3) and s.split in ("noisy", "dim")
    ]
    assert size.mean == pytest.approx(np.mean(parts))
    # As in the paper, each of the unseen splits counts alike.
    unseen = [pair.on[name].advantage for name in ("test", "noisy", "dim")]
    assert pair.advantage == pytest.approx(np.mean(unseen))


def test_numbers_have_losses_and_no_temperature() -> None:
    evaluator = Evaluator(Numbers())
    found = compared(evaluator, lines(1), orders=1)
    for pair in found.pairs:
        on = pair.on["test"]
        assert on.beta == 1
        assert on.soup_loss == pytest.approx(on.soup)  # The metric is the loss.
        assert on.loss_difference == pytest.approx(0, abs=1e-6 * on.soup)
        assert on.variance == pytest.approx(on.curvature, rel=1e-3)
        assert np.isnan(on.error_difference)
        # Lower is better, so an advantage is a smaller error.
        assert on.advantage == pytest.approx((on.first + on.second) / 2 - on.soup)
        assert on.advantage > 0
    assert all(np.isnan(one.ece) for one in found.grown)
    assert any("no temperature" in remark for remark in found.remarks)
    record = comparison_record(found, None)
    assert record["calibration"] == []


# --- the record ---------------------------------------------------------------------------------


def test_the_record_is_json_and_says_what_there_is(
    digits: tuple[Comparison, Evaluator], runs: Path
) -> None:
    found, _ = digits
    base = Ingredient("base", open_checkpoint(runs / "base.pt"))
    record = json.loads(as_json(comparison_record(found, base)))
    assert [one["name"] for one in record["models"]] == [f"run-{i}.pt" for i in range(4)]
    assert record["models"][0]["splits"]["test"]["metric"] == found.grown[1].score
    assert record["base"]["name"] == "base"
    assert [pair["models"] for pair in record["pairs"]] == [list(p.models) for p in found.pairs]
    first, on = record["pairs"][0]["splits"]["test"], found.pairs[0].on["test"]
    assert first["soup"] == {"metric": on.soup, "loss": on.soup_loss}
    assert first["ends"][1] == {"metric": on.second, "loss": on.second_loss}
    assert first["approximation"] == on.approximation
    plain = first["at_beta_1"]
    assert plain["loss_difference"] == pytest.approx(on.soup_loss - on.ensemble_loss)
    summary = record["summary"]["splits"]["test"]
    expected = np.corrcoef(
        found.column("test", "loss_difference"), found.column("test", "approximation")
    )[0, 1]
    assert summary["approximation"]["pearson"] == pytest.approx(expected)
    assert summary["approximation"]["pairs"] == 6
    assert record["summary"]["basins"] == 1
    highest = record["summary"]["highest_barrier"]
    assert highest["barrier"] == max(pair["barrier"] for pair in record["pairs"])
    assert record["matrices"]["clusters"] == [0, 0, 0, 0]
    assert record["matrices"]["angle"][0][1] == record["pairs"][0]["angle"]
    assert {one["kind"] for one in record["calibration"]} == {"single", "soup", "ensemble"}


def test_pairs_that_were_not_drawn_leave_holes_in_the_matrix(runs: Path) -> None:
    models = open_pool(sorted(runs.glob("run-*.pt")))
    found = compared(Evaluator(Digits()), models, pairs=2, orders=1)
    record = json.loads(as_json(comparison_record(found, None)))
    holes = [cell for row in record["matrices"]["barrier"] for cell in row if cell is None]
    assert len(holes) == 12 - 2 * 2
    assert record["matrices"]["clusters"] == []
    assert record["matrices"]["angle"] is None
    assert record["summary"]["basins"] is None
    assert any("2 of the 6 pairs were drawn" in remark for remark in record["remarks"])


def test_correlations_need_three_pairs_that_vary() -> None:
    two = agreement(np.array([1.0, 2.0, np.nan]), np.array([1.0, 2.0, 3.0]))
    assert (two.pairs, two.same_sign) == (2, 2)
    assert np.isnan([two.pearson, two.spearman]).all()
    flat = agreement(np.zeros(4), np.arange(4.0))
    assert np.isnan(flat.pearson)
    bent = agreement(np.array([-1.0, 1.0, 2.0, 30.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert bent.spearman == 1
    assert bent.pearson < 0.9
    assert bent.same_sign == 3
