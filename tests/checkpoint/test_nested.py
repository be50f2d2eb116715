"""State dicts among the other things that trainings save, and where they go in a written file."""

from __future__ import annotations

import argparse
import pathlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import ladle
from ladle.checkpoint import open_checkpoint
from ladle.errors import UnreadableCheckpoint
from states import State, data_of, read, same_bits, small_state

LIVE = small_state(1)
AVERAGE = small_state(2)
OPTIMIZER = {
    "state": {0: {"exp_avg": torch.ones(9), "step": torch.tensor(3.0)}},
    "param_groups": [],
}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def holds(path: Path, state: State, **options: bool) -> bool:
    checkpoint = open_checkpoint(path, **options)
    tensors = checkpoint.layout.tensors
    return set(tensors) == set(state) and all(
        read(checkpoint, n) == data_of(state[n]) for n in state
    )


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": LIVE, "optimizer": OPTIMIZER, "epoch": 3},
        {"model": LIVE, "optimizer": OPTIMIZER},
        {"model_state_dict": LIVE, "loss": 0.5},
        {"module": LIVE, "global_step": 7},
        {"params": LIVE},
        {"state": {"model": LIVE, "optimizers": OPTIMIZER}, "rng": [torch.zeros(3)]},
        {"net": LIVE, "epoch": 3, "optimizer": OPTIMIZER},
    ],
    ids="-".join,
)
def test_the_state_dict_is_found(tmp_path: Path, content: Any) -> None:
    path = saved(tmp_path / "last.ckpt", content)
    assert holds(path, LIVE)
    assert holds(path, LIVE, use_ema=False)
    assert not open_checkpoint(path).envelope.is_ema


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": LIVE, "state_dict_ema": AVERAGE},
        {"model": LIVE, "model_ema": AVERAGE},
        {"model": LIVE, "ema": {"module": AVERAGE, "decay": 0.99}},
        {"state_dict": LIVE, "ema_state_dict": AVERAGE},
        {"params": LIVE, "params_ema": AVERAGE},
        {"current_model_state": LIVE, "state_dict": AVERAGE, "averaging_state": {"n_averaged": 3}},
    ],
    ids="-".join,
)
def test_an_average_is_preferred_and_said(tmp_path: Path, content: Any) -> None:
    path = saved(tmp_path / "last.pt", content)
    assert holds(path, AVERAGE)
    assert holds(path, LIVE, use_ema=False)
    assert open_checkpoint(path).envelope.is_ema
    assert "EMA" in open_checkpoint(path).format
    assert not open_checkpoint(path, use_ema=False).envelope.is_ema
    pool = ladle.open([path])
    assert pool.remarks == ("EMA weights were taken from last.pt; --no-use-ema takes the others",)
    assert ladle.open([path], use_ema=False).remarks == ()


def test_the_values_beside_it_are_known(tmp_path: Path) -> None:
    """Also those that are tensors of one number, numpy's, paths and namespaces."""
    arguments = argparse.Namespace(lr=1e-3, output=pathlib.Path("runs/1"), layers=[2, 3])
    content = {
        "state_dict": LIVE,
        "epoch": 3,
        "args": arguments,
        "best": torch.tensor(0.75, dtype=torch.float64),
        "metric": np.float64(71.5),
        "steps": torch.tensor(12),
        "name": "vit",
        "optimizer": OPTIMIZER,
    }
    values = open_checkpoint(saved(tmp_path / "a.pth.tar", content)).envelope.values
    assert values["args"] == {"lr": 1e-3, "output": "runs/1", "layers": [2, 3]}
    assert (values["epoch"], values["best"], values["metric"]) == (3, 0.75, 71.5)
    assert (values["steps"], values["name"]) == (12, "vit")
    assert "exp_avg" not in values["optimizer"]["state"]["0"]
    assert values["optimizer"]["state"]["0"]["step"] == 3.0


class Settings(dict):
    """What a framework keeps beside the weights, with a class of its own."""

    def __init__(self, **settings: int) -> None:
        super().__init__(settings)
        self.layers = [nn.Linear(2, 2)]


def test_objects_beside_the_weights_are_left_alone(tmp_path: Path) -> None:
    content = {"model": LIVE, "cfg": Settings(width=3), "lr": {1e-3}, "old": nn.Linear(2, 2)}
    path = saved(tmp_path / "a.pt", content)
    assert holds(path, LIVE)
    assert open_checkpoint(path).envelope.values == {}


def test_a_model_that_was_pickled_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"epoch, model are no .*save the model's state"):
        open_checkpoint(saved(tmp_path / "a.pt", {"model": nn.Linear(2, 2), "epoch": 1}))


def test_values_that_hold_themselves_come_to_an_end(tmp_path: Path) -> None:
    endless: list[Any] = ["here"]
    endless.append(endless)
    bushy: list[Any] = [1]
    for _ in range(100):
        bushy = [bushy, bushy]
    path = saved(tmp_path / "a.pt", {"model": LIVE, "x": endless, "y": bushy, "epoch": 3})
    values = open_checkpoint(path).envelope.values
    assert (values["x"][1][1][0], values["epoch"]) == ("here", 3)


def test_opening_reads_no_optimizer(tmp_path: Path) -> None:
    """A storage that does not exist is not missed."""
    path = saved(tmp_path / "a.pt", {"model": LIVE, "optimizer": {"m": torch.zeros(50_000_000)}})
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert holds(path, LIVE)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000, "kilobytes: half of the optimizer"


# --- prefixes -----------------------------------------------------------------------------


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_fsdp_wrapped_module."]
)
def test_prefixes_of_wrappers_are_no_difference(tmp_path: Path, prefix: str) -> None:
    saved(tmp_path / "a.pt", LIVE)
    saved(tmp_path / "b.pt", prefixed(prefix, AVERAGE))
    mixed = ladle.uniform(ladle.open([tmp_path / "b.pt", tmp_path / "a.pt"])).state_dict()
    saved(tmp_path / "c.pt", AVERAGE)
    plain = ladle.uniform(ladle.open([tmp_path / "a.pt", tmp_path / "c.pt"])).state_dict()
    assert same_bits(mixed, plain)


def test_a_prefix_that_all_have_is_written_back(tmp_path: Path) -> None:
    for name, state in (("a", LIVE), ("b", AVERAGE)):
        saved(tmp_path / f"{name}.pt", prefixed("module.", state))
    ladle.uniform(ladle.open(str(tmp_path / "?.pt"))).save(tmp_path / "soup.pt")
    assert set(torch.load(tmp_path / "soup.pt", weights_only=True)) == set(
        prefixed("module.", LIVE)
    )


def test_a_prefix_that_only_some_tensors_have_is_a_name(tmp_path: Path) -> None:
    """`model.layers` beside `lm_head` is how language models are called."""
    state = {"model.norm": torch.ones(3), "lm_head": torch.ones(3)}
    saved(tmp_path / "a.pt", state)
    saved(tmp_path / "b.pt", {"norm": torch.zeros(3), "lm_head": torch.zeros(3)})
    with pytest.raises(ladle.LadleError, match=r"model\.norm"):
        ladle.open(str(tmp_path / "?.pt"))


def test_weights_go_into_a_model_without_or_with_a_wrapper(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    saved(tmp_path / "a.pt", prefixed("module.", model.state_dict()))
    soup = ladle.uniform(ladle.open(tmp_path / "a.pt"))

    def fresh() -> nn.Sequential:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    assert same_bits(soup.load_into(fresh()).state_dict(), wanted)
    assert same_bits(soup.load_into(nn.DataParallel(fresh())).module.state_dict(), wanted)
    assert same_bits(soup.load_into(torch.compile(fresh()))._orig_mod.state_dict(), wanted)


# --- written back -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["soup.ckpt", "soup.pt", "soup.pth.tar"])
def test_a_soup_lies_where_the_weights_lay(tmp_path: Path, name: str) -> None:
    for seed in (0, 1):
        content = {
            "epoch": seed,
            "state_dict": LIVE,
            "state_dict_ema": {**small_state(seed), "mask": LIVE["mask"]},
            "arch": "vit",
            "args": argparse.Namespace(lr=seed),
            "optimizer": OPTIMIZER,
            "metric": 0.5,
        }
        saved(tmp_path / f"{seed}.pth.tar", content)
    soup = ladle.uniform(ladle.open(str(tmp_path / "?.pth.tar")))
    soup.save(tmp_path / name)
    found = torch.load(tmp_path / name, weights_only=True)
    assert set(found) == {"state_dict", "arch", "args"}
    assert found["arch"] == "vit"
    assert same_bits(found["state_dict"], soup.state_dict())
    assert same_bits(ladle.uniform(ladle.open(tmp_path / name)).state_dict(), soup.state_dict())


def test_the_order_of_ingredients_does_not_show_in_the_envelope(tmp_path: Path) -> None:
    paths = [
        saved(tmp_path / f"{i}.ckpt", {"state_dict": small_state(i), "hyper_parameters": {"lr": i}})
        for i in range(3)
    ]
    ladle.uniform(ladle.open(paths)).save(tmp_path / "one.ckpt")
    ladle.uniform(ladle.open(paths[::-1])).save(tmp_path / "two.ckpt")
    assert (tmp_path / "one.ckpt").read_bytes() == (tmp_path / "two.ckpt").read_bytes()


def test_swa_models_are_averaged(tmp_path: Path) -> None:
    """`AveragedModel` puts a counter of its own beside its weights."""
    for seed in range(2):
        torch.manual_seed(seed)
        swa = AveragedModel(nn.Linear(2, 2))
        for _ in range(2):
            swa.update_parameters(nn.Linear(2, 2))
        saved(tmp_path / f"{seed}.pt", swa.state_dict())
    ladle.uniform(ladle.open(str(tmp_path / "?.pt"))).save(tmp_path / "soup.pt")
    model = AveragedModel(nn.Linear(2, 2))
    model.load_state_dict(torch.load(tmp_path / "soup.pt", weights_only=True))
    assert int(model.n_averaged) == 2
