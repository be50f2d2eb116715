"""Saved by their own libraries, souped, loaded by the libraries: the float64 average exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import nn

import ladle
from ladle.soup.output import WriteOptions, save
from states import State

IDS = torch.arange(24).view(2, 12) % 50


def averaged(models: list[nn.Module]) -> State:
    """Averaged in float64, rounded once; counters are the largest."""
    states = [model.state_dict() for model in models]
    return {
        name: (sum(s[name].double() for s in states) / len(states)).to(tensor.dtype)
        if tensor.is_floating_point()
        else torch.stack([s[name] for s in states]).amax(0)
        for name, tensor in states[0].items()
    }


def bert(seed: int, **options: Any) -> Any:
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config).to(**options).eval()


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


def gpt2(seed: int) -> Any:
    """Its output layer is tied to its embedding, and only one of the two is in the file."""
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=50,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config).eval()


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
