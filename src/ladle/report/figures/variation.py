"""The hyper-parameters in which models differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from ladle.report.record import Scalar

_MOST = 12
_NOT_ONES = ("seed",)


@dataclass(frozen=True)
class Variation:
    """Of each model, by name, the values of the hyper-parameters in which some of them differ.

    Rows have them as fields h0, h1, ..., for a name may be anything, and Vega takes dots and
    brackets in it for paths.
    """

    names: tuple[str, ...]
    values: Mapping[str, Mapping[str, Scalar]]

    @property
    def headings(self) -> dict[str, str]:
        """The fields with their names."""
        return {f"h{i}": name for i, name in enumerate(self.names)}

    def of(self, model: str) -> dict[str, Scalar]:
        """The fields of a model; none of what was not trained in this sweep."""
        known = self.values.get(model, {})
        return {f"h{i}": known[name] for i, name in enumerate(self.names) if name in known}

    def tooltips(self) -> list[Any]:
        """What there is to see of them."""
        return [alt.Tooltip(f"{name}:N", title=title) for name, title in self.headings.items()]

    def column(self, name: str) -> list[Scalar]:
        """All values of one that are known."""
        return [known[name] for known in self.values.values() if name in known]


def variation_of(models: Mapping[str, Mapping[str, Scalar]]) -> Variation:
    """What varies among models, by their hyper-parameters; at most twelve of them.

    Not the seed, which says nothing; nor texts that are others for each model, such as a folder.
    """
    names = dict.fromkeys(name for known in models.values() for name in known)
    return Variation(tuple(n for n in names if _varies(n, models))[:_MOST], models)


def _varies(name: str, models: Mapping[str, Mapping[str, Scalar]]) -> bool:
    values: Sequence[Scalar] = [known.get(name) for known in models.values()]
    different = set(values)
    texts = any(isinstance(value, str) for value in values)
    if name in _NOT_ONES or len(different) < 2:
        return False
    return not (texts and len(different) == len(values) > 2)
