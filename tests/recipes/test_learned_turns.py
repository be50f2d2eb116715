"""Ingredients that take turns in a learned soup, against autograd with all of them in memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import ladle
from digits import Digits, make_runs
from ladle.errors import BadInput
from ladle.evaluate import Evaluator
from ladle.recipes import learned_progress, learned_school
from ladle.recipes.learned_coefficients import Turn, Turns
from ladle.recipes.learned_soup import held_back

FEW = {"affine": True, "ingredients_per_step": 2, "examples_per_step": 50, "lr": 0.3}
BY = [{}, {"by_block": True}, {"by_layer": True}]


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Seven models around a good one, each much worse than it."""
    folder = tmp_path_factory.mktemp("scattered")
    mean = ladle.uniform(ladle.open(make_runs(folder))).state_dict()
    paths = []
    for i in range(7):
        draw = torch.Generator().manual_seed(i)
        state = {
            name: value + 0.6 * value.std() * torch.randn(value.shape, generator=draw)
            for name, value in mean.items()
        }
        paths.append(folder / f"scattered-{i}.pt")
        torch.save(state, paths[-1])
    return paths


class Watched(Evaluator):
    """Writes down the losses of the steps, and can be interrupted after one of them."""

    def __init__(self, *, stop: int = 0, **given: Any) -> None:
        super().__init__(Digits(), **given)
        self.losses: list[float] = []
        self._stop = stop

    def gradients(self, pool: Any, **given: Any) -> Any:
        inner, watched = super().gradients(pool, **given), self

        class Gradients:
            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            def __call__(self, *step: Any) -> Any:
                slope = inner(*step)
                watched.losses.append(slope.loss)
                if len(watched.losses) == watched._stop:
                    raise InterruptedError
                return slope

        return Gradients()


def reference(paths: list[Path], by: dict[str, bool], turns: Turns, epochs: int) -> list[float]:
    """MEHL-Soup+ in memory: how far to go from the soup so far to each of a few, by AdamW."""
    task, states = Digits(), [torch.load(path, weights_only=True) for path in paths]
    names = list(states[0])
    group = {n: n if "by_layer" in by else n.partition(".")[0] if by else "" for n in names}
    rows = {key: i for i, key in enumerate(dict.fromkeys(group.values()))}
    learn, _ = held_back(task.splits["held-out"].labels, 0.2, 0)
    evaluator, pool = Evaluator(task), ladle.open(paths)
    factor = evaluator.gradients(pool).best_factor(ladle.uniform(pool), learn)
    log_beta = torch.tensor(math.log(factor), dtype=torch.float64, requires_grad=True)
    soup = {name: sum(state[name].double() for state in states) / len(states) for name in names}
    labels = torch.from_numpy(task.splits["held-out"].labels)
    images, model = torch.from_numpy(task.images["held-out"]), task.build()
    total = epochs * turns.steps

    def gone(raw: Any, centre: Any, members: Any) -> dict[str, torch.Tensor]:
        alpha = (1 + raw - raw.mean(1, keepdim=True)) / raw.shape[1]
        return {
            name: middle
            + sum(
                alpha[rows[group[name]], i + 1] * (one[name].double() - middle)
                for i, one in enumerate(members)
            )
            for name, middle in centre.items()
        }

    losses: list[float] = []
    for epoch in range(epochs):
        order = np.random.default_rng([0, epoch]).permutation(learn)
        for begin in range(0, len(order), 50):
            step = len(losses)
            if turns.begins(step):
                members = [states[i] for i in turns.members(step)]
                centre = soup
                c = len(members) + 1
                raw = torch.zeros(len(rows), c, dtype=torch.float64)
                raw[:, 0] = c - 1  # Nothing but the soup so far.
                raw[:, 1:] = -1
                raw.requires_grad_()
                optimizer = torch.optim.AdamW([raw, log_beta], lr=0.3, weight_decay=0.0)
            for one in optimizer.param_groups:
                one["lr"] = 0.15 * (1 + math.cos(math.pi * step / total))
            mixed = {name: value.float() for name, value in gone(raw, centre, members).items()}
            batch = order[begin : begin + 50]
            logits = torch.func.functional_call(model, mixed, (images[batch],))
            loss = F.cross_entropy(logits * log_beta.exp(), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            with torch.no_grad():
                soup = gone(raw, centre, members)
    return losses


@pytest.mark.parametrize(("by", "at_a_time"), [*((by, 2) for by in BY), ({}, 1)], ids=str)
def test_the_losses_are_those_of_autograd_around_the_soup_so_far(
    scattered: list[Path], by: dict[str, bool], at_a_time: int
) -> None:
    """Also where a turn is one step, and every step begins with the same coefficients."""
    watched = Watched()
    options = {**FEW, **by, "ingredients_per_step": at_a_time}
    ladle.learned(ladle.open(scattered), watched, epochs=3, patience=9, **options)
    theirs = reference(scattered, by, Turns(7, at_a_time, 8, 0), 3)
    assert np.mean(theirs[-8:]) < 0.95 * np.mean(theirs[:8])
    assert watched.losses == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("enough", [7, 100])
def test_all_at_a_time_is_what_it_is_without_turns(scattered: list[Path], enough: int) -> None:
    pool = ladle.open(scattered)
    plain, all_ = Watched(), Watched()
    options = {"affine": True, "by_layer": True, "epochs": 2}
    soup = ladle.learned(pool, plain, **options)
    same = ladle.learned(pool, all_, ingredients_per_step=enough, **options)
    assert same.digest == soup.digest
    assert same.tastings == soup.tastings
    assert all_.losses == plain.losses


def test_a_step_reads_a_few_and_in_a_pass_all_have_their_turn(
    scattered: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[set[str]] = []
    whole = learned_school.inner_products

    def products(checkpoints: Any, slopes: Any) -> Any:
        read.append({one.path.name for one in checkpoints})
        return whole(checkpoints, slopes)

    monkeypatch.setattr(learned_school, "inner_products", products)
    soup = ladle.learned(ladle.open(scattered), Evaluator(Digits()), epochs=2, patience=9, **FEW)
    assert len(read) == 16
    # Four turns of two steps in each epoch of eight.
    for epoch in (read[:8], read[8:]):
        assert [epoch[i] == epoch[i + 1] for i in (0, 2, 4, 6)] == [True] * 4
        turns = [one - {"the soup so far"} for one in epoch[::2]]
        assert sorted(map(len, turns)) == [1, 2, 2, 2]
        assert set().union(*turns) == {path.name for path in scattered}
    assert read[:8] != read[8:]
    assert all("the soup so far" in one for one in read)
    assert soup.options["best_step"] > 8
    assert all(weight != pytest.approx(1 / 7, abs=1e-6) for weight in soup.weights)


@pytest.mark.parametrize("by", BY, ids=str)
def test_the_loss_on_what_was_kept_back_falls(scattered: list[Path], by: dict[str, bool]) -> None:
    pool, evaluate = ladle.open(scattered), Evaluator(Digits())
    soup = ladle.learned(pool, evaluate, epochs=6, **FEW, **by)
    losses = [float(one.reason.split()[1].rstrip(";")) for one in soup.tastings]
    assert soup.options["kept_back_loss"] < 0.92 * losses[0]
    assert evaluate(soup) >= evaluate(ladle.uniform(pool))
    assert sum(soup.weights) == pytest.approx(1)


def test_an_interrupted_call_goes_on_to_the_same_soup_within_a_turn_and_between(
    scattered: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned_progress, "_SECONDS", 0.0)
    pool, options = ladle.open(scattered), {**FEW, "by_layer": True, "epochs": 2}
    whole = Watched()
    wanted = ladle.learned(pool, whole, **options)
    for stop in (1, 2, 3, 4, 9, 12):
        workspace = tmp_path / str(stop)
        with pytest.raises(InterruptedError):
            ladle.learned(pool, Watched(workspace=workspace, stop=stop), **options)
        again = Watched(workspace=workspace)
        soup = ladle.learned(pool, again, **options)
        assert again.losses == whole.losses[stop - 1 :]
        assert (soup.digest, soup.tastings) == (wanted.digest, wanted.tastings)


def test_the_order_of_turns_goes_by_the_seed(scattered: list[Path]) -> None:
    pool = ladle.open(scattered)
    one, same, other = (
        ladle.learned(pool, Evaluator(Digits()), epochs=2, seed=seed, **FEW) for seed in (3, 3, 4)
    )
    assert one.digest == same.digest != other.digest


@given(
    k=st.integers(1, 40),
    at_a_time=st.integers(1, 50),
    steps=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_every_pass_has_every_ingredient_once(
    k: int, at_a_time: int, steps: int, seed: int
) -> None:
    turns = Turns(k, at_a_time, steps, seed)
    if turns.count == 1:
        assert [turns.begins(step) for step in range(200)] == [True, *[False] * 199]
        assert turns.members(150) == tuple(range(k))
        return
    begun = [step for step in range(2 * max(steps, turns.count)) if turns.begins(step)]
    one, two = begun[: turns.count], begun[turns.count : 2 * turns.count]
    for some in (one, two):
        members = [turns.members(step) for step in some]
        assert max(map(len, members)) <= at_a_time
        assert sorted(i for these in members for i in these) == list(range(k))
    assert begun[turns.count] <= max(steps, turns.count)  # A pass fits into an epoch.
    assert all(turns.members(step) == turns.members(step - 1) for step in range(1, two[-1])
               if not turns.begins(step))  # fmt: skip


def test_weights_in_a_turn_are_weights_of_all(scattered: list[Path]) -> None:
    draw = np.random.default_rng(0)
    centre = draw.normal(size=(3, 7))
    centre /= centre.sum(axis=1, keepdims=True)
    turn = Turn((1, 4), centre)
    shares = draw.normal(size=(3, 3))
    shares[:, 0] = 1 - shares[:, 1:].sum(axis=1)
    models = draw.normal(size=(7, 5))
    for row in range(3):
        soup = centre[row] @ models
        wanted = shares[row] @ np.stack([soup, models[1], models[4]])
        np.testing.assert_allclose(turn.whole(shares)[row] @ models, wanted)
    np.testing.assert_allclose(turn.whole(turn.start()), centre)
    np.testing.assert_allclose(turn.whole(shares).sum(axis=1), 1)


def test_the_soup_so_far_is_not_rounded_to_the_dtype_of_the_files(
    scattered: list[Path], tmp_path: Path
) -> None:
    paths = []
    for path in scattered:
        state = {n: v.bfloat16() for n, v in torch.load(path, weights_only=True).items()}
        paths.append(tmp_path / path.name)
        torch.save(state, paths[-1])
    seen: list[str] = []
    whole = learned_school.inner_products

    def products(checkpoints: Any, slopes: Any) -> Any:
        seen.extend(spec.dtype for spec in checkpoints[0].layout.tensors.values())
        return whole(checkpoints, slopes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned_school, "inner_products", products)
        soup = ladle.learned(ladle.open(paths), Evaluator(Digits()), epochs=2, **FEW)
    assert set(seen) == {"float32"}
    assert {spec.dtype for spec in soup.layout.tensors.values()} == {"bfloat16"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ingredients_per_step": 2}, "--ingredients-per-step goes with --affine: positive"),
        ({"affine": True, "ingredients_per_step": 0}, "--ingredients-per-step is 0; it starts at"),
        (
            {"affine": True, "ingredients_per_step": 1, "epochs": 1, "examples_per_step": 100},
            "--ingredients-per-step 1 makes 7 turns of the 7 checkpoints, and there are 4 steps",
        ),
    ],
)
def test_turns_that_cannot_be_are_refused(
    scattered: list[Path], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadInput, match=sentence):
        ladle.learned(ladle.open(scattered), Evaluator(Digits()), **options)
