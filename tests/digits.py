"""Real fine-tunings of one small network on real digits, made in a second."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

EXAMPLE = Path(__file__).parent.parent / "examples" / "digits_task.py"
TASK = f"{EXAMPLE}:task"
sys.path.insert(0, str(EXAMPLE.parent))

from digits_task import Digits  # noqa: E402


def _train(task: Digits, model: nn.Module, *, lr: float, steps: int, seed: int) -> None:
    images = torch.from_numpy(task.images["train"])
    labels = torch.from_numpy(task.splits["train"].labels)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for _ in range(steps):
        batch = torch.randint(0, len(images), (32,), generator=generator)
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def make_runs(folder: Path, n: int = 5) -> list[Path]:
    """`folder/base.pt`, and `n` fine-tunings of it as `folder/run-<i>.pt`."""
    task = Digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = task.build()
    _train(task, base, lr=3e-3, steps=60, seed=0)
    torch.save(base.state_dict(), folder / "base.pt")
    runs = []
    for i in range(n):
        model = task.build()
        model.load_state_dict(torch.load(folder / "base.pt", weights_only=True))
        _train(task, model, lr=1e-3 * (i + 1), steps=120, seed=i + 1)
        runs.append(folder / f"run-{i}.pt")
        torch.save(model.state_dict(), runs[-1])
    return runs
