"""Candidates are tried in advance, several at a time, and nothing shows it but the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_early_exit import Table, pool

import ladle
from ladle.ahead import Map, one_by_one, working_ahead
from ladle.evaluate import Evaluator, HereForward, Store
from ladle.predictions import METRICS
from ladle.recipes import RECIPES
from ladle.soup import Ingredient, Pool, Prepared, Soup

WORKERS = (1, 2, 4)


class SeveralModels:
    """A `Forward` of several models in this process, as many as are asked for at a time."""

    def __init__(self, make: Callable[[], HereForward]) -> None:
        self.make = make
        self.idle: list[HereForward] = []
        self.at_once, self.most_at_once = 0, 0
        self.lock = threading.Lock()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def asked(*given: Any, **named: Any) -> Any:
            with self.lock:
                one = self.idle.pop() if self.idle else self.make()
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                return getattr(one, name)(*given, **named)
            finally:
                with self.lock:
                    self.idle.append(one)
                    self.at_once -= 1

        return asked


def evaluator(
    make: Callable[[], Any], store: Store, *, batch_size: int, **options: Any
) -> Evaluator:
    """One with a model per thread that asks, each of a task of its own."""
    plain = Evaluator(make())

    def here() -> HereForward:
        return HereForward(make(), device="cpu", batch_size=batch_size, arithmetic=plain.arithmetic)

    return Evaluator(
        make(), store=store, batch_size=batch_size, forward=SeveralModels(here), **options
    )


def contents(store: Store) -> dict[tuple[str, ...], bytes]:
    """All that a store has, but times."""
    rows = store._base.execute("SELECT soup, task, split FROM predictions").fetchall()
    return {key: _bytes(store, key) for key in rows}


def _bytes(store: Store, key: Any) -> bytes:
    logits = store.logits(*key)
    assert logits is not None
    return logits.tobytes()


def arrays(store: Store) -> int:
    return len(store._arrays._arrays)  # type: ignore[union-attr]


def made(
    make: Callable[[], Any], recipe: Callable[..., Soup], pool: Pool, map: Map, batch_size: int
) -> tuple[Any, ...]:
    """All that there is to compare of a selection."""
    store = Store(None)
    evaluate = evaluator(make, store, batch_size=batch_size)
    try:
        soup = recipe(pool, Prepared(evaluate, lambda soup: soup), map=map)
    except ladle.LadleError as error:
        return (str(error),)
    finally:
        # What is under way has nothing to write, and what was written in vain is gone.
        settle(evaluate)
    kept = contents(store)
    assert len(kept) == arrays(store)
    return soup.digest, soup.members, soup.tastings, soup.repeats, kept


def settle(evaluate: Evaluator) -> None:
    end = time.monotonic() + 10
    while getattr(evaluate.forward, "at_once", 0) and time.monotonic() < end:
        time.sleep(0.001)


recipes = st.sampled_from(
    [
        ("greedy", {}),
        ("greedy", {"strict": True}),
        ("greedy", {"with_replacement": True}),
        ("greedy", {"order": "random", "repeats": 3, "with_replacement": True}),
        ("greedy", {"order": "given", "strict": True}),
        ("pruned", {}),
        ("pruned", {"strict": True}),
        ("top-k", {}),
        ("top-k", {"k": 3}),
        ("screened", {"budget": 14}),
    ]
)
cases = given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 7),
    batch_size=st.integers(1, 50),
    metric=st.sampled_from(["accuracy", "top-5", "nll", "mse", "f1"]),
    bad=st.sampled_from([0, 0, 2, 4]),
    chosen=recipes,
    copies=st.sampled_from([1, 1, 2]),
)


def check(
    seed: int,
    n: int,
    batch_size: int,
    metric: str,
    bad: int,
    chosen: tuple[str, dict[str, Any]],
    copies: int,
) -> None:
    name, options = chosen

    def make() -> Table:
        return Table(seed, metric=METRICS[metric], bad=bad, classes=7 if metric != "f1" else 2)

    def recipe(pool: Pool, evaluate: Any, *, map: Map) -> Soup:
        return RECIPES[name](pool, evaluate, map=map, **options)

    # Copies of one are tried at the same time, and one of them perhaps in vain.
    models = Pool.of(Ingredient(f"run{i}", pool(n)[i // copies].checkpoint) for i in range(n))
    expected = made(make, recipe, models, one_by_one, batch_size)
    for workers in WORKERS:
        assert made(make, recipe, models, working_ahead(workers), batch_size) == expected


@pytest.mark.slow
@settings(max_examples=60)
@cases
def test_any_number_of_workers_makes_the_same_soup_and_the_same_store(**case: Any) -> None:
    check(**case)


@pytest.mark.slow
@settings(max_examples=1000)
@cases
def test_any_number_of_workers_makes_the_same_soup_a_thousand_times(**case: Any) -> None:
    check(**case)


def test_what_is_next_is_tried_while_what_is_before_it_is() -> None:
    """Two evaluations at a time with two workers; and none beyond what is needed with one."""
    for workers in (1, 2):
        evaluate = evaluator(lambda: Slow(8, n=200), Store(None), batch_size=4)
        ladle.greedy(pool(6), evaluate, map=working_ahead(workers))
        settle(evaluate)
        most = evaluate.forward.most_at_once  # type: ignore[attr-defined]
        # What was dropped may still be at its last batch.
        assert most == 1 if workers == 1 else most >= workers


class Slow(Table):
    def predict_some(self, *given: Any, **named: Any) -> Any:
        time.sleep(0.01)
        yield from super().predict_some(*given, **named)


def test_a_map_that_works_ahead_keeps_order_and_ends_when_it_is_closed() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.05 if number == 0 else 0)
        return number

    assert list(working_ahead(3)(work, range(40))) == list(range(40))
    begun.clear()
    results = iter(working_ahead(2)(work, range(40)))
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    time.sleep(0.05)
    assert len(begun) <= 1 + 4 * 2  # What may wait for the first, and no more.
    with pytest.raises(ZeroDivisionError):
        list(working_ahead(2)(lambda number: 1 // number, [1, 0, 1]))
    with pytest.raises(ValueError, match="without workers"):
        working_ahead(0)


def test_what_fails_in_vain_is_never_heard_of() -> None:
    """An error of a candidate that one worker would not have come to."""

    def evaluate(soup: Soup) -> float:
        if soup.members == ("run0", "run2"):
            raise RuntimeError("no one asked for this")
        return float(len(soup.members))

    soup = ladle.greedy(pool(3), evaluate, map=working_ahead(4))
    assert soup.members == ("run0", "run1", "run2")
