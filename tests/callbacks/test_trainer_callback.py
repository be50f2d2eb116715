"""Real trainings by transformers' Trainer, and what the callback leaves of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

import ladle
from counted_digits import run_here
from ladle.callbacks import TrainerIngredients
from ladle.checkpoint import open_checkpoint
from ladle.errors import BadInput, OutputExists
from ladle.soup import gather
from reviews import MINILM
from states import same_bits
from tiny import bert

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, about small trainings

HERE = Path(__file__).parent

SCORE = """
import sys
import torch, transformers
model = transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
rows = [[i % 40, 3, 1, 7] for i in range(24)]
with torch.no_grad():
    said = model(torch.tensor(rows)).logits.argmax(-1)
print(float((said == torch.tensor([i % 3 for i in range(24)])).float().mean()))
"""


class Rows(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": torch.tensor([index % 40, 3, 1, 7]), "labels": index % 3}


def measured(predicted: Any) -> dict[str, float]:
    return {"accuracy": float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())}


def trainer(
    out: Path, *callbacks: transformers.TrainerCallback, model: Any = None, **settings: Any
) -> transformers.Trainer:
    """Two epochs of six steps, evaluated and saved after each."""
    arguments = transformers.TrainingArguments(
        output_dir=str(out),
        **{
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "learning_rate": 3e-4,
            "save_strategy": "epoch",
            "eval_strategy": "epoch",
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            **settings,
        },
    )
    return transformers.Trainer(
        model=bert() if model is None else model,
        args=arguments,
        train_dataset=Rows(),
        eval_dataset=Rows(),
        compute_metrics=measured,
        callbacks=list(callbacks),
    )


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs from one base; the second keeps some steps too."""
    folder = tmp_path_factory.mktemp("trainer")
    sweep = folder / "sweep"
    trainer(
        folder / "a",
        TrainerIngredients(sweep),
        seed=1,
        weight_decay=0.1,
        label_smoothing_factor=0.1,
        warmup_steps=2,
        lr_scheduler_type="cosine",
    ).train()
    second = trainer(folder / "b", TrainerIngredients(sweep, every=5, steps=[7]), seed=2)
    second.train()
    second.model.save_pretrained(folder / "by-hand")
    return sweep


def test_a_run_is_what_the_training_ended_with(swept: Path) -> None:
    assert sorted(path.name for path in swept.iterdir()) == [
        "base", "run-0000", "run-0001", "sweep.json",
    ]  # fmt: skip
    by_hand = swept.parent / "by-hand" / "model.safetensors"
    assert (swept / "run-0001" / "model.safetensors").read_bytes() == by_hand.read_bytes()
    base = transformers.BertForSequenceClassification.from_pretrained(swept / "base")
    assert same_bits(dict(base.state_dict()), dict(bert().state_dict()))
    assert {path.name for path in (swept / "run-0000").iterdir()} == {
        "config.json", "model.safetensors", "run.json",
    }  # fmt: skip


def test_the_record_is_in_ladles_words(swept: Path) -> None:
    record = json.loads((swept / "run-0000" / "run.json").read_text())
    assert record["version"] == 2
    assert record["name"] == "run-0000"
    assert record["step"] == 12
    assert record["base"] == open_checkpoint(swept / "base").digest()
    assert record["failed"] is None
    assert record["versions"]["transformers"] == transformers.__version__
    assert record["seconds"] > 0
    wanted = {
        "lr": 3e-4,
        "weight_decay": 0.1,
        "epochs": 2,
        "batch_size": 4,
        "label_smoothing": 0.1,
        "warm_up": 2,
        "schedule": "cosine",
        "clip": 1.0,
        "accumulate": 1,
        "seed": 1,
    }
    assert record["run"].items() >= wanted.items()
    said = [(one["step"], one["split"], one["metric"]) for one in record["scores"]]
    assert said == [(s, "eval", m) for s in (6, 12) for m in ("loss", "accuracy")]
    states = [json.loads(p.read_text()) for p in (swept.parent / "a").glob("*/trainer_state.json")]
    last = max(states, key=lambda state: state["global_step"])["log_history"]
    assert record["scores"][-2]["value"] == [e for e in last if "eval_loss" in e][-1]["eval_loss"]


def test_chosen_steps_are_kept_within_the_run(swept: Path) -> None:
    steps = swept / "run-0001" / "steps"
    assert sorted(p.name for p in steps.iterdir()) == [
        "step-000005", "step-000007", "step-000010",
    ]  # fmt: skip
    kept = [load_file(p / "model.safetensors") for p in sorted(steps.iterdir())]
    kept.append(load_file(swept / "run-0001" / "model.safetensors"))
    name = "classifier.weight"
    assert len({state[name].numpy().tobytes() for state in kept}) == 4
    assert len(gather(steps).ingredients) == 3


def test_ladle_cooks_the_folder(swept: Path, tmp_path: Path) -> None:
    """The runs are its ingredients, the base is the base."""
    (tmp_path / "score.py").write_text(SCORE)
    done = run_here(
        "cook", swept, "--score", f"{sys.executable} score.py {{model}}", "--recipe",
        "uniform", "-o", "soup", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cooked = json.loads(done.stdout)["soup"]
    assert [one["name"] for one in cooked["ingredients"]] == ["run-0000", "run-0001"]
    soup = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "soup")
    states = [load_file(swept / f"run-000{i}" / "model.safetensors") for i in range(2)]
    for name, tensor in soup.state_dict().items():
        mean = (states[0][name].double() + states[1][name].double()) / 2
        assert torch.equal(tensor, mean.to(tensor.dtype))
    found = gather(swept).ingredients
    assert [one.facts.hyperparameters["seed"] for one in found] == [1, 2]


# --- the start ----------------------------------------------------------------------------


def test_a_run_from_another_head_is_refused_before_it_trains(swept: Path, tmp_path: Path) -> None:
    other = bert()
    torch.nn.init.normal_(other.classifier.weight)
    before = sorted(p.name for p in swept.iterdir())
    with pytest.raises(
        BadInput, match=r"does not start from .*base: classifier.weight differs; .*set the seed"
    ):
        trainer(tmp_path / "c", TrainerIngredients(swept), model=other).train()
    assert sorted(p.name for p in swept.iterdir()) == before


@pytest.mark.parametrize("value", [1e-45, -0.0], ids=["the least number", "the sign of zero"])
def test_one_bit_is_a_difference(swept: Path, tmp_path: Path, value: float) -> None:
    other = bert()
    assert float(other.classifier.bias[1]) == 0.0
    other.classifier.bias.data[1] = value
    with pytest.raises(BadInput, match=r"base: classifier.bias differs"):
        trainer(tmp_path / "c", TrainerIngredients(swept), model=other).train()


def test_another_architecture_is_refused(swept: Path, tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    with pytest.raises(BadInput, match="and 22 more differ"):
        trainer(tmp_path / "c", TrainerIngredients(swept), model=model).train()


def test_a_name_is_used_once(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    trainer(tmp_path / "a", TrainerIngredients(sweep, "lr-0.1"), max_steps=1).train()
    assert (sweep / "run-lr-0.1" / "run.json").is_file()
    with pytest.raises(OutputExists, match=r"run-lr-0.1 is a finished run"):
        trainer(tmp_path / "b", TrainerIngredients(sweep, "lr-0.1"), max_steps=1).train()
    with pytest.raises(BadInput, match=r"cannot be called '../x'"):
        TrainerIngredients(sweep, "../x")
    with pytest.raises(BadInput, match="every=0"):
        TrainerIngredients(sweep, every=0)


def test_a_sweep_of_ladles_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps({"version": 2, "task": "points"}))
    with pytest.raises(BadInput, match="is a sweep of `ladle sweep`"):
        trainer(tmp_path / "a", TrainerIngredients(tmp_path)).train()


# --- other ends ---------------------------------------------------------------------------


def test_the_best_step_is_said_where_the_best_is_loaded(tmp_path: Path) -> None:
    one = trainer(
        tmp_path / "a",
        TrainerIngredients(tmp_path / "sweep"),
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # The loss falls, so the first is the best of these.
    )
    one.train()
    assert one.state.best_global_step == 6
    run = tmp_path / "sweep" / "run-0000"
    assert json.loads((run / "run.json").read_text())["step"] == 6
    kept = load_file(tmp_path / "a" / "checkpoint-6" / "model.safetensors")
    assert same_bits(load_file(run / "model.safetensors"), kept)


class Stop(transformers.TrainerCallback):
    """Ends a training as an error of its own would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_a_resumed_run_goes_on_with_its_own_folder(tmp_path: Path) -> None:
    """Another began in the meantime, and took the next number."""
    sweep = tmp_path / "sweep"
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "a", TrainerIngredients(sweep, every=5), Stop(8)).train()
    assert not list(sweep.glob("run-*/run.json"))
    trainer(tmp_path / "b", TrainerIngredients(sweep), seed=3).train()
    assert (sweep / "run-0001" / "run.json").is_file()
    assert gather(sweep).ingredients[0].name == "run-0001"

    resumed = trainer(tmp_path / "a", TrainerIngredients(sweep, every=5))
    resumed.train(resume_from_checkpoint=True)
    run = sweep / "run-0000"
    assert sorted(p.name for p in (run / "steps").iterdir()) == ["step-000005", "step-000010"]
    record = json.loads((run / "run.json").read_text())
    assert [one["step"] for one in record["scores"]] == [6, 6, 12, 12]
    straight = trainer(tmp_path / "c", TrainerIngredients(tmp_path / "other"))
    straight.train()
    wanted = load_file(tmp_path / "other" / "run-0000" / "model.safetensors")
    assert same_bits(load_file(run / "model.safetensors"), wanted)
    assert not list(sweep.glob("*.part"))


def test_a_resumed_run_without_a_base_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path / "a", max_steps=6).train()
    again = trainer(tmp_path / "a", TrainerIngredients(tmp_path / "sweep"))
    with pytest.raises(BadInput, match="base is missing, and a resumed run"):
        again.train(resume_from_checkpoint=True)


def test_a_run_that_diverged_is_recorded_and_has_no_weights(swept: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"

    class Spoil(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            given["model"].classifier.bias.data.fill_(float("nan"))

    trainer(
        tmp_path / "a", Spoil(), TrainerIngredients(sweep), max_steps=1, eval_strategy="no"
    ).train()
    run = sweep / "run-0000"
    assert (
        "NaN or infinity in classifier.bias" in json.loads((run / "run.json").read_text())["failed"]
    )
    assert [p.name for p in run.iterdir()] == ["run.json"]


def test_a_model_of_ones_own_is_saved_too(tmp_path: Path) -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embed = torch.nn.Embedding(50, 3)
            self.tied = torch.nn.Linear(3, 50, bias=False)
            self.tied.weight = self.embed.weight

        def forward(self, input_ids: Any, labels: Any) -> dict[str, Any]:
            logits = self.embed(input_ids).mean(1)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    for seed in (1, 2):
        one = trainer(
            tmp_path / f"{seed}",
            TrainerIngredients(tmp_path / "sweep"),
            model=Own(),
            seed=seed,
            save_strategy="no",
        )
        one.train()
    pool = ladle.open(tmp_path / "sweep")
    assert pool[1].checkpoint.layout.ties == {"tied.weight": "embed.weight"}
    assert same_bits(ladle.uniform(pool.subset([1])).state_dict(), dict(one.model.state_dict()))


# --- adapters -----------------------------------------------------------------------------


def adapted(kind: Any = peft.LoraConfig, seed: int = 0, **options: Any) -> Any:
    model = bert()
    torch.manual_seed(seed)  # The factors differ from run to run; that changes no start.
    return peft.get_peft_model(model, kind(task_type="SEQ_CLS", **options))


def test_adapters_are_kept_as_such_beside_the_model_they_change(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    options = {"r": 2, "target_modules": ["query", "value"], "lora_dropout": 0.1}
    models = []
    for seed in (1, 2):
        model = adapted(seed=seed, **options)
        trainer(tmp_path / f"{seed}", TrainerIngredients(sweep), model=model, seed=seed).train()
        models.append(model.eval())
    base = transformers.BertForSequenceClassification.from_pretrained(sweep / "base").eval()
    assert same_bits(dict(base.state_dict()), dict(bert().state_dict()))
    assert (sweep / "run-0001" / "adapter_model.safetensors").is_file()
    loaded = peft.PeftModel.from_pretrained(base, sweep / "run-0001").eval()
    ids = torch.arange(24).view(4, 6)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, models[1](ids).logits)

    (tmp_path / "score.py").write_text(SCORE)
    done = run_here(
        "cook", sweep, "--score", f"{sys.executable} score.py {{model}}", "--recipe",
        "uniform", "-o", "soup.safetensors", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    states = [model.merge_and_unload().state_dict() for model in models]
    found = load_file(tmp_path / "soup.safetensors")
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, (states[0][name] + states[1][name]) / 2)


def test_adapters_of_another_head_or_kind_are_refused(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    trainer(
        tmp_path / "a", TrainerIngredients(sweep), model=adapted(target_modules=["query"]),
        max_steps=1,
    ).train()  # fmt: skip
    other = bert(seed=0)
    torch.nn.init.normal_(other.classifier.weight)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
    with pytest.raises(BadInput, match=r"base: classifier.weight differs"):
        trainer(
            tmp_path / "b", TrainerIngredients(sweep), model=peft.get_peft_model(other, config)
        ).train()
    scaled = adapted(peft.IA3Config, target_modules=["query"], feedforward_modules=[])
    with pytest.raises(BadInput, match="adapters of IA3 make no soup"):
        trainer(tmp_path / "c", TrainerIngredients(sweep), model=scaled).train()
    injected = bert()
    injected.add_adapter(config)
    with pytest.raises(BadInput, match="put in with add_adapter"):
        trainer(tmp_path / "d", TrainerIngredients(sweep), model=injected).train()
    assert [p.name for p in sweep.glob("run-*")] == ["run-0000"]


# --- processes ----------------------------------------------------------------------------

DISTRIBUTED = """
import sys
sys.path[:0] = {paths!r}
from test_trainer_callback import TrainerIngredients, Path, trainer
out = Path(sys.argv[1])
one = trainer(out / "trainer", TrainerIngredients(out / "sweep", every=2), save_strategy="no")
one.train()
print(f"steps {{one.state.global_step}} of {{one.args.world_size}}", flush=True)
"""


@pytest.mark.slow
def test_of_two_processes_one_writes(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(DISTRIBUTED.format(paths=[str(HERE), str(HERE.parent)]))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
         script, tmp_path],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("steps 6 of 2") == 2
    assert sorted(p.name for p in (tmp_path / "sweep").iterdir()) == [
        "base", "run-0000", "sweep.json",
    ]  # fmt: skip
    run = tmp_path / "sweep" / "run-0000"
    assert json.loads((run / "run.json").read_text())["run"]["batch_size"] == 8
    assert len(list((run / "steps").iterdir())) == 3


KILLED = """
import sys
sys.path[:0] = {paths!r}
from test_trainer_callback import TrainerIngredients, Path, trainer
out = Path(sys.argv[1])
print("ready", flush=True)
trainer(out / "trainer", TrainerIngredients(out / "sweep", every=1), num_train_epochs=100,
        save_strategy="no", eval_strategy="no").train()
"""


@pytest.mark.slow
def test_killed_in_the_middle_it_leaves_no_half_run(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(KILLED.format(paths=[str(HERE), str(HERE.parent)]))
    part = tmp_path / "sweep" / "run-0000.part"
    with subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.DEVNULL) as one:
        while one.poll() is None and not (part / "steps" / "step-000003").exists():
            pass
        one.send_signal(signal.SIGKILL)
    sweep = tmp_path / "sweep"
    assert sorted(p.name for p in sweep.iterdir()) == ["base", "run-0000.part", "sweep.json"]
    with pytest.raises(ladle.LadleError, match="holds no checkpoint"):
        ladle.open(sweep)
    trainer(tmp_path / "b", TrainerIngredients(sweep), max_steps=1).train()
    assert [one.name for one in ladle.open(sweep)] == ["run-0001"]


@pytest.mark.slow
def test_the_demos_pretrained_model(tmp_path: Path) -> None:
    """With its tokenizer; a head that is drawn anew in each run is what the check is there for."""

    def loaded(seed: int) -> Any:
        torch.manual_seed(seed)
        return transformers.AutoModelForSequenceClassification.from_pretrained(MINILM, num_labels=3)

    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    for rate in (1e-4, 3e-4):
        callback = TrainerIngredients(tmp_path / "sweep")
        one = trainer(tmp_path / "a", callback, model=loaded(0), max_steps=2, learning_rate=rate)
        one.processing_class = one.callback_handler.processing_class = tokenizer
        one.train()
    assert (tmp_path / "sweep" / "run-0001" / "tokenizer.json").is_file()
    assert (tmp_path / "sweep" / "base" / "tokenizer.json").is_file()
    assert len(ladle.open(tmp_path / "sweep")) == 2
    with pytest.raises(BadInput, match=r"base: classifier.weight differs"):
        trainer(tmp_path / "b", TrainerIngredients(tmp_path / "sweep"), model=loaded(1)).train()
