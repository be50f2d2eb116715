"""What the page says and shows of a sweep."""

from __future__ import annotations

from ladle.report.figures.hyperparameters import hyperparameters
from ladle.report.figures.learning import learning_curves, training_losses
from ladle.report.figures.variation import variation_of
from ladle.report.page import Head, Section
from ladle.report.sweep_record import Run, Sweep
from ladle.report.words import count, score


def about_sweep(sweep: Sweep) -> tuple[Head, list[Section]]:
    """Verdict, the table of runs, and figures."""
    variation = variation_of({run.name: run.hyperparameters for run in sweep.runs})
    runs, order = _ordered(sweep)
    sections = [
        Section(
            "Runs",
            "runs.html.j2",
            values={
                "sweep": sweep,
                "variation": variation,
                "runs": runs,
                "order": order,
                "losses": any(run.losses for run in sweep.runs),
            },
        )
    ]
    if sweep.metric is not None:
        scores = {run.name: run.score for run in sweep.runs if run.score is not None}
        best = [sweep.best.name] if sweep.best else []
        plots = hyperparameters(scores, best, ("best run", "other run"), sweep.metric, variation)
        if plots:
            words = ["Each hyper-parameter that was drawn, against the score on held-out data."]
            values = {"words": words, "notes": []}
            sections.append(Section("Hyper-parameters", "plots.html.j2", [plots], values))
        curve = learning_curves(sweep, sweep.metric, variation)
        curves = [one for one in (curve, training_losses(sweep, variation)) if one is not None]
        if curves:
            values = {"words": [], "notes": []}
            sections.append(Section("Learning", "plots.html.j2", [curves], values))
    return _head(sweep), sections


def making_of_sweep(sweep: Sweep) -> Section:
    """What the sweep was made with."""
    facts = [("task", sweep.task), *sweep.facts.items()]
    facts += [(f"space, {name}", value) for name, value in sweep.space.items()]
    groups = [{"command": "", "facts": facts}]
    return Section("How it was made", "facts.html.j2", values={"groups": groups})


def _ordered(sweep: Sweep) -> tuple[list[Run], str]:
    """Best first, where it is known what is best; those without a score last."""
    if sweep.best is None or sweep.metric is None:
        return list(sweep.runs), "in the order in which they were drawn"
    sign = sweep.metric.sign
    known = [run for run in sweep.runs if run.score is not None]
    rest = [run for run in sweep.runs if run.score is None]
    return [*sorted(known, key=lambda run: -sign * (run.score or 0.0)), *rest], "best first"


def _head(sweep: Sweep) -> Head:
    made = [run for run in sweep.runs if not run.failed]
    about = [sweep.task and f"task {sweep.task}", sweep.metric.name if sweep.metric else ""]
    return Head(
        title=f"Sweep of {count(len(sweep.runs), 'run')}",
        kicker=" · ".join(part for part in about if part),
        verdict=[*_scores(sweep), *_failures(sweep, len(made))],
        foot="Written by ladle from sweep.json and the run.json of each run.",
    )


def _scores(sweep: Sweep) -> list[str]:
    metric, best = sweep.metric, sweep.best
    found = sorted(run.score for run in sweep.runs if run.score is not None)
    if metric is None or not found:
        return ["No run has a score, so nothing is known about which is best."]
    low, high = score(found[0], metric, 2), score(found[-1], metric, 2)
    what = "" if metric.percent else f" ({metric.name})"
    sentence = f"The runs score {low} to {high}{what} on {sweep.split} data"
    if len(found) == 1:
        sentence = f"The run scores {low}{what} on {sweep.split} data"
    if best is None:
        return [f"{sentence}; whether a high {metric.name} is good is not known."]
    if len(found) > 1:
        sentence += f"; the best is {best.name}"
    return [
        f"{sentence}.",
        "Recipes choose by these data too, so judge a soup of the runs by test data.",
    ]


def _failures(sweep: Sweep, made: int) -> list[str]:
    failed = len(sweep.runs) - made
    return [f"{count(failed, 'run')} failed and left no weights."] if failed else []
