"""Texts as rows of tokens, packed end to end without padding, and batches cut from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The share of tokens that the strongest augmentation leaves out.
_STRONGEST_DROP = 0.3
# How many batches are sorted by length together.
_GROUP = 16
# The same where the order of the batches matters.
_FEW = 2


@dataclass(frozen=True, eq=False)
class PackedTokens:
    """The tokens of N texts, or pairs of texts.

    `ids` is (T,) int64; `starts` is (N + 1,) int64: text i is ids[starts[i]:starts[i + 1]].
    `special` is (T,) bool: what the tokenizer put around and between the texts. `types` is (T,)
    int64, which text of a pair a token is of, or None where the model is not told.
    """

    ids: Tensor
    starts: Tensor
    special: Tensor
    types: Tensor | None = None

    @classmethod
    def of(
        cls,
        texts: Sequence[Sequence[int]],
        special: Sequence[Sequence[int]] | None = None,
        types: Sequence[Sequence[int]] | None = None,
    ) -> PackedTokens:
        ids = _packed(texts)
        return cls(
            ids,
            torch.tensor([0, *map(len, texts)]).cumsum(0),
            torch.zeros(len(ids), dtype=torch.bool) if special is None else _packed(special).bool(),
            None if types is None else _packed(types),
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Tensor:
        return self.starts.diff()

    def rows(self, example: int) -> Tensor:
        """Which rows of `ids` (and of anything packed alike) are this text's."""
        return torch.arange(int(self.starts[example]), int(self.starts[example + 1]))

    def by_length(self, batch_size: int, among: Tensor | None = None) -> list[Tensor]:
        """All examples, or those `among` them, shortest first: as little padding as can be."""
        some = torch.arange(len(self)) if among is None else among
        return list(torch.split(some[self.lengths[some].argsort(stable=True)], batch_size))

    def nearly(self, order: Tensor, batch_size: int) -> list[Tensor]:
        """These examples in batches of like length, near to the order given.

        Sorted by length within pairs of batches, which halves the padding.
        """
        batches: list[Tensor] = []
        for group in torch.split(order, _FEW * batch_size):
            by_length = group[self.lengths[group].argsort(stable=True)]
            batches += torch.split(by_length, batch_size)
        return batches

    def shuffled(self, batch_size: int, generator: torch.Generator) -> list[Tensor]:
        """All examples in random order, in batches of like length.

        Sorted by length within random groups of 16 batches, which halves the padding and so the
        time; then the batches are shuffled.
        """
        batches: list[Tensor] = []
        order = torch.randperm(len(self), generator=generator)
        for group in torch.split(order, _GROUP * batch_size):
            by_length = group[self.lengths[group].argsort(stable=True)]
            batches += torch.split(by_length, batch_size)
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def without_some(
    rows: Tensor, augmentation: float, generator: torch.Generator, special: Tensor | None = None
) -> Tensor:
    """The rows of one text, some at random left out; never the first and the last.

    Nor those that are `special`, (T,) bool: without what separates them, two texts are one.
    """
    keep = torch.rand(len(rows), generator=generator) >= _STRONGEST_DROP * augmentation
    keep[0] = keep[-1] = True
    if special is not None:
        keep |= special[rows]
    return rows[keep]


def _packed(texts: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([number for text in texts for number in text], dtype=torch.int64)


def pad(rows: Sequence[Tensor], *, left: bool) -> tuple[Tensor, Tensor]:
    """Rows of several texts as one (B, L) index, and the (B, L) mask of what is not padding.

    Padding points at row 0, so that the index can be used as it is; the mask tells it apart.
    """
    longest = max(map(len, rows))
    index = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for i, those in enumerate(rows):
        here = slice(longest - len(those), None) if left else slice(len(those))
        index[i, here] = those
        mask[i, here] = 1
    return index, mask
