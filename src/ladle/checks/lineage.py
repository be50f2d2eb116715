"""What the weights tell: shared origins, un-shared heads, members that went astray.

Fine-tunings of one model stay near it: every matrix of one points almost the way it points in the
others. Matrices that were initialised independently are orthogonal, as random vectors of many
dimensions are. Averages of the first work, of the second do not (paper, sections 3.2 and 4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ladle.checkpoint import AdapterCheckpoint, Checkpoint, renamed_as
from ladle.checkpoint.dtypes import AVERAGED
from ladle.checks.findings import Finding, Severity, listed
from ladle.soup import Pool
from ladle.soup.geometry import Geometry, tensor_geometry, total

_RELATED = 0.5
"""Cosine above which two matrices have one origin: independent ones have 0 ± 1/√n."""

_UNRELATED = 0.25
"""Cosine below which they have not. Between the two, a head that began at zero can lie."""

_SMALLEST = 64
"""Elements below which chance makes cosines that mean nothing (1/√64 = 0.125)."""

_FAR = 3.0
"""How many times the usual distance from the start is suspicious ..."""

_FAR_RELATIVE = 0.3
"""... if it is also this share of the weights' own norm: the learning rates of a sweep may span a
factor of 100, and short distances do no harm however they differ. Seen: good sweeps up to 0.2, also
at learning rates that cost 3 points of accuracy; MiniLM at lr = 1e-2, which learnt nothing, 0.6;
small networks that still average well up to 0.7, and that ruin a soup from 1.6 on."""

_LOST = 1.0
"""The same for a member that has left the basin for certain."""

_COPY = 1e-7
"""Relative distance below which two members are one, but for rounding."""


@dataclass(frozen=True)
class Lineage:
    """Findings, and the relative distance of each member from the start."""

    findings: list[Finding]
    distances: Mapping[str, float]


def lineage(
    pool: Pool,
    base: Checkpoint | None,
    *,
    advance: Callable[[int], None] = lambda nbytes: None,
) -> Lineage:
    """What one streamed pass over the weights tells.

    With `base`, distances are from it; otherwise they are estimated from those between members,
    which takes three of them.
    """
    names = tuple(one.name for one in pool)
    start = renamed_as(base, pool.layout.names) if base else None
    parts: dict[str, Geometry] = {}
    from_base: set[str] = set()
    for name, spec in pool.layout.tensors.items():
        if spec.dtype not in AVERAGED or not spec.numel:
            continue
        known = start.layout.tensors.get(name) if start else None
        shared = start is not None and known is not None and known.shape == spec.shape
        origin = start if shared and start is not None else pool[0].checkpoint
        parts[name] = tensor_geometry(pool, name, origin, advance=advance)
        if shared:
            from_base.add(name)
    findings = _non_finite(names, parts)
    if any(finding.severity == "not soupable" for finding in findings) or len(pool) < 2:
        return Lineage(findings, {})
    matrices = {
        name: part
        for name, part in parts.items()
        if len(pool.layout.tensors[name].shape) >= 2
        and pool.layout.tensors[name].numel >= _SMALLEST
        and part.norms.min() > 0
    }
    if isinstance(pool[0].checkpoint, AdapterCheckpoint):
        # Changes begin at zero, each in directions of its own: only their sizes can be compared,
        # which copies of the base among them would hide.
        copies = pool[0].checkpoint.copies.values()
        sizes = total(pool, (part for name, part in matrices.items() if name not in copies)).norms
        return Lineage(findings + _astray(names, sizes, relative=False), {})
    if start is not None:
        findings += _wrong_base(names, {n: p for n, p in matrices.items() if n in from_base})
    measured = {n: p for n, p in matrices.items() if n in from_base or not from_base}
    moved = total(pool, (part for part in measured.values() if part.between.max() > 0))
    distances = _distances(moved, exact=bool(from_base))
    relative: dict[str, float] = {}
    if distances is not None and moved.norms.min() > 0:
        distances = distances / float(np.median(moved.norms))
        relative = dict(zip(names, distances.tolist(), strict=True))
    apart = _origins(names, matrices)
    findings += apart
    if not apart:
        far = np.array([*relative.values()])
        astray = _astray(names, far, relative=True) if relative else []
        gone = {name for finding in astray for name in finding.members}
        # What went astray is no longer near anything, and says nothing about heads.
        findings += astray + _heads(
            names, [i for i, n in enumerate(names) if n not in gone], matrices
        )
    findings += _copies(names, total(pool, parts.values()))
    return Lineage(findings, relative)


def _non_finite(names: Sequence[str], parts: Mapping[str, Geometry]) -> list[Finding]:
    findings = []
    for i, name in enumerate(names):
        bad = {
            tensor: int(part.non_finite[i]) for tensor, part in parts.items() if part.non_finite[i]
        }
        if bad:
            findings.append(
                Finding(
                    "not soupable",
                    "non-finite",
                    f"{name} has NaN or infinity in {listed(list(bad), 3)} "
                    f"({sum(bad.values())} values); its training diverged, so leave it out.",
                    (name,),
                    tuple(bad),
                )
            )
    return findings


def _origins(names: Sequence[str], matrices: Mapping[str, Geometry]) -> list[Finding]:
    """Members that began somewhere else."""
    if not matrices:
        return []
    cosines = np.stack([part.cosines for part in matrices.values()])
    # Every matrix counts alike: by size, one embedding could outvote all layers.
    groups = _groups((cosines > _RELATED).mean(axis=0) > 0.5)
    if len(groups) == 1:
        return []
    shown = "; ".join(listed([names[i] for i in group]) for group in groups[:4])
    i, j = groups[0][0], groups[1][0]
    return [
        Finding(
            "not soupable",
            "initialisation",
            f"These started from {len(groups)} different initialisations ({shown}): the cosine "
            f"between matrices of {names[i]} and {names[j]} is "
            f"{float(np.median(cosines[:, i, j])):.2f} (median), where fine-tunings of one model "
            "have nearly 1. Average only what was fine-tuned from the same weights.",
            tuple(names[i] for group in groups[1:] for i in group),
        )
    ]


def _heads(
    names: Sequence[str], members: Sequence[int], matrices: Mapping[str, Geometry]
) -> list[Finding]:
    """Single matrices that began somewhere else in each of these members."""
    among = np.ix_(members, members)
    cosines = {name: part.cosines[among] for name, part in matrices.items()}
    findings = []
    levels: tuple[tuple[Severity, float, float], ...] = (
        ("not soupable", -1.1, _UNRELATED),
        ("doubtful", _UNRELATED, _RELATED),
    )
    for severity, low, high in levels:
        tensors = [name for name, found in cosines.items() if low < found.min() <= high]
        if not tensors:
            continue
        lowest = min(float(cosines[name].min()) for name in tensors)
        groups = _groups(np.all([cosines[name] > _RELATED for name in tensors], axis=0))
        others = [names[members[i]] for group in groups[1:] for i in group]
        perhaps = "perhaps " if severity == "doubtful" else ""
        findings.append(
            Finding(
                severity,
                "head",
                f"{listed(tensors, 3)} {'was' if len(tensors) == 1 else 'were'} {perhaps}"
                f"initialised at random for each run (cosine between members {lowest:.2f}), while "
                f"{len(matrices) - len(tensors)} other matrices are shared. Give every run the "
                "same head: train it once (a linear probe), or start all from one saved base, as "
                "`ladle sweep` does.",
                tuple(others),
                tuple(tensors),
            )
        )
    return findings


def _wrong_base(names: Sequence[str], matrices: Mapping[str, Geometry]) -> list[Finding]:
    """Members whose matrices do not point where the base's do."""
    if not matrices:
        return [
            Finding(
                "doubtful",
                "base",
                "The base has no matrix in common with the checkpoints; check --base.",
            )
        ]
    related = np.zeros((len(matrices), len(names)))
    for row, part in enumerate(matrices.values()):
        squares = part.norms**2
        inner = (squares + part.base_norm**2 - np.diag(part.gram)) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            related[row] = np.nan_to_num(inner / (part.norms * part.base_norm))
    shares = (related > _RELATED).mean(axis=0)
    strangers = [name for name, share in zip(names, shares, strict=True) if share <= 0.5]
    if not strangers:
        return []
    return [
        Finding(
            "not soupable",
            "base",
            f"{listed(strangers)} {'is' if len(strangers) == 1 else 'are'} not fine-tuned from the "
            "given base: most matrices are unrelated to it; check --base, or leave them out.",
            tuple(strangers),
        )
    ]


def _distances(geometry: Geometry, *, exact: bool) -> npt.NDArray[np.float64] | None:
    """(k,) distances from the start.

    Without the base, from those between members: task vectors are nearly orthogonal, so
    dᵢ² + dⱼ² = Dᵢⱼ², and of three members dᵢ² = (Dᵢⱼ² + Dᵢₖ² - Dⱼₖ²) / 2.
    """
    if exact:
        return geometry.distances
    squares = geometry.between**2
    members = range(len(squares))
    if len(members) < 3:
        return None
    estimates = np.empty(len(members))
    for i in members:
        others = [j for j in members if j != i]
        found = [
            (squares[i, j] + squares[i, k] - squares[j, k]) / 2
            for at, j in enumerate(others)
            for k in others[at + 1 :]
        ]
        estimates[i] = max(0.0, float(np.median(found))) ** 0.5
    return estimates


def _astray(
    names: Sequence[str], distances: npt.NDArray[np.float64], *, relative: bool
) -> list[Finding]:
    """Members that are far from the start where the others are near.

    Where the distances are `relative` to the weights' norm, short ones are no matter.
    """
    findings = []
    for i, name in enumerate(names):
        others = np.delete(distances, i)
        usual = float(np.median(others)) if len(others) > 1 else 0.0
        enough = _FAR_RELATIVE if relative else 0.0
        if len(others) < 2 or distances[i] <= max(_FAR * usual, enough):
            continue
        share = f" ({distances[i]:.0%} of the weights' norm)" if relative else ""
        times = f"{distances[i] / usual:.1f} times" if usual else "many times"
        findings.append(
            Finding(
                "not soupable" if relative and distances[i] >= _LOST else "doubtful",
                "diverged",
                f"{name} is {times} as far from the start as the others{share}: its learning rate "
                "was too high, or its training too long. Leave it out.",
                (name,),
            )
        )
    return findings


def _copies(names: Sequence[str], everything: Geometry) -> list[Finding]:
    near = everything.between <= _COPY * np.minimum.outer(everything.norms, everything.norms)
    groups = [group for group in _groups(near) if len(group) > 1]
    return [
        Finding(
            "note",
            "duplicate",
            f"{listed([names[i] for i in group])} are the same model but for rounding; name one.",
            tuple(names[i] for i in group),
        )
        for group in groups
    ]


def _groups(linked: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Connected components of (k, k) links, largest first."""
    left = list(range(len(linked)))
    groups = []
    while left:
        group, border = [], [left.pop(0)]
        while border:
            i = border.pop()
            group.append(i)
            found = [j for j in left if linked[i, j] or linked[j, i]]
            left = [j for j in left if j not in found]
            border += found
        groups.append(sorted(group))
    return sorted(groups, key=lambda group: -len(group))
