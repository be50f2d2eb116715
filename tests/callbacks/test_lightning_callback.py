"""Real trainings by Lightning, under both of its names, and what the callback leaves of them.

A process uses one of the two, so each test of the other has a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import ladle
from counted_digits import run_here
from ladle.callbacks import LightningIngredients
from ladle.checkpoint import open_checkpoint
from ladle.errors import BadInput
from ladle.soup import gather
from states import same_bits
from tiny import bert

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, about small trainings

HERE = Path(__file__).parent

SCORE = """
import sys
import torch
from safetensors.torch import load_file
state = load_file(sys.argv[1] + "/model.safetensors")
print(float(state["model.2.bias"][0]))
"""


class Classifier(lightning.LightningModule):
    def __init__(self, lr: float = 0.01, seed: int = 0, note: object = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss = F.cross_entropy(self.model(batch[0]), batch[1])
        self.log("train_loss", loss)
        self.log("speed", 3.0)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", F.cross_entropy(self.model(batch[0]), batch[1]))
        self.log("f1", 0.5)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=2 * self.hparams["lr"])
        optimizer.param_groups[0]["weight_decay"] = 0.03
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 8)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def rows() -> DataLoader[Any]:
    noise = torch.Generator().manual_seed(5)
    points = torch.randn(32, 3, generator=noise)
    return DataLoader(TensorDataset(points, (points[:, 0] > 0).long()), batch_size=8)


def trainer(out: Path, *callbacks: Any, **settings: Any) -> lightning.Trainer:
    return lightning.Trainer(
        **{
            "max_epochs": 2,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": out,
            **settings,
        },
        callbacks=list(callbacks),
    )


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs from one base; the second keeps some steps too."""
    folder = tmp_path_factory.mktemp("lightning")
    sweep = folder / "sweep"
    trainer(folder, LightningIngredients(sweep)).fit(Classifier(note=object()), rows(), rows())
    module = Classifier(lr=0.02)
    trainer(
        folder, LightningIngredients(sweep, every=3, steps=[4]), accumulate_grad_batches=1,
        gradient_clip_val=0.7,
    ).fit(module, rows(), rows())  # fmt: skip
    torch.save(module.state_dict(), folder / "by-hand.pt")
    return sweep


def test_a_run_is_what_the_training_ended_with(swept: Path) -> None:
    assert sorted(path.name for path in swept.iterdir()) == [
        "base", "run-0000", "run-0001", "sweep.json",
    ]  # fmt: skip
    assert same_bits(
        load_file(swept / "run-0001" / "model.safetensors"),
        torch.load(swept.parent / "by-hand.pt"),
    )
    base = load_file(swept / "base" / "model.safetensors")
    assert same_bits(base, dict(Classifier().state_dict()))
    names = {path.name for path in (swept / "run-0000").iterdir()}
    assert names == {"model.safetensors", "run.json"}


def test_the_record_has_hyper_parameters_and_scores(swept: Path) -> None:
    record = json.loads((swept / "run-0001" / "run.json").read_text())
    assert (record["version"], record["name"], record["step"]) == (2, "run-0001", 8)
    assert record["base"] == open_checkpoint(swept / "base").digest()
    assert record["versions"]["pytorch-lightning"] == lightning.__version__
    assert record["run"] == {
        "lr": 0.02,  # The module's own word counts.
        "seed": 0,
        "note": None,
        "weight_decay": 0.03,
        "epochs": 2,
        "batch_size": 8,
        "clip": 0.7,
        "accumulate": 1,
        "optimizer": "AdamW",
        "precision": "32-true",
    }
    first = json.loads((swept / "run-0000" / "run.json").read_text())
    assert "note" not in first["run"], "an object of the user's is no JSON"
    said = {(one["step"], one["split"], one["metric"]) for one in record["scores"]}
    assert said == {(s, "val", m) for s in (4, 8) for m in ("loss", "f1")}
    assert len(record["scores"]) == 4


def test_the_peak_of_the_learning_rate_is_said_where_the_module_does_not(tmp_path: Path) -> None:
    """A schedule has lowered it when training starts."""
    module = Classifier(lr=0.02)
    del module.hparams["lr"]
    module.hparams_initial  # noqa: B018
    module.configure_optimizers = lambda: _scheduled(module)
    trainer(tmp_path, LightningIngredients(tmp_path / "sweep")).fit(module, rows())
    record = json.loads((tmp_path / "sweep" / "run-0000" / "run.json").read_text())
    assert record["run"]["lr"] == 0.04


def _scheduled(module: nn.Module) -> Any:
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.04)
    return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: (s + 1) / 8)]


def test_chosen_steps_are_kept_within_the_run(swept: Path) -> None:
    steps = sorted((swept / "run-0001" / "steps").iterdir())
    assert [p.name for p in steps] == ["step-000003", "step-000004", "step-000006"]
    biases = {load_file(p / "model.safetensors")["model.2.bias"].numpy().tobytes() for p in steps}
    assert len(biases) == 3


def test_a_step_counts_once_however_many_batches_it_has(tmp_path: Path) -> None:
    callback = LightningIngredients(tmp_path / "sweep", every=1)
    trainer(tmp_path, callback, accumulate_grad_batches=2).fit(Classifier(), rows())
    steps = sorted((tmp_path / "sweep" / "run-0000" / "steps").iterdir())
    assert [p.name for p in steps] == [f"step-{n:06d}" for n in (1, 2, 3, 4)]


def test_ladle_cooks_the_folder(swept: Path, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SCORE)
    done = run_here(
        "cook", swept, "--score", f"{sys.executable} score.py {{model}}", "--recipe",
        "uniform", "-o", "soup", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [one["name"] for one in json.loads(done.stdout)["soup"]["ingredients"]]
    assert names == ["run-0000", "run-0001"]
    module = Classifier()
    module.load_state_dict(load_file(tmp_path / "soup" / "model.safetensors"))
    # And into the network without the module around it.
    inside = ladle.uniform(ladle.open(swept)).load_into(Classifier().model)
    assert same_bits(dict(inside.state_dict()), dict(module.model.state_dict()))


def test_another_start_is_refused_before_it_trains(swept: Path, tmp_path: Path) -> None:
    before = sorted(p.name for p in swept.iterdir())
    with pytest.raises(BadInput, match=r"does not start from .*base: model.0.bias, model.0.weight"):
        trainer(tmp_path, LightningIngredients(swept)).fit(Classifier(seed=1), rows())
    assert sorted(p.name for p in swept.iterdir()) == before


def test_a_resumed_run_goes_on_with_its_own_folder(tmp_path: Path) -> None:
    class Stop(lightning.Callback):
        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
        ) -> None:
            if trainer.global_step == 6:
                raise RuntimeError("a machine was taken away")

    sweep = tmp_path / "sweep"
    saver = lightning.callbacks.ModelCheckpoint(dirpath=tmp_path / "kept", save_last=True)
    settings: Any = {"max_epochs": 3, "enable_checkpointing": True}
    with pytest.raises(RuntimeError, match="taken away"):
        trainer(tmp_path, LightningIngredients(sweep, every=2), saver, Stop(), **settings).fit(
            Classifier(), rows(), rows()
        )
    assert sorted(p.name for p in sweep.iterdir()) == ["base", "run-0000.part", "sweep.json"]
    trainer(tmp_path, LightningIngredients(sweep)).fit(Classifier(), rows(), rows())
    module = Classifier()
    trainer(tmp_path, LightningIngredients(sweep, every=2), saver, **settings).fit(
        module, rows(), rows(), ckpt_path=str(tmp_path / "kept" / "last.ckpt")
    )
    run = sweep / "run-0000"
    assert same_bits(load_file(run / "model.safetensors"), dict(module.state_dict()))
    assert [p.name for p in sorted((run / "steps").iterdir())] == [
        f"step-{n:06d}" for n in (2, 4, 6, 8, 10, 12)
    ]
    record = json.loads((run / "run.json").read_text())
    assert [one["step"] for one in record["scores"]] == [4, 4, 8, 8, 12, 12]
    assert [one.name for one in gather(sweep).ingredients] == ["run-0000", "run-0001"]


def test_an_average_that_another_callback_makes_is_what_is_kept(tmp_path: Path) -> None:
    """WeightAveraging puts it into the module when training ends, in whatever order they stand."""
    averaging = lightning.callbacks.WeightAveraging()
    module = Classifier()
    trainer(tmp_path, LightningIngredients(tmp_path / "sweep"), averaging).fit(module, rows())
    kept = load_file(tmp_path / "sweep" / "run-0000" / "model.safetensors")
    assert same_bits(kept, dict(module.state_dict()))


def test_a_module_around_a_model_may_save_it_the_models_way(tmp_path: Path) -> None:
    class Around(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert()

    callback = LightningIngredients(
        tmp_path / "sweep", write=lambda module, folder: module.bert.save_pretrained(folder)
    )
    trainer(tmp_path, callback, strategy="auto").fit(Around(), rows())
    assert (tmp_path / "sweep" / "run-0000" / "config.json").is_file()
    assert (tmp_path / "sweep" / "base" / "config.json").is_file()


OTHER_NAME = """
import sys
from pathlib import Path
sys.modules[{other!r}] = None  # As if it were not installed.
import torch
from ladle.callbacks import LightningIngredients
import {library} as library

class Module(library.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(2, 2)

    def training_step(self, batch, index):
        return self.layer(batch[0]).square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 2)))
callback = LightningIngredients(Path(sys.argv[1]))
assert isinstance(callback, library.Callback)
library.Trainer(
    max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, callbacks=[callback],
).fit(Module(), rows)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "other"),
    [("lightning.pytorch", "pytorch_lightning"), ("pytorch_lightning", "lightning")],
)
def test_both_names_of_the_library_work_alone(tmp_path: Path, library: str, other: str) -> None:
    script = OTHER_NAME.format(library=library, other=other)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, tmp_path / "sweep"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    versions = json.loads((tmp_path / "sweep" / "run-0000" / "run.json").read_text())["versions"]
    assert library.partition(".")[0].replace("_", "-") in versions


TWO_PROCESSES = """
import sys
sys.path[:0] = {paths!r}
from test_lightning_callback import Classifier, LightningIngredients, Path, rows, trainer
out = Path(sys.argv[1])
callback = LightningIngredients(out / "sweep", every=2)
one = trainer(out, callback, strategy="ddp", devices=2)
one.fit(Classifier(), rows(), rows())
print(f"steps {{one.global_step}} of {{one.world_size}}", flush=True)
"""


@pytest.mark.slow
def test_of_two_processes_one_writes(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES.format(paths=[str(HERE), str(HERE.parent)]))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, tmp_path],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("steps 4 of 2") == 2
    assert sorted(p.name for p in (tmp_path / "sweep").iterdir()) == [
        "base", "run-0000", "sweep.json",
    ]  # fmt: skip
    run = tmp_path / "sweep" / "run-0000"
    assert json.loads((run / "run.json").read_text())["run"]["batch_size"] == 16
    assert len(list((run / "steps").iterdir())) == 2
