"""Soups of LoRA adapters against PEFT itself: its own changes, averaged in float64 by hand."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

import ladle
import tiny
from counted_digits import run_here
from ladle.checkpoint import open_checkpoint
from ladle.checkpoint.naming import Renamed
from ladle.errors import BadInput, LayoutMismatch
from ladle.merge import Linear
from ladle.soup import Ingredient, Pool, Soup, with_base, without_changes
from ladle.soup.output import read_record, room_for
from states import read

pytestmark = pytest.mark.filterwarnings("ignore")  # of peft, about models without a name


def bert() -> Any:
    return tiny.bert(spread=0.5)


def gpt2() -> Any:
    return tiny.gpt2(spread=0.5)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Any) -> Any:
        return self.head(self.second(self.first(images).relu()).mean((2, 3)))


def said(model: Any) -> torch.Tensor:
    dtype = next(model.parameters()).dtype
    images = torch.linspace(-1, 1, 2 * 3 * 64, dtype=dtype).view(2, 3, 8, 8)
    with torch.no_grad():
        if any(isinstance(module, Convolutions) for module in model.modules()):
            return model(images)
        return model(tiny.IDS).logits


def base_at(path: Path) -> Ingredient:
    return Ingredient("base", open_checkpoint(path))


def adapters(
    folder: Path, build: Callable[[], Any], configs: Sequence[dict[str, Any]], **options: Any
) -> list[Path]:
    """Adapters of random factors, saved by PEFT."""
    paths = []
    for i, config in enumerate(configs):
        model = peft.get_peft_model(build(), peft.LoraConfig(**config))
        torch.manual_seed(i + 1)
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.data = 0.3 * torch.randn_like(parameter)
        paths.append(folder / f"run{i}")
        model.save_pretrained(paths[-1], **options)
    return paths


def changes(path: Path, build: Callable[[], Any]) -> dict[str, torch.Tensor]:
    """What an adapter adds to each weight, by PEFT's own account, in float64."""
    base = build().double()
    model = peft.PeftModel.from_pretrained(base, path)
    model = model.double()
    return {
        f"{name.removeprefix('base_model.model.')}.weight": layer.get_delta_weight("default")
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


def by_hand(paths: Sequence[Path], weights: Sequence[float], build: Callable[[], Any]) -> Any:
    """The base in float64 with the weighted mean of the changes, and of the modules saved whole."""
    model = build().double()
    state = model.state_dict()
    for path, weight in zip(paths, weights, strict=True):
        for name, change in changes(path, build).items():
            state[name] += weight * change
    whole = [
        {
            name.removeprefix("base_model.model."): tensor.double()
            for name, tensor in load_file(path / "adapter_model.safetensors").items()
            if "lora_" not in name
        }
        for path in paths
    ]
    for name in whole[0]:
        state[name].copy_(sum(w * one[name] for w, one in zip(weights, whole, strict=True)))
    model.load_state_dict(state)
    return model


SWEEPS = {
    "bert": (bert, [{"r": 4, "target_modules": ["query", "value"]}] * 3),
    "head": (
        bert,
        [
            {
                "r": 4,
                "target_modules": ["query"],
                "modules_to_save": ["classifier"],
                "task_type": "SEQ_CLS",
            }
        ]
        * 3,
    ),
    "rslora": (
        bert,
        [{"r": 4, "lora_alpha": 3, "use_rslora": True, "target_modules": ["query"]}] * 3,
    ),
    "ranks": (
        bert,
        [{"r": r, "lora_alpha": 2 * r + 1, "target_modules": ["query"]} for r in (2, 4, 7)],
    ),
    "patterns": (
        bert,
        [
            {
                "r": 4,
                "target_modules": ["query", "value"],
                "rank_pattern": {"layer.0.attention.self.query": 2, "value": 3},
                "alpha_pattern": {"layer.1.attention.self.value": 11},
            }
        ]
        * 2,
    ),
    "mixed": (
        bert,
        [
            {"r": 4, "target_modules": ["query"]},
            {"r": 4, "lora_alpha": 32, "use_rslora": True, "target_modules": ["query"]},
        ],
    ),
    "embedding": (bert, [{"r": 4, "target_modules": ["word_embeddings", "query"]}] * 2),
    "conv1d": (gpt2, [{"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True}] * 3),
    "convolution": (Convolutions, [{"r": 2, "target_modules": ["first", "second", "head"]}] * 3),
}


@pytest.mark.parametrize("kind", SWEEPS)
@pytest.mark.parametrize("weighted", [False, True], ids=["uniform", "weighted"])
def test_the_soup_is_the_mean_of_the_changes(tmp_path: Path, kind: str, weighted: bool) -> None:
    build, configs = SWEEPS[kind]
    paths = adapters(tmp_path, build, configs)
    weights = [0.2, 0.8, 0.0][: len(paths)] if weighted else [1 / len(paths)] * len(paths)
    pool = ladle.open(paths)
    soup = Soup(pool, Linear(tuple(weights))) if weighted else ladle.uniform(pool)
    out = soup.save(tmp_path / "soup")
    found = peft.PeftModel.from_pretrained(build(), out).eval()
    wanted = said(by_hand(paths, weights, build))
    assert torch.allclose(said(found).double(), wanted, atol=2e-5, rtol=2e-5)
    assert not torch.allclose(said(build()).double(), wanted, atol=1e-2), (
        "the adapters do something"
    )
    # And in memory, on the base.
    base = tmp_path / "base.safetensors"
    save_file(
        {n: t.clone() for n, t in build().state_dict().items() if n != "lm_head.weight"}, base
    )
    applied = with_base(pool, base_at(base))
    in_memory = Soup(applied, soup.merge).load_into(build())
    assert torch.allclose(said(in_memory).double(), wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens", "q_proj", "lm_head"]])
@pytest.mark.parametrize("rank", [None, 2])
def test_copies_of_the_base_in_adapters_are_part_of_the_soup(
    tmp_path: Path, targets: list[str], rank: int | None
) -> None:
    """PEFT saves the layers whose vocabulary a training may have resized, and loads them back."""
    config = {"r": 4, "target_modules": targets}
    paths = adapters(tmp_path, tiny.llama, [config] * 2)
    wanted = tiny.llama().double().state_dict()
    weights = (0.25, 0.75)
    added = dict.fromkeys(wanted, 0.0)
    held = {name: 0.0 for name in ("lm_head", "embed_tokens") if name in targets}
    for i, (path, weight) in enumerate(zip(paths, weights, strict=True)):
        file = path / "adapter_model.safetensors"
        state = load_file(file)
        copies = [name for name in state if ".base_layer." in name]
        assert len(copies) == len(held)
        for name in copies:
            state[name] += 0.1 * (i + 1)
            held[name.split(".")[-3]] += weight * state[name].double()
        save_file(state, file, {"format": "pt"})
        for name, change in changes(path, tiny.llama).items():
            added[name] += weight * change
    for name in wanted:
        wanted[name] = held.get(name.split(".")[-2], wanted[name]) + added[name]
    model = tiny.llama().double()
    model.load_state_dict(wanted)
    soup = replace(Soup(ladle.open(paths), Linear(weights)), rank=rank)
    out = soup.save(tmp_path / "soup")
    written = said(peft.PeftModel.from_pretrained(tiny.llama(), out).eval())
    if rank is None:
        assert torch.allclose(written.double(), said(model), atol=2e-5, rtol=2e-5)
    save_file(tiny.llama().state_dict(), tmp_path / "base.safetensors")
    on_base = with_base(soup.pool, base_at(tmp_path / "base.safetensors"))
    in_memory = replace(soup, pool=on_base)
    assert torch.allclose(said(in_memory.load_into(tiny.llama())), written, atol=2e-5, rtol=2e-5)
    # What cook writes is what average writes.
    again = in_memory.save(tmp_path / "again") / "adapter_model.safetensors"
    ours, theirs = load_file(again), load_file(out / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[n], theirs[n], atol=1e-5) for n in ours if ".base_layer." in n)


def test_an_adapter_astray_is_found_beside_copies_of_the_base(tmp_path: Path) -> None:
    paths = adapters(tmp_path, tiny.llama, [{"r": 4, "target_modules": ["lm_head"]}] * 4)
    for path, scale in zip(paths, (0.01, 0.01, 0.01, 0.1), strict=True):
        file = path / "adapter_model.safetensors"
        state = {n: scale * t if "lora_" in n else t for n, t in load_file(file).items()}
        save_file(state, file, {"format": "pt"})
    report = ladle.check(paths)
    assert [(one.kind, one.members) for one in report.findings] == [("diverged", ("run3",))]


def test_a_layer_of_the_base_without_factors_is_refused(tmp_path: Path) -> None:
    path = adapters(tmp_path, tiny.llama, [{"r": 4, "target_modules": ["q_proj"]}])[0]
    file = path / "adapter_model.safetensors"
    extra = {"base_model.model.lm_head.base_layer.weight": torch.zeros(50, 16)}
    save_file(load_file(file) | extra, file)
    with pytest.raises(BadInput, match=r"lm_head.base_layer.weight', which is no part of a plain"):
        ladle.open(path)


@pytest.mark.parametrize("kind", SWEEPS)
def test_one_adapter_with_weight_1_gives_back_that_adapter(tmp_path: Path, kind: str) -> None:
    build, configs = SWEEPS[kind]
    path = adapters(tmp_path, build, configs[:1])[0]
    out = ladle.uniform(ladle.open(path)).save(tmp_path / "soup")
    before, after = (load_file(p / "adapter_model.safetensors") for p in (path, out))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    ours, theirs = changes(out, build), changes(path, build)
    for name, change in theirs.items():
        assert torch.allclose(ours[name], change, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", SWEEPS)
def test_changes_read_as_peft_computes_them(tmp_path: Path, kind: str) -> None:
    build, configs = SWEEPS[kind]
    path = adapters(tmp_path, build, configs[:1])[0]
    checkpoint = open_checkpoint(path)
    for name, change in changes(path, build).items():
        spec = checkpoint.layout.tensors[name]
        assert spec.shape == tuple(change.shape)
        whole = torch.frombuffer(bytearray(read(checkpoint, name)), dtype=torch.float32)
        assert torch.allclose(whole.double(), change.reshape(-1), rtol=1e-6, atol=1e-9)
        middle = read(checkpoint, name, 5, spec.numel - 3)
        assert middle == read(checkpoint, name)[20:-12]


@pytest.mark.parametrize("rank", [1, 3, 8, 100])
def test_truncation_is_the_best_of_its_rank_and_its_error_is_told(
    tmp_path: Path, rank: int
) -> None:
    build, configs = SWEEPS["bert"]
    paths = adapters(tmp_path, build, configs)
    out = tmp_path / "soup"
    replace(ladle.uniform(ladle.open(paths)), rank=rank).save(out)
    told = read_record(out)["adapter"]
    assert told["rank"] == min(rank, 12)
    found = changes(out, build)
    each = [changes(path, build) for path in paths]
    for name, change in found.items():
        mean = sum(one[name] for one in each) / 3
        error = float((mean - change).norm() / mean.norm())
        values = torch.linalg.svdvals(mean)
        best = float(values[rank:].norm() / values.norm())
        module = name.removesuffix(".weight")
        assert told["relative_error"][module] == pytest.approx(best, abs=1e-7)
        assert error == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("kind", SWEEPS)
def test_the_truncated_soup_in_memory_is_the_written_one(tmp_path: Path, kind: str) -> None:
    build, configs = SWEEPS[kind]
    pool = ladle.open(adapters(tmp_path, build, configs))
    soup = replace(Soup(pool, Linear((0.7, 0.3, 0.0)[: len(pool)])), rank=2)
    written = peft.PeftModel.from_pretrained(build(), soup.save(tmp_path / "soup")).eval()
    base = tmp_path / "base.safetensors"
    save_file(
        {n: t.clone() for n, t in build().state_dict().items() if n != "lm_head.weight"}, base
    )
    wrapped = nn.Module()
    wrapped.module = build()  # Whatever the names are called by.
    replace(soup, pool=with_base(pool, base_at(base))).load_into(wrapped)
    assert torch.allclose(said(wrapped.module), said(written), atol=2e-5, rtol=2e-5)
    assert not torch.allclose(said(wrapped.module), said(build()), atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapters_of_16_bits_are_copied_and_stay_so(tmp_path: Path, dtype: torch.dtype) -> None:
    build, configs = SWEEPS["bert"]
    paths = adapters(tmp_path, build, configs)
    for path in paths:
        file = path / "adapter_model.safetensors"
        save_file({n: t.to(dtype) for n, t in load_file(file).items()}, file, {"format": "pt"})
    out = ladle.uniform(ladle.open(paths)).save(tmp_path / "soup")
    assert {t.dtype for t in load_file(out / "adapter_model.safetensors").values()} == {dtype}
    found, each = changes(out, build), [changes(path, build) for path in paths]
    for name, change in found.items():
        mean = sum(one[name] for one in each) / 3
        assert torch.allclose(change, mean, rtol=1e-6, atol=1e-9)


def test_adapters_saved_by_torch(tmp_path: Path) -> None:
    build, configs = SWEEPS["bert"]
    torch_paths = adapters(tmp_path / "a", build, configs, safe_serialization=False)
    assert (torch_paths[0] / "adapter_model.bin").is_file()
    paths = adapters(tmp_path / "b", build, configs)
    outs = [
        ladle.uniform(ladle.open(each)).save(tmp_path / f"soup{i}")
        for i, each in enumerate((torch_paths, paths))
    ]
    one, other = (changes(out, build) for out in outs)
    assert all(torch.allclose(one[name], other[name], rtol=1e-12, atol=1e-12) for name in one)


def test_the_same_adapters_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    build, configs = SWEEPS["ranks"]
    paths = adapters(tmp_path, build, configs)
    for name, order in (("one", paths), ("two", paths[::-1])):
        ladle.uniform(ladle.open(order)).save(tmp_path / name)
    one, two = (tmp_path / name / "adapter_model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_folder_of_checkpoints_of_adapters(tmp_path: Path) -> None:
    build, configs = SWEEPS["bert"]
    for i, path in enumerate(adapters(tmp_path, build, configs)):
        path.rename(tmp_path / f"checkpoint-{10 * (i + 1)}")
    assert [one.facts.step for one in ladle.open(tmp_path)] == [10, 20, 30]


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"use_dora": True}, "use_dora = True"),
        ({"bias": "lora_only"}, "bias = 'lora_only'"),
        ({"lora_bias": True}, "lora_bias = True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' changed the base"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = 'olora' changed the base"),
        ({"trainable_token_indices": {"word_embeddings": [1, 2]}}, "trainable_token_indices"),
    ],
)
def test_what_is_no_plain_lora_is_refused(
    tmp_path: Path, config: dict[str, Any], match: str
) -> None:
    path = adapters(tmp_path, bert, [{"r": 4, "target_modules": ["query"], **config}])[0]
    with pytest.raises(BadInput, match=match) as caught:
        ladle.open(path)
    assert "\n" not in str(caught.value)


def test_other_adapters_are_refused(tmp_path: Path) -> None:
    model = peft.get_peft_model(bert(), peft.IA3Config(task_type="SEQ_CLS"))
    model.save_pretrained(tmp_path / "ia3")
    with pytest.raises(BadInput, match="kind IA3; ladle averages LORA"):
        ladle.open(tmp_path / "ia3")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.update(r=3), "has rank 4 where adapter_config.json says 3"),
        (lambda c: c.update(r="4"), "no positive number"),
        (lambda c: c.update(rank_pattern={"(": 3}), "no positive number"),
        (lambda c: c.update(some_new_method={"x": 1}), "some_new_method"),
        (lambda c: c.clear(), "kind None"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path: Path, change: Any, match: str) -> None:
    path = adapters(tmp_path, bert, [{"r": 4, "target_modules": ["query"]}])[0]
    config = json.loads((path / "adapter_config.json").read_text())
    change(config)
    (path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=match):
        ladle.open(path)


def test_a_missing_or_broken_configuration_is_refused(tmp_path: Path) -> None:
    path = adapters(tmp_path, bert, [{"r": 4, "target_modules": ["query"]}])[0]
    (path / "adapter_config.json").write_text("{")
    with pytest.raises(BadInput, match="no JSON"):
        ladle.open(path)
    (path / "adapter_config.json").unlink()
    with pytest.raises(BadInput, match="is missing, and says how"):
        ladle.open(path)


def test_a_factor_without_its_partner_is_refused(tmp_path: Path) -> None:
    path = adapters(tmp_path, bert, [{"r": 4, "target_modules": ["query"]}])[0]
    file = path / "adapter_model.safetensors"
    state = load_file(file)
    name = next(name for name in state if "lora_B" in name)
    save_file({n: t for n, t in state.items() if n != name}, file)
    with pytest.raises(BadInput, match="without"):
        ladle.open(path)


@pytest.mark.parametrize("rename", ["lora_A", "lora.down", "lora_down"])
def test_factors_without_their_configuration_are_not_averaged(tmp_path: Path, rename: str) -> None:
    """Their mean would be taken without a word, and be wrong."""
    other = {"lora_A": "lora_B", "lora.down": "lora.up", "lora_down": "lora_up"}[rename]
    paths = adapters(tmp_path, bert, [{"r": 4, "target_modules": ["query"]}] * 2)
    files = []
    for path in paths:
        state = load_file(path / "adapter_model.safetensors")
        files.append(tmp_path / f"{path.name}.safetensors")
        renamed = {
            name.replace("lora_A", rename).replace("lora_B", other): tensor
            for name, tensor in state.items()
        }
        save_file(renamed, files[-1])
    with pytest.raises(LayoutMismatch, match="the mean of factors is not the mean of changes"):
        ladle.open(files)


def test_patterns_keep_their_order_in_the_file(tmp_path: Path) -> None:
    """PEFT takes the first that a path ends with, so the longer path has to come first."""

    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.lin = nn.Linear(16, 16)
            self.z = nn.ModuleDict({"lin": nn.Linear(16, 16)})

        def forward(self, inputs: Any) -> Any:
            return self.z["lin"](self.lin(inputs).relu())

    config = {"r": 2, "target_modules": ["lin"], "rank_pattern": {"z.lin": 3}}
    paths = adapters(tmp_path, Nested, [config, {**config, "lora_alpha": 5}])
    out = ladle.uniform(ladle.open(paths)).save(tmp_path / "soup")
    found = changes(out, Nested)
    each = [changes(path, Nested) for path in paths]
    for name, change in found.items():
        mean = (each[0][name] + each[1][name]) / 2
        assert torch.allclose(change, mean, rtol=1e-6, atol=1e-8)


def test_adapters_and_models_do_not_mix(tmp_path: Path) -> None:
    path = adapters(tmp_path, bert, [{"r": 4, "target_modules": ["query"]}])[0]
    bert().save_pretrained(tmp_path / "model")
    with pytest.raises(LayoutMismatch, match="cannot be averaged"):
        ladle.open([path, tmp_path / "model"])


class Either(nn.Module):
    """Matrices of both kinds, square or not: a Conv1D holds the transpose of a Linear's."""

    def __init__(self, middle: int, *, last_is_conv1d: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.ModuleDict({"dense": nn.Linear(16, middle)})
        self.square = nn.ModuleDict({"dense": nn.Linear(middle, middle)})
        self.mix = Conv1D(middle, middle)
        self.down = Conv1D(3, middle) if last_is_conv1d else nn.Linear(middle, 3)

    def forward(self, inputs: torch.Tensor) -> Any:
        hidden = self.square["dense"](self.up["dense"](inputs).relu()).relu()
        return self.down(self.mix(hidden))


def tagger() -> Any:
    torch.manual_seed(0)
    config = tiny.gpt2().config
    config.initializer_range = 0.5
    return transformers.GPT2ForTokenClassification(config).eval()


def weights_by_peft(path: Path, build: Callable[[], Any]) -> dict[str, torch.Tensor]:
    """The base's weights and the changes by PEFT's own account."""
    state = dict(build().double().state_dict())
    return state | {name: state[name] + change for name, change in changes(path, build).items()}


@pytest.mark.parametrize(
    ("build", "targets"),
    [
        (tagger, ["attn.c_proj", "classifier"]),
        (tagger, ["c_attn", "c_proj", "c_fc", "classifier"]),
        (lambda: Either(24), ["dense", "down"]),
        (lambda: Either(24, last_is_conv1d=False), ["dense", "down"]),
        (lambda: Either(16, last_is_conv1d=False), ["mix"]),
    ],
)
def test_square_matrices_lie_as_their_modules_hold_them(
    tmp_path: Path, build: Callable[[], Any], targets: list[str]
) -> None:
    path = adapters(tmp_path, build, [{"r": 4, "target_modules": targets}])[0]
    save_file(build().state_dict(), tmp_path / "base.safetensors")
    pool = with_base(ladle.open(path), base_at(tmp_path / "base.safetensors"))
    found = ladle.uniform(pool).state_dict()
    for name, wanted in weights_by_peft(path, build).items():
        assert torch.allclose(found[name].double(), wanted, atol=1e-5), name


@pytest.mark.parametrize("last_is_conv1d", [False, True])
def test_a_square_matrix_that_may_lie_either_way_is_refused(
    tmp_path: Path, last_is_conv1d: bool
) -> None:
    def build() -> Either:
        return Either(16, last_is_conv1d=last_is_conv1d)

    path = adapters(tmp_path, build, [{"r": 4, "target_modules": ["dense", "mix"]}])[0]
    save_file(build().state_dict(), tmp_path / "base.safetensors")
    with pytest.raises(LayoutMismatch, match="whether a Linear or a Conv1D holds it") as caught:
        with_base(ladle.open(path), base_at(tmp_path / "base.safetensors"))
    assert "\n" not in str(caught.value)


def untied_gpt2() -> Any:
    model = gpt2()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    return model


@pytest.mark.parametrize("held", [False, True], ids=["changed", "held"])
def test_of_tied_tensors_the_adapted_one_changes_alone(tmp_path: Path, held: bool) -> None:
    config = {"r": 4, "target_modules": ["c_attn"] if held else ["wte", "c_attn"]}
    config |= {"modules_to_save": ["wte"]} if held else {}
    paths = adapters(tmp_path, gpt2, [config], save_embedding_layers=False)
    wanted = said(peft.PeftModel.from_pretrained(gpt2(), paths[0]).eval())
    torch.save(gpt2().state_dict(), tmp_path / "tied.pt")  # It has both names.
    soup = ladle.uniform(with_base(ladle.open(paths), base_at(tmp_path / "tied.pt")))
    assert torch.allclose(said(soup.load_into(untied_gpt2())), wanted, atol=2e-5, rtol=2e-5)
    with pytest.raises(LayoutMismatch, match=r"ties .* which differ in the soup; untie them"):
        soup.load_into(gpt2())


@pytest.mark.parametrize("held", [False, True], ids=["changed", "held"])
def test_a_model_whose_ties_the_base_does_not_tell_is_refused(tmp_path: Path, held: bool) -> None:
    config = {"r": 4, "target_modules": ["c_attn"] if held else ["wte", "c_attn"]}
    config |= {"modules_to_save": ["wte"]} if held else {}
    paths = adapters(tmp_path, gpt2, [config], save_embedding_layers=False)
    gpt2().save_pretrained(tmp_path / "base")  # It leaves out the output layer.
    soup = ladle.uniform(with_base(ladle.open(paths), base_at(tmp_path / "base")))
    with pytest.raises(
        LayoutMismatch, match=r"change transformer.wte.weight alone, and the model ties lm_head"
    ):
        soup.load_into(gpt2())


def test_an_output_layer_that_the_base_leaves_out_is_asked_for(tmp_path: Path) -> None:
    config = {"r": 4, "target_modules": ["lm_head"]}
    path = adapters(tmp_path, gpt2, [config], save_embedding_layers=False)[0]
    gpt2().save_pretrained(tmp_path / "base")
    with pytest.raises(LayoutMismatch, match=r"no such tensor; give .* every name of"):
        with_base(ladle.open(path), base_at(tmp_path / "base"))
    # With both names, PEFT's model comes out, untied as PEFT's is in effect.
    torch.save(gpt2().state_dict(), tmp_path / "tied.pt")
    found = ladle.uniform(with_base(ladle.open(path), base_at(tmp_path / "tied.pt")))
    wanted = said(peft.PeftModel.from_pretrained(gpt2(), path).eval())
    assert torch.allclose(said(found.load_into(untied_gpt2())), wanted, atol=2e-5, rtol=2e-5)


def test_an_adapter_alone_goes_into_no_model(tmp_path: Path) -> None:
    paths = adapters(tmp_path, bert, [{"r": 4, "target_modules": ["query"]}] * 2)
    with pytest.raises(LayoutMismatch, match="no model without its base; give it with --base"):
        ladle.uniform(ladle.open(paths)).load_into(bert())
    with pytest.raises(BadInput, match="a soup of adapters is a folder"):
        ladle.uniform(ladle.open(paths)).save(tmp_path / "soup.safetensors")
    assert not (tmp_path / "soup.safetensors").exists()


def classifier_on(base: Path) -> Any:
    torch.manual_seed(7)
    options = {"num_labels": 3, "problem_type": "single_label_classification"}
    return transformers.BertForSequenceClassification.from_pretrained(base, **options).eval()


@pytest.mark.parametrize("kind", ["BertForPreTraining", "BertModel"])
def test_bases_as_hubs_have_them(tmp_path: Path, kind: str) -> None:
    """With the head of their own training, or none and no `bert.` before the names."""
    torch.manual_seed(0)
    model = getattr(transformers, kind)(bert().config)
    state = {**model.state_dict(), "an.old.buffer": torch.arange(3)}
    model.save_pretrained(tmp_path / "base", state_dict=state)
    config = {"r": 4, "target_modules": ["query", "dense"], "modules_to_save": ["classifier"]}

    def build() -> Any:
        return classifier_on(tmp_path / "base")

    paths = adapters(tmp_path, build, [config] * 2)
    pool = ladle.open(paths)
    written = ladle.uniform(pool).save(tmp_path / "soup")
    wanted = said(peft.PeftModel.from_pretrained(build(), written).eval())
    soup = ladle.uniform(with_base(pool, base_at(tmp_path / "base")))
    assert torch.allclose(said(soup.load_into(bert())), wanted, atol=2e-5, rtol=2e-5)
    # So it is truncated.
    small = replace(ladle.uniform(pool), rank=2).save(tmp_path / "small")
    wanted = said(peft.PeftModel.from_pretrained(build(), small).eval())
    assert torch.allclose(
        said(replace(soup, rank=2).load_into(bert())), wanted, atol=2e-5, rtol=2e-5
    )


def test_adapters_of_a_trunk_on_a_base_with_a_head(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "base")

    def build() -> Any:
        return transformers.BertModel.from_pretrained(tmp_path / "base").eval()

    path = adapters(tmp_path, build, [{"r": 4, "target_modules": ["query", "dense"]}])[0]
    soup = ladle.uniform(with_base(ladle.open(path), base_at(tmp_path / "base")))
    found = soup.load_into(transformers.BertModel(bert().config).eval())
    with torch.no_grad():
        wanted = peft.PeftModel.from_pretrained(build(), path).eval()(tiny.IDS).pooler_output
        assert torch.allclose(found(tiny.IDS).pooler_output, wanted, atol=2e-5, rtol=2e-5)


def test_a_base_that_lacks_a_part_of_the_model_is_refused(tmp_path: Path) -> None:
    """PEFT would draw it at random."""
    path = adapters(
        tmp_path, bert, [{"r": 4, "target_modules": ["query"], "modules_to_save": ["classifier"]}]
    )[0]
    transformers.BertForMaskedLM(bert().config).save_pretrained(tmp_path / "base")
    soup = ladle.uniform(with_base(ladle.open(path), base_at(tmp_path / "base")))
    with pytest.raises(LayoutMismatch, match=r"does not fit .* the soup lacks bert.pooler") as told:
        soup.load_into(bert())
    assert "the model lacks" not in str(told.value), "another head is no matter"


def test_the_base_is_judged_as_the_model_that_the_adapters_change(tmp_path: Path) -> None:
    path = adapters(tmp_path, bert, [{"r": 4, "target_modules": ["query"]}])[0]
    state = {**bert().state_dict(), "an.old.buffer": torch.arange(3)}
    save_file(state, tmp_path / "base.safetensors")
    base = base_at(tmp_path / "base.safetensors")
    pool = with_base(ladle.open(path), base)
    start = without_changes(base, pool)
    found = ladle.uniform(Pool.of([start])).load_into(tiny.bert(seed=1))
    assert torch.equal(said(found), said(bert()))
    assert start.digest == base.digest != pool[0].digest, "or the store would mix them up"
    assert without_changes(base, Pool.of([base])) is base


class Counted(Renamed):
    """A checkpoint that counts how often it is hashed."""

    def digest(self) -> str:
        COUNTED.append(self.path)
        time.sleep(0.1)  # Two threads would both ask within this.
        return super().digest()


COUNTED: list[Path] = []


def test_the_base_is_hashed_once_for_all_that_lies_on_it(tmp_path: Path) -> None:
    paths = adapters(tmp_path, bert, [{"r": 4, "target_modules": ["query"]}] * 3)
    bert().save_pretrained(tmp_path / "base")
    found = open_checkpoint(tmp_path / "base")
    base = Ingredient("base", Counted(found, {name: name for name in found.layout.names}))
    COUNTED.clear()
    pool = with_base(ladle.open(paths), base)
    told = {*pool.digests, ladle.uniform(pool).digest, without_changes(base, pool).digest}
    assert len(told) == 5
    assert len(COUNTED) == 1
    assert pickle.loads(pickle.dumps(pool)).digests == pool.digests  # noqa: S301 - our own
    alone = with_base(ladle.open(paths), base_at(tmp_path / "base"))
    assert alone.digests == pool.digests


def test_room_is_asked_for_what_is_written(tmp_path: Path) -> None:
    paths = adapters(tmp_path, bert, [{"r": 4, "target_modules": ["query"]}] * 3)
    bert().save_pretrained(tmp_path / "base")
    alone = ladle.open(paths)
    pool = with_base(alone, base_at(tmp_path / "base"))
    names = ("adapter_model.safetensors", "adapter_config.json")
    size = sum((path / name).stat().st_size for path in paths for name in names)
    assert room_for(pool, tmp_path / "soup") == room_for(alone, tmp_path / "soup") == size
    assert room_for(pool, tmp_path / "soup.safetensors") == pool.layout.nbytes


def test_a_base_of_another_model_is_refused(tmp_path: Path) -> None:
    path = adapters(tmp_path, bert, [{"r": 4, "target_modules": ["query"]}])[0]
    gpt2().save_pretrained(tmp_path / "other")
    with pytest.raises(LayoutMismatch, match="no such tensor; give the base it was trained on"):
        with_base(ladle.open(path), base_at(tmp_path / "other"))


def test_on_the_command_line(tmp_path: Path) -> None:
    paths = adapters(tmp_path, bert, [{"r": 4, "target_modules": ["query"]}] * 2)
    done = run_here("average", *paths, "-o", tmp_path / "exact")
    assert done.returncode == 0, done.stderr
    assert "adapter of rank 8, exact; --rank truncates it" in done.stdout
    done = run_here("average", *paths, "-o", tmp_path / "small", "--rank", 2, "--json")
    assert json.loads(done.stdout)["soup"]["adapter"]["rank"] == 2
    assert 'library_name: "peft"' in (tmp_path / "small" / "README.md").read_text()
    bert().save_pretrained(tmp_path / "base")
    done = run_here("average", tmp_path / "base", "-o", tmp_path / "x", "--rank", 2)
    assert (done.returncode, done.stderr) == (
        2,
        "ladle: --rank is for LoRA adapters, and these are none; leave it out\n",
    )


def test_distances_from_the_base_are_those_of_the_changes(tmp_path: Path) -> None:
    config = {"r": 4, "target_modules": ["query", "dense"], "modules_to_save": ["classifier"]}
    paths = adapters(tmp_path, bert, [config] * 2)
    state = {n: t for n, t in bert().state_dict().items() if not n.startswith("classifier")}
    save_file(state, tmp_path / "base.safetensors")
    done = run_here("inspect", *paths, "--json", "--base", tmp_path / "base.safetensors")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["geometry"]
    each = [changes(path, bert) for path in paths]
    flat = [torch.cat([change.flatten() for change in one.values()]) for one in each]
    assert found["distances"] == pytest.approx([float(one.norm()) for one in flat], rel=1e-6)
    cosine = float(torch.cosine_similarity(*flat, dim=0))
    assert found["angles"][0][1] == pytest.approx(np.degrees(np.arccos(cosine)), rel=1e-6)
    norm = float(torch.cat([state[name].flatten() for name in each[0]]).double().norm())
    assert found["base_norm"] == pytest.approx(norm, rel=1e-6)


def test_one_file_for_adapters_is_refused_before_any_work(tmp_path: Path) -> None:
    paths = adapters(tmp_path, bert, [{"r": 4, "target_modules": ["query"]}] * 2)
    bert().save_pretrained(tmp_path / "base")
    file = tmp_path / "soup.safetensors"
    mark = tmp_path / "scored"
    score = ["--score", f"touch {mark}; echo 1 {{model}}", "-o", str(file)]
    base = ["--base", str(tmp_path / "base"), "--rank", "2"]
    for arguments, told in (
        (["average", "--dry-run", "-o", str(file)], "a soup of adapters is a folder"),
        (["cook", *score], "a soup of adapters is a folder"),
        (["cook", *score, *base], f"--rank truncates an adapter, and {file} would be a whole"),
    ):
        done = run_here(arguments[0], *paths, *arguments[1:])
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert told in done.stderr
    assert not mark.exists()
    assert not file.exists()


# A task whose classes are what the mean of two adapters says, as a file of one's own.
TASK = """
import sys

import numpy as np
import torch

sys.path.insert(0, {tests!r})

from ladle.predictions import accuracy
from ladle.tasks import Split
from soup.test_adapter_soups import bert

IDS = torch.randint(0, 50, (400, 12), generator=torch.Generator().manual_seed(3))
LABELS = np.load({labels!r})


class Judged:
    name, metric, digest = "judged", accuracy, "judged-1"
    rows = {{"dev": slice(0, 200), "test": slice(200, 400)}}
    splits = {{
        "dev": Split("dev", "held-out", LABELS[:200], "dev"),
        "test": Split("test", "test", LABELS[200:], "test"),
    }}

    def build(self):
        return bert()

    def predict(self, model, split, *, device, batch_size, advance=lambda n: None):
        return model(IDS[self.rows[split]].to(device)).logits.float().cpu().numpy()


task = Judged()
"""


def cooking(folder: Path) -> tuple[list[str], torch.Tensor, np.ndarray]:
    """The command, without a base, and the inputs and labels of the task.

    The soup of the two adapters made the labels, so it is right everywhere.
    """
    config = {"r": 4, "target_modules": ["query", "value"], "lora_alpha": 32}
    paths = adapters(folder, bert, [config] * 2)
    ids = torch.randint(0, 50, (400, 12), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        labels = by_hand(paths, [0.5, 0.5], bert)(ids).logits.argmax(1).numpy()
    np.save(folder / "labels.npy", labels)
    tests = str(Path(__file__).parent.parent)
    task = TASK.format(tests=tests, labels=str(folder / "labels.npy"))
    (folder / "task.py").write_text(task)
    bert().save_pretrained(folder / "base")
    command = [sys.executable, "-m", "ladle", "cook", *map(str, paths)]
    command += ["--task", f"{folder}/task.py:task", "-o", str(folder / "soup")]
    return command, ids, labels


def right(adapter: Path, ids: torch.Tensor, labels: np.ndarray) -> float:
    """The accuracy that PEFT gets out of an adapter."""
    model = peft.PeftModel.from_pretrained(bert(), adapter).eval()
    with torch.no_grad():
        return float((model(ids).logits.argmax(1).numpy() == labels).mean())


@pytest.mark.slow
def test_adapters_are_cooked_on_their_base(tmp_path: Path) -> None:
    command, ids, labels = cooking(tmp_path)
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (refused.returncode, refused.stderr) == (
        2,
        "ladle: an adapter is no model without its base; give it with --base\n",
    )
    command += ["--base", str(tmp_path / "base"), "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [one["weight"] for one in document["soup"]["ingredients"]] == [0.5, 0.5]
    scores = {
        row["model"]: row["value"] for row in document["evaluations"] if row["split"] == "test"
    }
    assert scores["greedy soup"] > 0.99 > max(scores["run0"], scores["run1"], scores["base"])
    # What was written is the adapter, and PEFT gets the same out of it.
    assert right(tmp_path / "soup", ids[200:], labels[200:]) == scores["greedy soup"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["greedy", "uniform", "best"])
def test_a_truncated_soup_is_judged_as_it_is_written(tmp_path: Path, recipe: str) -> None:
    command, ids, labels = cooking(tmp_path)
    command += ["--base", str(tmp_path / "base"), "--recipe", recipe, "--rank", "1", "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    scores = {(row["model"], row["split"]): row["value"] for row in document["evaluations"]}
    told = scores[f"{recipe} soup", "dev"], scores[f"{recipe} soup", "test"]
    assert max(told) < 0.99, "truncation costs something here"
    soup = tmp_path / "soup"
    assert told == (right(soup, ids[:200], labels[:200]), right(soup, ids[200:], labels[200:]))
    # So was what it was chosen by; the ingredients themselves are judged as they are.
    kept = [tasting["score"] for tasting in document["soup"]["tastings"] if tasting["kept"]]
    assert kept[-1:] == ([] if recipe == "uniform" else [told[0]])
    alone = tuple(
        right(tmp_path / "run0", ids[at], labels[at]) for at in np.split(np.arange(400), 2)
    )
    assert (scores["run0", "dev"], scores["run0", "test"]) == alone


def test_a_scoring_command_sees_the_truncated_adapter(tmp_path: Path) -> None:
    paths = adapters(tmp_path, bert, [{"r": 4, "target_modules": ["query"]}] * 2)
    look = "import json, sys; print(-json.load(open(sys.argv[1] + '/adapter_config.json'))['r'])"
    score = f'"{sys.executable}" -c "{look}" {{model}}'
    out = tmp_path / "soup"
    done = run_here("cook", *paths, "--rank", 2, "--json", "--score", score, "-o", out)
    assert done.returncode == 0, done.stderr
    assert {one["score"] for one in json.loads(done.stdout)["soup"]["tastings"]} == {-2.0}
