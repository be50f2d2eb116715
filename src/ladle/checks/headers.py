"""What the headers tell: names, shapes, dtypes, ties, formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ladle.checkpoint import AdapterCheckpoint
from ladle.checkpoint.dtypes import AVERAGED
from ladle.checkpoint.naming import bare
from ladle.checks.findings import Finding, listed
from ladle.soup import Ingredient
from ladle.soup.pool import differences

_MOST_LINES = 8


def alike(ingredients: Sequence[Ingredient]) -> tuple[list[Ingredient], list[Finding]]:
    """Those with the layout that most have, under the same names, and what is wrong with others."""
    layouts = Counter(_signature(one) for one in ingredients)
    usual = layouts.most_common(1)[0][0]
    reference = next(one for one in ingredients if _signature(one) == usual)
    layout = reference.checkpoint.layout
    kept, findings = [], []
    for one in ingredients:
        renamed = one.renamed_as(layout.names)
        lines = differences(layout.tensors, layout.ties, renamed.checkpoint.layout)
        if not lines:
            kept.append(renamed)
            continue
        shown = "; ".join(" ".join(line.split()) for line in lines[:_MOST_LINES])
        more = f"; and {len(lines) - _MOST_LINES} more" if len(lines) > _MOST_LINES else ""
        findings.append(
            Finding(
                "not soupable",
                "layout",
                f"{one.name} has other tensors than {reference.name}: {shown}{more}. A soup "
                "needs the same tensors in every checkpoint; leave it out, or train it on the "
                "same model.",
                (one.name,),
            )
        )
    return kept, findings + _dtypes(kept) + _kinds(kept) + _statistics(kept)


def _signature(one: Ingredient) -> frozenset[object]:
    """Equal for checkpoints whose tensors are called and shaped alike, wrappers aside."""
    layout = one.checkpoint.layout
    short = bare(layout.names)
    kinds = dict.fromkeys(AVERAGED, "averaged")
    tensors = {
        (short[name], spec.shape, kinds.get(spec.dtype, spec.dtype))
        for name, spec in layout.tensors.items()
    }
    ties = {(short[alias], short[kept], "tied") for alias, kept in layout.ties.items()}
    return frozenset(tensors | ties)


def _dtypes(ingredients: Sequence[Ingredient]) -> list[Finding]:
    kinds = {
        one.name: sorted(
            {s.dtype for s in one.checkpoint.layout.tensors.values() if s.dtype in AVERAGED}
        )
        for one in ingredients
    }
    if len({tuple(found) for found in kinds.values()}) < 2:
        return []
    shown = ", ".join(f"{name} {'/'.join(found)}" for name, found in list(kinds.items())[:5])
    return [
        Finding(
            "note",
            "dtypes",
            f"The dtypes differ ({shown}); the soup has the smallest that holds all of them.",
            tuple(kinds),
        )
    ]


def _kinds(ingredients: Sequence[Ingredient]) -> list[Finding]:
    averages = [one.name for one in ingredients if one.checkpoint.envelope.is_ema]
    if not averages or len(averages) == len(ingredients):
        return []
    return [
        Finding(
            "doubtful",
            "ema",
            f"{listed(averages)} give EMA weights, the others have none; --no-use-ema takes the "
            "weights of the last step from all.",
            tuple(averages),
        )
    ]


def _statistics(ingredients: Sequence[Ingredient]) -> list[Finding]:
    if not ingredients or isinstance(ingredients[0].checkpoint, AdapterCheckpoint):
        return []
    names = [n for n in ingredients[0].checkpoint.layout.tensors if n.endswith("running_var")]
    if not names:
        return []
    return [
        Finding(
            "note",
            "batchnorm",
            f"There are {len(names)} BatchNorm layers, whose averaged statistics may not fit the "
            "averaged weights; `ladle cook --bn best` tries both.",
            tensors=tuple(names),
        )
    ]
