"""Learned soups against a plain reference that holds all ingredients in memory, and their rules."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn
from torch.nn import functional as F

import ladle
import tiny
from counted_digits import complaint, run_here
from digits import TASK, Digits, make_runs
from ladle.errors import BadInput, Diverged
from ladle.evaluate import Evaluator
from ladle.predictions import ClassSubset
from ladle.predictions.metrics import mse
from ladle.recipes import learned_progress
from ladle.recipes.learned_coefficients import Groups, Hyperplane, Simplex
from ladle.recipes.learned_soup import held_back
from ladle.soup import Ingredient, Soup, Tasting, with_base
from ladle.tasks import Split

LADLE = Path(sys.executable).with_name("ladle")
WAYS = [
    {"affine": affine, **by}
    for affine in (False, True)
    for by in ({}, {"by_block": True}, {"by_layer": True})
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def scattered(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six models around a good one, each worse than it: there is something to learn."""
    folder = tmp_path_factory.mktemp("scattered")
    mean = ladle.uniform(ladle.open(runs)).state_dict()
    paths = []
    for i in range(6):
        draw = torch.Generator().manual_seed(i)
        state = {
            name: value + 0.6 * value.std() * torch.randn(value.shape, generator=draw)
            for name, value in mean.items()
        }
        torch.save(state, folder / f"run-{i}.pt")
        paths.append(folder / f"run-{i}.pt")
    return paths


class Watched:
    """An evaluator whose gradients are written down."""

    def __init__(self, evaluator: Evaluator, after: Callable[[int], None] = lambda n: None) -> None:
        self.evaluator = evaluator
        self.losses: list[float] = []
        self.tasted: list[float] = []
        self._after = after

    def __call__(self, soup: Soup) -> float:
        return self.evaluator(soup)

    def gradients(self, pool, *, integers="equal"):  # type: ignore[no-untyped-def]
        inner, watched = self.evaluator.gradients(pool, integers=integers), self

        class Gradients:
            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            def __call__(self, soup, batch, factor):  # type: ignore[no-untyped-def]
                slope = inner(soup, batch, factor)
                watched.losses.append(slope.loss)
                watched._after(len(watched.losses))
                return slope

            def taste(self, soup, examples, factor):  # type: ignore[no-untyped-def]
                loss, score = inner.taste(soup, examples, factor)
                watched.tasted.append(loss)
                return loss, score

        return Gradients()


def states_of(runs: list[Path]) -> list[dict[str, torch.Tensor]]:
    return [torch.load(run, weights_only=True) for run in runs]


def reference(
    runs: list[Path], *, affine: bool, by_layer: bool = False, by_block: bool = False, steps: int
) -> list[float]:
    """The losses of the paper's way: all models in memory, autograd through their mixture."""
    task = Digits()
    states = states_of(runs)
    names, k = list(states[0]), len(states)
    group = {n: n if by_layer else n.partition(".")[0] if by_block else "" for n in names}
    rows = {key: i for i, key in enumerate(dict.fromkeys(group.values()))}
    raw = torch.zeros(len(rows), k, dtype=torch.float64, requires_grad=True)
    log_beta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([raw, log_beta], lr=0.1, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    labels = torch.from_numpy(task.splits["held-out"].labels)
    images = torch.from_numpy(task.images["held-out"])
    learn, _ = held_back(task.splits["held-out"].labels, 0.2, 0)
    model = task.build()
    evaluator, pool = Evaluator(task), ladle.open(runs)
    # That it is the best one has a test of its own.
    with torch.no_grad():
        log_beta += math.log(evaluator.gradients(pool).best_factor(ladle.uniform(pool), learn))
    losses: list[float] = []
    for epoch in range(99):
        order = np.random.default_rng([0, epoch]).permutation(learn)
        for start in range(0, len(order), 100):
            batch = order[start : start + 100]
            centred = raw - raw.mean(1, keepdim=True)
            alpha = (1 + centred) / k if affine else raw.softmax(1)
            mixed = {
                name: sum(
                    alpha[rows[group[name]], i] * states[i][name].double() for i in range(k)
                ).float()
                for name in names
            }
            logits = torch.func.functional_call(model, mixed, (images[batch],))
            loss = F.cross_entropy(logits * log_beta.exp(), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if len(losses) == steps:
                return losses
    raise AssertionError


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_losses_are_those_of_autograd_through_all_models_in_memory(
    runs: list[Path], way: dict[str, bool]
) -> None:
    watched = Watched(Evaluator(Digits()))
    ladle.learned(ladle.open(runs), watched, epochs=6, examples_per_step=100, patience=99, **way)
    theirs = reference(runs, steps=24, **way)
    assert theirs[-4:] != pytest.approx(theirs[:4], abs=1e-3)  # There was something to learn.
    assert watched.losses == pytest.approx(theirs, abs=1e-5)


def test_parts_of_a_batch_add_up_to_it(runs: list[Path]) -> None:
    """Also where they are not all of one size."""
    whole, parts = (
        Watched(Evaluator(Digits(), batch_size=500)),
        Watched(Evaluator(Digits(), batch_size=33)),
    )
    for one in (whole, parts):
        ladle.learned(ladle.open(runs), one, epochs=3, examples_per_step=100, by_layer=True)
    assert whole.losses == pytest.approx(parts.losses, abs=1e-5)


def plain_accuracy(soup: Soup, examples: np.ndarray) -> float:
    task = Digits()
    model = task.build()
    model.load_state_dict(soup.state_dict())
    logits = model(torch.from_numpy(task.images["held-out"][examples])).argmax(1).numpy()
    return float((logits == task.splits["held-out"].labels[examples]).mean())


def everything() -> np.ndarray:
    return np.arange(len(Digits().splits["held-out"]))


def by_examples(soup: Soup) -> tuple[list[Tasting], list[Tasting]]:
    """The tastings on what was kept back, and those on all held-out examples."""
    steps = [one for one in soup.tastings if one.examples == 100]
    return steps, list(soup.tastings[len(steps) :])


def loss_of(tasting: Tasting) -> float:
    return float(tasting.reason.split()[1].rstrip(";"))


@pytest.mark.parametrize("start", ["uniform", "greedy"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_it_is_never_worse_than_its_start_on_what_was_kept_back(
    runs: list[Path], way: dict[str, bool], start: Any
) -> None:
    pool, evaluator = ladle.open(runs), Evaluator(Digits())
    soup = ladle.learned(pool, evaluator, start=start, lr=0.3, epochs=3, **way)
    _, kept = held_back(Digits().splits["held-out"].labels, 0.2, 0)
    begun = ladle.uniform(pool) if start == "uniform" else ladle.greedy(pool, evaluator)
    steps, guards = by_examples(soup)
    assert steps[0].score == pytest.approx(plain_accuracy(begun, kept))
    best = [tasting for tasting in steps if tasting.kept][-1]
    assert loss_of(best) == min(map(loss_of, steps))
    if soup.options["pulled"] is None:
        assert soup.options["kept_back_loss"] == pytest.approx(loss_of(best), abs=1e-4)
        assert best.score == pytest.approx(plain_accuracy(soup, kept))
    assert guards[-1].kept
    assert guards[-1].score == evaluator(soup) == pytest.approx(plain_accuracy(soup, everything()))
    assert sum(soup.weights) == pytest.approx(1)


def test_a_learning_rate_that_ruins_everything_gives_the_start_back(scattered: list[Path]) -> None:
    pool = ladle.open(scattered)
    soup = ladle.learned(pool, Evaluator(Digits()), affine=True, by_layer=True, lr=10.0, epochs=2)
    assert (soup.options["best_step"], soup.options["pulled"]) == (0, None)
    uniform = ladle.uniform(pool).state_dict()
    assert all(torch.equal(value, uniform[name]) for name, value in soup.state_dict().items())
    assert [tasting.kept for tasting in soup.tastings] == [True, *[False] * 4, True]


def test_it_stops_when_the_loss_on_what_was_kept_back_no_longer_falls(
    scattered: list[Path],
) -> None:
    watched = Watched(Evaluator(Digits()))
    soup = ladle.learned(
        ladle.open(scattered), watched, affine=True, by_layer=True, lr=30.0, epochs=50, patience=3,
        examples_per_step=100,
    )  # fmt: skip
    steps_per_epoch = 4
    lowest = int(np.argmin(watched.tasted))
    assert len(watched.losses) == lowest * steps_per_epoch // 2 + 3 * steps_per_epoch < 200
    assert soup.options["steps"] == len(watched.losses)


def test_the_start_is_judged_with_the_temperature_that_it_takes(runs: list[Path]) -> None:
    """Or any weights would look better than the first ones, by their temperature alone."""
    pool, task = ladle.open(runs), Digits()
    watched = Watched(Evaluator(task))
    ladle.learned(pool, watched, epochs=1)
    learn, kept = held_back(task.splits["held-out"].labels, 0.2, 0)
    logits = Evaluator(task).predict(ladle.uniform(pool), "held-out").logits.astype(np.float64)
    labels = task.splits["held-out"].labels

    def loss(log_beta: float, some: np.ndarray) -> float:
        rows = torch.from_numpy(logits[some] * math.exp(log_beta))
        return F.cross_entropy(rows, torch.from_numpy(labels[some])).item()

    found = minimize_scalar(loss, args=(learn,), bounds=(-3, 3), method="bounded")
    assert abs(found.x) > 0.1
    assert watched.tasted[0] == pytest.approx(loss(found.x, kept), abs=1e-4)
    assert watched.tasted[0] < loss(0.0, kept)


def test_the_same_seed_gives_the_same_soup_and_another_one_another(scattered: list[Path]) -> None:
    pool = ladle.open(scattered)
    one, same, other = (
        ladle.learned(pool, Evaluator(Digits()), by_layer=True, epochs=2, seed=seed)
        for seed in (3, 3, 4)
    )
    assert one.digest == same.digest != other.digest
    assert one.tastings == same.tastings


def test_what_is_kept_back_has_its_part_of_every_class() -> None:
    labels = np.repeat(np.arange(7), [3, 200, 41, 10, 99, 1, 60])
    learn, kept = held_back(labels, 0.2, 5)
    assert sorted([*learn, *kept]) == list(range(len(labels)))
    for label in range(7):
        wanted = 0.2 * (labels == label).sum()
        assert abs((labels[kept] == label).sum() - wanted) <= 1
    assert not np.array_equal(kept, held_back(labels, 0.2, 6)[1])
    numbers = np.random.default_rng(0).normal(size=400)
    _, some = held_back(numbers, 0.25, 0)
    assert len(some) == 100
    assert np.median(numbers[some]) == pytest.approx(np.median(numbers), abs=0.1)


@pytest.mark.parametrize("space", [Simplex(), Hyperplane()])
def test_free_numbers_make_the_shares_that_they_came_from(space: Any) -> None:
    shares = np.array([[0.25] * 4, [0.1, 0.2, 0.3, 0.4]])
    np.testing.assert_allclose(space.shares(space.free(shares)), shares, atol=1e-12)
    one = np.array([[0.5, 0.5, 0.0, 0.0]])
    near = space.shares(space.free(one))
    np.testing.assert_allclose(near, one, atol=0.06 if isinstance(space, Simplex) else 1e-12)


def test_blocks_are_members_of_stacks_or_modules_and_tied_tensors_go_together() -> None:
    names = [
        "embeddings.word.weight",
        "encoder.layer.0.query.weight",
        "encoder.layer.0.query.bias",
        "encoder.layer.10.query.bias",
        "blocks.2.1.conv.weight",
        "blocks.2.0.conv.weight",
        "head.weight",
        "head.bias",
        "scale",
    ]
    tied = {name: name for name in names} | {"head.weight": "embeddings.word.weight"}
    rows = Groups.of(tied, dict.fromkeys(names, 1), "block").rows
    assert [rows[name] for name in names] == [0, 1, 1, 2, 3, 4, 0, 5, 6]


def test_what_the_network_does_not_learn_gets_the_mean_coefficients() -> None:
    groups = Groups.of({"a": "a", "b": "b"}, {"a": 30, "b": 10}, "layer")
    merge = groups.merge(np.array([[1.0, 0.0], [0.2, 0.8]]))
    assert merge.by_tensor == {"a": (1.0, 0.0), "b": (0.2, 0.8)}
    assert merge.weights == pytest.approx((0.8, 0.2))


class Net(nn.Module):
    """A convolution and BatchNorm, and an output layer whose weight is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.first = nn.Linear(32, 32, bias=False)
        self.second = nn.Linear(32, 32, bias=False)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(4, 4)
        self.head = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = F.avg_pool2d(self.norm(self.conv(images.view(-1, 1, 8, 8))), 4).flatten(1)
        return self.head(self.second(torch.tanh(self.first(found))))


class NormalisedDigits(Digits):
    def build(self) -> nn.Module:
        return Net().eval()


def normalised_runs(folder: Path, *, apart: bool) -> list[Path]:
    """Three states; their tied weight has one name or, if `apart`, is in the file twice."""
    paths = []
    for i in range(3):
        torch.manual_seed(0)
        net = Net()
        torch.manual_seed(i + 1)
        with torch.no_grad():
            for one in net.parameters():
                one.add_(0.05 * torch.randn(one.shape))
        net.train()(torch.randn(50 * (i + 1), 64))
        state = {
            name: value.clone() if apart else value for name, value in net.state_dict().items()
        }
        torch.save(state, folder / f"{i}.pt")
        paths.append(folder / f"{i}.pt")
    return paths


def test_ingredients_of_such_networks_take_turns(tmp_path: Path) -> None:
    """Also where a tied tensor does not differ, and is in no soup so far."""
    paths = normalised_runs(tmp_path, apart=False)
    first = states_of(paths)[0]
    for path, state in zip(paths, states_of(paths), strict=True):
        state["first.weight"] = state["second.weight"] = first["first.weight"]
        torch.save(state, path)
    soup = ladle.learned(
        ladle.open(paths), Evaluator(NormalisedDigits()), affine=True, by_layer=True, lr=0.2,
        ingredients_per_step=1,
    )  # fmt: skip
    losses = [float(one.reason.split()[1].rstrip(";")) for one in soup.tastings]
    assert soup.options["best_step"] > 0
    assert soup.options["kept_back_loss"] < losses[0]
    state = soup.state_dict()
    assert torch.equal(state["first.weight"], first["first.weight"])


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_networks_with_statistics_ties_and_parts_that_nothing_uses(
    tmp_path: Path, apart: bool, channels_last: bool
) -> None:
    pool = ladle.open(normalised_runs(tmp_path, apart=apart))
    task = NormalisedDigits()
    evaluator = Evaluator(task, channels_last=channels_last)
    watched = Watched(evaluator)
    soup = ladle.learned(pool, watched, by_layer=True, lr=0.2, examples_per_step=400, kept_back=0.2)
    assert soup.options["best_step"] > 0
    state, rows = soup.state_dict(), soup.merge.record()["by_tensor"]
    assert torch.equal(state["first.weight"], state["second.weight"])
    assert rows["conv.weight"] != rows["head.weight"]
    assert rows["unused.weight"] == pytest.approx([1 / 3] * 3)
    assert not any("running" in name for name in rows)
    means = [torch.load(one.checkpoint.path)["norm.running_mean"].double() for one in pool]
    mixed = sum(w * mean for w, mean in zip(soup.weights, means, strict=True)).float()
    assert torch.allclose(state["norm.running_mean"], mixed)
    # One more look, in a new model: what was merged in place is what would be merged whole.
    _, kept = held_back(task.splits["held-out"].labels, 0.2, 0)
    model = task.build()
    model.load_state_dict(state)
    beta = soup.options["inverse_temperature"]
    with torch.no_grad():
        logits = model(torch.from_numpy(task.images["held-out"][kept])) * beta
        loss = F.cross_entropy(logits, torch.from_numpy(task.splits["held-out"].labels[kept]))
    assert loss.item() == pytest.approx(soup.options["kept_back_loss"], abs=1e-5)


def test_classes_that_are_made_of_the_model_s_are_what_is_learned(runs: list[Path]) -> None:
    """Low and high digits: of each, the largest logit."""

    class Halves(Digits):
        def __init__(self) -> None:
            super().__init__()
            classes = ClassSubset((tuple(range(5)), tuple(range(5, 10))))
            self.splits = {
                name: replace(one, labels=one.labels // 5, classes=classes)
                for name, one in self.splits.items()
            }

    watched = Watched(Evaluator(Halves()))
    soup = ladle.learned(ladle.open(runs), watched, by_layer=True, epochs=2, lr=0.2)
    task, model = Halves(), Halves().build()
    model.load_state_dict(soup.state_dict())
    _, kept = held_back(task.splits["held-out"].labels, 0.2, 0)
    with torch.no_grad():
        said = model(torch.from_numpy(task.images["held-out"][kept])).view(-1, 2, 5).amax(2)
    labels = torch.from_numpy(task.splits["held-out"].labels[kept])
    loss = F.cross_entropy(said * soup.options["inverse_temperature"], labels).item()
    assert loss == pytest.approx(soup.options["kept_back_loss"], abs=1e-5)
    assert loss < watched.tasted[0]


def test_bfloat16_arithmetic_learns_too_and_gives_other_losses(runs: list[Path]) -> None:
    plain, narrow = Watched(Evaluator(Digits())), Watched(Evaluator(Digits(), amp=True))
    for one in (plain, narrow):
        ladle.learned(ladle.open(runs), one, by_layer=True, epochs=2, lr=0.2)
    assert narrow.losses != plain.losses
    assert narrow.losses == pytest.approx(plain.losses, abs=0.02)


class Heights(Digits):
    """How bright an image is, as a number to predict."""

    metric = mse

    def __init__(self) -> None:
        super().__init__()
        self.splits = {
            name: Split(name, one.role, self.images[name].sum(1).astype(np.float64), one.digest)
            for name, one in self.splits.items()
        }

    def build(self) -> nn.Module:
        return nn.Linear(64, 1).eval()

    def labelled(self, model, split, batches) -> Iterator[Any]:  # type: ignore[no-untyped-def]
        for batch in batches:
            labels = torch.from_numpy(self.splits[split].labels[batch])
            yield torch.from_numpy(self.images[split][batch]), labels


def test_numbers_are_learned_by_the_squared_error_and_keep_their_scale(tmp_path: Path) -> None:
    # The truth is weights of one, and lies beyond the second model as seen from the first.
    for i, scale in enumerate((0.2, 0.6)):
        state = {"weight": torch.full((1, 64), scale), "bias": torch.zeros(1)}
        torch.save(state, tmp_path / f"{i}.pt")
    pool = ladle.open([tmp_path / "0.pt", tmp_path / "1.pt"])
    soup = ladle.learned(pool, Evaluator(Heights()), affine=True, epochs=60, lr=0.2, patience=20)
    assert soup.weights == pytest.approx((-1.0, 2.0), abs=0.05)
    assert soup.options["inverse_temperature"] == 1.0
    within = ladle.learned(pool, Evaluator(Heights()), epochs=60, lr=0.2)
    assert all(0 <= weight <= 1 for weight in within.weights)


def test_one_checkpoint_and_equal_parameters_have_nothing_to_learn(
    runs: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="at least two checkpoints"):
        ladle.learned(ladle.open(runs[:1]), Evaluator(Digits()))
    state = Net().state_dict()
    for name in ("one.pt", "other.pt"):
        state["norm.running_mean"] += 1  # No parameter.
        torch.save(state, tmp_path / name)
    equal = ladle.open([tmp_path / "one.pt", tmp_path / "other.pt"])
    with pytest.raises(BadInput, match="agree in every parameter"):
        ladle.learned(equal, Evaluator(NormalisedDigits()))


@pytest.mark.filterwarnings("ignore")  # of peft, about models without a name
def test_adapters_are_refused_alone_and_on_their_base(tmp_path: Path) -> None:
    tiny.bert().save_pretrained(tmp_path / "base")
    for i in range(2):
        config = peft.LoraConfig(r=2 + i, target_modules=["query"], init_lora_weights=False)
        peft.get_peft_model(tiny.bert(), config).save_pretrained(tmp_path / f"run-{i}")
    alone = ladle.open([tmp_path / "run-0", tmp_path / "run-1"])
    base = Ingredient("base", ladle.open_checkpoint(tmp_path / "base"))
    for pool in (alone, with_base(alone, base)):
        with pytest.raises(BadInput, match="does not learn weights of LoRA adapters; merge them"):
            ladle.learned(pool, Evaluator(Digits()))


def test_a_score_has_no_gradients(runs: list[Path]) -> None:
    with pytest.raises(BadInput, match="needs gradients, and a score has none; give a --task"):
        ladle.learned(ladle.open(runs), lambda soup: 0.0)

    class Plain(Digits):
        labelled = None

        def __getattribute__(self, name: str) -> Any:
            if name == "labelled":
                raise AttributeError(name)
            return super().__getattribute__(name)

    with pytest.raises(BadInput, match="lacks `labelled` or `logits`"):
        ladle.learned(ladle.open(runs), Evaluator(Plain()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by_layer": True, "by_block": True}, "exclude each other"),
        ({"lr": 0.0}, "--lr is 0; give a number above 0"),
        ({"lr": math.nan}, "--lr is nan"),
        ({"kept_back": 1.0}, "--kept-back is 1"),
        ({"kept_back": 0.01}, "5 would be kept back"),
        ({"epochs": 0}, "--epochs is 0; it starts at 1"),
        ({"patience": 0}, "--patience is 0"),
        ({"examples_per_step": 0}, "--examples-per-step is 0"),
        ({"start": "best"}, "--start is 'best'"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    runs: list[Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        ladle.learned(ladle.open(runs), Evaluator(Digits()), **options)


def test_a_loss_that_is_not_finite_is_an_error(runs: list[Path]) -> None:
    with pytest.raises(Diverged, match="stopped being finite"):
        ladle.learned(ladle.open(runs), Evaluator(Digits()), affine=True, lr=1e25)


def test_an_interrupted_call_goes_on_to_the_same_soup(
    scattered: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is interrupted, also right after a step that was judged."""
    monkeypatch.setattr(learned_progress, "_SECONDS", 0.0)
    options = {"by_layer": True, "epochs": 3, "examples_per_step": 100, "start": "greedy"}
    pool = ladle.open(scattered)
    whole = Watched(Evaluator(Digits()))
    wanted = ladle.learned(pool, whole, **options)

    class Stopped(Exception):
        pass

    for stop in (1, 2, 3, 5, 12):

        def interrupt(done: int, stop: int = stop) -> None:
            if done == stop:
                raise Stopped

        workspace = tmp_path / str(stop)
        with pytest.raises(Stopped):
            ladle.learned(
                pool, Watched(Evaluator(Digits(), workspace=workspace), interrupt), **options
            )
        again = Watched(Evaluator(Digits(), workspace=workspace))
        soup = ladle.learned(pool, again, **options)
        # The step under way was lost, and no other.
        assert again.losses == whole.losses[stop - 1 :]
        assert soup.digest == wanted.digest
        assert soup.tastings == wanted.tastings
        assert soup.options == wanted.options


def test_what_was_done_for_other_options_is_not_taken_up(
    scattered: list[Path], tmp_path: Path
) -> None:
    pool = ladle.open(scattered)
    ladle.learned(pool, Evaluator(Digits(), workspace=tmp_path), epochs=2)
    fresh = ladle.learned(pool, Evaluator(Digits()), epochs=2, lr=0.2)
    again = Watched(Evaluator(Digits(), workspace=tmp_path))
    assert ladle.learned(pool, again, epochs=2, lr=0.2).digest == fresh.digest
    assert len(again.losses) == fresh.options["steps"]


def cook(runs: list[Path], output: Path, *options: str) -> list[str]:
    return [
        str(LADLE), "cook", *map(str, runs), "--task", TASK, "--recipe", "learned", "-o",
        str(output), *options,
    ]  # fmt: skip


@pytest.mark.slow
def test_the_command_says_that_held_out_scores_are_no_estimates_any_more(
    scattered: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "soup"
    command = cook(scattered, out, "--by-layer", "--affine", "--epochs", "2", "--seed", "4")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    record = json.loads((out / "soup.json").read_text())
    (caveat,) = record["caveats"]
    assert caveat == (
        "the weights of this soup were learned on 400 of the 500 examples of held-out, and chosen "
        "by the other 100: scores on held-out are no estimate of what it does on others"
    )
    assert f"warning: {caveat}" in done.stderr
    assert caveat in (out / "report.html").read_text()
    assert {**record["recipe"]["options"], "by": "layer", "affine": True, "epochs": 2} == (
        record["recipe"]["options"]
    )
    assert record["merge"]["by_tensor"].keys() == states_of(scattered)[0].keys()
    assert "learned soup: 6 of 6 checkpoints" in done.stdout
    soup = ladle.learned(
        ladle.open(scattered), Evaluator(Digits()), by_layer=True, affine=True, epochs=2, seed=4
    )
    from safetensors.torch import load_file

    written = load_file(out / "model.safetensors")
    assert all(torch.equal(value, written[name]) for name, value in soup.state_dict().items())
    assert not (out / "candidate").exists()


def test_the_command_refuses_in_one_sentence(runs: list[Path], tmp_path: Path) -> None:
    def said(command: list[str]) -> str:
        return complaint(run_here(*command[1:]))

    other = cook(runs, tmp_path / "soup", "--affine")
    other[other.index("learned")] = "greedy"
    assert "--affine goes with --recipe learned, not with greedy" in said(other)
    scored = cook(runs, tmp_path / "soup", "--score", "echo {model} 1")
    del scored[scored.index("--task") : scored.index("--task") + 2]
    assert "--recipe learned looks at predictions or gradients, and a --score has none" in said(
        scored
    )
    assert not list(tmp_path.iterdir())


SLOW = """
import time
from digits_task import Digits
class Slow(Digits):
    def logits(self, model, inputs):
        time.sleep(0.1)
        return super().logits(model, inputs)
task = Slow
"""


@pytest.mark.slow
def test_a_killed_cook_goes_on_and_writes_the_same_bytes(
    scattered: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{Path(TASK).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    options = ("--by-layer", "--epochs", "3", "--examples-per-step", "50")

    def command(name: str) -> list[str]:
        slow = cook(scattered, tmp_path / name, *options)
        slow[slow.index(TASK)] = f"{tmp_path / 'slow.py'}:task"
        return slow

    def step() -> int:
        try:
            with np.load(tmp_path / "soup.part" / "candidate" / "learned.npz") as kept:
                return int(json.loads(str(kept["about"]))["step"])
        except FileNotFoundError:
            return 0

    seen = []
    for wanted in (2, 12):
        process = subprocess.Popen(
            command("soup"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and step() < wanted:
            time.sleep(0.05)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        seen.append(step())
    assert 2 <= seen[0] < seen[1] < 24
    assert not (tmp_path / "soup").exists()
    for name in ("soup", "undisturbed"):
        subprocess.run(command(name), env=environment, check=True, capture_output=True)
    one, other = (tmp_path / name / "model.safetensors" for name in ("soup", "undisturbed"))
    assert one.read_bytes() == other.read_bytes()
    records = [json.loads((one.parent / "soup.json").read_text()) for one in (one, other)]
    assert records[0]["tastings"] == records[1]["tastings"]


PEAK = """
import re, sys
from pathlib import Path
import numpy as np, torch
from torch import nn
import ladle
from ladle.predictions import accuracy
from ladle.tasks import Split

class Wide:
    name, metric, digest = "wide", accuracy, "wide-1"
    labels = np.arange(100) % 2
    splits = {"held-out": Split("held-out", "held-out", labels, "1")}
    def build(self):
        return nn.Sequential(nn.Linear(3000, 3000), nn.Linear(3000, 2)).eval()
    def labelled(self, model, split, batches):
        for batch in batches:
            yield torch.ones(len(batch), 3000), torch.from_numpy(self.labels[batch])
    def logits(self, model, inputs):
        return model(inputs)
    def predict(self, model, split, **given):
        return model(torch.ones(100, 3000)).numpy()

ladle.learned(ladle.open(sys.argv[1:]), ladle.Evaluator(Wide()), by_layer=True, epochs=1)
status = Path("/proc/self/status").read_text()
print(int(re.search("VmHWM: *([0-9]+) kB", status.replace("\\t", " ")).group(1)) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak")
def test_twelve_ingredients_take_no_more_memory_than_four(tmp_path: Path) -> None:
    paths = []
    for i in range(12):
        torch.manual_seed(i)
        net = nn.Sequential(nn.Linear(3000, 3000), nn.Linear(3000, 2))  # 36 MB
        torch.save(net.state_dict(), tmp_path / f"{i}.pt")
        paths.append(str(tmp_path / f"{i}.pt"))

    def peak(some: list[str]) -> int:
        command = [sys.executable, "-c", PEAK, *some]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    few, many = peak(paths[:4]), peak(paths)
    assert many - few < 36  # Not one of the eight that are more.
    for path in paths:
        Path(path).unlink()
