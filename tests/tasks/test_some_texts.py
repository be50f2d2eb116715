"""Some texts of a split alone: only they go through the frozen layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ladle.predictions import Array
from ladle.tasks import TextClassification
from reviews import BAD, GOOD, MINILM

CPU = torch.device("cpu")
TEXTS = [f"{text} {'and so on ' * (i % 4)}{i}" for i in range(5) for text in (*GOOD, *BAD)]
LABELS = [label for _ in range(5) for label in (1, 1, 1, 1, 0, 0, 0, 0)]


def task() -> TextClassification:
    splits = {"dev": ("held-out", TEXTS, LABELS)}
    return TextClassification(
        "films", MINILM, splits, label_names=("bad", "good"), max_length=32, freeze=5
    )


def with_a_head(films: TextClassification) -> torch.nn.Module:
    model = films.build()
    torch.nn.init.normal_(
        model.get_submodule(films.head).weight, generator=torch.Generator().manual_seed(1)
    )
    return model


def rows(films: TextClassification, model: torch.nn.Module, some: Array, size: int = 4) -> Array:
    batches = films.arranged("dev", some, batch_size=size)
    found = films.predict_some(model, "dev", batches, device=CPU)
    return np.concatenate(list(found))[np.argsort(np.concatenate(batches))]


@pytest.fixture
def trunk_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of the frozen layers had."""
    from ladle.tasks.text_trunk import Cut

    seen: list[int] = []
    lower = Cut.lower

    def noted(self: Cut, model: torch.nn.Module) -> object:
        part = lower(self, model)

        def run(**inputs: torch.Tensor) -> object:
            seen.append(len(inputs["attention_mask"]))
            return part(**inputs)

        return run

    monkeypatch.setattr(Cut, "lower", noted)
    return seen


def test_only_the_texts_that_are_asked_for_go_through_the_frozen_layers(
    trunk_runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    films = task()
    model = with_a_head(films)
    assert films._cut is not None  # It tries itself on two texts.
    trunk_runs.clear()
    some = np.array([1, 4, 9, 23, 37])
    with monkeypatch.context() as patch:
        # What nobody wrote to may hold anything, and padding looks at the first row.
        patch.setattr(torch, "empty", lambda *shape: torch.full(shape, torch.nan))
        found = rows(films, model, some)
    assert sum(trunk_runs) == 5
    rows(films, model, some)
    assert sum(trunk_runs) == 5
    whole = films.predict(model, "dev", device=CPU, batch_size=4)
    assert sum(trunk_runs) == 5 + len(TEXTS)
    assert found == pytest.approx(whole[some], abs=1e-5)


def test_what_is_said_of_all_does_not_depend_on_what_was_asked_before() -> None:
    first, second = task(), task()
    model = with_a_head(first)
    rows(second, model, np.array([0, 3, 38]))
    one, other = (each.predict(model, "dev", device=CPU, batch_size=8) for each in (first, second))
    assert np.array_equal(one, other)
