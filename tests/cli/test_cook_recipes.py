"""`ladle cook --recipe`: options, what recipes need, and checkpoints that are no ingredients."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ladle as package
from digits import TASK, Digits, make_runs
from ladle.checkpoint import open_checkpoint
from ladle.cli import main
from ladle.errors import BadInput
from ladle.recipes import OPTIONS, RECIPES
from ladle.report.collect import collect
from ladle.report.table import tabulate

LADLE = Path(sys.executable).with_name("ladle")

SCORER = """
from safetensors.torch import load_file
import torch
def loss(path):
    of_torch = str(path).endswith(".pt")
    state = torch.load(path)["state_dict"] if of_torch else load_file(path)
    return abs(float(state["w"][0]) - 2.0)
def some(pool, evaluate, *, share=1.0, seed, name="x"):
    import ladle
    soup = ladle.greedy(pool.subset(range(int(len(pool) * share))), evaluate)
    assert (seed, name) == (7, "y"), (seed, name)
    return soup
def greedier(pool, evaluate, strict=False):
    import ladle
    return ladle.greedy(pool, evaluate, strict=strict)
"""


def ladle(*arguments: object) -> Any:
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    return subprocess.CompletedProcess([], ended.value.code, stdout.getvalue(), stderr.getvalue())


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four models of one number each, their base, and a loss: how far the number is from 2."""
    for i, value in enumerate([1.0, 4.0, -2.0, 2.5]):
        save_file({"w": torch.tensor([value])}, tmp_path / f"run{i}.safetensors")
    save_file({"w": torch.tensor([0.0])}, tmp_path / "base.safetensors")
    (tmp_path / "mine.py").write_text(SCORER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cook(*more: object, inputs: str = "run*.safetensors") -> Any:
    return ladle(
        "cook", inputs, "--score", "mine.py:loss", "--mode", "min", "-o", "out", "--overwrite",
        *more,
    )  # fmt: skip


def record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("out/soup.json").read_text())
    return found


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["uniform", "--strict"],
            "--strict goes with --recipe greedy, top-k, pruned, hierarchical or screened",
        ),
        (["best", "--order", "given"], "--order goes with --recipe greedy, not with best"),
        (["greedy", "--k", "2"], "--k goes with --recipe top-k, not with greedy"),
        (["greedy", "--repeats", "2"], "--repeats goes with --order random"),
        (["greedy", "--order", "worst"], "'worst' is not one of 'score', 'random', 'given'"),
        (["top-k", "--k", "0"], "0 is not in the range x>=1"),
        (["top-k", "--k", "5"], "--k 5: only 4 of the 4 checkpoints"),
        (["wise-ft"], "--recipe wise-ft needs --base, the checkpoint that the others were"),
        (["model-stock"], "--recipe model-stock needs --base"),
        (["wise-ft", "--base", "base.safetensors", "--alpha", "1.5"], "1.5 is not in the range"),
        (["hierarchical"], "--recipe hierarchical needs --group-by"),
        (["hierarchical", "--group-by", "lr"], "--group-by lr: run0.safetensors"),
        (["window"], "tell no step"),
        (["gredy"], "'gredy' is none of greedy, uniform, best, top-k"),
        (["greedy", "--option", "strict=1"], "strict is an option itself; write --strict"),
        (["mine.py:some", "--option", "shar=1"], "no option 'shar'; its options are: share, name"),
        (["mine.py:some", "--option", "seed=1"], "no option 'seed'"),
        (["mine.py:some", "--option", "share"], "write it as NAME=VALUE"),
        (["mine.py:some", "--strict"], "--strict goes with --recipe greedy"),
    ],
)
def test_wrong_options_are_one_sentence(toys: Path, arguments: list[str], sentence: str) -> None:
    done = cook("--recipe", *arguments)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (toys / "out").exists()


def test_help_shows_recipes_and_their_options_apart() -> None:
    text = ladle("cook", "--help").stdout
    common, recipes, options = (
        text.index(f"\n{title}:\n") for title in ("Options", "Recipes", "Options of recipes")
    )
    assert common < recipes < options
    for name in RECIPES:
        assert f"\n  {name} " in text[recipes:options]
    for key in OPTIONS:
        assert f"\n  --{key.replace('_', '-')} " in text[options:] + " "
    assert "--strict" not in text[:recipes]


def test_what_a_recipe_was_given_is_in_the_record(toys: Path) -> None:
    assert cook("--recipe", "top-k", "--k", "3", "--strict").returncode == 0
    assert record()["recipe"] == {"name": "top-k", "options": {"k": 3, "strict": True}}


def test_a_recipe_of_ones_own_has_options_and_gets_the_seed(toys: Path) -> None:
    options = ("--option", "share=0.5", "--option", "name=y", "--seed", "7")
    done = cook("--recipe", "mine.py:some", *options)
    assert done.returncode == 0, done.stderr
    assert len(record()["tastings"]) == 3
    assert record()["recipe"]["options"]["share"] == 0.5


def test_an_option_of_the_built_in_recipes_serves_others_that_take_it(toys: Path) -> None:
    assert cook("--recipe", "mine.py:greedier", "--strict").returncode == 0
    assert record()["recipe"]["options"]["strict"] is True


def test_a_package_offers_recipes(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = toys / "site"
    info = site / "ladle_more-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ladle-more\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ladle.recipes]\nfirst = ladle_more:first\n")
    (site / "ladle_more.py").write_text(
        "import ladle\n"
        "def first(pool, evaluate, *, n=1, integers):\n"
        "    return ladle.uniform(pool.subset(range(n)), integers=integers)\n"
    )
    monkeypatch.syspath_prepend(str(site))
    done = cook("--recipe", "first", "--option", "n=2")
    assert done.returncode == 0, done.stderr
    assert [one["name"] for one in record()["ingredients"]] == [
        "run0.safetensors",
        "run1.safetensors",
    ]
    assert "none of greedy" in cook("--recipe", "last").stderr
    assert "window, first" in (cook("--recipe", "last").stderr)


# What is logged and printed


def test_margins_stand_in_the_metrics_own_direction(toys: Path) -> None:
    done = cook()
    tastings = record()["tastings"]
    # Losses alone: 1, 2, 4, 0.5. With run0 the mean is 1.75: 0.25, which is 0.25 less.
    assert [(t["score"], t["margin"]) for t in tastings[3:5]] == [(0.5, None), (0.25, -0.25)]
    assert all(tasting["examples"] is None for tasting in tastings)
    assert tastings[4]["reason"] == "better by 0.2500"
    page = Path("out/report.html").read_text()
    assert "to the score to beat" in page
    assert "−0.2500</td>" in page
    assert "No other checkpoint" not in done.stdout


def test_random_orders_are_told_with_mean_and_spread(toys: Path) -> None:
    done = cook("--order", "random", "--repeats", "3", "--seed", "1")
    repeats = record()["recipe"]["repeats"]
    assert len(repeats["scores"]) == 3
    assert repeats["mean"] == pytest.approx(sum(repeats["scores"]) / 3)
    assert all(score > 0 for score in repeats["scores"])  # losses
    kept = [one["score"] for one in record()["tastings"] if one["kept"]]
    assert kept[-1] == min(repeats["scores"])
    text = f"{repeats['mean']:.4f} on average (standard deviation {repeats['spread']:.4f})"
    assert text in done.stdout
    assert "flatters" in done.stdout
    assert "the best of 3 random orders" in Path("out/report.html").read_text()


@pytest.mark.parametrize("recipe", ["greedy", "top-k", "pruned"])
def test_that_no_soup_is_better_is_a_result(toys: Path, recipe: str) -> None:
    save_file({"w": torch.tensor([2.0])}, toys / "run9.safetensors")
    done = cook("--recipe", recipe)
    assert done.returncode == 0
    assert [one["name"] for one in record()["ingredients"]] == ["run9.safetensors"]
    assert "so this is the best single model." in done.stdout
    written = load_file(toys / "out" / "model.safetensors")
    assert written["w"].tolist() == [2.0]


def test_groups_and_steps_come_from_the_checkpoints_themselves(toys: Path) -> None:
    for i, value in enumerate([1.0, 4.0, -2.0, 2.5]):
        content = {"state_dict": {"w": torch.tensor([value])}, "args": {"lr": 0.1 * (i // 2)}}
        torch.save({**content, "global_step": 10 - i}, toys / f"run-{'abcd'[i]}.pt")
    done = cook("--recipe", "hierarchical", "--group-by", "lr", inputs="run-*.pt")
    assert done.returncode == 0, done.stderr
    assert {"lr=0", "lr=0.1"} <= {one["candidate"] for one in record()["tastings"]}
    done = cook("--recipe", "window", "--weighting", "linear", inputs="run-*.pt")
    assert done.returncode == 0, done.stderr
    weights = {one["name"]: one["weight"] for one in record()["ingredients"]}
    assert weights == pytest.approx({f"run-{'dcba'[i]}.pt": 0.1 * (i + 1) for i in range(4)})


def test_the_base_at_the_end_of_a_line_is_no_single_model_of_the_report(toys: Path) -> None:
    assert cook("--recipe", "wise-ft", "--base", "base.safetensors").returncode == 0
    table = tabulate(collect(toys / "out"))
    singles = {row.model for row in table.rows if row.part in ("single", "best")}
    assert singles == {f"run{i}.safetensors" for i in range(4)}


def test_of_soups_of_the_same_models_the_report_shows_the_last_one_kept(toys: Path) -> None:
    assert cook("--with-replacement").returncode == 0
    # With the mean of 2.5 and 1 the loss is 0.25, with 2.5 twice it is 0.
    chosen = tabulate(collect(toys / "out")).chosen
    assert chosen is not None
    assert chosen.cells["held-out"].value == 0.0


# On a real task


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder, 3)
    return folder


def test_the_whole_line_of_wise_ft_is_judged_and_drawn(runs: Path, tmp_path: Path) -> None:
    out, base = tmp_path / "out", runs / "base.pt"
    done = ladle(
        "cook", f"{runs}/run-*.pt", "--task", TASK, "--base", base, "--recipe", "wise-ft",
        "-o", out, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["evaluations"]
    values = {(row["model"], row["split"]): row["value"] for row in rows}
    line = [f"α = {step / 10:g}" for step in range(11)]
    splits = [split.name for split in Digits().splits.values() if split.role != "train"]
    for split in splits:
        assert values["α = 0", split] == values["base", split]
    assert all((point, split) in values for point in line for split in splits)
    assert {row["kind"] for row in rows if row["model"] in line} == {"curve"}
    found = json.loads((out / "soup.json").read_text())
    n = next(row["n"] for row in rows if row["role"] == "held-out")
    assert {one["examples"] for one in found["tastings"]} == {n}
    at = found["recipe"]["options"]["alpha"]
    for split in splits:
        assert values[f"α = {at:g}", split] == values["wise-ft soup", split]
    page = (out / "report.html").read_text()
    assert 'id="figure-line-from-base"' in page
    assert "The 11 points of the line" in page
    table = tabulate(collect(out))
    assert [row.model for row in table.rows if row.part == "curve"] == line
    judged = ladle("evaluate", out, "--task", TASK, "--json")
    (own,) = (r for r in json.loads(judged.stdout)["evaluations"] if r["split"] == "test")
    assert own["value"] == values["wise-ft soup", "test"]


def test_model_stock_is_judged_and_read_back(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = ladle(
        "cook", f"{runs}/run-*.pt", "--task", TASK, "--base", runs / "base.pt",
        "--recipe", "model-stock", "-o", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "model-stock soup: 3 of 3 checkpoints and the base" in done.stdout
    assert "by tensor" in (out / "report.html").read_text()
    state = load_file(out / "model.safetensors")
    base = torch.load(runs / "base.pt", weights_only=True)
    mean = package.uniform(package.open(f"{runs}/run-*.pt")).state_dict()
    for name, tensor in state.items():
        # Between the two, everywhere.
        low, high = torch.minimum(base[name], mean[name]), torch.maximum(base[name], mean[name])
        assert ((tensor >= low - 1e-6) & (tensor <= high + 1e-6)).all()
        assert not torch.equal(tensor, mean[name])


def test_a_soup_that_is_worse_than_the_best_single_is_told(runs: Path, tmp_path: Path) -> None:
    base = torch.load(runs / "base.pt", weights_only=True)
    torch.save({name: 1.5 * tensor.abs() for name, tensor in base.items()}, tmp_path / "bad.pt")
    done = ladle(
        "cook", runs / "run-2.pt", tmp_path / "bad.pt", "--task", TASK, "--recipe", "uniform",
        "-o", tmp_path / "out", "--force",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "On held-out data the best single model, run-2.pt, is better" in done.stdout


# What is no ingredient


def test_models_of_different_initialisations_are_refused(runs: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            torch.save(Digits().build().state_dict(), tmp_path / f"{seed}.pt")
    arguments = ("cook", tmp_path / "*.pt", "--task", TASK, "-o", tmp_path / "out")
    done = ladle(*arguments)
    assert done.returncode == 3
    assert "started from 2 different initialisations" in done.stderr
    assert "--force goes on all the same" in done.stderr
    assert not list(tmp_path.glob("out*"))
    assert ladle(*arguments, "--dry-run").returncode == 3
    forced = ladle(*arguments, "--force")
    assert forced.returncode == 0, forced.stderr
    assert forced.stderr.count("started from 2 different initialisations") == 1
    (caveat,) = json.loads((tmp_path / "out/soup.json").read_text())["caveats"]
    assert "different initialisations" in caveat
    assert "different initialisations" in (tmp_path / "out/report.html").read_text()


def test_a_model_with_nan_is_refused_with_its_name(toys: Path) -> None:
    save_file({"w": torch.tensor([float("nan")])}, toys / "run5.safetensors")
    done = cook()
    assert done.returncode == 3
    assert "run5.safetensors has NaN or infinity in w" in done.stderr
    assert not (toys / "out").exists()


def test_models_with_other_tensors_are_refused(toys: Path) -> None:
    save_file({"w": torch.zeros(2)}, toys / "run5.safetensors")
    done = cook("--force")
    assert done.returncode == 3
    assert "w has shape [2], expected [1]" in done.stderr


def test_what_is_doubtful_is_said_and_recorded(runs: Path, tmp_path: Path) -> None:
    base = torch.load(runs / "base.pt", weights_only=True)
    noise = torch.Generator().manual_seed(0)
    far = {
        name: tensor + 0.6 * tensor.std() * torch.randn(tensor.shape, generator=noise)
        for name, tensor in base.items()
    }
    torch.save(far, tmp_path / "far.pt")
    given = [*sorted(runs.glob("run-*.pt")), tmp_path / "far.pt"]
    done = ladle("cook", *given, "--task", TASK, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: far.pt is") == 1
    caveats = json.loads((tmp_path / "out/soup.json").read_text())["caveats"]
    assert any(caveat.startswith("far.pt is") for caveat in caveats)


def read() -> int:
    """The bytes that this process has read from files."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes as Linux does")
def test_cook_reads_files_to_check_them_and_to_average_them_and_no_more(
    toys: Path,
) -> None:
    start = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0))
    for i in range(4):
        save_file({"w": start + 0.01 * i}, toys / f"large-{i}.safetensors")
    nbytes = sum(file.stat().st_size for file in toys.glob("large-*"))
    assert cook("--recipe", "uniform").returncode == 0  # everything is imported
    before = read()
    assert cook("--recipe", "uniform", inputs="large-*.safetensors").returncode == 0
    # The first is read twice to check, all once to average; the digests take none.
    assert 2.2 * nbytes < read() - before < 2.7 * nbytes


def test_options_that_were_not_given_are_none_or_false() -> None:
    from ladle.cli.recipe_options import chosen

    chosen("best", {"strict": False, "k": None}, (), {})
    with pytest.raises(BadInput, match="--strict goes with"):
        chosen("best", {"strict": True}, (), {})


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes as Linux does")
def test_the_check_and_the_digests_are_one_look_at_the_files(tmp_path: Path) -> None:
    from ladle.checks import check
    from ladle.soup import gather

    start = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0))
    for i in range(4):
        save_file({"w": start + 0.01 * i, "b": start[0] * i}, tmp_path / f"{i}.safetensors")
    found = gather(tmp_path)
    nbytes = sum(file.stat().st_size for file in tmp_path.iterdir())
    for one in found.ingredients:
        one.checkpoint.hash_while_reading()
    before = read()
    check(found)
    checked = read()
    digests = package.soup.Pool.of(found.ingredients).digests  # type: ignore[attr-defined]
    hashed = read()
    # Without a base, all are measured from the first, which is read twice.
    assert checked - before == pytest.approx(1.25 * nbytes, rel=0.01)
    assert hashed - checked < 0.01 * nbytes
    fresh = (open_checkpoint(one.checkpoint.path).digest() for one in found.ingredients)
    assert list(digests) == list(fresh)
