"""The command line, as a user types it: the installed one, or, where that says no more, in this
process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from counted_digits import run_here
from digits import TASK, make_runs

LADLE = Path(sys.executable).with_name("ladle")


def installed(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(LADLE), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=300,
    )


def complaint(done: subprocess.CompletedProcess[str], exit_code: int = 2) -> str:
    """The sentence of a failed command: no traceback, nothing on stdout."""
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder, 3)
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    save_file({"w": torch.tensor([1.0, 2.0])}, tmp_path / "a.safetensors")
    save_file({"w": torch.tensor([3.0, 8.0])}, tmp_path / "b.safetensors")
    return tmp_path


def test_help_names_every_command_and_is_quick() -> None:
    installed("--help")  # the first run compiles
    began = time.perf_counter()
    done = installed("--help")
    seconds = time.perf_counter() - began
    assert done.returncode == 0
    for command in ("inspect", "average", "cook", "evaluate", "sweep", "report", "demo"):
        assert f"  {command} " in done.stdout
    # The contract's 0.3 s, with room for a busy machine; importing torch takes far longer.
    assert seconds < 1.0


def test_help_loads_neither_torch_nor_numpy() -> None:
    assert loaded_by("--help") == set()


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_average_does_not_load_torch(tmp_path: Path, suffix: str) -> None:
    for i in range(2):
        state, path = {"w": torch.full((2,), float(i))}, tmp_path / f"{i}.{suffix}"
        save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    inputs = (str(tmp_path / f"{i}.{suffix}") for i in range(2))
    assert loaded_by("average", *inputs, "-o", str(tmp_path / "soup")) == {"numpy"}
    assert load_file(tmp_path / "soup" / "model.safetensors")["w"].tolist() == [0.5, 0.5]


def loaded_by(*arguments: str) -> set[str]:
    """Which of the large libraries a command imports."""
    code = (
        f"import sys, ladle.cli; ladle.cli._run({list(arguments)!r})\n"
        "print(*({'torch', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_average_writes_the_mean(pair: Path) -> None:
    done = installed("average", "a.safetensors", "b.safetensors", "-o", "soup", cwd=pair)
    assert done.returncode == 0, done.stderr
    assert "2 checkpoints (1 tensors, 2 parameters) -> soup" in done.stdout
    assert load_file(pair / "soup" / "model.safetensors")["w"].tolist() == [2.0, 5.0]


def test_average_with_weights(pair: Path) -> None:
    run_here(
        "average",
        "a.safetensors",
        "b.safetensors",
        "--weights",
        "0.25,0.75",
        "-o",
        "s.pt",
        cwd=pair,
    )
    assert torch.load(pair / "s.pt", weights_only=True)["w"].tolist() == [2.5, 6.5]


def test_weights_may_be_negative_and_normalised(pair: Path) -> None:
    files = ("a.safetensors", "b.safetensors")
    run_here("average", *files, "--weights=-1,3", "--normalize", "-o", "s.safetensors", cwd=pair)
    assert load_file(pair / "s.safetensors")["w"].tolist() == [4.0, 11.0]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--weights", "1"], "1 numbers for 2 checkpoints"),
        (["--weights", "1,2"], "sum to 3; make them sum to 1, or add --normalize"),
        (["--weights", "1,x"], "write numbers with commas"),
        (["--weights", "1,-1", "--normalize"], "sum to 0.0"),
        (["--weights", "nan,1"], "sum to nan"),
        (["--max-shard-size", "5 apples"], "write it as in 500MB or 5GB"),
        (["--dtype", "int8"], "'int8' is not one of"),
    ],
)
def test_a_wrong_flag_is_named_and_nothing_is_written(
    pair: Path, flags: list[str], sentence: str
) -> None:
    done = run_here("average", "a.safetensors", "b.safetensors", "-o", "soup", *flags, cwd=pair)
    assert sentence in complaint(done)
    assert sorted(p.name for p in pair.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_an_existing_output_is_refused_and_kept(pair: Path) -> None:
    files = ("a.safetensors", "b.safetensors")
    run_here("average", *files, "-o", "soup", cwd=pair)
    before = (pair / "soup" / "model.safetensors").read_bytes()
    done = run_here("average", "a.safetensors", "-o", "soup", cwd=pair)
    assert "soup exists; name another --output or add --overwrite" in complaint(done)
    assert (pair / "soup" / "model.safetensors").read_bytes() == before
    assert (
        run_here("average", "a.safetensors", "-o", "soup", "--overwrite", cwd=pair).returncode == 0
    )
    assert load_file(pair / "soup" / "model.safetensors")["w"].tolist() == [1.0, 2.0]


def test_overwrite_does_not_remove_what_ladle_did_not_write(pair: Path) -> None:
    (pair / "thesis").mkdir()
    (pair / "thesis" / "chapter.txt").write_text("years of work")
    done = run_here("average", "a.safetensors", "-o", "thesis", "--overwrite", cwd=pair)
    assert "thesis is no soup that ladle wrote" in complaint(done)
    assert (pair / "thesis" / "chapter.txt").read_text() == "years of work"


def test_dry_run_writes_nothing(pair: Path) -> None:
    done = run_here(
        "average", "a.safetensors", "b.safetensors", "-o", "soup", "--dry-run", cwd=pair
    )
    assert done.returncode == 0
    assert "would be written to soup" in done.stdout
    assert not (pair / "soup").exists()


def test_json_is_the_only_thing_on_stdout(pair: Path) -> None:
    done = run_here("average", "a.safetensors", "b.safetensors", "-o", "soup", "--json", cwd=pair)
    document = json.loads(done.stdout)
    assert document["output"] == "soup"
    assert [one["weight"] for one in document["soup"]["ingredients"]] == [0.5, 0.5]


def test_inspect_says_what_is_there(pair: Path) -> None:
    save_file({"w": torch.tensor([1.0, float("nan")])}, pair / "bad.safetensors")
    facts = json.loads(run_here("inspect", "bad.safetensors", "--json", cwd=pair).stdout)
    (one,) = facts["checkpoints"]
    assert one["non_finite"] == {"w": 1}
    assert one["dtypes"] == {"float32": 1}
    digest = subprocess.run(
        ["sha256sum", "bad.safetensors"], cwd=pair, capture_output=True, text=True, check=True
    )
    assert digest.stdout.startswith(one["sha256"])


def test_inspect_shows_where_checkpoints_lie_from_their_base(pair: Path) -> None:
    # From the base (0, 0): a goes (1, 2), b goes (3, 8). |a| = √5, |b| = √73, a·b = 19.
    save_file({"w": torch.zeros(2)}, pair / "base.safetensors")
    files = ("a.safetensors", "b.safetensors")
    done = run_here("inspect", *files, "--base", "base.safetensors", "--json", cwd=pair)
    found = json.loads(done.stdout)["geometry"]
    assert found["distances"] == pytest.approx([5**0.5, 73**0.5])
    assert found["angles"][0][1] == pytest.approx(6.0090, abs=1e-3)  # arccos(19 / √365)


def test_different_layouts_are_told_all_at_once(pair: Path) -> None:
    save_file({"w": torch.zeros(3), "head": torch.zeros(1)}, pair / "c.safetensors")
    save_file({"v": torch.zeros(2)}, pair / "d.safetensors")
    text = complaint(
        installed(
            "average", *["a.safetensors", "c.safetensors", "d.safetensors"], "-o", "s", cwd=pair
        )
    )
    for line in (
        "w has shape [3], expected [2]",
        "unexpected  head",
        "missing     w",
        "unexpected  v",
    ):
        assert line in text


def test_a_truncated_file_is_one_sentence(pair: Path) -> None:
    whole = (pair / "b.safetensors").read_bytes()
    (pair / "b.safetensors").write_bytes(whole[:-3])
    text = complaint(run_here("average", "a.safetensors", "b.safetensors", "-o", "s", cwd=pair))
    assert text.startswith("ladle: b.safetensors has")
    assert not (pair / "s").exists()


def test_nan_is_named_with_file_and_tensor_and_leaves_nothing(pair: Path) -> None:
    save_file({"w": torch.tensor([1.0, float("nan")])}, pair / "bad.safetensors")
    text = complaint(run_here("average", "a.safetensors", "bad.safetensors", "-o", "s", cwd=pair))
    assert "bad.safetensors has NaN or infinity in tensor 'w'" in text
    assert not list(pair.glob("s*"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["cook", "a.safetensors", "-o", "s"], "give either --task or --score"),
        (["cook", "a.safetensors", "-o", "s", "--task", "demo-txt"], "did you mean 'demo-text'?"),
        (["cook", "a.safetensors", "-o", "s", "--task", "no.toml"], "no.toml does not exist"),
        (["cook", "a.safetensors", "-o", "s", "--score", "x.py:f"], "x.py does not exist"),
        (["cook", "a.safetensors", "-o", "s", "--score", "true"], "put {model} where"),
        (
            ["cook", "a.safetensors", "-o", "s", "--score", "true {model}", "--recipe", "gredy"],
            "'gredy' is none of",
        ),
        (["cook", "nothing-*", "-o", "s", "--score", "true {model}"], "no checkpoint matches"),
        (["report", "nowhere"], "nowhere"),
        (["inspect"], "Missing argument"),
        (
            ["cook", "a.safetensors", "-o", "s", "--task", "demo-text", "--metric", "f1"],
            "with --score or --top-k",
        ),
        (["average", "a.safetensors", "-o", "s.bin"], "ladle writes no .bin files"),
        (
            ["average", "a.safetensors", "./a.safetensors", "--weights", "0.5,0.5", "-o", "s"],
            "2 numbers for 1 checkpoints",
        ),
        (["average", ".", "-o", "s"], "the output s and the input . would mix"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    pair: Path, arguments: list[str], sentence: str
) -> None:
    assert sentence in complaint(run_here(*arguments, cwd=pair))


def test_an_unknown_task_key_is_named_with_the_nearest(pair: Path) -> None:
    (pair / "task.toml").write_text('kind = "text"\nmodel = "m"\nmax_lenght = 12\n')
    done = run_here("cook", "a.safetensors", "-o", "s", "--task", "task.toml", cwd=pair)
    assert "unknown key 'max_lenght' (did you mean 'max_length'?)" in complaint(done)


@pytest.mark.slow
def test_cook_with_a_command_that_scores(pair: Path) -> None:
    (pair / "score.py").write_text(
        "import sys; from safetensors.torch import load_file\n"
        "w = load_file(sys.argv[1])['w']\n"
        "print('the loss of', sys.argv[1], 'is'); print(abs(float(w.sum()) - 7.0))\n"
    )
    done = installed(
        "cook", "a.safetensors", "b.safetensors", "-o", "soup", "--mode", "min",
        "--score", f"{sys.executable} score.py {{model}}", cwd=pair,
    )  # fmt: skip
    # Sums are 3 and 11, so the losses alone are 4 and 4; the mean of the sums is 7: loss 0.
    assert done.returncode == 0, done.stderr
    assert "greedy soup: 2 of 2 checkpoints -> soup" in done.stdout
    scores = [one["score"] for one in json.loads((pair / "soup/soup.json").read_text())["tastings"]]
    assert scores == [4.0, 4.0, 0.0]


def test_a_scoring_command_that_fails_is_exit_code_1(pair: Path) -> None:
    done = run_here(
        "cook", "a.safetensors", "-o", "s", "--score", "echo no luck >&2; false {model}", cwd=pair
    )
    assert "exited with 1: no luck" in complaint(done, 1)


@pytest.mark.slow
def test_a_scoring_command_that_prints_json(pair: Path) -> None:
    command = 'echo \'{{"acc": 0.5, "loss": 2}}\' # {model}'.replace("{{", "{").replace("}}", "}")
    done = installed("cook", "a.safetensors", "-o", "s", "--score", command, cwd=pair)
    assert "gave acc, loss; say which with --metric" in complaint(done, 1)
    done = installed(
        "cook", "a.safetensors", "-o", "s", "--score", command, "--metric", "acc", cwd=pair
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_cook_with_a_function_of_a_live_model(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        f"import sys; sys.path.insert(0, {str(Path(TASK).parent)!r})\n"
        "from digits_task import Digits\nimport torch\ntask = Digits()\nbuild = task.build\n"
        "def score(model):\n"
        "    said = task.predict(model, 'held-out', device=torch.device('cpu'), batch_size=64)\n"
        "    return {'accuracy': (said.argmax(1) == task.splits['held-out'].labels).mean()}\n"
    )
    black = installed(
        "cook", runs / "run-*.pt", "--score", "mine.py:score", "--model", "mine.py:build",
        "-o", "black", "--json", cwd=tmp_path,
    )  # fmt: skip
    white = installed(
        "cook", runs / "run-*.pt", "--task", TASK, "-o", "white", "--json", cwd=tmp_path
    )
    assert black.returncode == white.returncode == 0, black.stderr + white.stderr
    scores = [
        [one["score"] for one in json.loads(done.stdout)["soup"]["tastings"]]
        for done in (black, white)
    ]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_cook_then_evaluate_and_report(runs: Path, tmp_path: Path) -> None:
    base = runs / "base.pt"
    cooked = installed(
        "cook", runs / "run-*.pt", "--task", TASK, "--base", base, "-o", tmp_path / "soup"
    )
    assert cooked.returncode == 0, cooked.stderr
    assert "paired test" in cooked.stdout
    page = tmp_path / "soup" / "report.html"
    first = page.read_text()
    page.unlink()
    assert installed("report", tmp_path / "soup").returncode == 0
    assert page.read_text() == first
    scored = installed(
        "evaluate",
        tmp_path / "soup",
        base,
        "--task",
        TASK,
        "--split",
        "test",
        "--ensemble",
        "--json",
    )
    rows = json.loads(scored.stdout)["evaluations"]
    assert [row["model"] for row in rows] == ["soup", "base.pt", "ensemble of 2"]
    cooked_rows = map(json.loads, (tmp_path / "soup/evaluations.jsonl").read_text().splitlines())
    expected = next(r for r in cooked_rows if r["model"] == "greedy soup" and r["split"] == "test")
    assert rows[0]["value"] == expected["value"]


@pytest.mark.slow
def test_a_split_that_is_not_there_is_named(runs: Path) -> None:
    done = installed("evaluate", runs / "base.pt", "--task", TASK, "--split", "tset")
    assert "--split 'tset': task digits has train, held-out, test, noisy" in complaint(done)


def test_debug_shows_the_traceback(pair: Path) -> None:
    done = run_here("average", "a.safetensors", "nope", "-o", "s", "--debug", cwd=pair)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_python_minus_m_ladle_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ladle", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ladle ")


def test_ctrl_c_is_exit_code_130_and_keeps_the_work(pair: Path) -> None:
    (pair / "slow.py").write_text(
        "import time\nfrom pathlib import Path\n"
        "def score(path):\n"
        "    Path(__file__).with_name(path.stem + '.asked').touch()\n"
        "    time.sleep(0 if path.stem == 'a' else 60)\n"
        "    return 1.0\n"
    )
    process = subprocess.Popen(
        [
            str(LADLE),
            "cook",
            "a.safetensors",
            "b.safetensors",
            "--score",
            "slow.py:score",
            "-o",
            "s",
        ],
        cwd=pair,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ignored, if these tests run in the background of a shell.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    for _ in range(600):
        if (pair / "b.asked").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert (
        stderr.strip() == "ladle: interrupted; "
        "cook, sweep, landscape, compare and demo go on from here when run again"
    )
    assert (pair / "s.part" / "ladle.sqlite").is_file()
    assert not (pair / "s").exists()


def test_decimal_weights_of_copies_give_the_copy(pair: Path) -> None:
    """1/3 as people write it sums to 1 only nearly."""
    for i, name in enumerate(("x", "y", "z")):
        state = {"w": torch.tensor([0.1, 1e6]), "other": torch.tensor([float(i)])}
        save_file(state, pair / f"{name}.safetensors")
    files = ("x.safetensors", "y.safetensors", "z.safetensors")
    weights = "0.3333333,0.3333333,0.3333333"
    done = run_here("average", *files, "--weights", weights, "-o", "s.safetensors", cwd=pair)
    assert done.returncode == 0, done.stderr
    assert load_file(pair / "s.safetensors")["w"].tolist() == torch.tensor([0.1, 1e6]).tolist()


def test_a_report_replaces_no_file_of_somebody_else(runs: Path, tmp_path: Path) -> None:
    run_here("average", runs / "run-*.pt", "-o", tmp_path / "soup")
    (tmp_path / "thesis.md").write_text("years of work")
    done = run_here("report", tmp_path / "soup", "-o", tmp_path / "thesis.md")
    assert "thesis.md exists" in complaint(done)
    assert (tmp_path / "thesis.md").read_text() == "years of work"
