"""Saved by their own libraries, souped, loaded by the libraries: the float64 average exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import pytorch_lightning as lightning
import timm
import torch
import transformers
from huggingface_hub import split_torch_state_dict_into_shards
from timm.models import load_checkpoint
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import ladle
from ladle.soup.output import WriteOptions, save
from states import State
from tiny import IDS, bert, gpt2


def averaged(models: list[nn.Module]) -> State:
    """Averaged in float64, rounded once; counters are the largest."""
    states = [model.state_dict() for model in models]
    return {
        name: (sum(s[name].double() for s in states) / len(states)).to(tensor.dtype)
        if tensor.is_floating_point()
        else torch.stack([s[name] for s in states]).amax(0)
        for name, tensor in states[0].items()
    }


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("saved", [{}, {"max_shard_size": "8KB"}], ids=["whole", "sharded"])
@pytest.mark.parametrize("written", [5_000_000_000, 6_000], ids=["whole", "sharded"])
def test_bert(tmp_path: Path, saved: dict[str, str], written: int) -> None:
    models = [bert(i) for i in range(3)]
    runs = [tmp_path / f"run{i}" for i in range(3)]
    for model, run in zip(models, runs, strict=True):
        model.save_pretrained(run, **saved)
        assert (run / "model.safetensors").exists() == (not saved)
    out = tmp_path / "soup"
    save(ladle.uniform(ladle.open(runs)), out, options=WriteOptions(max_shard_bytes=written))
    assert (out / "model.safetensors").exists() == (written > 6_000)
    assert (out / "config.json").read_bytes() == (runs[0] / "config.json").read_bytes()
    found = transformers.BertForSequenceClassification.from_pretrained(out).eval()
    wanted = bert(99)
    wanted.load_state_dict(averaged(models))
    assert torch.equal(logits(found), logits(wanted))


def test_bert_in_bfloat16(tmp_path: Path) -> None:
    models = [bert(i, dtype=torch.bfloat16) for i in range(3)]
    for i, model in enumerate(models):
        model.save_pretrained(tmp_path / f"run{i}")
    out = ladle.uniform(ladle.open(str(tmp_path / "run*"))).save(tmp_path / "soup")
    found = transformers.BertForSequenceClassification.from_pretrained(out, dtype=torch.bfloat16)
    wanted = bert(99, dtype=torch.bfloat16)
    wanted.load_state_dict(averaged(models))
    assert torch.equal(logits(found.eval()), logits(wanted))


@pytest.mark.parametrize("kind", ["safetensors", "bin", "pt"])
def test_tied_gpt2(tmp_path: Path, kind: str) -> None:
    models = [gpt2(i) for i in range(3)]
    for i, model in enumerate(models):
        run = tmp_path / f"run{i}"
        model.save_pretrained(run)
        if kind == "bin":
            (run / "model.safetensors").unlink()
            torch.save(model.state_dict(), run / "pytorch_model.bin")
        elif kind == "pt":
            torch.save(model.state_dict(), tmp_path / f"run{i}.pt")
    pattern = "run?.pt" if kind == "pt" else "run?"
    soup = ladle.uniform(ladle.open(str(tmp_path / pattern)))
    wanted = gpt2(99)
    wanted.load_state_dict(averaged(models))
    wanted_logits = logits(wanted)
    assert torch.equal(logits(soup.load_into(gpt2(98))), wanted_logits)
    if kind == "pt":
        soup.save(tmp_path / "soup.pt")
        found = gpt2(97)
        found.load_state_dict(torch.load(tmp_path / "soup.pt", weights_only=True))
    else:
        found = transformers.GPT2LMHeadModel.from_pretrained(soup.save(tmp_path / "soup")).eval()
    assert torch.equal(logits(found), wanted_logits)
    assert found.lm_head.weight is found.transformer.wte.weight


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_vit",
        pytest.param("resnet18", marks=pytest.mark.slow),
        pytest.param("vit_tiny_patch16_224", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("out", ["soup.pth", "soup.safetensors"])
def test_timm(tmp_path: Path, name: str, out: str) -> None:
    size = {"img_size": 32} if "vit" in name else {}

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = timm.create_model(name, num_classes=5, **size)
        if seed < 3:  # Give BatchNorm something to remember.
            model.train()(torch.randn(2 + seed, 3, 32, 32))
        return model.eval()

    models = [build(i) for i in range(3)]
    for i, model in enumerate(models):
        torch.save(model.state_dict(), tmp_path / f"run{i}.pth")
    soup = ladle.uniform(ladle.open(str(tmp_path / "run*.pth")))
    soup.save(tmp_path / out)
    wanted = build(99)
    wanted.load_state_dict(averaged(models))
    torch.manual_seed(1)
    images = torch.randn(2, 3, 32, 32)
    found = timm.create_model(name, num_classes=5, checkpoint_path=str(tmp_path / out), **size)
    with torch.no_grad():
        assert torch.equal(found.eval()(images), wanted(images))
        assert torch.equal(soup.load_into(build(98))(images), wanted(images))


@pytest.mark.parametrize("out", ["soup.pth.tar", "soup.safetensors"])
@pytest.mark.parametrize("use_ema", [True, False])
def test_timm_training_checkpoints(tmp_path: Path, out: str, use_ema: bool) -> None:
    """As its `train.py` saves them, and as its `load_checkpoint` reads them back."""
    chosen = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = timm.create_model("test_resnet", num_classes=5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        ema = ModelEmaV3(model, decay=0.5)
        for _ in range(2):
            model(torch.randn(4, 3, 32, 32)).square().sum().backward()
            optimizer.step()
            ema.update(model)
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        CheckpointSaver(
            model, optimizer, model_ema=ema, checkpoint_dir=str(folder)
        ).save_checkpoint(epoch=1, metric=50.0 + seed)
        chosen.append(ema.module if use_ema else model)
    pool = ladle.open(sorted(tmp_path.glob("*/last.pth.tar")), use_ema=use_ema)
    ladle.uniform(pool).save(tmp_path / out)
    wanted = timm.create_model("test_resnet", num_classes=5).eval()
    wanted.load_state_dict(averaged(chosen))
    found = timm.create_model("test_resnet", num_classes=5).eval()
    load_checkpoint(found, str(tmp_path / out), use_ema=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found(images), wanted(images))


class Classifier(lightning.LightningModule):
    """A module whose state dict has the prefix `model.`, and which needs its hyper-parameters."""

    def __init__(self, hidden: int, lr: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("averaging", [False, True], ids=["plain", "WeightAveraging"])
def test_lightning(tmp_path: Path, averaging: bool) -> None:
    """Fitted and saved by a real Trainer; the soup is a checkpoint that Lightning loads."""
    torch.manual_seed(0)
    rows = TensorDataset(torch.randn(32, 3), torch.randint(0, 2, (32,)))
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = Classifier(hidden=7, lr=0.1 * (seed + 1))
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            callbacks=[lightning.callbacks.WeightAveraging()] if averaging else [],
        )
        trainer.fit(model, DataLoader(rows, batch_size=8))
        path = tmp_path / f"run{seed}.ckpt"
        trainer.save_checkpoint(path)
        models.append(Classifier.load_from_checkpoint(path, weights_only=True))
    soup = ladle.uniform(ladle.open(str(tmp_path / "run?.ckpt")))
    soup.save(tmp_path / "soup.ckpt")
    found = Classifier.load_from_checkpoint(tmp_path / "soup.ckpt", weights_only=True)
    wanted = Classifier(hidden=7, lr=0.0)
    wanted.load_state_dict(averaged(models))
    inputs = torch.randn(5, 3)
    with torch.no_grad():
        assert torch.equal(found.model(inputs), wanted.model(inputs))
        # And into the network without the module around it.
        bare = soup.load_into(Classifier(hidden=7, lr=0.0).model)
        assert torch.equal(bare(inputs), wanted.model(inputs))


def test_open_clip(tmp_path: Path) -> None:
    """As its training loop saves them under DistributedDataParallel."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
    }

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return open_clip.model.CLIP(**config).eval()

    models = [build(i) for i in range(3)]
    for epoch, model in enumerate(models):
        prefixed = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
        content = {
            "epoch": epoch,
            "name": "run",
            "state_dict": prefixed,
            "optimizer": {"state": {}},
        }
        torch.save(content, tmp_path / f"epoch_{epoch}.pt")
    ladle.uniform(ladle.open(str(tmp_path / "epoch_?.pt"))).save(tmp_path / "soup.pt")
    found, wanted = build(98), build(99)
    open_clip.load_checkpoint(found, str(tmp_path / "soup.pt"))
    wanted.load_state_dict(averaged(models))
    torch.manual_seed(5)
    images, texts = torch.randn(2, 3, 32, 32), torch.randint(0, 50, (2, 8))
    with torch.no_grad():
        for one, other in zip(found(images, texts), wanted(images, texts), strict=True):
            assert torch.equal(one, other)


def test_bert_in_shards_of_torch_save(tmp_path: Path) -> None:
    """`pytorch_model-*.bin` and their index, as older releases of the library wrote them."""
    models = [bert(i) for i in range(3)]
    for i, model in enumerate(models):
        run = tmp_path / f"run{i}"
        model.save_pretrained(run)
        (run / "model.safetensors").unlink()
        split = split_torch_state_dict_into_shards(
            model.state_dict(), filename_pattern="pytorch_model{suffix}.bin", max_shard_size="6KB"
        )
        for file, names in split.filename_to_tensors.items():
            torch.save({name: model.state_dict()[name] for name in names}, run / file)
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (run / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    out = ladle.uniform(ladle.open(str(tmp_path / "run*"))).save(tmp_path / "soup")
    found = transformers.BertForSequenceClassification.from_pretrained(out).eval()
    wanted = bert(99)
    wanted.load_state_dict(averaged(models))
    assert torch.equal(logits(found), logits(wanted))
