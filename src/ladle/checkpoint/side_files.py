"""The files that make a folder of weights a model: configuration, tokenizer, pooling, ..."""

from __future__ import annotations

import json
from pathlib import Path

from ladle.checkpoint.base import Checkpoint
from ladle.errors import BadInput

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx"}
_OF_TRAINING = {
    "trainer_state.json",
    "all_results.json",
    "eval_results.json",
    "train_results.json",
    "run.json",
}
_OF_OUTPUTS = {"soup.json", "evaluations.jsonl", "report.html", "ladle.sqlite", "README.md"}


def side_files(checkpoint: Checkpoint) -> dict[str, Path]:
    """What to copy beside the weights: names relative to the output -> files.

    All of a model folder but weights, training state and what ladle writes anew. A weights file
    named on its own has none, unless a `config.json` beside it shows that it is the folder's.

    Raises:
        BadInput: the model has further weights in folders of its own, which would be lost.
    """
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    if folder != checkpoint.path and not (folder / "config.json").is_file():
        return {}
    further = _weights_of_modules(folder)
    if further:
        raise BadInput(
            f"{folder} has further weights in {further[0].relative_to(folder)}, which would "
            "not be averaged; name its weights file and write one file, as in -o soup.pt"
        )
    return {str(file.relative_to(folder).as_posix()): file for file in _wanted(folder)}


def _weights_of_modules(folder: Path) -> list[Path]:
    """Weights that sentence-transformers keeps in a folder for each further module."""
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        paths = [folder / module["path"] for module in modules if module["path"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [file for path in paths for file in sorted(path.glob("*")) if file.suffix in _WEIGHTS]


def _wanted(folder: Path) -> list[Path]:
    found: list[Path] = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            inside = _wanted(entry)
            # A folder with weights of its own is another checkpoint, not a part of this model.
            if not any(child.suffix in _WEIGHTS for child in entry.rglob("*")):
                found += inside
        elif not (
            entry.suffix in _WEIGHTS
            or entry.name.endswith(".index.json")
            or entry.name in _OF_TRAINING | _OF_OUTPUTS
        ):
            found.append(entry)
    return found
