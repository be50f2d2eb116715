"""Recipes that need nothing but scores: what they promise, on any table of scores."""

from __future__ import annotations

import inspect
import json
import math
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ladle
from ladle.checkpoint import MemoryCheckpoint
from ladle.errors import BadInput, BadScore, LadleError, LayoutMismatch
from ladle.recipes import OF_TASKS, OPTIONS, RECIPES, hierarchical, pruned, top_k, window, wise_ft
from ladle.runs import Facts
from ladle.soup import Ingredient, Pool, Soup
from score_tables import one_each, table
from toys import near, toy_pool

DATA = Path(__file__).parent.parent / "data"
seeds, sizes = st.integers(0, 10_000), st.integers(1, 6)


def singles(pool: Pool) -> list[Soup]:
    return [ladle.uniform(pool.subset([i])) for i in range(len(pool))]


def with_facts(pool: Pool, *facts: Facts) -> Pool:
    told = (replace(one, facts=fact) for one, fact in zip(pool, facts, strict=True))
    return Pool(tuple(told), pool.layout)


def base(value: float = 0.0) -> Ingredient:
    return Ingredient("start", MemoryCheckpoint(Path("start"), {"w": torch.tensor([value])}))


def weight(soup: Soup) -> float:
    return float(soup.state_dict()["w"])


# --- top-k ---------------------------------------------------------------------------------------


def test_top_k_takes_the_mean_of_the_best() -> None:
    # |w - 2|: run1 0.5, run0 1, run3 2, run2 4. Means: 2.5, 1.75, 2.5, 1.375.
    soup = top_k(toy_pool(1.0, 2.5, -2.0, 4.0), near(2.0))
    assert soup.members == ("run1", "run0")
    assert weight(soup) == 1.75
    alone, together = soup.tastings[:4], soup.tastings[4:]
    assert not any(one.kept for one in alone)
    assert [(t.candidate, t.score, t.margin) for t in together] == [
        ("the best 2", -0.25, 0.25),
        ("the best 3", -0.5, -0.25),
        ("the best 4", -0.625, -0.375),
    ]


def test_a_given_k_is_taken_whatever_it_scores() -> None:
    soup = top_k(toy_pool(2.0, -9.0), near(2.0), k=2)
    assert soup.members == ("run0", "run1")
    assert soup.tastings[-1].reason == "--k; worse by 5.5000"
    assert top_k(toy_pool(2.0, 2.0), near(2.0), k=1).members == ("run0",)


def test_a_k_that_is_more_than_there_is_is_refused() -> None:
    def evaluate(soup: Soup) -> float:
        return math.nan if soup.members == ("run1",) else 1.0

    with pytest.raises(BadInput, match="--k 3: only 2 of the 3 checkpoints"):
        top_k(toy_pool(1.0, 2.0, 3.0), evaluate, k=3)


@given(seeds, sizes, st.booleans())
def test_a_chosen_k_is_the_best_there_is(seed: int, n: int, strict: bool) -> None:
    pool, evaluate = toy_pool(*map(float, range(n))), table(seed)
    soup = top_k(pool, evaluate, strict=strict)
    ranked = sorted(range(n), key=lambda i: -evaluate(singles(pool)[i]))
    scores = [evaluate(ladle.uniform(pool.subset(ranked[: k + 1]))) for k in range(n)]
    best = [k + 1 for k, score in enumerate(scores) if score == max(scores)]
    assert len(soup.pool) == (best[0] if strict else best[-1])
    kept = [one for one in soup.tastings if one.kept]
    assert kept[-1].score == max(scores)


# --- pruned --------------------------------------------------------------------------------------


def test_pruned_leaves_out_the_worst_first_and_goes_round_again() -> None:
    # All: 1.375, off by 0.625. Without the worst, -2, it is 2.5: off by 0.5. Then without 4 it
    # is 1.75: 0.25. Without either of the others: 2.5 or 1.
    soup = pruned(toy_pool(1.0, 4.0, -2.0, 2.5), near(2.0))
    assert soup.members == ("run0", "run3")
    assert [(t.candidate, t.score, t.kept) for t in soup.tastings[4:]] == [
        ("all 4", -0.625, True),
        ("without run2", -0.5, True),
        ("without run1", -0.25, True),
        ("without run0", -0.5, False),
        ("without run3", -1.0, False),
    ]


def test_where_the_best_single_is_better_than_what_is_left_it_is_the_result() -> None:
    scores = {("run0",): 5.0, ("run1",): 1.0, ("run2",): 1.0}
    soup = pruned(toy_pool(1.0, 2.0, 3.0), lambda s: scores.get(s.members, float(len(s.pool))))
    assert soup.members == ("run0",)
    last = soup.tastings[-1]
    assert (last.kept, last.margin) == (True, 2.0)
    assert last.reason == "the best alone is better than the soup of 3"


@given(seeds, sizes, st.booleans())
def test_pruned_is_no_worse_than_the_mean_of_all_nor_the_best_single(
    seed: int, n: int, strict: bool
) -> None:
    pool = toy_pool(*map(float, range(n)))
    evaluate, asked = one_each(table(seed))
    soup = pruned(pool, evaluate, strict=strict)
    assert len(asked) - len(set(asked)) <= 2 * n  # soups of one are tasted alone, too
    score = table(seed)(soup)
    assert score >= table(seed)(ladle.uniform(pool))
    assert score >= max(map(table(seed), singles(pool)))
    if len(soup.pool) > 1:
        # Nothing more can be left out.
        for i in range(len(soup.pool)):
            left = [j for j in range(len(soup.pool)) if j != i]
            without = table(seed)(ladle.uniform(soup.pool.subset(left)))
            assert without <= score if strict else without < score


# --- greedy in other orders ----------------------------------------------------------------------


@given(seeds, sizes)
def test_greedy_as_given_goes_through_the_pool_in_its_order(seed: int, n: int) -> None:
    pool, evaluate = toy_pool(*map(float, range(n))), table(seed)
    soup = ladle.greedy(pool, evaluate, order="given")
    assert [one.candidate for one in soup.tastings] == [one.name for one in pool]
    kept = ["run0"]
    so_far = evaluate(singles(pool)[0])
    for tasting in soup.tastings[1:]:
        assert tasting.members == (*kept, tasting.candidate)
        assert tasting.margin == tasting.score - so_far
        assert tasting.kept == (tasting.score >= so_far)
        if tasting.kept:
            kept, so_far = [*kept, tasting.candidate], tasting.score
    assert soup.members == tuple(kept)


@given(seeds, sizes, st.integers(1, 4))
def test_of_random_orders_the_best_is_the_soup_and_all_are_told(
    seed: int, n: int, repeats: int
) -> None:
    pool, evaluate = toy_pool(*map(float, range(n))), table(seed)
    soup = ladle.greedy(pool, evaluate, order="random", seed=seed, repeats=repeats)
    alone = [ladle.greedy(pool, evaluate, order="random", seed=seed + r) for r in range(repeats)]
    assert soup.repeats == tuple(evaluate(one) for one in alone)
    assert evaluate(soup) == max(soup.repeats)
    assert sorted({one.candidate for one in soup.tastings}) == [one.name for one in pool]


def test_random_orders_differ_and_are_the_same_for_a_seed() -> None:
    def order(seed: int) -> list[str]:
        soup = ladle.greedy(toy_pool(*map(float, range(8))), table(0), order="random", seed=seed)
        return [one.candidate for one in soup.tastings]

    assert order(0) == order(0)
    assert len({tuple(order(seed)) for seed in range(5)}) == 5
    assert order(0) == ["run4", "run1", "run5", "run2", "run0", "run3", "run7", "run6"]


def test_in_any_order_the_first_with_a_score_starts() -> None:
    def evaluate(soup: Soup) -> float:
        return math.nan if "run0" in soup.members else 1.0

    soup = ladle.greedy(toy_pool(1.0, 2.0, 3.0), evaluate, order="given")
    assert soup.members == ("run1", "run2")
    with pytest.raises(BadScore, match="none of the 2 ingredients"):
        ladle.greedy(toy_pool(1.0, 2.0), lambda soup: math.nan, order="random")


def test_repeats_of_one_order_are_refused() -> None:
    with pytest.raises(BadInput, match="--repeats goes with --order random"):
        ladle.greedy(toy_pool(1.0), near(1.0), repeats=3)


def test_with_replacement_a_second_helping_makes_the_weights_unequal() -> None:
    # 2.5, then with 1: 1.75. 2.5 again: (2.5 + 1 + 2.5) / 3 = 2.
    soup = ladle.greedy(toy_pool(1.0, 2.5), near(2.0), with_replacement=True)
    assert soup.weights == (2 / 3, 1 / 3)
    assert weight(soup) == 2.0
    assert ladle.greedy(toy_pool(1.0, 2.5), near(2.0)).weights == (0.5, 0.5)


def test_what_was_refused_is_not_tried_again_with_the_same_soup() -> None:
    soup = ladle.greedy(toy_pool(1.0, 4.0, -2.0, 2.5), near(2.0), with_replacement=True)
    tried = [one.candidate.removeprefix("run") for one in soup.tastings[4:]]
    # 0 is kept, then 3 a second time, and with that soup each of the four is refused once.
    assert "".join(tried) == "012" + "3012" + "3"


@given(seeds, sizes, st.booleans())
def test_with_replacement_is_never_worse_than_without(seed: int, n: int, strict: bool) -> None:
    pool, evaluate = toy_pool(*map(float, range(n))), table(seed)
    plain = ladle.greedy(pool, evaluate, strict=strict)
    again = ladle.greedy(pool, evaluate, strict=strict, with_replacement=True)
    assert evaluate(again) >= evaluate(plain)
    assert again.tastings[: len(plain.tastings)] == plain.tastings
    if evaluate(again) == evaluate(plain):
        assert again.digest == plain.digest  # a tie is no reason for another helping


# --- hierarchical --------------------------------------------------------------------------------


def facts(value: object) -> Facts:
    return Facts(hyperparameters={"lr": value})


def test_groups_count_alike_however_many_are_in_them() -> None:
    pool = with_facts(toy_pool(1.0, 2.0, 3.0, 10.0), *map(facts, [0.1, 0.1, 0.1, 0.2]))
    soup = hierarchical(pool, near(6.0), group_by="lr", within="uniform")
    # The groups' means are 2 and 10.
    assert weight(soup) == 6.0
    assert soup.weights == (1 / 6, 1 / 6, 1 / 6, 0.5)
    assert [one.candidate for one in soup.tastings[4:]] == ["lr=0.1", "lr=0.2", "lr=0.2"]
    assert soup.tastings[-1].members == ("run0", "run1", "run2", "run3")


def test_a_greedy_soup_of_a_group_counts_as_one_too() -> None:
    pool = with_facts(toy_pool(1.0, 2.0, 10.0), *map(facts, [0.1, 0.1, 0.2]))
    soup = hierarchical(pool, lambda soup: 0.5, group_by="lr")
    assert dict(zip(soup.members, soup.weights, strict=True)) == {
        "run0": 0.25, "run1": 0.25, "run2": 0.5,
    }  # fmt: skip


@given(seeds, sizes, st.booleans())
def test_hierarchical_with_one_group_is_greedy(seed: int, n: int, strict: bool) -> None:
    pool = with_facts(toy_pool(*map(float, range(n))), *[facts(1e-5)] * n)
    evaluate = table(seed)
    ours = hierarchical(pool, evaluate, group_by="lr", strict=strict)
    assert ours.digest == ladle.greedy(pool, evaluate, strict=strict).digest


@given(seeds, sizes, st.booleans())
def test_hierarchical_with_groups_of_one_is_greedy(seed: int, n: int, strict: bool) -> None:
    pool = with_facts(toy_pool(*map(float, range(n))), *map(facts, range(n)))
    evaluate = table(seed)
    ours = hierarchical(pool, evaluate, group_by="lr", strict=strict)
    assert ours.digest == ladle.greedy(pool, evaluate, strict=strict).digest


@given(seeds, st.lists(st.integers(0, 2), min_size=1, max_size=7))
def test_greedy_soups_of_greedy_soups_are_no_worse_than_the_best_single(
    seed: int, groups: list[int]
) -> None:
    pool = with_facts(toy_pool(*map(float, range(len(groups)))), *map(facts, groups))
    evaluate = table(seed)
    soup = hierarchical(pool, evaluate, group_by="lr")
    assert evaluate(soup) >= max(map(evaluate, singles(pool)))
    assert math.isclose(sum(share for share in soup.weights if share is not None), 1.0)


def test_one_record_may_say_1_where_another_says_1_0() -> None:
    pool = with_facts(toy_pool(1.0, 2.0, 3.0), facts(1), facts(1.0), facts("adamw"))
    soup = hierarchical(pool, near(2.0), group_by="lr", within="uniform")
    assert [one.candidate for one in soup.tastings[3:5]] == ["lr=1", "lr=adamw"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("epoch", "run0, run1 do not tell theirs; did you mean 'epochs'"),
        ("lr", "--group-by lr: run1 do not tell theirs; recorded are: epochs, lr"),
        ("momentum", "run0, run1 do not tell theirs; recorded are: epochs, lr"),
    ],
)
def test_a_hyperparameter_that_is_not_recorded_is_named(name: str, sentence: str) -> None:
    pool = with_facts(toy_pool(1.0, 2.0), Facts(hyperparameters={"lr": 1, "epochs": 2}), Facts())
    with pytest.raises(BadInput, match=sentence):
        hierarchical(pool, near(0.0), group_by=name)


# --- wise-ft -------------------------------------------------------------------------------------


@pytest.mark.parametrize("towards", ["greedy", "uniform", "best"])
def test_the_line_begins_at_the_base_and_ends_at_the_model(towards: str) -> None:
    pool, start = toy_pool(1.0, 4.0, -2.0), base(0.25)
    soup = wise_ft(pool, near(2.0), base=start, towards=towards)  # type: ignore[arg-type]
    end = RECIPES[towards](pool, near(2.0))
    line = list(soup.beside.values())
    assert len(line) == 11
    assert line[0].digest == ladle.uniform(Pool.of([start])).digest
    assert line[-1].digest == end.digest
    for step, one in enumerate(line):
        alpha = step / 10
        assert weight(one) == pytest.approx((1 - alpha) * 0.25 + alpha * weight(end))


def test_the_best_point_is_taken_and_of_equals_the_nearest_to_the_base() -> None:
    # The best single is 4, the base 0: 0.5 of the way is 2.
    soup = wise_ft(toy_pool(4.0), near(2.0), base=base(), towards="best")
    assert soup.options["alpha"] == 0.5
    assert (soup.members, soup.weights) == (("base", "run0"), (0.5, 0.5))
    flat = wise_ft(toy_pool(4.0), lambda soup: 0.5, base=base())
    assert flat.members == ("base",)


def test_a_given_alpha_is_taken_and_lies_on_the_line() -> None:
    soup = wise_ft(toy_pool(4.0), near(9.0), base=base(), alpha=0.25)
    assert weight(soup) == 1.0
    assert [*soup.beside][:4] == ["α = 0", "α = 0.1", "α = 0.2", "α = 0.25"]
    assert [one.candidate for one in soup.tastings if one.kept][-1] == "α = 0.25"


@given(seeds, sizes)
def test_on_held_out_no_point_of_the_line_is_better(seed: int, n: int) -> None:
    pool, evaluate = toy_pool(*map(float, range(1, n + 1))), table(seed)
    soup = wise_ft(pool, evaluate, base=base())
    assert evaluate(soup) == max(map(evaluate, soup.beside.values()))


def test_a_base_of_another_shape_is_named() -> None:
    other = Ingredient("start", MemoryCheckpoint(Path("start"), {"w": torch.zeros(3)}))
    with pytest.raises(LayoutMismatch, match=r"w has shape"):
        wise_ft(toy_pool(1.0), near(0.0), base=other)


def test_a_base_of_another_precision_leaves_the_soup_in_the_models() -> None:
    wide = MemoryCheckpoint(Path("start"), {"w": torch.zeros(1, dtype=torch.float64)})
    soup = wise_ft(toy_pool(4.0), near(2.0), base=Ingredient("start", wide))
    assert soup.state_dict()["w"].dtype == torch.float32


def test_a_pool_that_has_a_base_of_its_own_keeps_the_name() -> None:
    pool = toy_pool(4.0)
    named = Pool((replace(pool[0], name="base"),), pool.layout)
    assert wise_ft(named, near(2.0), base=base()).members == ("the base", "base")


# --- window --------------------------------------------------------------------------------------


def steps(*values: int | None) -> list[Facts]:
    return [Facts(step=value) for value in values]


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, [1 / 4] * 4),
        ({"weighting": "linear"}, [0.1, 0.2, 0.3, 0.4]),
        (
            {"weighting": "minus-sqrt"},
            [0.5, 0.5**0.5 - 0.5, 0.75**0.5 - 0.5**0.5, 1 - 0.75**0.5],
        ),
        ({"weighting": "ema", "decay": 0.5}, [0.125, 0.125, 0.25, 0.5]),
    ],
)
def test_the_weights_of_a_window_go_by_the_steps(options: dict, weights: list[float]) -> None:
    pool = with_facts(toy_pool(1.0, 2.0, 3.0, 4.0), *steps(300, 100, 1000, 200))
    soup = window(pool, **options)
    assert soup.members == ("run1", "run3", "run0", "run2")
    assert soup.weights == pytest.approx(weights)
    assert sum(share for share in soup.weights if share is not None) == pytest.approx(1)


def test_an_ema_of_a_window_is_what_the_recursion_gives() -> None:
    values, decay = [3.0, -1.0, 4.0, 1.5, 9.0], 0.7
    average = values[0]
    for value in values[1:]:
        average = decay * average + (1 - decay) * value
    pool = with_facts(toy_pool(*values), *steps(*range(5)))
    assert weight(window(pool, weighting="ema", decay=decay)) == pytest.approx(average)
    ages = [4, 3, 2, 1, 0]
    default = window(pool, weighting="ema").options["decay"]
    assert default == pytest.approx(4 / 6)
    assert (
        statistics.fmean(ages) == 2
    )  # (n - 1) / 2 = decay / (1 - decay), the mean age without end
    assert default / (1 - default) == pytest.approx(2)


@pytest.mark.parametrize("weighting", ["uniform", "linear", "minus-sqrt", "ema"])
def test_a_window_of_one_is_the_checkpoint(weighting: str) -> None:
    pool = with_facts(toy_pool(3.5), *steps(7))
    assert weight(window(pool, weighting=weighting)) == 3.5  # type: ignore[arg-type]


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=6))
def test_a_decay_is_what_its_weights_stand_for(values: list[float]) -> None:
    """Adding up the stretches of a training with a learning rate that falls as 1 - sqrt."""
    n = len(values)
    moved = values[0]  # the first stretch, from the start at 0 to the first checkpoint, counts full
    for i in range(1, n):
        moved += (1 - math.sqrt(i / n)) * (values[i] - values[i - 1])
    pool = with_facts(toy_pool(*values), *steps(*range(n)))
    assert weight(window(pool, weighting="minus-sqrt")) == pytest.approx(moved, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize(
    ("facts", "options", "sentence"),
    [
        (steps(1, None), {}, "run1 tell no step"),
        (steps(5, 5), {}, "run0 and run1 are both of step 5"),
        (steps(1, 2), {"decay": 0.5}, "--decay goes with --weighting ema"),
    ],
)
def test_what_is_no_window_is_refused(facts: list[Facts], options: dict, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        window(with_facts(toy_pool(1.0, 2.0), *facts), **options)


# --- no worse than the best single ---------------------------------------------------------------

NO_WORSE = {
    "greedy": ("greedy", {}),
    "greedy, again": ("greedy", {"with_replacement": True}),
    "best": ("best", {}),
    "top-k": ("top-k", {}),
    "pruned": ("pruned", {}),
    "hierarchical": ("hierarchical", {"group_by": "lr"}),
    "hierarchical, uniform": ("hierarchical", {"group_by": "lr", "within": "uniform"}),
    "wise-ft": ("wise-ft", {"base": base()}),
    "wise-ft to uniform": ("wise-ft", {"base": base(), "towards": "uniform"}),
    "wise-ft to best": ("wise-ft", {"base": base(), "towards": "best"}),
}
"""What chooses by scores, without being told what to take; screened and learned have their own."""


@pytest.mark.parametrize("way", NO_WORSE)
@given(seed=seeds, n=sizes, strict=st.booleans(), nan=st.sampled_from([0.0, 0.3]))
def test_what_looks_at_held_out_is_there_no_worse_than_the_best_single(
    way: str, seed: int, n: int, strict: bool, nan: float
) -> None:
    name, options = NO_WORSE[way]
    takes_strict = "strict" in inspect.signature(RECIPES[name]).parameters
    options = {**options, **({"strict": strict} if takes_strict else {})}
    pool, evaluate = told(n), table(seed, nan=nan)
    try:
        soup = RECIPES[name](pool, evaluate, **options)
    except BadScore:
        return
    known = [score for score in map(evaluate, singles(pool)) if not math.isnan(score)]
    assert evaluate(soup) >= max(known)
    last = [one for one in soup.tastings if one.kept][-1]
    assert (sorted(last.members), last.score) == (sorted(soup.members), evaluate(soup))


def test_where_all_groups_or_all_of_a_line_are_worse_the_best_single_is_the_result() -> None:
    def evaluate(soup: Soup) -> float:
        return 2.0 if soup.members == ("run1",) else 1.0

    for soup, what in (
        (hierarchical(told(4), evaluate, group_by="lr", within="uniform"), "this soup"),
        (wise_ft(told(4), evaluate, base=base(), towards="uniform"), "all of the line"),
    ):
        assert soup.members == ("run1",)
        assert soup.tastings[-1].reason == f"the best alone is better than {what}"
        assert soup.tastings[-1].margin == 1.0
    line = wise_ft(told(4), evaluate, base=base(), towards="uniform")
    assert line.options["alpha"] is None
    assert len(line.beside) == 11
    given = wise_ft(told(4), evaluate, base=base(), towards="uniform", alpha=0.5)
    assert len(given.members) == 5  # As was asked for.


# --- all of them ---------------------------------------------------------------------------------

EXTRA = {
    "wise-ft": {"base": base()},
    "model-stock": {"base": base()},
    "hierarchical": {"group_by": "lr"},
}
BY_SCORE = [name for name in RECIPES if name not in OF_TASKS]

SCORED = ["greedy", "best", "top-k", "pruned", "hierarchical", "wise-ft"]


def told(n: int) -> Pool:
    pool = toy_pool(*(float(i + 1) for i in range(n)))
    return with_facts(pool, *(Facts(i, {}, {"lr": i % 2}) for i in range(n)))


@pytest.mark.parametrize("name", BY_SCORE)
def test_every_recipe_has_its_name_and_makes_a_record(name: str) -> None:
    soup = RECIPES[name](told(4), near(2.0), **EXTRA.get(name, {}))
    assert soup.recipe == name
    json.dumps(dict(soup.options))
    kept = [one for one in soup.tastings if one.kept]
    if kept:
        assert sorted(kept[-1].members) == sorted(soup.members)
        assert kept[-1].score == near(2.0)(soup)


@pytest.mark.parametrize("name", BY_SCORE)
def test_every_recipe_takes_one_ingredient_or_says_why_not(name: str) -> None:
    recipe = RECIPES[name]
    if name == "model-stock":
        with pytest.raises(BadInput, match="there is only one"):
            recipe(told(1), near(2.0), **EXTRA[name])
        return
    assert "run0" in recipe(told(1), near(2.0), **EXTRA.get(name, {})).members


@pytest.mark.parametrize("name", SCORED)
@given(seed=seeds, n=sizes)
def test_nothing_without_a_score_is_chosen(name: str, seed: int, n: int) -> None:
    evaluate = table(seed, nan=0.4)
    try:
        soup = RECIPES[name](told(n), evaluate, **EXTRA.get(name, {}))
    except BadScore:
        return
    assert math.isfinite(evaluate(soup))
    assert all(one.score is None or math.isfinite(one.score) for one in soup.tastings)
    assert not any(one.kept for one in soup.tastings if one.score is None)


@pytest.mark.parametrize("name", SCORED)
def test_a_parallel_map_gives_the_same_soup(name: str) -> None:
    options = EXTRA.get(name, {})
    with ThreadPoolExecutor(4) as executor:
        parallel = RECIPES[name](told(6), near(2.2), map=executor.map, **options)
    plain = RECIPES[name](told(6), near(2.2), **options)
    assert (parallel.digest, parallel.tastings) == (plain.digest, plain.tastings)


@pytest.mark.parametrize("name", BY_SCORE)
def test_duplicates_do_no_harm(name: str) -> None:
    pool = told(3)
    twins = Pool.of([*pool, *(replace(one, name=f"{one.name} again") for one in pool)])
    if name == "window":
        with pytest.raises(LadleError, match="are both of step"):
            RECIPES[name](twins, near(2.0))
        return
    soup = RECIPES[name](twins, near(2.0), **EXTRA.get(name, {}))
    assert math.isfinite(weight(soup))


def test_every_option_is_a_keyword_of_some_recipe() -> None:
    keywords = {
        key for function in RECIPES.values() for key in inspect.signature(function).parameters
    }
    assert OPTIONS.keys() <= keywords
    supplied = {"pool", "evaluate", "map", "integers", "seed", "base"}
    assert keywords - supplied <= OPTIONS.keys()


@pytest.mark.parametrize("order", ["score", "random", "given"])
def test_replaying_the_published_scores_in_other_orders(order: str) -> None:
    """The 72 published models, as if every model made a soup a little better than its mean."""
    lines = (DATA / "clip_vitb32_72_models.jsonl").read_text().splitlines()
    known = {row["model_name"]: row["ImageNet2p"] for row in map(json.loads, lines)}
    pool = Pool.of(
        Ingredient(name, MemoryCheckpoint(Path(name), {"w": torch.zeros(1)})) for name in known
    )

    def evaluate(soup: Soup) -> float:
        return statistics.fmean(known[name] for name in soup.members) + 0.001 * len(soup.members)

    soup = ladle.greedy(pool, evaluate, order=order, seed=3)  # type: ignore[arg-type]
    if order == "score":
        assert evaluate(soup) > max(known.values())
    first = next(one for one in soup.tastings if one.kept)
    assert (first.candidate == max(known, key=known.__getitem__)) == (order == "score")
