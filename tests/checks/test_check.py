"""What a check has to catch, on models that were really trained, and what it must not cry about."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import ladle
from counted_digits import run_here
from digits import TASK, Digits
from ladle.checks import Report
from ladle.checks.barrier import barriers
from ladle.errors import UnreadableCheckpoint
from ladle.evaluate import Evaluator
from ladle.tasks import load_task
from states import State, generator, small_state

DIGITS = Digits()


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10)
        )


def trained(model: nn.Sequential, *, lr: float, seed: int, steps: int = 150) -> nn.Sequential:
    images = torch.from_numpy(DIGITS.images["train"])
    labels = torch.from_numpy(DIGITS.splits["train"].labels)
    noise = generator(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for _ in range(steps):
        batch = torch.randint(0, len(images), (32,), generator=noise)
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def fine_tuned(base: State, *, lr: float = 1e-3, seed: int, head: int | None = None) -> State:
    """Trained from the base; with `head`, the last layer begins at random instead."""
    model = network(0)
    model.load_state_dict(base)
    if head is not None:
        model[4].load_state_dict(network(head)[4].state_dict())
    return trained(model, lr=lr, seed=seed).state_dict()


@pytest.fixture(scope="module")
def base() -> State:
    return trained(network(0), lr=3e-3, seed=0, steps=300).state_dict()


@pytest.fixture(scope="module")
def good(base: State) -> list[State]:
    """Learning rates that differ by a factor of 30."""
    return [fine_tuned(base, lr=lr, seed=i) for i, lr in enumerate((1e-4, 3e-4, 1e-3, 3e-3))]


def written(folder: Path, *states: State) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"run{i}.safetensors" for i in range(len(states))]
    for path, state in zip(paths, states, strict=True):
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return paths


def kinds(report: Report, severity: str) -> set[str]:
    return {finding.kind for finding in report.findings if finding.severity == severity}


# --- no false alarms ----------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("with_base", [False, True])
def test_a_good_sweep_is_soupable(
    tmp_path: Path, base: State, good: list[State], k: int, with_base: bool
) -> None:
    paths = written(tmp_path, *good[:k])
    origin = written(tmp_path / "base", base)[0] if with_base else None
    report = ladle.check(paths, base=origin)
    assert report.verdict == "soupable", report.findings
    assert report.findings == ()
    assert len(report.distances) == (k if with_base or k > 2 else 0)


def test_distances_without_the_base_are_near_those_with_it(
    tmp_path: Path, base: State, good: list[State]
) -> None:
    """The estimate takes task vectors for orthogonal, which fine-tunings nearly have."""
    paths = written(tmp_path, *good)
    known = ladle.check(paths, base=written(tmp_path / "base", base)[0]).distances
    estimated = ladle.check(paths).distances
    assert [*known] == [*estimated]
    assert estimated["run3.safetensors"] == pytest.approx(known["run3.safetensors"], rel=0.4)
    assert max(known, key=lambda n: known[n]) == max(estimated, key=lambda n: estimated[n])


def test_heads_that_began_at_zero_are_shared(tmp_path: Path, base: State) -> None:
    def from_zero(seed: int) -> State:
        model = network(0)
        model.load_state_dict(base)
        nn.init.zeros_(model[4].weight)
        return trained(model, lr=1e-3 * (1 + seed), seed=seed).state_dict()

    report = ladle.check(written(tmp_path, *(from_zero(i) for i in range(3))))
    assert report.verdict == "soupable", report.findings


def test_prefixes_are_no_difference(tmp_path: Path, good: list[State]) -> None:
    prefixed = {f"module.{name}": tensor for name, tensor in good[1].items()}
    assert ladle.check(written(tmp_path, good[0], prefixed, good[2])).verdict == "soupable"


# --- what has to be caught ----------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("with_base", [False, True])
def test_an_unshared_random_head(tmp_path: Path, base: State, k: int, with_base: bool) -> None:
    states = [fine_tuned(base, seed=i, head=100 + i) for i in range(k)]
    origin = written(tmp_path / "base", base)[0] if with_base else None
    report = ladle.check(written(tmp_path, *states), base=origin)
    assert report.verdict == "not soupable"
    (finding,) = [one for one in report.findings if one.severity == "not soupable"]
    assert finding.kind == "head"
    assert finding.tensors == ("4.weight",)
    assert "4.weight was initialised at random for each run" in finding.text
    assert "linear probe" in finding.text


def test_a_base_without_a_head_is_fine(tmp_path: Path, base: State, good: list[State]) -> None:
    body = {name: tensor for name, tensor in base.items() if not name.startswith("4.")}
    report = ladle.check(written(tmp_path, *good), base=written(tmp_path / "base", body)[0])
    assert report.verdict == "soupable", report.findings


def test_different_initialisations(tmp_path: Path, good: list[State]) -> None:
    strangers = [trained(network(i), lr=3e-3, seed=i).state_dict() for i in (7, 8)]
    report = ladle.check(written(tmp_path, *good[:3], *strangers))
    assert kinds(report, "not soupable") == {"initialisation"}
    (finding,) = report.findings
    assert "3 different initialisations (run0.safetensors, run1.safetensors, run2" in finding.text
    assert finding.members == ("run3.safetensors", "run4.safetensors")


def test_another_base(tmp_path: Path, good: list[State]) -> None:
    other = trained(network(9), lr=3e-3, seed=9).state_dict()
    report = ladle.check(written(tmp_path, *good), base=written(tmp_path / "base", other)[0])
    assert kinds(report, "not soupable") == {"base"}
    assert "not fine-tuned from the given base" in report.findings[0].text


@pytest.mark.parametrize("with_base", [False, True])
def test_one_diverged_member(
    tmp_path: Path, base: State, good: list[State], with_base: bool
) -> None:
    """Its learning rate was fifty times too high: it would cost the soup ten points."""
    paths = written(tmp_path, *good, fine_tuned(base, lr=0.05, seed=9))
    origin = written(tmp_path / "base", base)[0] if with_base else None
    report = ladle.check(paths, base=origin)
    assert report.verdict == "not soupable"
    found = [one for one in report.findings if one.severity == "not soupable"]
    assert {one.members for one in found} == {("run4.safetensors",)}
    assert found[0].kind == "diverged"
    assert "its learning rate was too high" in found[0].text


def test_a_member_that_begins_to_diverge_is_doubtful(
    tmp_path: Path, base: State, good: list[State]
) -> None:
    report = ladle.check(written(tmp_path, *good, fine_tuned(base, lr=0.02, seed=9)))
    assert report.verdict == "doubtful"
    (finding,) = report.findings
    assert (finding.kind, finding.members) == ("diverged", ("run4.safetensors",))
    assert "its learning rate was too high" in finding.text


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity(tmp_path: Path, good: list[State], bad: float) -> None:
    broken = {name: tensor.clone() for name, tensor in good[0].items()}
    broken["2.bias"][3] = bad
    report = ladle.check(written(tmp_path, good[1], good[2], broken))
    (finding,) = [one for one in report.findings if one.severity == "not soupable"]
    assert (finding.kind, finding.members, finding.tensors) == (
        "non-finite",
        ("run2.safetensors",),
        ("2.bias",),
    )


def test_duplicates(tmp_path: Path, good: list[State]) -> None:
    paths = written(tmp_path, good[0], good[1], good[0])
    report = ladle.check(paths)
    assert report.verdict == "soupable"
    assert [finding.text for finding in report.findings] == [
        f"{paths[2]} holds the same tensors as {paths[0]}; they count once"
    ]
    alone = ladle.check([paths[0], paths[2]])
    assert alone.verdict == "doubtful"
    assert "only one model" in alone.findings[0].text


def test_duplicates_in_another_dtype(tmp_path: Path, good: list[State]) -> None:
    doubled = {name: tensor.double() for name, tensor in good[0].items()}
    report = ladle.check(written(tmp_path, good[0], good[1], doubled))
    assert {"duplicate", "dtypes"} == kinds(report, "note")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("2.bias"), "missing 2.bias"),
        (lambda s: s.update(extra=torch.ones(3)), "unexpected extra"),
        (
            lambda s: s.update({"4.bias": torch.ones(11)}),
            r"4.bias has shape \[11\], expected \[10\]",
        ),
        (lambda s: s.update({"4.bias": torch.ones(10, dtype=torch.int64)}), "4.bias is int64"),
    ],
    ids=["missing", "extra", "shape", "dtype"],
)
def test_other_tensors(
    tmp_path: Path, good: list[State], change: Callable[[State], Any], match: str
) -> None:
    """Who differs is told from who has the usual layout, also if it comes first."""
    odd = dict(good[0])
    change(odd)
    report = ladle.check(written(tmp_path, odd, *good[1:]))
    assert report.verdict == "not soupable"
    (finding,) = [one for one in report.findings if one.severity == "not soupable"]
    assert finding.members == ("run0.safetensors",)
    import re

    assert re.search(match, finding.text)


def test_mixed_floating_dtypes_are_a_note(tmp_path: Path, good: list[State]) -> None:
    half = {name: tensor.half() for name, tensor in good[0].items()}
    report = ladle.check(written(tmp_path, half, *good[1:]))
    assert report.verdict == "soupable"
    assert kinds(report, "note") == {"dtypes"}


def test_ema_and_other_weights(tmp_path: Path, good: list[State]) -> None:
    torch.save({"model": good[0], "model_ema": good[1]}, tmp_path / "a.pt")
    torch.save({"model": good[2]}, tmp_path / "b.pt")
    report = ladle.check(str(tmp_path / "?.pt"))
    assert kinds(report, "doubtful") == {"ema"}


def test_batchnorm_is_a_note(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    states = []
    for i in range(2):
        model(torch.randn(4, 8, generator=generator(i)))
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    report = ladle.check(written(tmp_path, *states))
    assert "batchnorm" in kinds(report, "note")
    assert "--bn best" in next(f.text for f in report.findings if f.kind == "batchnorm")


# --- beside the weights -------------------------------------------------------------------


@pytest.fixture
def berts(tmp_path: Path) -> list[Path]:
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        id2label={0: "bad", 1: "good"},
        label2id={"bad": 0, "good": 1},
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    paths = [tmp_path / f"run{i}" for i in range(3)]
    for i, path in enumerate(paths):
        for parameter in model.parameters():
            parameter.data += 1e-4 * torch.randn(parameter.shape, generator=generator(i))
        model.save_pretrained(path)
        (path / "vocab.txt").write_text("\n".join(f"word{n}" for n in range(20)))
        (path / "tokenizer.json").write_text(
            json.dumps({"model": {"vocab": {"a": 0, "b": 1}}, "truncation": {"max_length": i}})
        )
    return paths


def test_models_with_the_same_companions_are_soupable(berts: list[Path]) -> None:
    """Truncation in the tokenizer's file is no part of the model."""
    assert ladle.check(berts).findings == ()


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "change", "severity", "match"),
    [
        (
            "tokenizer.json",
            lambda c: c["model"]["vocab"].update(a=1, b=0),
            "not soupable",
            "different tokenizers",
        ),
        (
            "config.json",
            lambda c: c.update(id2label={"0": "good", "1": "bad"}),
            "not soupable",
            "name their classes differently",
        ),
        (
            "config.json",
            lambda c: c.update(id2label={"0": "LABEL_0", "1": "LABEL_1"}),
            "doubtful",
            "name their classes differently",
        ),
        ("config.json", lambda c: c.update(hidden_act="relu"), "doubtful", 'hidden_act: "relu"'),
        ("config.json", lambda c: c.update(transformers_version="4.0"), None, ""),
    ],
    ids=["tokenizer", "labels", "default labels", "activation", "version"],
)
def test_differing_companions(
    berts: list[Path], file: str, change: Any, severity: str | None, match: str
) -> None:
    edit(berts[1] / file, change)
    report = ladle.check(berts)
    if severity is None:
        assert report.findings == ()
        return
    (finding,) = report.findings
    assert finding.severity == severity
    assert finding.members == ("run1",)
    assert match in finding.text


def test_another_vocabulary(berts: list[Path]) -> None:
    (berts[2] / "vocab.txt").write_text("other words")
    (finding,) = ladle.check(berts).findings
    assert (finding.severity, finding.members) == ("not soupable", ("run2",))


# --- with a task --------------------------------------------------------------------------


def make_pair(folder: Path, lr: float) -> list[Path]:
    """Two networks of the digits task, from one base, trained at this learning rate."""
    torch.manual_seed(0)
    task = load_task(TASK)
    model = task.build()
    trained(model, lr=3e-3, seed=0, steps=60)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    paths = []
    for seed in (1, 2):
        model.load_state_dict(start)
        trained(model, lr=lr, seed=seed, steps=300)
        paths.append(folder / f"run{seed}.pt")
        torch.save(model.state_dict(), paths[-1])
    return paths


def test_no_barrier_between_neighbours(tmp_path: Path) -> None:
    report = ladle.check(make_pair(tmp_path, 1e-3), task=load_task(TASK))
    assert report.verdict == "soupable", report.findings


def test_a_barrier_is_found_on_data(tmp_path: Path) -> None:
    """Each is a good model, and what lies between them is not."""
    pool = ladle.open(make_pair(tmp_path, 0.1))
    (finding,) = barriers(pool, Evaluator(load_task(TASK)))
    assert (finding.severity, finding.kind) == ("not soupable", "barrier")
    assert finding.members == ("run1.pt", "run2.pt")
    assert "lies a barrier: accuracy 0." in finding.text


# --- the command --------------------------------------------------------------------------


def test_exit_codes_and_words(tmp_path: Path, base: State, good: list[State]) -> None:
    paths = written(tmp_path, *good)
    done = run_here("check", *paths)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("soupable: 4 checkpoints\n")
    bad = written(tmp_path / "bad", *(fine_tuned(base, seed=i, head=50 + i) for i in range(2)))
    done = run_here("check", *bad)
    assert done.returncode == 3
    assert done.stdout.startswith("not soupable: 2 checkpoints\n\nnot soupable: 4.weight was")
    done = run_here("check", *bad, "--json")
    assert done.returncode == 3
    document = json.loads(done.stdout)
    assert document["verdict"] == "not soupable"
    assert document["findings"][0]["tensors"] == ["4.weight"]
    done = run_here("check", tmp_path / "gone.pt")
    assert (done.returncode, done.stdout) == (2, "")
    assert "gone.pt does not exist" in done.stderr


def test_a_damaged_file_is_wrong_input(tmp_path: Path) -> None:
    save_file(small_state(), tmp_path / "a.safetensors")
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-5])
    with pytest.raises(UnreadableCheckpoint, match=r"b\.safetensors"):
        ladle.check([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    assert load_file(tmp_path / "a.safetensors")
