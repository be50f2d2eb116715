"""Folders left behind by the real frameworks: what is found in them, and what is known about it."""

from __future__ import annotations

import argparse
import json
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import accelerate
import pytest
import pytorch_lightning as lightning
import timm
import torch
import transformers
from safetensors.torch import save_file
from timm.utils import CheckpointSaver, update_summary
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import ladle
from ladle.runs import Choice
from ladle.soup import Gathered, gather
from ladle.sweep import Space, sweep
from states import same_bits, small_state
from toy_task import PointsTask

DATA = Path(__file__).parent.parent / "data"

pytestmark = pytest.mark.filterwarnings("ignore")  # of the frameworks, about small trainings


def steps_of(found: Gathered) -> list[tuple[str, int | None]]:
    return [(one.name, one.facts.step) for one in found.ingredients]


# --- Hugging Face Trainer -----------------------------------------------------------------


class Rows(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": torch.tensor([index % 5, 3, 1]), "labels": index % 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of four steps; the best of the three is what the training ends with."""
    out = tmp_path_factory.mktemp("trainer") / "out"
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=4,
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(out),
        num_train_epochs=3,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        transformers.BertForSequenceClassification(config),
        arguments,
        train_dataset=Rows(),
        eval_dataset=Rows(),
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    return out


def test_trainer(trained: Path) -> None:
    found = gather(trained)
    # The final model is the best of the checkpoints again.
    assert steps_of(found) == [("checkpoint-4", 4), ("checkpoint-8", 8), ("checkpoint-12", 12)]
    assert any("holds the same tensors as" in remark for remark in found.remarks)
    history = json.loads((trained / "trainer_state.json").read_text())["log_history"]
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert [one.facts.metrics["eval_loss"] for one in found.ingredients] == losses


def test_a_finished_model_is_one_where_it_is_evaluated(trained: Path) -> None:
    found = gather(trained, within=False)
    assert [one.checkpoint.path for one in found.ingredients] == [trained]


def test_trainer_choices(trained: Path) -> None:
    def chosen(**options: Any) -> list[str]:
        found = gather(trained, choice=Choice(**options))
        return [one.name for one in found.ingredients]

    assert chosen(last=2) == ["checkpoint-8", "checkpoint-12"]
    assert chosen(min_step=8) == ["checkpoint-8", "checkpoint-12"]
    assert chosen(max_step=8, last=1) == ["checkpoint-8"]
    losses = {one.name: one.facts.metrics["eval_loss"] for one in gather(trained).ingredients}
    assert chosen(top_k=1, metric="eval_loss") == [min(losses, key=lambda name: losses[name])]
    assert chosen(top_k=1, metric="eval_loss", mode="max") == [max(losses, key=lambda n: losses[n])]
    with pytest.raises(ladle.LadleError, match="they have eval_loss, eval_"):
        chosen(top_k=1)
    with pytest.raises(ladle.LadleError, match="'eval_accuracy' is not recorded"):
        chosen(top_k=1, metric="eval_accuracy")
    with pytest.raises(ladle.LadleError, match="'eval_runtime' is good cannot be told"):
        chosen(top_k=1, metric="eval_runtime")
    with pytest.raises(ladle.LadleError, match="none of 3 checkpoints is left"):
        chosen(min_step=100)


def test_a_soup_of_a_trainers_checkpoints_loads(trained: Path, tmp_path: Path) -> None:
    out = ladle.uniform(ladle.open(trained)).save(tmp_path / "soup")
    model = transformers.BertForSequenceClassification.from_pretrained(out)
    states = [
        transformers.BertForSequenceClassification.from_pretrained(
            trained / f"checkpoint-{step}"
        ).state_dict()
        for step in (4, 8, 12)
    ]
    for name, tensor in model.state_dict().items():
        wanted = sum(state[name].double() for state in states) / 3
        assert torch.equal(tensor, wanted.to(tensor.dtype))


def test_trainer_while_it_writes(trained: Path, tmp_path: Path) -> None:
    """The last checkpoint is half there: left out, and named."""
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    whole = (out / "checkpoint-12" / "model.safetensors").read_bytes()
    (out / "checkpoint-12" / "model.safetensors").write_bytes(whole[:-10])
    (out / "checkpoint-16").mkdir()
    (out / "checkpoint-16" / "optimizer.pt").write_bytes(b"more")
    (out / "tmp-checkpoint-20").mkdir()
    found = gather(out)
    assert [step for _, step in steps_of(found)][:2] == [4, 8]
    assert any("checkpoint-16 holds no weights" in remark for remark in found.remarks)
    assert any("checkpoint-12/model.safetensors has" in remark for remark in found.remarks)
    with pytest.raises(ladle.LadleError, match="checkpoint-12"):  # named, it is an error
        ladle.open([out / "checkpoint-8", out / "checkpoint-12"])


def test_folders_of_several_trainings(trained: Path, tmp_path: Path) -> None:
    """Several runs below one folder; `--last` counts in each. Named, they are finished models."""
    for trial in (0, 1):
        out = tmp_path / "sweep" / f"run-{trial}"
        shutil.copytree(trained, out)
        for step in (4, 8, 12):
            file = out / f"checkpoint-{step}" / "model.safetensors"
            state = {"w": torch.full((4,), float(trial * 100 + step))}
            save_file(state, file)
        save_file({"w": torch.full((4,), trial - 7.0)}, out / "model.safetensors")
    found = gather(tmp_path / "sweep")
    assert len(found.ingredients) == 8
    last = gather(tmp_path / "sweep", choice=Choice(last=1)).ingredients
    # The step that a training ended with is also its last checkpoint's.
    assert [one.facts.step for one in last] == [12, 12, 12, 12]
    named = gather([tmp_path / "sweep" / "run-0", tmp_path / "sweep" / "run-1"])
    assert [one.name for one in named.ingredients] == ["run-0", "run-1"]


# --- others -------------------------------------------------------------------------------


def test_accelerate(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    accelerator = accelerate.Accelerator(
        cpu=True,
        project_config=accelerate.utils.ProjectConfiguration(
            project_dir=str(tmp_path), automatic_checkpoint_naming=True
        ),
    )
    optimizer = torch.optim.Adam(model.parameters())
    model, optimizer = accelerator.prepare(model, optimizer)
    for _ in range(3):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        accelerator.save_state()
    found = gather(tmp_path)
    assert steps_of(found) == [("checkpoint_0", 0), ("checkpoint_1", 1), ("checkpoint_2", 2)]
    soup = ladle.uniform(ladle.open(tmp_path))
    out = soup.save(tmp_path.with_name(tmp_path.name + "-soup"))
    loaded = nn.Linear(3, 2)
    accelerate.load_checkpoint_in_model(loaded, str(out))
    assert same_bits(dict(loaded.state_dict()), soup.state_dict())


def test_timm(tmp_path: Path) -> None:
    """As `train.py` uses its saver and its summary; two names are links to one file."""
    model = timm.create_model("test_resnet", num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    arguments = argparse.Namespace(lr=0.1, model="test_resnet", smoothing=0.2)
    saver = CheckpointSaver(
        model, optimizer, args=arguments, checkpoint_dir=str(tmp_path), max_history=9
    )
    for epoch, top1 in enumerate([40.0, 60.0, 50.0]):
        model(torch.randn(2, 3, 32, 32)).sum().backward()
        optimizer.step()
        saver.save_checkpoint(epoch, metric=top1)
        update_summary(
            epoch,
            OrderedDict(loss=1.0),
            OrderedDict(loss=0.5, top1=top1),
            str(tmp_path / "summary.csv"),
            write_header=epoch == 0,
            lr=0.1,
        )
    assert (tmp_path / "last.pth.tar").is_file()
    assert (tmp_path / "model_best.pth.tar").is_file()
    found = gather(tmp_path)
    assert steps_of(found) == [(f"checkpoint-{i}.pth.tar", i) for i in range(3)]
    assert [one.facts.metrics["eval_top1"] for one in found.ingredients] == [40.0, 60.0, 50.0]
    assert found.ingredients[0].facts.hyperparameters["smoothing"] == 0.2
    assert sum("again, and counts once" in remark for remark in found.remarks) == 2
    best = gather(tmp_path, choice=Choice(top_k=1, metric="eval_top1")).ingredients
    assert [one.name for one in best] == ["checkpoint-1.pth.tar"]


class Module(lightning.LightningModule):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(3, 2)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return F.cross_entropy(self.layer(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        loss = F.cross_entropy(self.layer(batch[0]), batch[1])
        self.log("val_loss", loss)
        self.log("val_twice", 2 * loss)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


@pytest.mark.parametrize("filename", [None, "{epoch}-{val_loss:.3f}"])
def test_lightning(tmp_path: Path, filename: str | None) -> None:
    torch.manual_seed(0)
    rows = DataLoader(TensorDataset(torch.randn(32, 3), torch.randint(0, 2, (32,))), batch_size=8)
    lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=lightning.loggers.CSVLogger(str(tmp_path)),
        callbacks=[
            lightning.callbacks.ModelCheckpoint(
                filename=filename, save_top_k=-1, monitor="val_loss", save_last=True
            )
        ],
    ).fit(Module(), rows, rows)
    found = gather(tmp_path)
    assert len(found.ingredients) == 3, "`last` is the third again"
    assert [one.facts.step for one in found.ingredients] in ([4, 8, 12], [0, 1, 2])
    losses = [one.facts.metrics["val_loss"] for one in found.ingredients]
    assert losses == sorted(losses, reverse=True), "it learns"
    for one in found.ingredients:
        assert one.facts.metrics["val_twice"] == pytest.approx(
            2 * one.facts.metrics["val_loss"], abs=2e-3
        )
        assert one.facts.hyperparameters["lr"] == 0.1


def test_open_clip(tmp_path: Path) -> None:
    """As `open_clip_train.main` names things; its training loop needs image archives to run."""
    folder = tmp_path / "logs" / "finetune" / "checkpoints"
    folder.mkdir(parents=True)
    (folder.parent / "params.txt").write_text("batch_size: 64\nlr: 1e-05\nmodel: ViT-B-32\n")
    for epoch in (1, 2, 10):
        content = {
            "epoch": epoch,
            "name": "finetune",
            "state_dict": {"w": torch.tensor([epoch + 0.5])},
        }
        torch.save(content, folder / f"epoch_{epoch}.pt")
        row = {"imagenet-zeroshot-val-top1": epoch / 20, "epoch": epoch, "num_samples": 100}
        with (folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    torch.save(content, folder / "epoch_latest.pt")
    found = gather(tmp_path / "logs")
    assert steps_of(found) == [("epoch_1.pt", 1), ("epoch_2.pt", 2), ("epoch_10.pt", 10)]
    assert found.ingredients[2].facts.metrics == {"imagenet-zeroshot-val-top1": 0.5}
    assert found.ingredients[0].facts.hyperparameters["lr"] == 1e-5


def test_the_papers_own_files(tmp_path: Path) -> None:
    results = [json.loads(line) for line in (DATA / "clip_vitb32_72_models.jsonl").open()][:12]
    with (tmp_path / "individual_model_results.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in results)
    shutil.copy(DATA / "clip_vitb32_hparams.json", tmp_path / "hparam_info.json")
    for i in range(12):
        torch.save({"w": torch.full((3,), float(i))}, tmp_path / f"model_{i}.pt")
    found = gather(tmp_path).ingredients
    assert [one.name for one in found] == [f"model_{i}.pt" for i in range(12)]
    assert found[3].facts.metrics["ImageNet"] == 0.78696
    assert found[1].facts.hyperparameters["epochs"] == 4
    best = gather(tmp_path, choice=Choice(top_k=3, metric="ImageNet2p", mode="max")).ingredients
    wanted = sorted(results, key=lambda row: -row["ImageNet2p"])[:3]
    assert {one.name for one in best} == {f"{row['model_name']}.pt" for row in wanted}


def test_ladles_own_sweep(tmp_path: Path) -> None:
    sweep(
        PointsTask(), tmp_path / "sweep", runs=2, space=Space(), seed=0, device=torch.device("cpu")
    )
    found = gather(tmp_path / "sweep").ingredients
    assert [one.name for one in found] == ["run-0000", "run-0001"]
    record = json.loads((tmp_path / "sweep" / "run-0001" / "run.json").read_text())
    assert found[1].facts.hyperparameters["lr"] == record["run"]["lr"]


def test_files_of_nobody_in_particular(tmp_path: Path) -> None:
    """fairseq, ESPnet, WeNet, mmengine and many loops of one's own look like this."""
    for name, value in (("epoch_2", 2.0), ("epoch_10", 10.0), ("epoch_1", 1.0)):
        torch.save(
            {"model": {"w": torch.tensor([value])}, "optimizer": {}}, tmp_path / f"{name}.pth"
        )
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin"):
        torch.save({"w": torch.zeros(1)}, tmp_path / name)
    (tmp_path / "epoch_11.pth").write_bytes(b"")
    (tmp_path / "latest.pth").symlink_to(tmp_path / "epoch_10.pth")
    (tmp_path / "train.log").write_text("epoch 1")
    found = gather(tmp_path)
    assert steps_of(found) == [("epoch_1.pth", 1), ("epoch_2.pth", 2), ("epoch_10.pth", 10)]
    assert any("epoch_11.pth is empty" in remark for remark in found.remarks)
    assert any("latest.pth is" in remark for remark in found.remarks)


def test_shards_without_their_index_are_left_out(tmp_path: Path) -> None:
    for i in (1, 2):
        save_file(small_state(i), tmp_path / f"model-0000{i}-of-00002.safetensors")
    save_file(small_state(7), tmp_path / "other.safetensors")
    found = gather(tmp_path)
    assert [one.name for one in found.ingredients] == ["other.safetensors"]
    assert any("want of their index" in remark for remark in found.remarks)


# --- lists --------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in "abc":
        (tmp_path / "runs" / name).mkdir(parents=True)
        save_file(small_state(ord(name)), tmp_path / "runs" / name / "model.safetensors")
    return tmp_path


def test_a_list_in_csv(models: Path) -> None:
    (models / "members.csv").write_text(
        "path,name,step,accuracy,optimizer\nruns/c,third,30,0.9,adam\nruns/a,first,10,0.8,sgd\n"
    )
    found = gather(models).ingredients
    assert [(one.name, one.facts.step) for one in found] == [("third", 30), ("first", 10)]
    assert found[0].facts.metrics == {"accuracy": 0.9}
    assert found[0].facts.hyperparameters == {"optimizer": "adam"}
    assert [one.name for one in gather(models, choice=Choice(top_k=1)).ingredients] == ["third"]


def test_a_list_in_yaml(models: Path) -> None:
    (models / "members.yaml").write_text(
        "- path: runs/b\n  metrics: {f1: 0.5}\n  hyperparameters: {lr: 0.1}\n- path: runs/a\n"
    )
    found = gather(models).ingredients
    assert [one.name for one in found] == ["b", "a"]
    assert found[0].facts.metrics == {"f1": 0.5}
    assert found[0].facts.hyperparameters == {"lr": 0.1}


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("members.csv", "file\nruns/a\n", "no column `path`"),
        ("members.csv", "path\nruns/gone\n", r"line 2: .*gone does not exist"),
        ("members.csv", "path,step\nruns/a,soon\n", "line 2: the step 'soon' is no whole number"),
        ("members.csv", "path,name\nruns/a,x\nruns/b,x\n", "two members called 'x'"),
        ("members.csv", "path,name\n,x\n", "line 2: there is no path"),
        ("members.csv", "path\n", "lists no member"),
        ("members.csv", "path\n\udcff", None),
        ("members.yaml", "- path: [", "no YAML file that can be read"),
        ("members.yaml", "runs/a", "no list of members"),
        ("members.yaml", "- metrics: 3\n  path: runs/a", "member 1: write metrics"),
    ],
)
def test_a_broken_list_is_one_sentence(
    models: Path, name: str, text: str, match: str | None
) -> None:
    (models / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ladle.LadleError, match=match) as caught:
        gather(models)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_named_is_known_too(trained: Path) -> None:
    """`out/checkpoint-*`, as a shell would give it."""
    paths = sorted(trained.glob("checkpoint-*"))
    found = gather(paths, choice=Choice(last=2)).ingredients
    assert {one.name for one in found} == {"checkpoint-8", "checkpoint-12"}
    best = gather(str(trained / "checkpoint-*"), choice=Choice(top_k=1, metric="eval_loss"))
    assert len(best.ingredients) == 1


def test_archives_of_something_else_are_no_checkpoints(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "features.npz", np.zeros(3))
    torch.save(small_state(), tmp_path / "epoch_3.pt")
    found = gather(tmp_path)
    assert steps_of(found) == [("epoch_3.pt", 3)]
    assert found.remarks == ()


@pytest.mark.parametrize(
    "garbage",
    [b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"epoch": [1], "step": {}, "run": 3}', b"a,b\n1\n"],
)
def test_records_that_are_garbage_hide_no_checkpoint(tmp_path: Path, garbage: bytes) -> None:
    """Half-written, edited by hand, of another program: the weights are there all the same."""
    names = {
        "trainer/checkpoint-3/model.safetensors": ["trainer/checkpoint-3/trainer_state.json"],
        "timm/checkpoint-1.pth.tar": ["timm/summary.csv", "timm/args.yaml"],
        "lightning/checkpoints/epoch=1-step=2.ckpt": ["lightning/metrics.csv"],
        "clip/checkpoints/epoch_1.pt": ["clip/params.txt", "clip/checkpoints/results.jsonl"],
        "sweep/run-0000/model.safetensors": ["sweep/run-0000/run.json", "sweep/sweep.json"],
        "soups/model_1.pt": ["soups/individual_model_results.jsonl", "soups/hparam_info.json"],
    }
    for seed, (weights, records) in enumerate(names.items()):
        path = tmp_path / weights
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file(small_state(seed), path)
        else:
            torch.save({"state_dict": small_state(seed)}, path)
        for record in records:
            (tmp_path / record).write_bytes(garbage)
    found = gather(tmp_path)
    assert len(found.ingredients) == len(names), found.remarks
