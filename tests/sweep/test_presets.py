"""The paper's space, against the configurations that its authors published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ladle.sweep import Space, Uniform, Whole
from ladle.sweep.distributions import Constant

DATA = Path(__file__).parents[1] / "data" / "clip_vitb32_hparams.json"
DRAWS = 2000
# The comparisons below are of 70 numbers with many; a true distribution fails one in a thousand.
UNLIKELY = 0.001


@pytest.fixture(scope="module")
def measured():
    """The published configurations by our names, without model_0, which has none."""
    models = json.loads(DATA.read_text("utf-8"))
    models.pop("model_0")
    assert len(models) == 71
    assert models["model_4"] == models["model_5"]
    del models["model_5"]
    return [
        {
            "lr": model["lr"],
            "weight_decay": model["wd"],
            "epochs": model["epochs"],
            "label_smoothing": model["smoothing"],
            "mixup": model["mix"],
            "augmentation": 0.0 if model["aug"] is None else model["aug"],
        }
        for model in models.values()
    ]


@pytest.fixture(scope="module")
def space():
    return Space.named_or_read("paper-vision")


@pytest.fixture(scope="module")
def drawn(space):
    return space.runs(0, DRAWS)


def test_every_published_configuration_lies_in_the_space(measured, space):
    for configuration in measured:
        for key, value in configuration.items():
            distribution = getattr(space, key)
            if distribution.options is None:
                assert min(distribution.extremes) <= value <= max(distribution.extremes), key
            else:
                assert value in distribution.options, key


def test_what_was_the_same_in_all_of_them_is_constant(space):
    assert {key for key, d in space.distributions.items() if not isinstance(d, Constant)} == {
        "lr", "weight_decay", "epochs", "label_smoothing", "mixup", "augmentation"
    }  # fmt: skip


def column(rows, key):
    """The numbers of one key, those that are not off."""
    values = [row[key] if isinstance(row, dict) else getattr(row, key) for row in rows]
    return np.array([value for value in values if value != 0])


def agreement(measured, drawn, key):
    return stats.ks_2samp(column(measured, key), column(drawn, key)).pvalue


@pytest.mark.parametrize("key", ["lr", "weight_decay", "epochs", "label_smoothing", "mixup"])
def test_numbers_are_distributed_as_in_the_publication(measured, drawn, key):
    assert agreement(measured, drawn, key) > UNLIKELY


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("lr", Uniform(1e-6, 1e-4)),
        ("lr", Uniform(1e-5, 1e-4, log=True)),
        ("weight_decay", Uniform(8e-5, 0.63)),
        ("weight_decay", Uniform(1e-3, 1e0, log=True)),
        ("epochs", Whole(2, 16, log=True)),
        ("label_smoothing", Uniform(0, 0.1)),
        ("mixup", Uniform(0, 0.4)),
    ],
)
def test_the_comparison_tells_wrong_distributions(measured, key, wrong):
    runs = Space(**{key: wrong}).runs(0, DRAWS)
    assert agreement(measured, runs, key) < UNLIKELY


@pytest.mark.parametrize("key", ["label_smoothing", "mixup", "augmentation"])
def test_as_many_go_without_as_in_the_publication(measured, drawn, key):
    off = len(measured) - len(column(measured, key))
    share = 1 - len(column(drawn, key)) / DRAWS
    assert stats.binomtest(off, len(measured), share).pvalue > 0.05
    assert stats.binomtest(off, len(measured), share - 0.25).pvalue < UNLIKELY


def operations(rows):
    return np.array([policy.endswith(("n0", "n1", "n2")) * int(policy[-1]) for policy in rows])


def test_policies_are_distributed_as_in_the_publication(measured, drawn):
    theirs, ours = column(measured, "augmentation"), column(drawn, "augmentation")
    counts = np.array([np.bincount(operations(rows), minlength=3) for rows in (theirs, ours)])
    assert stats.chi2_contingency(counts).pvalue > 0.05
    magnitudes = [
        [int(policy[6 : policy.index("-n")]) for policy in rows] for rows in (theirs, ours)
    ]
    assert stats.ks_2samp(*magnitudes).pvalue > UNLIKELY


def test_the_space_for_text_says_what_is_known():
    runs = Space.named_or_read("paper-text").runs(0, 200)
    assert {run.batch_size for run in runs} == {8, 16, 32, 64}
    assert {run.epochs for run in runs} == {2, 3, 5}
    assert {(run.weight_decay, run.schedule, run.clip) for run in runs} == {(0, "linear", 1.0)}
    lr = np.log10([run.lr for run in runs])
    assert stats.kstest(lr, stats.uniform(-6, 3).cdf).pvalue > UNLIKELY
