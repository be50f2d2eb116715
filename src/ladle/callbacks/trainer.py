"""For transformers' Trainer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ladle.callbacks.folder import Moments, RunFolder, plain, score_of
from ladle.callbacks.weights import refuse_sharded, write_state
from ladle.errors import BadInput, MissingExtra
from ladle.runs.records import Score

try:
    from transformers.trainer_callback import ExportableState, TrainerCallback
except ImportError as error:
    raise MissingExtra("transformers", "text") from error

_OF_TIME = ("_runtime", "_per_second", "_preparation_time")


class TrainerIngredients(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Saves what a Trainer makes as one run of a sweep, beside the base that all runs start from.

        Trainer(model, arguments, ..., callbacks=[TrainerIngredients("sweep")]).train()

    The first run writes `sweep/base`. Every other is compared with it, bit for bit, before it
    trains, and refused if it starts from other weights. At the end `sweep/run-0000` (the next free
    number, or `run-<name>`) appears, complete or not at all, with the model as `save_pretrained`
    writes it and a `run.json` of its hyper-parameters and evaluations. With `every` or `steps` the
    weights of these steps are kept in `steps/` too. `ladle cook sweep` makes soups of the runs.

    LoRA adapters of PEFT are saved as such; the base is then the model that they change. A training
    that is resumed goes on with its own run. Of several processes the first writes.

    Raises:
        BadInput: in the hooks of the Trainer, which end the training: the start is not the base,
            the model is sharded (FSDP, ZeRO 3) or has adapters of another kind than LoRA.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str | None = None,
        *,
        every: int | None = None,
        steps: Collection[int] = (),
    ) -> None:
        self._moments = Moments(every, frozenset(steps))
        self._run = RunFolder(folder, name)

    def state(self) -> dict[str, Any]:
        """What the Trainer keeps of it in its checkpoints."""
        arguments = {
            "folder": str(self._run.folder),
            "name": self._run.asked,
            "every": self._moments.every,
            "steps": sorted(self._moments.steps),
        }
        return {"args": arguments, "attributes": {"resumed": self._run.name}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        model = _bare(given["model"])
        refuse_sharded(model)  # In every process, so that none is left waiting.
        if not state.is_world_process_zero:
            return
        if state.global_step == 0:
            self._run.start(partial(_write_base, model, given))
        else:
            self._run.resume(_name_in(state))

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.is_world_process_zero and state.global_step in self._moments:
            model = _bare(given["model"])
            self._run.keep_step(state.global_step, partial(_write, model, given))

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if not state.is_world_process_zero:
            return
        best = state.best_global_step if args.load_best_model_at_end else None
        self._run.finish(
            partial(_write, _bare(given["model"]), given),
            run=_hyperparameters(args, state),
            step=best or state.global_step,
            scores=_scores(state.log_history),
            libraries=["transformers"],
        )


def _bare(model: Any) -> Any:
    """Without what `torch.compile` put around it."""
    return getattr(model, "_orig_mod", model)


def _is_peft(model: Any) -> bool:
    return type(model).__module__.partition(".")[0] == "peft"


def _write(model: Any, given: Mapping[str, Any], folder: Path) -> None:
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:
        write_state(model.state_dict(), folder)
    tokenizer = given.get("processing_class")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _write_base(model: Any, given: Mapping[str, Any], folder: Path) -> None:
    if not _is_peft(model):
        if getattr(model, "_hf_peft_config_loaded", False):
            raise BadInput(
                "the model has adapters that were put in with add_adapter; make it with "
                "peft.get_peft_model, which keeps its base apart"
            )
        _write(model, given, folder)
        return
    kinds = {str(one.peft_type.value) for one in model.peft_config.values()}
    if kinds != {"LORA"}:
        raise BadInput(f"adapters of {' and '.join(sorted(kinds))} make no soup; train LoRA")
    inside = model.get_base_model()
    inside.save_pretrained(folder, state_dict=_without_adapters(inside.state_dict()))
    tokenizer = given.get("processing_class")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _without_adapters(state: Mapping[str, Any]) -> dict[str, Any]:
    """A base model's tensors by their own names, out of the model that PEFT put its layers into."""
    return {
        name.replace(".base_layer.", ".").replace(".original_module.", "."): tensor
        for name, tensor in state.items()
        if ".lora_" not in name and ".modules_to_save." not in name
    }


def _name_in(state: Any) -> str | None:
    """The run that a Trainer's checkpoint is of."""
    kept = (state.stateful_callbacks or {}).get(TrainerIngredients.__name__)
    found = kept.get("attributes", {}).get("resumed") if isinstance(kept, Mapping) else None
    return found if isinstance(found, str) else None


def _hyperparameters(args: Any, state: Any) -> dict[str, Any]:
    """In ladle's words, where it has one."""
    return plain(
        {
            "lr": args.learning_rate,
            "weight_decay": args.weight_decay,
            "epochs": args.num_train_epochs if args.max_steps <= 0 else state.epoch,
            "batch_size": args.train_batch_size * args.world_size,
            "label_smoothing": args.label_smoothing_factor,
            "warm_up": getattr(args, "warmup_ratio", None) or args.warmup_steps,
            "schedule": args.lr_scheduler_type,
            "clip": args.max_grad_norm or None,
            "accumulate": args.gradient_accumulation_steps,
            "seed": args.seed,
            "optimizer": args.optim,
            "beta1": args.adam_beta1,
            "beta2": args.adam_beta2,
            "epsilon": args.adam_epsilon,
            "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        }
    )


def _scores(history: list[dict[str, Any]]) -> list[Score]:
    return [
        score_of(entry["step"], name, float(value), "eval")
        for entry in history
        for name, value in entry.items()
        if name.startswith("eval_")
        and isinstance(value, (int, float))
        and not name.endswith(_OF_TIME)
    ]
