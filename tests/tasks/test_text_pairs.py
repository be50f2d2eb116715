"""Pairs of texts and numbers for labels, with the model of the demo and small ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from accelerate import Accelerator

import toy_task
from ladle.errors import BadTask
from ladle.sweep.finetune import FineTuning
from ladle.sweep.probe import linear_probe
from ladle.tasks import TextClassification, Trainable
from ladle.tasks.text_tokens import without_some
from reviews import MINILM

CPU = torch.device("cpu")
PAIRS = [
    ("the film was long", "it was short"),
    ("he sleeps", "he is asleep, as everybody in the house has been since ten"),
    ("cats purr", "dogs bark"),
    ("a rather long sentence about the weather in spring", "rain"),
]
LABELS = [0, 1, 0, 1]
SPLITS = {"train": ("train", PAIRS, LABELS), "dev": ("held-out", PAIRS[::-1], LABELS[::-1])}
NUMBERS = {
    "train": ("train", [a for a, _ in PAIRS], [0.5, -1.25, 3.0, 2.0]),
    "dev": ("held-out", [b for _, b in PAIRS], [0.0, 1.0, 2.0, 3.0]),
}
RUN = replace(
    toy_task.RUN,
    lr=5e-4,
    weight_decay=0.01,
    epochs=20,
    label_smoothing=0.1,
    augmentation=0.0,
    batch_size=4,
    seed=0,
)


def pairs(model: Path = MINILM, **changes) -> TextClassification:
    settings = {"label_names": ("no", "yes"), "max_length": 32, **changes}
    return TextClassification("pairs", model, settings.pop("splits", SPLITS), **settings)


def numbers(**changes) -> TextClassification:
    settings = {"label_names": None, "max_length": 32, **changes}
    return TextClassification("numbers", MINILM, settings.pop("splits", NUMBERS), **settings)


def with_a_head(task: TextClassification):
    model = task.build()
    generator = torch.Generator().manual_seed(1)
    torch.nn.init.normal_(model.get_submodule(task.head).weight, generator=generator)
    return model


def logits_of_the_library(model, folder: Path, texts) -> np.ndarray:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with torch.inference_mode():
        return np.concatenate(
            [
                model(**tokenizer(*pair, truncation=True, max_length=32, return_tensors="pt"))
                .logits.numpy()
                for pair in texts
            ]
        )  # fmt: skip


@pytest.mark.parametrize("freeze", [0, 1, 5])
def test_pairs_are_told_apart_as_the_library_does(freeze: int) -> None:
    task = pairs(freeze=freeze)
    model = with_a_head(task)
    expected = logits_of_the_library(model, MINILM, PAIRS[::-1])
    found = task.predict(model, "dev", device=CPU, batch_size=3)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # Without token types the two texts would run together.
    task._tokens.clear()
    task._states.clear()
    task._knows_types = False
    blurred = task.predict(model, "dev", device=CPU, batch_size=3)
    assert np.abs(blurred - expected).max() > 1e-3


@pytest.mark.parametrize("kind", ["DistilBert", "Roberta", "Albert"])
def test_models_that_know_no_types_or_one_are_not_given_any(kind: str, tmp_path: Path) -> None:
    sizes: Mapping[str, object] = {
        "DistilBert": {"dim": 16, "n_heads": 2, "hidden_dim": 16, "n_layers": 2},
        "Roberta": {"type_vocab_size": 1, "max_position_embeddings": 64},
        "Albert": {"embedding_size": 8, "num_hidden_groups": 1},
    }[kind]
    if kind != "DistilBert":
        sizes = {
            "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16,
            "num_hidden_layers": 2, **sizes,
        }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(vocab_size=30522, pad_token_id=0, **sizes)
    getattr(transformers, f"{kind}ForSequenceClassification")(config).save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM, local_files_only=True)
    tokenizer.save_pretrained(tmp_path)
    task = pairs(tmp_path)
    assert task._knows_types == (kind == "Albert")
    assert task.predict(task.build(), "dev", device=CPU, batch_size=4).shape == (4, 2)


def test_augmentation_never_joins_the_two_texts() -> None:
    task = pairs()
    tokens = task._tokens_of("train")
    separator = task._tokenizer.sep_token_id
    generator = torch.Generator().manual_seed(0)
    lengths = set()
    for _ in range(40):
        rows = without_some(tokens.rows(1), 1.0, generator, tokens.special)
        ids = tokens.ids[rows].tolist()
        assert ids[0] == task._tokenizer.cls_token_id
        assert ids.count(separator) == 2
        assert ids[-1] == separator
        lengths.add(len(ids))
    assert len(lengths) > 3


def test_an_epoch_with_augmentation_keeps_pairs_apart() -> None:
    task = pairs()
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        ((inputs, _),) = task.batches(batch_size=4, augmentation=1.0, generator=generator)
        separators = inputs["input_ids"] == task._tokenizer.sep_token_id
        assert separators.sum(1).tolist() == [2] * 4
        assert (inputs["token_type_ids"] * inputs["attention_mask"]).max() == 1


def test_the_longer_text_of_a_pair_is_cut() -> None:
    tokens = pairs(max_length=8)._tokens_of("train")
    assert int(tokens.lengths.max()) == 8
    assert tokens.types is not None
    for example in range(len(PAIRS)):
        of_each = torch.bincount(tokens.types[tokens.rows(example)]).tolist()
        assert min(of_each) >= 2, of_each


def test_digests_tell_pairs_from_texts_and_pair_from_pair() -> None:
    def digest(first, second):
        split = pairs(splits={"dev": ("held-out", [(first, second)], [0])}).splits["dev"]
        return split.digest, int(split.contents[0])

    assert digest("ab", "c") == digest("ab", "c")
    for column in zip(digest("ab", "c"), digest("a", "bc"), digest("c", "ab"), strict=True):
        assert len(set(column)) == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"splits": {**SPLITS, "b": ("shift", ["one"], [0])}}, "all strings, or all pairs"),
        ({"splits": {"b": ("held-out", [("a", "b", "c")], [0])}}, "all strings, or all pairs"),
        ({"max_length": 5}, "max_length starts at 6 tokens"),
    ],
)
def test_wrong_pairs_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(BadTask, match=says):
        pairs(**changes)


# Numbers for labels


def test_a_task_of_numbers_has_one_output() -> None:
    task = numbers()
    assert isinstance(task, Trainable)
    assert task.metric.name == "mse"
    assert task.splits["train"].labels.dtype == np.float64
    model = task.build()
    assert model.config.problem_type == "regression"
    assert model.config.num_labels == 1
    found = task.predict(model, "dev", device=CPU, batch_size=2)
    assert found.shape == (4, 1)
    assert not found.any()


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [0, 5])
def test_probe_and_fine_tuning_learn_numbers(freeze: int, tmp_path: Path) -> None:
    task = numbers(freeze=freeze)
    model = task.build()
    variance = task.splits["train"].labels.var()
    # So few texts that the penalty may leave little more than their mean.
    assert linear_probe(task, model) < variance
    model = task.build()
    training = FineTuning(task, model, RUN, Accelerator(cpu=True))
    for _ in training.train():
        pass
    assert training.losses[-1] < 0.5 * training.losses[0]
    task.save(model, tmp_path)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.problem_type == "regression"
    found = task.predict(again, "train", device=CPU, batch_size=4)
    expected = logits_of_the_library(model, tmp_path, [(text,) for text in NUMBERS["train"][1]])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(found[:, 0] - NUMBERS["train"][2]).mean() < 1.0


def test_a_label_that_is_no_number_is_refused() -> None:
    wrong = {**NUMBERS, "b": ("shift", ["a", "b"], [0.0, float("nan")])}
    with pytest.raises(BadTask, match=r"split 'b' .* label nan at example 1; regression needs"):
        numbers(splits=wrong)


def test_classes_and_numbers_have_other_digests() -> None:
    assert numbers().digest != pairs().digest
    changed = {**NUMBERS, "dev": ("held-out", NUMBERS["dev"][1], [0.0, 1.0, 2.0, 3.5])}
    assert numbers(splits=changed).splits["dev"].digest != numbers().splits["dev"].digest
