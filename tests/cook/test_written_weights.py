"""What is measured is what is written: candidates are rounded as their file will be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ladle
from digits import Digits, make_runs
from ladle.cook import Kitchen, cook
from ladle.evaluate import BlackBox, Evaluator, Store, on_disk
from ladle.recipes import RECIPES
from ladle.soup import Soup
from ladle.soup.output import WriteOptions
from states import same_bits

DTYPES = ["float32", "bfloat16", "float16"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_runs(tmp_path_factory.mktemp("runs"))


def rounded(dtype: str) -> Kitchen:
    return Kitchen(write=WriteOptions(dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("recipe", ["greedy", "uniform", "screened"])
def test_the_file_says_what_the_record_says(
    runs: list[Path], tmp_path: Path, dtype: str, recipe: str
) -> None:
    evaluators: list[Evaluator] = []

    def open_evaluate(store: Store, workspace: Path) -> Evaluator:
        evaluators.append(Evaluator(Digits(), store=store))
        return evaluators[0]

    done = cook(ladle.open(runs), RECIPES[recipe], open_evaluate, tmp_path / "soup", rounded(dtype))
    state = load_file(tmp_path / "soup" / "model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {getattr(torch, dtype)}
    # The model that was scored, and one filled from the file by torch.
    model, other = Digits().build(), Digits().build()
    done.soup.load_into(model)
    other.load_state_dict(state)
    assert same_bits(model.state_dict(), other.state_dict())
    assert same_bits(done.soup.state_dict(), state)
    kept = Store(tmp_path / "soup" / "ladle.sqlite")
    written = ladle.uniform(ladle.open([tmp_path / "soup"]))
    for split in ("held-out", "test", "noisy"):
        anew = Evaluator(Digits()).predict(written, split)
        recorded = Evaluator(Digits(), store=kept).predict(done.soup, split)
        assert np.array_equal(anew.logits, recorded.logits)
        (row,) = [
            one
            for one in done.evaluations
            if one["model"] == f"{recipe} soup" and one["split"] == split
        ]
        assert row["value"] == Digits.metric(anew)
    kept.close()


def test_soups_of_different_dtypes_are_different(runs: list[Path]) -> None:
    soup = ladle.uniform(ladle.open(runs))
    rounded = [replace(soup, dtype=dtype) for dtype in ("bfloat16", "float16")]
    assert len({one.digest for one in (soup, *rounded)}) == 3
    # What rounds nothing is no other soup.
    assert replace(soup, dtype="float32").digest == soup.digest
    store = Store(None)
    evaluate = Evaluator(Digits(), store=store)
    logits = [evaluate.predict(one, "test").logits for one in (soup, *rounded)]
    assert not np.array_equal(logits[0], logits[1])
    assert not np.array_equal(logits[1], logits[2])


def test_every_candidate_is_rounded_before_a_recipe_hears_of_its_score(
    runs: list[Path], tmp_path: Path
) -> None:
    heard: list[float] = []

    def recipe(pool: ladle.Pool, evaluate: Any) -> Soup:
        heard.extend(evaluate(ladle.uniform(pool.subset([i]))) for i in range(len(pool)))
        return ladle.uniform(pool)

    def open_evaluate(store: Store, workspace: Path) -> Evaluator:
        return Evaluator(Digits(), store=store)

    cook(ladle.open(runs), recipe, open_evaluate, tmp_path / "soup", rounded("bfloat16"))
    task = Digits()
    for run, score in zip(runs, heard, strict=True):
        state = torch.load(run, weights_only=True)
        model = task.build()
        model.load_state_dict({name: one.bfloat16().float() for name, one in state.items()})
        said = task.predict(model, "held-out", device=torch.device("cpu"), batch_size=64)
        assert score == float((said.argmax(1) == task.splits["held-out"].labels).mean())


def test_a_scorer_of_paths_is_given_rounded_files(runs: list[Path], tmp_path: Path) -> None:
    seen: list[set[torch.dtype]] = []

    def score(path: Path) -> float:
        state = torch.load(path, weights_only=True)
        seen.append({tensor.dtype for tensor in state.values()})
        return 0.5

    def open_evaluate(store: Store, workspace: Path) -> BlackBox:
        return BlackBox(on_disk(score, workspace), identity="any", store=store)

    cook(ladle.open(runs), ladle.greedy, open_evaluate, tmp_path / "soup.pt", rounded("float16"))
    assert seen == [{torch.float16}] * (2 * len(runs) - 1)
