"""What lies beside the weights: tokenizers, label maps, configurations, preprocessing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ladle.checkpoint import side_files
from ladle.checks.findings import Finding, Severity, listed
from ladle.errors import BadInput
from ladle.soup import Ingredient

_VOCABULARY = ("vocab.txt", "vocab.json", "merges.txt", "added_tokens.json")
_VOCABULARY_SUFFIXES = (".model", ".tiktoken")
_OF_TOKENIZER = (
    "model",
    "added_tokens",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
)
"""The parts of a tokenizer.json that say what a text is to the model; padding does not."""

_LABELS = ("id2label", "label2id", "num_labels")
_HARMLESS = frozenset(
    {
        "_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype",
        "use_cache", "architectures", "output_attentions", "output_hidden_states",
        "gradient_checkpointing", "problem_type", "finetuning_task", "tokenizer_class",
        "task_specific_params", "return_dict",
    }
)  # fmt: skip
"""Keys of a config.json that do not change what the weights compute."""

_PREPROCESSING = ("preprocessor_config.json", "processor_config.json")


def companions(ingredients: Sequence[Ingredient]) -> list[Finding]:
    """Where the files beside the weights say that the models mean different things."""
    files = {one.name: _files(one) for one in ingredients}
    looked_at = {name: _seen(found) for name, found in files.items()}
    aspects = sorted({aspect for seen in looked_at.values() for aspect in seen})
    return [
        finding
        for aspect in aspects
        if (
            finding := _compared(
                aspect, {name: seen.get(aspect) for name, seen in looked_at.items()}
            )
        )
    ]


def _files(one: Ingredient) -> Mapping[str, Path]:
    try:
        return side_files(one.checkpoint)
    except BadInput:  # Further weights, of which saving will complain.
        return {}


def _seen(files: Mapping[str, Path]) -> dict[str, Any]:
    """What is to be compared, by what it is about."""
    seen: dict[str, Any] = {}
    for name, file in files.items():
        if name == "tokenizer.json":
            content = _json(file)
            parts = {key: content.get(key) for key in _OF_TOKENIZER}
            seen["tokenizer"] = _digest(json.dumps(parts, sort_keys=True).encode())
        elif name in _VOCABULARY or name.endswith(_VOCABULARY_SUFFIXES):
            seen[f"vocabulary {name}"] = _digest(file.read_bytes())
        elif name in _PREPROCESSING:
            seen["preprocessing"] = _json(file)
        elif name == "config.json":
            config = _json(file)
            seen["labels"] = {key: config[key] for key in _LABELS if key in config}
            seen["configuration"] = {
                key: value
                for key, value in config.items()
                if key not in _HARMLESS and key not in _LABELS and "dropout" not in key
            }
        elif name == "adapter_config.json":
            seen["base"] = _json(file).get("base_model_name_or_path")
    return seen


def _compared(aspect: str, seen: Mapping[str, Any]) -> Finding | None:
    there = {name: value for name, value in seen.items() if value not in (None, {})}
    groups: dict[str, list[str]] = {}
    for name, value in there.items():
        groups.setdefault(json.dumps(value, sort_keys=True), []).append(name)
    if len(groups) < 2:
        return None
    usual = max(groups.values(), key=len)
    others = [name for names in groups.values() if names is not usual for name in names]
    reference = seen[usual[0]]
    who = f"{listed(others)} and {listed(usual)}"
    severity: Severity = "not soupable"
    if aspect == "labels":
        if any(_default_labels(seen[name]) != _default_labels(reference) for name in others):
            severity = "doubtful"
        text = (
            f"{who} name their classes differently ({_difference(reference, seen[others[0]])}), so "
            "the same output means different things; train them with one label map."
        )
    elif aspect == "tokenizer" or aspect.startswith("vocabulary"):
        text = (
            f"{who} have different tokenizers, so the same embedding stands for different texts; "
            "train them with one tokenizer."
        )
    elif aspect == "base":
        text = f"{who} are adapters of different bases ({_difference(reference, seen[others[0]])})."
        severity = "doubtful"  # One base may lie under two paths.
    else:
        severity = "doubtful"
        text = (
            f"{who} differ in their {aspect} ({_difference(reference, seen[others[0]])}); if that "
            "changes what the models compute, leave out those that differ."
        )
    return Finding(severity, aspect.split()[0], text, tuple(others))


def _default_labels(labels: Any) -> bool:
    """Whether nobody named the classes: transformers calls them LABEL_0, LABEL_1, ..."""
    names = (labels.get("id2label") or {}).values() if isinstance(labels, dict) else ()
    return all(str(name).startswith("LABEL_") for name in names)


def _difference(one: Any, other: Any) -> str:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return f"{other} against {one}"
    keys = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
    return "; ".join(
        f"{key}: {_short(other.get(key))} against {_short(one.get(key))}" for key in keys[:3]
    )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
