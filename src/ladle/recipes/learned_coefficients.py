"""The coefficients of learned soups: which tensors share them, and what values they may take."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from ladle.checkpoint.numbers import Float64
from ladle.merge import Linear

By = Literal["model", "block", "layer"]

_SMOOTHED = 0.1
"""Of a start on the simplex, the part that goes to all alike: from exactly 0 nothing moves."""


@dataclass(frozen=True)
class Groups:
    """Tensors that share a vector of coefficients.

    `rows` has the number of its vector for every tensor that is learned; `sizes` (G,) has the
    elements that each vector moves.
    """

    rows: Mapping[str, int]
    sizes: Float64

    @classmethod
    def of(cls, tensors: Mapping[str, str], elements: Mapping[str, int], by: By) -> Groups:
        """The groups of tensors; `tensors` maps each to the one that it is tied to, or itself.

        `layer` is the paper's word for a tensor. A block is a member of a stack of layers, or,
        outside of stacks, a module.
        """
        keys = {name: _key(kept, by) for name, kept in tensors.items()}
        numbers = {key: i for i, key in enumerate(dict.fromkeys(keys.values()))}
        sizes = np.zeros(len(numbers))
        for name, key in keys.items():
            sizes[numbers[key]] += elements[name]
        return cls({name: numbers[key] for name, key in keys.items()}, sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def summed(self, products: Mapping[str, Float64], k: int) -> Float64:
        """(G, k) of what there is per tensor, (k,); tensors may be missing."""
        total = np.zeros((len(self), k))
        for name, row in self.rows.items():
            if name in products:
                total[row] += products[name]
        return total

    def merge(self, shares: Float64) -> Linear:
        """The merge of (G, k) coefficients.

        What is not learned (statistics of BatchNorm, say) gets their mean over all elements.
        """
        if len(self) == 1:
            return Linear(_plain(shares[0]))
        mean = self.sizes @ shares / self.sizes.sum()
        by_tensor = {name: _plain(shares[row]) for name, row in self.rows.items()}
        return Linear(_plain(mean), by_tensor=by_tensor)


class Space(Protocol):
    """Where the coefficients of a group may lie, and free numbers that they are made of.

    All arrays are (G, k); a step of the free numbers means the same whatever k is.
    """

    def free(self, shares: Float64) -> Float64:
        """Free numbers that make these shares, which sum to one, or ones near them."""
        ...

    def shares(self, free: Float64) -> Float64:
        """The coefficients."""
        ...

    def slope(self, free: Float64, slope: Float64) -> Float64:
        """The slope in the free numbers, from that in the coefficients."""
        ...


class Simplex:
    """Softmax: positive, and one in sum (paper, appendix I)."""

    def free(self, shares: Float64) -> Float64:
        k = shares.shape[1]
        if not (shares > 0).all():
            shares = (1 - _SMOOTHED) * shares + _SMOOTHED / k
        logs: Float64 = np.log(shares * k)
        return logs

    def shares(self, free: Float64) -> Float64:
        powers = np.exp(free - free.max(axis=1, keepdims=True))
        found: Float64 = powers / powers.sum(axis=1, keepdims=True)
        return found

    def slope(self, free: Float64, slope: Float64) -> Float64:
        shares = self.shares(free)
        found: Float64 = shares * (slope - (shares * slope).sum(axis=1, keepdims=True))
        return found


class Hyperplane:
    """One in sum, of any sign (Li et al., Learning Scalable Model Soup, ECCV 2024).

    Free numbers are counted in equal shares, and only how they differ counts.
    """

    def free(self, shares: Float64) -> Float64:
        free: Float64 = shares * shares.shape[1] - 1
        return free

    def shares(self, free: Float64) -> Float64:
        found: Float64 = (1 + free - free.mean(axis=1, keepdims=True)) / free.shape[1]
        return found

    def slope(self, free: Float64, slope: Float64) -> Float64:
        found: Float64 = (slope - slope.mean(axis=1, keepdims=True)) / free.shape[1]
        return found


@dataclass(frozen=True)
class Turn:
    """Some of the ingredients, learned while the soup so far stands for the others.

    After MEHL-Soup+ (see `Hyperplane`), whose centre is the soup so far too. Its coefficients are
    known, so the weights that are learned among it and the `members`, places in the pool, are
    weights of all: with a the column of the soup, w = a·centre, and what the members have beside.
    Where all are members, nothing stands for others, and the coefficients are the pool's own.

    `centre` (G, k) are the coefficients when the turn began.
    """

    members: tuple[int, ...]
    centre: Float64

    @property
    def is_partial(self) -> bool:
        """Whether there are others; if so, column 0 is the soup so far."""
        return len(self.members) < len(self.centre[0])

    def start(self) -> Float64:
        """The centre in the columns of this turn, (G, c)."""
        if not self.is_partial:
            return self.centre
        found = np.zeros((len(self.centre), 1 + len(self.members)))
        found[:, 0] = 1
        return found

    def whole(self, shares: Float64) -> Float64:
        """(G, k) from coefficients in the columns of this turn, (G, c)."""
        if not self.is_partial:
            return shares
        found: Float64 = shares[:, :1] * self.centre
        found[:, list(self.members)] += shares[:, 1:]
        return found


@dataclass(frozen=True)
class Turns:
    """Whose turn it is: batches of `at_a_time` of k ingredients, in a new order in every pass.

    A pass takes about as long as an epoch of `steps`. If it is everybody's turn, that never ends.
    """

    k: int
    at_a_time: int
    steps: int
    seed: int

    @property
    def count(self) -> int:
        """Turns in a pass."""
        return math.ceil(self.k / self.at_a_time)

    def begins(self, step: int) -> bool:
        """Whether a turn begins with this step, counted from 0."""
        return step % self._length == 0 if self.count > 1 else step == 0

    def members(self, step: int) -> tuple[int, ...]:
        """The places of those whose turn it is."""
        if self.count == 1:
            return tuple(range(self.k))
        number, turn = divmod(step // self._length, self.count)
        order = np.random.default_rng([self.seed, number, 1]).permutation(self.k)
        return tuple(sorted(int(i) for i in np.array_split(order, self.count)[turn]))

    @property
    def _length(self) -> int:
        return max(1, self.steps // self.count)


def _key(name: str, by: By) -> str:
    if by == "model":
        return ""
    if by == "layer":
        return name
    # `encoder.layer.5.attention.query.weight` is of encoder.layer.5, `blocks.2.1.conv.weight` of
    # blocks.2.1, and `embeddings.word.weight` of embeddings.word.
    stack = re.match(r"(?:[^.]+\.)*?\d+(?:\.\d+)*(?=\.)", name)
    return stack.group() if stack else name.rpartition(".")[0]


def _plain(row: Sequence[float] | Float64) -> tuple[float, ...]:
    return tuple(float(one) for one in row)
