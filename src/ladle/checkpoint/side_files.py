"""The files that make a folder of weights a model: configuration, tokenizer, pooling, ..."""

from __future__ import annotations

import json
from pathlib import Path

from ladle.checkpoint.base import Checkpoint
from ladle.errors import BadInput

_WEIGHTS = {
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar", ".distcp", ".pkl", ".h5", ".msgpack",
    ".onnx",
}  # fmt: skip
_IN_MODEL_FOLDERS = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"}
_OF_TRAINING = {
    "trainer_state.json",
    "all_results.json",
    "eval_results.json",
    "train_results.json",
    "run.json",
    "summary.csv",
    "metrics.csv",
}
_OF_OUTPUTS = {"soup.json", "evaluations.jsonl", "report.html", "ladle.sqlite", "README.md"}


def side_files(checkpoint: Checkpoint) -> dict[str, Path]:
    """What to copy beside the weights: names relative to the output -> files.

    The files of a model folder but weights, training state and what ladle writes anew, and the
    folders that its `modules.json` names. A weights file named on its own has none, unless it has
    the name that weights have in a model folder and a `config.json` beside it.

    Raises:
        BadInput: the model has further weights in folders of its own, which would be lost.
    """
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    stands_for_folder = (
        checkpoint.path.name in _IN_MODEL_FOLDERS and (folder / "config.json").is_file()
    )
    if folder != checkpoint.path and not stands_for_folder:
        return {}
    modules = _modules(folder)
    files = [file for module in modules for file in sorted(module.rglob("*")) if file.is_file()]
    further = [file for file in files if file.suffix in _WEIGHTS]
    if further:
        raise BadInput(
            f"{folder} has further weights in {further[0].relative_to(folder)}, which would "
            "not be averaged; name its weights file and write one file, as in -o soup.pt"
        )
    files += [file for file in sorted(folder.iterdir()) if _is_part_of_model(file)]
    return {str(file.relative_to(folder).as_posix()): file for file in files}


def _modules(folder: Path) -> list[Path]:
    """The folders in which sentence-transformers keeps a model's further modules."""
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        names = [str(module["path"]) for module in modules if module["path"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [folder / name for name in names if Path(name).name == name]


def _is_part_of_model(file: Path) -> bool:
    return file.is_file() and not (
        file.name.startswith(".")
        or file.suffix in _WEIGHTS
        or file.name.endswith(".index.json")
        or ".tfevents." in file.name
        or file.name in _OF_TRAINING | _OF_OUTPUTS
    )
