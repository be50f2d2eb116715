"""From checkpoints to a verdict: headers first, then geometry, then data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ladle.checkpoint import AdapterCheckpoint, Checkpoint, open_checkpoint
from ladle.checks.barrier import barriers
from ladle.checks.companions import companions
from ladle.checks.findings import Finding, Report
from ladle.checks.headers import alike
from ladle.checks.lineage import lineage
from ladle.evaluate import Evaluator
from ladle.location import is_place
from ladle.soup import Gathered, Ingredient, Pool, gather, with_base
from ladle.tasks import Task

Advance = Callable[[int], None]


def check(
    inputs: Gathered | str | Path | Iterable[str | Path],
    *,
    base: str | Path | Checkpoint | None = None,
    task: Task | Evaluator | None = None,
    seed: int = 0,
    advance: Advance = lambda nbytes: None,
) -> Report:
    """Whether checkpoints can be averaged, and why not.

    `base` is what they were fine-tuned from; with a `task`, midpoints of pairs are evaluated too,
    unless something worse was found before.

    Raises:
        BadInput: a path leads to no checkpoint, or to one that cannot be read.

    Example:
        >>> ladle.check("runs/*").verdict
        'soupable'
    """
    found = inputs if isinstance(inputs, Gathered) else gather(inputs)
    origin = open_checkpoint(base) if is_place(base) else base
    return _report(found, origin, task, seed, advance)


def _report(
    found: Gathered,
    base: Checkpoint | None,
    task: Task | Evaluator | None,
    seed: int,
    advance: Advance,
) -> Report:
    names = tuple(one.name for one in found.ingredients)
    findings = [Finding("note", "left out", remark) for remark in found.remarks]
    kept, about_headers = alike(found.ingredients)
    findings += about_headers + companions(found.ingredients)
    if len(found.ingredients) < 2:
        findings.append(
            Finding(
                "doubtful",
                "alone",
                f"There is only one model ({names[0]}), and nothing to average.",
            )
        )
    adapters = all(isinstance(one.checkpoint, AdapterCheckpoint) for one in kept)
    pool = Pool.of(kept)
    told = lineage(pool, None if adapters else base, advance=advance)
    findings += told.findings
    if task is not None and len(pool) > 1 and all(f.severity != "not soupable" for f in findings):
        evaluator = task if isinstance(task, Evaluator) else Evaluator(task)
        models = with_base(pool, Ingredient("base", base)) if adapters and base else pool
        findings += barriers(models, evaluator, seed=seed)
    return Report(names, _sorted(findings), told.distances)


def _sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    order = {"not soupable": 0, "doubtful": 1, "note": 2}
    return tuple(sorted(findings, key=lambda finding: order[finding.severity]))
