from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ladle
from digits import Digits, make_runs
from ladle.cook import Kitchen, cook
from ladle.errors import BadInput, OutputExists
from ladle.evaluate import Evaluator, Store
from ladle.predictions import ensemble
from ladle.soup import Ingredient, Pool
from ladle.soup.output import WriteOptions

LADLE = Path(sys.executable).with_name("ladle")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_runs(tmp_path_factory.mktemp("runs"))


def cook_digits(runs: list[Path], output: Path, kitchen: Kitchen | None = None):
    task = Digits()
    return cook(
        ladle.open(runs),
        ladle.greedy,
        lambda store, workspace: Evaluator(task, store=store),
        output,
        kitchen,
    )


def test_the_folder_has_all_that_the_contract_names(runs: list[Path], tmp_path: Path) -> None:
    base = Ingredient("base", ladle.open_checkpoint(runs[0].with_name("base.pt")))
    cooked = cook_digits(runs, tmp_path / "soup", Kitchen(base=base, seed=7))
    assert sorted(p.name for p in (tmp_path / "soup").iterdir()) == [
        "README.md",
        "evaluations.jsonl",
        "figures",
        "ladle.predictions",
        "ladle.sqlite",
        "model.safetensors",
        "report.html",
        "soup.json",
    ]
    assert not (tmp_path / "soup.part").exists()
    record = json.loads((tmp_path / "soup" / "soup.json").read_text())
    assert record["seed"] == 7
    assert [one["name"] for one in record["pool"]] == [run.name for run in runs]
    assert [one["name"] for one in record["ingredients"]] == list(cooked.soup.members)
    assert record["splits"]["noisy"]["role"] == "shift"
    assert len(record["tastings"]) == 2 * len(runs) - 1
    lines = (tmp_path / "soup" / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == cooked.evaluations


def test_every_number_is_what_a_plain_loop_finds(runs: list[Path], tmp_path: Path) -> None:
    cooked = cook_digits(runs, tmp_path / "soup")
    task = Digits()

    def logits(state: dict[str, torch.Tensor], split: str) -> np.ndarray:
        model = task.build()
        model.load_state_dict(state)
        return model(torch.from_numpy(task.images[split])).detach().numpy()

    states = {run.name: torch.load(run, weights_only=True) for run in runs}
    values = {(row["model"], row["split"]): row["value"] for row in cooked.evaluations}
    for split in ("held-out", "test", "noisy"):
        labels = task.splits[split].labels
        alone = {name: logits(state, split) for name, state in states.items()}
        for name, said in alone.items():
            assert values[name, split] == pytest.approx((said.argmax(1) == labels).mean())
        mean = np.mean(list(alone.values()), axis=0)
        together = (mean.argmax(1) == labels).mean()
        assert values["ensemble of 5", split] == pytest.approx(together)
        uniform = {
            name: torch.stack([state[name].double() for state in states.values()]).mean(0).float()
            for name in states["run-0.pt"]
        }
        hits = logits(uniform, split).argmax(1) == labels
        assert values["uniform soup", split] == pytest.approx(hits.mean())


def test_soups_and_ensemble_are_compared_with_the_best_on_held_out(
    runs: list[Path], tmp_path: Path
) -> None:
    rows = cook_digits(runs, tmp_path / "soup").evaluations
    held_out = {r["model"]: r["value"] for r in rows if r["role"] == "held-out"}
    best = max((r["model"] for r in rows if r["kind"] == "single"), key=lambda m: held_out[m])
    assert all(row["versus"] is None for row in rows if row["role"] == "held-out")
    compared = [row for row in rows if row["kind"] in ("soup", "ensemble") and row["versus"]]
    assert {row["versus"]["model"] for row in compared} == {best}
    assert {row["split"] for row in compared} == {"test", "noisy"}


def test_calibration_on_test_is_recorded_and_drawn(runs: list[Path], tmp_path: Path) -> None:
    rows = cook_digits(runs, tmp_path / "soup").evaluations
    assert {row["role"] for row in rows if "calibration" in row} == {"test"}
    for row in (row for row in rows if row["role"] == "test"):
        bins = row["calibration"]["bins"]
        assert len(bins) == 15
        right = sum(one["accuracy"] * one["n"] for one in bins)
        assert right / sum(one["n"] for one in bins) == pytest.approx(row["value"])
    assert (tmp_path / "soup" / "figures" / "calibration.svg").is_file()


def test_recipes_never_see_test_or_shifts(runs: list[Path], tmp_path: Path) -> None:
    asked: list[str] = []

    class Watched(Digits):
        def predict(self, model, split, **options):  # type: ignore[no-untyped-def]
            asked.append(split)
            return super().predict(model, split, **options)

    ladle.greedy(ladle.open(runs), Evaluator(Watched()))
    assert set(asked) == {"held-out"}


def test_nothing_is_evaluated_twice(runs: list[Path], tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    class Watched(Digits):
        def predict(self, model, split, **options):  # type: ignore[no-untyped-def]
            digest = str(sum(float(p.double().sum()) for p in model.parameters()))
            asked.append((digest, split))
            return super().predict(model, split, **options)

    task = Watched()
    cook(ladle.open(runs), ladle.greedy, lambda s, w: Evaluator(task, store=s), tmp_path / "soup")
    assert len(asked) == len(set(asked))


def test_the_store_outlives_the_process_that_filled_it(runs: list[Path], tmp_path: Path) -> None:
    soup = ladle.uniform(ladle.open(runs))
    store = Store(tmp_path / "ladle.sqlite")
    first = Evaluator(Digits(), store=store).predict(soup, "test")
    store.close()

    class Unbuildable(Digits):
        def build(self):  # type: ignore[no-untyped-def]
            raise AssertionError("what is in the store needs no model")

    again = Evaluator(Unbuildable(), store=Store(tmp_path / "ladle.sqlite")).predict(soup, "test")
    assert np.array_equal(first.logits, again.logits)


def test_a_file_as_output_gets_its_record_beside_it(runs: list[Path], tmp_path: Path) -> None:
    cook_digits(runs, tmp_path / "soup.pt", Kitchen(write=WriteOptions(dtype="float16")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["soup.pt", "soup.pt.json"]
    state = torch.load(tmp_path / "soup.pt", weights_only=True)
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}


def test_singles_may_be_scored_in_threads(runs: list[Path]) -> None:
    pool = ladle.open(runs)
    with ThreadPoolExecutor(4) as executor:
        soup = ladle.greedy(pool, Evaluator(Digits()), map=executor.map)
    assert soup.tastings == ladle.greedy(pool, Evaluator(Digits())).tastings


def test_a_model_that_says_nan_is_rejected(runs: list[Path]) -> None:
    class Sick(Digits):
        def predict(self, model, split, **options):  # type: ignore[no-untyped-def]
            said = super().predict(model, split, **options)
            return said * np.nan if float(model[0].weight[0, 0]) == sick else said

    pool = ladle.open(runs)
    sick = float(torch.load(runs[2], weights_only=True)["0.weight"][0, 0])
    soup = ladle.greedy(pool, Evaluator(Sick()))
    assert [t.score for t in soup.tastings if t.members == ("run-2.pt",)] == [None]
    assert "run-2.pt" not in soup.members


def test_held_out_data_that_are_also_test_data_are_refused() -> None:
    task = Digits()
    task.splits = {
        **task.splits,
        "test": replace(task.splits["held-out"], name="test", role="test"),
    }
    with pytest.raises(BadInput, match="the same examples in 'held-out' and 'test'"):
        Evaluator(task)


def test_an_overwritten_soup_hands_its_store_on(runs: list[Path], tmp_path: Path) -> None:
    cook_digits(runs, tmp_path / "soup")

    class Unbuildable(Digits):
        def build(self):  # type: ignore[no-untyped-def]
            raise AssertionError("all of it is in the store")

    task = Unbuildable()
    cook(
        ladle.open(runs),
        ladle.greedy,
        lambda store, workspace: Evaluator(task, store=store),
        tmp_path / "soup",
        Kitchen(overwrite=True),
    )


def test_an_existing_output_is_refused_before_any_work(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "soup").mkdir()
    with pytest.raises(OutputExists, match="--overwrite"):
        cook_digits(runs, tmp_path / "soup")
    assert not (tmp_path / "soup.part").exists()


def test_ensemble_is_the_mean_of_logits(runs: list[Path]) -> None:
    evaluator = Evaluator(Digits())
    pool = ladle.open(runs)
    said = [evaluator.predict(ladle.uniform(pool.subset([i])), "test") for i in range(3)]
    expected = np.mean([one.logits.astype(np.float64) for one in said], axis=0)
    assert np.array_equal(ensemble(said).logits, expected.astype(np.float32))


def test_a_split_that_the_task_lacks_is_named(runs: list[Path]) -> None:
    with pytest.raises(BadInput, match="no split 'validation'; it has train, held-out"):
        Evaluator(Digits()).predict(ladle.uniform(ladle.open(runs)), "validation")


def test_a_soup_of_a_linear_model_says_what_its_ensemble_says(tmp_path: Path) -> None:
    """With no curvature, averaging weights and averaging logits are the same (paper, section 4)."""

    class Linear(Digits):
        def build(self):  # type: ignore[no-untyped-def]
            return torch.nn.Linear(64, 10)

    generator = torch.Generator().manual_seed(0)
    paths = []
    for i in range(4):
        state = {
            "weight": torch.randn(10, 64, generator=generator),
            "bias": torch.randn(10, generator=generator),
        }
        torch.save(state, tmp_path / f"{i}.pt")
        paths.append(tmp_path / f"{i}.pt")
    pool, evaluator = ladle.open(paths), Evaluator(Linear())
    soup = evaluator.predict(ladle.uniform(pool), "test")
    members = [evaluator.predict(ladle.uniform(pool.subset([i])), "test") for i in range(4)]
    np.testing.assert_allclose(soup.logits, ensemble(members).logits, atol=1e-5)


SLOW_SCORER = """
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from safetensors.torch import load_file
LOG = Path(__file__).with_name("log.txt")
def score(path):
    value = float(load_file(path)["w"])
    with LOG.open("a") as log:
        log.write(f"begin {value}\\n")
    time.sleep(0.25)
    with LOG.open("a") as log:
        log.write(f"end {value}\\n")
    return -abs(value - 2.0)
"""


@pytest.mark.slow
def test_a_killed_cook_goes_on_and_evaluates_nothing_twice(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for i, value in enumerate([1.0, 4.0, -2.0, 2.5, 7.0]):
        save_file({"w": torch.tensor([value])}, tmp_path / f"run-{i}.safetensors")
    (tmp_path / "scorer.py").write_text(SLOW_SCORER)
    command = [
        str(LADLE), "cook", str(tmp_path / "run-*.safetensors"),
        "--score", f"{tmp_path / 'scorer.py'}:score", "-o", str(tmp_path / "soup"),
    ]  # fmt: skip
    log = tmp_path / "log.txt"

    def ends() -> list[str]:
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if line.startswith("end")]

    kills = 0
    for wanted in (2, 4, 6):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(ends()) < wanted:
            time.sleep(0.02)
        time.sleep(0.1)  # into the next evaluation
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        assert not (tmp_path / "soup").exists()
        assert (tmp_path / "soup.part" / "ladle.sqlite").is_file()
    subprocess.run(command, check=True, capture_output=True)
    # A score is stored a moment after it is logged, so each kill may cost one evaluation.
    assert len(ends()) <= 9 + kills
    assert len(set(ends())) >= 8

    record = json.loads((tmp_path / "soup" / "soup.json").read_text())
    undisturbed = ladle.greedy(
        ladle.open(str(tmp_path / "run-*.safetensors")),
        lambda soup: -abs(float(soup.state_dict()["w"]) - 2.0),
    )
    assert [one["name"] for one in record["ingredients"]] == list(undisturbed.members)
    assert [one["score"] for one in record["tastings"]] == [t.score for t in undisturbed.tastings]


def test_pools_of_different_layouts_never_reach_the_stove(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "a.pt")
    torch.save({"w": torch.zeros(3)}, tmp_path / "b.pt")
    with pytest.raises(ladle.LadleError, match=r"b\.pt\n\s+w has shape \[3\], expected \[2\]"):
        Pool.of(ladle.open([tmp_path / "a.pt", tmp_path / "b.pt"]))
