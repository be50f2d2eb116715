"""Early exit: candidates are dropped before they are measured, and no decision changes for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ladle
from ladle.checkpoint import MemoryCheckpoint
from ladle.errors import BadTask
from ladle.evaluate import Evaluator, Store
from ladle.evaluate.course import Tally, by_difficulty
from ladle.predictions import METRICS, Array, ExampleNumbers, Metric, Predictions, accuracy, mean_of
from ladle.recipes.trial import try_out
from ladle.soup import Compares, Ingredient, Pool, Soup, Tasting
from ladle.tasks import PredictsSome, Split

# --- a task whose model says what a table has ---------------------------------------------


class Row(nn.Module):
    """A model whose only weight says which row of the table it answers with."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))


class Table:
    """A `PredictsSome` whose logits, of any ingredient and of any soup, are drawn from a seed.

    Like a real model, it says something else in the last bits when an example is in other company.
    """

    name = "table"
    digest = "table"

    def __init__(
        self, seed: int, *, n: int = 40, classes: int = 3, metric: Metric = accuracy, bad: int = 0
    ) -> None:
        generator = np.random.default_rng(seed)
        self.metric = metric
        labels = generator.integers(0, classes, n)
        if metric.name in ("mse", "mae"):
            labels, classes = generator.normal(size=n), 1  # type: ignore[assignment]
        self.splits: Mapping[str, Split] = {"dev": Split("dev", "held-out", labels, f"{seed}")}
        self.seed, self.shape, self.bad = seed, (n, classes), bad
        # What is easy for one is easy for all, as in a sweep.
        self.common = generator.normal(size=(n, classes))
        if classes > 1:
            self.common[np.arange(n), labels] += generator.normal(1.0, 1.0, n)
        else:
            self.common[:, 0] += labels
        self.passes = 0
        self.seen = 0

    def build(self) -> nn.Module:
        return Row()

    def table(self, model: Any) -> np.ndarray:
        number = int(np.float32(model.w.item()).view(np.int32))
        generator = np.random.default_rng([self.seed, number & 0xFFFFFFFF])
        # Models alone are a half and an integer; a soup of some is better than they, or worse.
        alone = model.w.item() % 1 == 0.5
        noise = 0.5 if alone else generator.choice([0.05, 0.3, 0.5, 1.0])
        said = self.common + generator.normal(0, noise, self.shape)
        if self.bad and generator.integers(self.bad) == 0:
            said[generator.integers(len(said))] = generator.choice([math.nan, math.inf])
        return np.asarray(said)

    def predict(self, model: Any, split: str, *, batch_size: int, advance: Any, **_: Any) -> Any:
        self.passes += 1
        advance(self.shape[0])
        return self.table(model).astype(np.float32)

    def arranged(
        self, split: str, order: ExampleNumbers, *, batch_size: int
    ) -> list[ExampleNumbers]:
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def predict_some(
        self, model: Any, split: str, batches: Sequence[ExampleNumbers], *, device: Any
    ) -> Generator[Array, None, None]:
        self.passes += 1
        table = self.table(model)
        for batch in batches:
            self.seen += len(batch)
            company = np.random.default_rng(int(batch.sum()))
            yield (table[batch] * (1 + 1e-7 * company.normal())).astype(np.float32)


def pool(n: int) -> Pool:
    return Pool.of(
        Ingredient(f"run{i}", MemoryCheckpoint(Path(f"run{i}"), {"w": torch.tensor([0.5 + i])}))
        for i in range(n)
    )


def decisions(soup: Soup) -> list[tuple[str, tuple[str, ...], bool]]:
    return [(one.candidate, one.members, one.kept) for one in soup.tastings]


def both(
    make: Callable[[], Table], cook: Callable[[Pool, Evaluator], Soup], n: int, batch_size: int
) -> tuple[Table, Table]:
    """Cook with and without early exit, check that all is the same; returns the tasks."""
    early, full = make(), make()
    ours = cook(pool(n), Evaluator(early, batch_size=batch_size))
    theirs = cook(pool(n), Evaluator(full, batch_size=batch_size, early_exit=False))
    assert ours.members == theirs.members
    assert ours.digest == theirs.digest
    assert decisions(ours) == decisions(theirs)
    for mine, other in zip(ours.tastings, theirs.tastings, strict=True):
        if mine.bound is None:
            assert (mine.score, mine.reason) == (other.score, other.reason)
            continue
        assert mine.score is None
        assert not mine.kept
        # The bound is one of the score as it is computed, to the last bit.
        assert other.score is None or mine.bound >= other.score
    assert early.seen <= full.seen
    return early, full


bounded = st.sampled_from(["accuracy", "top-5", "nll", "brier", "mse", "mae"])


tables = given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 7),
    batch_size=st.integers(1, 50),
    metric=bounded,
    strict=st.booleans(),
    bad=st.sampled_from([0, 0, 2, 4]),
)


@pytest.mark.slow
@settings(max_examples=100)
@tables
def test_greedy_decides_as_with_full_evaluation(
    seed: int, n: int, batch_size: int, metric: str, strict: bool, bad: int
) -> None:
    check_greedy(seed, n, batch_size, metric, strict, bad)


@pytest.mark.slow
@settings(max_examples=500)
@tables
def test_greedy_decides_as_with_full_evaluation_thousands_of_times(
    seed: int, n: int, batch_size: int, metric: str, strict: bool, bad: int
) -> None:
    check_greedy(seed, n, batch_size, metric, strict, bad)


def check_greedy(seed: int, n: int, batch_size: int, metric: str, strict: bool, bad: int) -> None:
    def make() -> Table:
        return Table(seed, metric=METRICS[metric], bad=bad, classes=7)

    def cook(pool: Pool, evaluate: Evaluator) -> Soup:
        try:
            return ladle.greedy(pool, evaluate, strict=strict)
        except ladle.LadleError:  # None has a finite score, with or without early exit.
            return ladle.uniform(pool)

    both(make, cook, n, batch_size)


def shrunk(pool: Pool, evaluate: Evaluator) -> Soup:
    """A recipe of another kind: leave out what makes the soup no worse by being left out."""
    left, soup = list(range(len(pool))), ladle.uniform(pool)
    score, tastings = evaluate(soup), []
    for i in range(len(pool)):
        others = [j for j in left if j != i]
        if not others or math.isnan(score):
            continue
        trial = ladle.uniform(pool.subset(others))
        one = try_out(trial, f"{i}", evaluate, score, rival=ladle.uniform(pool.subset(left)))
        tastings.append(one)
        if one.kept and one.score is not None:
            left, score = others, one.score
    return replace(ladle.uniform(pool.subset(left)), tastings=tuple(tastings))


@pytest.mark.slow
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), batch_size=st.integers(1, 50), metric=bounded)
def test_other_recipes_do_as_well(seed: int, batch_size: int, metric: str) -> None:
    both(lambda: Table(seed, metric=METRICS[metric]), shrunk, 6, batch_size)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), step=st.integers(-3, 3), strict=st.booleans())
def test_the_verdict_is_that_of_the_score_at_any_bar_near_it(
    seed: int, step: int, strict: bool
) -> None:
    """Ties both ways: a bar that is the score itself, and so many hits above and below it."""
    models = pool(2)
    rival, soup = (ladle.uniform(models.subset([i])) for i in (0, 1))
    full = Evaluator(Table(seed), batch_size=4, early_exit=False)
    score = full.at_least(soup, 0.0, order_hint=rival).score
    assert score is not None
    bar = (round(score * 40) + step) / 40
    verdict = Evaluator(Table(seed), batch_size=4).at_least(
        soup, bar, strict=strict, order_hint=rival
    )
    if score > bar if strict else score >= bar:
        assert verdict.score == score
    elif verdict.score is None:
        assert verdict.bound is not None
        assert verdict.seen is not None
        assert verdict.seen < 40
        assert verdict.bound <= bar if strict else verdict.bound < bar
        assert verdict.bound >= score
    else:
        assert verdict.score == score


def test_a_tie_is_measured_to_the_end_and_kept_unless_strict() -> None:
    """Models that say the same tie; strict, that is known as soon as the last miss is seen."""
    same = Table(3, n=100)
    same.table = lambda model: same.common  # type: ignore[method-assign]
    models = pool(2)
    rival, soup = (ladle.uniform(models.subset([i])) for i in (0, 1))
    evaluate = Evaluator(same, batch_size=1)
    score = evaluate(rival)
    misses = round(100 * (1 - score))
    assert 5 < misses < 95
    assert evaluate.at_least(soup, score, order_hint=rival).score == score
    anew = Evaluator(same, batch_size=1)
    assert try_out(soup, "run1", anew, score, rival=rival) == Tasting(
        "run1", ("run1",), score, True, "no change", 0.0
    )
    anew = Evaluator(same, batch_size=1)
    assert try_out(soup, "run1", anew, score, strict=True, rival=rival) == Tasting(
        "run1",
        ("run1",),
        None,
        False,
        f"no better: dropped after {misses} of 100 examples",
        examples=misses,
        bound=score,
    )


def test_logits_that_are_not_finite_settle_it_at_once() -> None:
    task, models = Table(3, n=100), pool(2)
    rival, soup = (ladle.uniform(models.subset([i])) for i in (0, 1))
    evaluate = Evaluator(task, batch_size=10)
    evaluate(rival)
    task.table = lambda model: np.full(task.shape, math.nan)  # type: ignore[method-assign]
    verdict = evaluate.at_least(soup, 0.0, order_hint=rival)
    assert verdict.score is not None
    assert math.isnan(verdict.score)
    assert verdict.seen == task.seen == 10
    tasting = try_out(soup, "run1", evaluate, 0.0, rival=rival)
    assert (tasting.score, tasting.reason) == (None, "rejected: the score is not finite")
    assert task.seen == 10


def test_it_saves_most_of_the_work_where_models_err_alike() -> None:
    both(lambda: Table(1, n=2000), ladle.greedy, 7, 50)
    soup = ladle.greedy(pool(7), Evaluator(Table(1, n=2000), batch_size=50))
    seen = [one.examples for one in soup.tastings if one.examples is not None]
    assert len(seen) > 1
    assert sum(seen) < 0.75 * 2000 * len(seen)


@given(seed=st.integers(0, 2**32 - 1), name=bounded, order=st.randoms(use_true_random=False))
def test_a_bound_falls_to_the_score_and_never_below(seed: int, name: str, order: Any) -> None:
    """In any order of the examples, and as floating point has it."""
    metric, task = METRICS[name], Table(seed, metric=METRICS[name], classes=6)
    model = Row()
    said = Predictions("dev", task.table(model).astype(np.float32), task.splits["dev"].labels)
    tally = Tally("dev", said.labels, metric)
    score = metric.sign * metric(said)
    examples = list(range(len(said)))
    order.shuffle(examples)
    before = tally.bound
    assert before == metric.sign * float(metric.ideal or 0.0)
    for start in range(0, len(examples), 3):
        batch = np.array(examples[start : start + 3])
        tally.add(batch, said.logits[batch])
        assert score <= tally.bound <= before
        before = tally.bound
    assert before == score


def test_what_a_rival_gets_wrong_comes_first_then_what_it_nearly_does() -> None:
    logits = np.array([[9, 0], [0, 1], [0.1, 0], [3, 4], [0, 5], [2, 2]], np.float32)
    rival = Predictions("dev", logits, np.array([0, 0, 0, 0, 1, 1]))
    # Wrong: 1 by 1, 3 by 1, 5 by the first of equals; right: 2 by 0.1, 4 by 5, 0 by 9.
    assert by_difficulty(rival, accuracy).tolist() == [1, 3, 5, 2, 4, 0]


# --- where there is no bound, or no way to predict a part ---------------------------------


@pytest.mark.parametrize("name", ["f1", "matthews", "accuracy-f1", "ece"])
def test_a_metric_without_a_bound_is_measured_to_the_end(name: str) -> None:
    task = Table(5, metric=METRICS[name], classes=2)
    soup = ladle.greedy(pool(4), Evaluator(task, batch_size=2))
    assert task.seen == 0
    assert all(one.bound is None and one.score is not None for one in soup.tastings)


def test_a_metric_of_ones_own_has_a_bound_where_it_says_so() -> None:
    def hits(said: Predictions) -> Any:
        return (said.logits.argmax(1) == said.labels).astype(np.float64)

    plain = Table(5, metric=mean_of("hits", hits))
    ladle.greedy(pool(4), Evaluator(plain, batch_size=2))
    assert plain.seen == 0
    early, _ = both(lambda: Table(5, metric=mean_of("hits", hits, ideal=1.0)), ladle.greedy, 4, 2)
    assert early.seen


def test_an_ideal_that_is_none_is_an_error() -> None:
    def wrong(said: Predictions) -> Any:
        return 2.0 * (said.logits.argmax(1) == said.labels)

    task = Table(5, metric=mean_of("twice", wrong, ideal=1.0))
    with pytest.raises(BadTask, match="'twice' gives an example 2, better than its ideal 1;"):
        ladle.greedy(pool(3), Evaluator(task))
    task = Table(5, metric=Metric("odd", lambda said: 0.5, True, accuracy.per_example, 1.0))
    with pytest.raises(BadTask, match="'odd' has an ideal, so its score has to be the plain mean"):
        ladle.greedy(pool(3), Evaluator(task))


def test_a_task_that_predicts_only_all_is_measured_to_the_end() -> None:
    class Plain:
        def __init__(self) -> None:
            inner = Table(5)
            for name in ("name", "digest", "metric", "splits", "build", "predict"):
                setattr(self, name, getattr(inner, name))

    task = Plain()
    assert not isinstance(task, PredictsSome)
    soup = ladle.greedy(pool(4), Evaluator(task, batch_size=2))  # type: ignore[arg-type]
    assert all(one.score is not None for one in soup.tastings)


def test_a_plain_function_is_no_less_an_evaluation() -> None:
    task = Table(5)
    evaluator = Evaluator(task)
    assert isinstance(evaluator, Compares)
    soup = ladle.greedy(pool(4), lambda soup: 1.0 * evaluator(soup))
    assert task.seen == 0
    assert all(one.score is not None for one in soup.tastings)


# --- what is kept --------------------------------------------------------------------------


def test_a_run_that_is_repeated_needs_no_model(tmp_path: Path) -> None:
    store = tmp_path / "ladle.sqlite"

    def cooked(task: Table) -> Soup:
        kept = Store(store)
        try:
            return ladle.greedy(pool(6), Evaluator(task, store=kept, batch_size=4))
        finally:
            kept.close()

    first, second = Table(8, n=200), Table(8, n=200)
    soup = cooked(first)
    assert any(one.bound is not None for one in soup.tastings)
    assert first.passes
    assert cooked(second).tastings == soup.tastings
    assert second.passes == 0


@pytest.mark.parametrize("seed", [0, 1, 2, 10, 12])
def test_a_repeated_run_says_the_same_whatever_else_the_store_has(
    tmp_path: Path, seed: int
) -> None:
    """What a soup scores in the usual batches, as `cook` reports it, is no part of choosing it."""

    class Talkative(Table):
        """In other company it says quite another thing, where real models differ in last bits."""

        def predict_some(self, *given: Any, **named: Any) -> Any:
            for batch, rows in zip(given[2], super().predict_some(*given, **named), strict=True):
                company = np.random.default_rng(int(batch.sum()))
                yield rows + company.normal(0, 0.3, rows.shape)

    found = []
    for _ in range(2):
        store = Store(tmp_path / "ladle.sqlite")
        evaluate = Evaluator(Talkative(seed, n=200), store=store, batch_size=4)
        soup = ladle.greedy(pool(6), evaluate)
        kept = [one.score for one in soup.tastings if one.kept]
        assert len(soup.members) > 1
        assert evaluate(soup) != kept[-1]
        store.close()
        found.append((soup.digest, soup.tastings))
    assert found[0] == found[1]


class Killed(BaseException):
    """As Ctrl-C, at a moment of our choice."""


@pytest.mark.parametrize("batches", range(1, 60, 7))
def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path: Path, batches: int) -> None:
    class Mortal(Table):
        left = batches

        def predict_some(self, *given: Any, **named: Any) -> Any:
            for rows in super().predict_some(*given, **named):
                self.left -= 1
                if self.left == 0:
                    raise Killed
                yield rows

    whole = Table(8, n=200)
    expected = ladle.greedy(pool(6), Evaluator(whole, batch_size=4))
    store = Store(tmp_path / "ladle.sqlite")
    with pytest.raises(Killed):
        ladle.greedy(pool(6), Evaluator(Mortal(8, n=200), store=store, batch_size=4))
    store.close()
    rest, store = Table(8, n=200), Store(tmp_path / "ladle.sqlite")
    soup = ladle.greedy(pool(6), Evaluator(rest, store=store, batch_size=4))
    store.close()
    assert soup.tastings == expected.tastings
    assert soup.digest == expected.digest
    # Only what was under way is done again.
    assert rest.seen <= whole.seen - batches * 4 + 200


def test_a_lower_bar_asks_the_model_again() -> None:
    """What a candidate was dropped for is no reason at another bar."""
    task, models = Table(8, n=200), pool(2)
    rival, soup = (ladle.uniform(models.subset([i])) for i in (0, 1))
    evaluate = Evaluator(task, batch_size=4)
    dropped = evaluate.at_least(soup, 0.99, order_hint=rival)
    assert dropped.score is None
    assert dropped.seen is not None
    assert dropped.bound is not None
    passes = task.passes
    assert evaluate.at_least(soup, dropped.bound, strict=True, order_hint=rival) == dropped
    assert evaluate.at_least(soup, 1.0, order_hint=rival) == dropped
    assert task.passes == passes
    measured = evaluate.at_least(soup, 0.0, order_hint=rival)
    assert measured.score is not None
    assert measured.score <= dropped.bound
    assert task.passes == passes + 1
    assert evaluate.at_least(soup, 0.99, order_hint=rival) == measured
    assert task.passes == passes + 1


def test_what_was_kept_is_not_measured_anew_to_say_what_is_hard() -> None:
    whole: list[str] = []

    class Watched(Table):
        def predict(self, model: Any, split: str, **given: Any) -> Any:
            whole.append(split)
            return super().predict(model, split, **given)

    soup = ladle.greedy(pool(6), Evaluator(Watched(8, n=200), batch_size=4))
    assert 1 < len(soup.pool) < 6
    assert len(whole) == 6


def test_candidates_that_are_kept_have_their_predictions_in_the_store() -> None:
    task = Table(8, n=200)
    evaluate = Evaluator(task, batch_size=4)
    soup = ladle.greedy(pool(6), evaluate)
    assert len(soup.pool) > 1
    passes = task.passes
    again = evaluate.at_least(soup, -math.inf)
    assert again.score == [one.score for one in soup.tastings if one.kept][-1]
    assert task.passes == passes
