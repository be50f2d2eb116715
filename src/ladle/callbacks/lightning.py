"""For Lightning's Trainer, under either of its names: `lightning` and `pytorch_lightning`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Collection
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ladle.callbacks.folder import Moments, RunFolder, plain, score_of
from ladle.callbacks.weights import refuse_sharded, write_state
from ladle.errors import MissingExtra
from ladle.runs.records import Score

_NAMES = ("lightning.pytorch", "pytorch_lightning")


def _library() -> Any:
    """The one that was imported, if one was: a callback has to be of the Trainer's own library."""
    imported = [name for name in _NAMES if sys.modules.get(name)]
    installed = [name for name in _NAMES if find_spec(name.partition(".")[0])]
    for name in [*imported, *installed]:
        return importlib.import_module(name)
    raise MissingExtra("lightning", "lightning")


_LIGHTNING = _library()
_Callback: Any = _LIGHTNING.Callback

WriteModule = Callable[[Any, Path], object]
"""Writes a LightningModule's weights, and what belongs beside them, into an empty folder."""


def write_module(module: Any, folder: Path) -> None:
    """Its state dict, as `model.safetensors`."""
    write_state(module.state_dict(), folder)


class LightningIngredients(_Callback):  # type: ignore[misc]
    """Saves what a Lightning Trainer makes as one run of a sweep, beside the base of all runs.

        Trainer(max_epochs=3, callbacks=[LightningIngredients("sweep")]).fit(module, batches)

    The first run writes `sweep/base`. Every other is compared with it, bit for bit, before it
    trains, and refused if it starts from other weights. At the end `sweep/run-0000` (the next free
    number, or `run-<name>`) appears, complete or not at all, with the module's state dict and a
    `run.json` of its hyper-parameters and what it logged in validation. With `every` or `steps` the
    weights of these steps are kept in `steps/` too. `ladle cook sweep` makes soups of the runs.

    `write` is for modules around a model that has a way of its own to be saved:
    `write=lambda module, folder: module.model.save_pretrained(folder)`.

    A training that is resumed goes on with its own run. Of several processes the first writes.

    Raises:
        BadInput: in the hooks of the Trainer, which end the training: the start is not the base, or
            the model is sharded (FSDP, ZeRO 3).
    """

    def __init__(
        self,
        folder: str | Path,
        name: str | None = None,
        *,
        every: int | None = None,
        steps: Collection[int] = (),
        write: WriteModule = write_module,
    ) -> None:
        self._moments = Moments(every, frozenset(steps))
        self._run = RunFolder(folder, name)
        self._write = write
        self._resumed: str | None = None
        self._step = 0
        self._settings: dict[str, Any] = {}
        self._scores: list[Score] = []
        self._before: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """What Lightning keeps of it in its checkpoints."""
        scores = [[s.step, s.split, s.metric, s.value] for s in self._scores]
        return {"run": self._run.name, "scores": scores}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = state_dict.get("run")
        self._scores = [Score(*one) for one in state_dict.get("scores", [])]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for model in (pl_module, trainer.strategy.model):
            refuse_sharded(model)  # In every process, so that none is left waiting.
        if not trainer.is_global_zero:
            return
        self._step = trainer.global_step
        self._settings = _hyperparameters(trainer, pl_module)
        if self._step == 0:
            self._scores = []
            self._run.start(partial(self._write, pl_module))
        else:
            self._run.resume(self._resumed)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The step stays the same while gradients are gathered.
        if trainer.is_global_zero and trainer.global_step != self._step:
            self._step = trainer.global_step
            if self._step in self._moments:
                self._run.keep_step(self._step, partial(self._write, pl_module))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._before = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        self._scores += [
            score_of(trainer.global_step, name, float(value), "val")
            for name, value in trainer.callback_metrics.items()
            if value is not self._before.get(name)  # Others were logged in training.
        ]

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        # After `on_train_end`, in which callbacks that average put their average into the module.
        if not trainer.is_global_zero:
            return
        self._run.finish(
            partial(self._write, pl_module),
            run={"epochs": trainer.current_epoch, **self._settings},
            step=trainer.global_step,
            scores=self._scores,
            libraries=[_LIGHTNING.__name__.partition(".")[0].replace("_", "-")],
        )


def _hyperparameters(trainer: Any, module: Any) -> dict[str, Any]:
    """What the Trainer and its optimizer say, in ladle's words, and over it the module's own."""
    first = trainer.optimizers[0].param_groups[0] if trainer.optimizers else {}
    batches = trainer.train_dataloader
    seed = os.environ.get("PL_GLOBAL_SEED")
    found = {
        "lr": first.get("initial_lr", first.get("lr")),
        "weight_decay": first.get("weight_decay"),
        "batch_size": _times(getattr(batches, "batch_size", None), trainer.world_size),
        "clip": trainer.gradient_clip_val,
        "accumulate": trainer.accumulate_grad_batches,
        "seed": None if seed is None else int(seed),
        "optimizer": type(trainer.optimizers[0]).__name__ if trainer.optimizers else None,
        "precision": trainer.precision,
    }
    return plain({**found, **module.hparams})


def _times(size: Any, processes: int) -> int | None:
    return size * processes if isinstance(size, int) else None
