"""What is written down about one soup, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["base", "single", "soup", "curve", "ensemble"]
Scalar = str | float | int | bool | None
"""What a hyper-parameter may be."""
Verdict = Literal["better", "worse", "no difference that this set can show"]


@dataclass(frozen=True)
class Metric:
    """What the scores are. `percent` is true for accuracies between 0 and 1."""

    name: str
    higher_is_better: bool
    percent: bool

    @property
    def sign(self) -> float:
        """What makes higher better: scores are kept and shown in the metric's own direction."""
        return 1.0 if self.higher_is_better else -1.0


@dataclass(frozen=True)
class Ingredient:
    """A checkpoint; `weight` is its share of the soup, None in the pool or when it has no one."""

    name: str
    path: str
    sha256: str
    nbytes: int | None
    weight: float | None
    hyperparameters: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class Tasting:
    """One candidate tried on the held-out set; `score` is None where it was not finite.

    Or where it was not measured to the end: then `bound` is the best that it could have been.
    """

    candidate: str
    members: tuple[str, ...]
    score: float | None
    kept: bool
    reason: str
    margin: float | None = None
    """The score minus the one to beat."""
    examples: int | None = None
    bound: float | None = None


@dataclass(frozen=True)
class Versus:
    """The paired comparison with the best single model; `difference` is this minus that."""

    model: str
    difference: float | None
    low: float | None
    high: float | None
    wins: int | None
    losses: int | None
    p: float | None
    test: str
    verdict: Verdict


@dataclass(frozen=True)
class Bin:
    """`n` examples of like confidence: its mean, and how many of them were right."""

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Reliability:
    """Whether a model is as often right as it is sure: the expected calibration error, and bins of
    equally many examples, the least confident first."""

    ece: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Evaluation:
    """One model measured on one split, in the metric's own direction."""

    model: str
    kind: Kind
    members: tuple[str, ...]
    split: str
    role: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    versus: Versus | None
    reliability: Reliability | None = None


@dataclass(frozen=True)
class Split:
    """A data set and what it was for: `held-out`, `test` or `shift`."""

    name: str
    role: str
    n: int | None
    digest: str


@dataclass(frozen=True)
class Record:
    """All that is written down about one soup. Texts come from files: escape before showing."""

    ladle: str
    command: str
    created: str
    recipe: str
    options: dict[str, str]
    merge: str
    merge_options: dict[str, str]
    by_tensor: Mapping[str, tuple[float, ...]]
    """The share of each ingredient in the tensors that have shares of their own."""
    ingredients: tuple[Ingredient, ...]
    pool: tuple[Ingredient, ...]
    tastings: tuple[Tasting, ...]
    metric: Metric | None
    task: str
    task_digest: str
    splits: tuple[Split, ...]
    seed: int | None
    repeats: tuple[float, ...]
    """Held-out scores of the random orders that the soup is the best of."""
    caveats: tuple[str, ...]
    """What makes scores look better than they are: examples that splits share."""
    rank: int | None
    """What a soup of adapters was truncated to; None where nothing was."""
    versions: dict[str, str]
    evaluations: tuple[Evaluation, ...]
    other_metrics: tuple[str, ...]
    """Names of metrics that `evaluations.jsonl` holds beside the one that chose."""
