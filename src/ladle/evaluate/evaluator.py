"""The built-in evaluator: where a soup meets data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ladle.errors import BadInput, BadTask
from ladle.evaluate.arithmetic import Arithmetic
from ladle.evaluate.course import Course, Tally
from ladle.evaluate.memory import Key, Memory, Turns
from ladle.evaluate.model import Bar, Forward, HereForward
from ladle.evaluate.store import Store
from ladle.predictions import Array, EnsembleScores, ExampleNumbers, Predictions
from ladle.soup import Apart, Policy, Pool, Soup, Verdict, reaches
from ladle.tasks import Advance, PredictsSome, Split, Task, no_progress

if TYPE_CHECKING:
    from ladle.evaluate.crew import Crew, CrewGradients
    from ladle.evaluate.gradients import HeldOutGradients

Watch = Callable[[str, int], AbstractContextManager[Advance]]
"""Opens a progress display for a text and an amount of work."""


def unwatched(text: str, amount: int) -> AbstractContextManager[Advance]:
    """A `Watch` that shows nothing."""
    return nullcontext(no_progress)


class Evaluator:
    """`Soup -> float` on a task's held-out split, higher is better; and predictions on any split.

    The model is built once and its weights are replaced in place by the streamed merge. What is in
    the store is never computed again.

    Example:
        >>> evaluate = ladle.Evaluator(ladle.load_task("task.toml"))
        >>> soup = ladle.greedy(ladle.open("runs/*"), evaluate)
    """

    def __init__(
        self,
        task: Task,
        *,
        store: Store | None = None,
        device: str = "auto",
        batch_size: int = 64,
        amp: bool = False,
        channels_last: bool = False,
        early_exit: bool = True,
        watch: Watch = unwatched,
        workspace: Path | None = None,
        forward: Forward | None = None,
        crew: Crew | None = None,
    ) -> None:
        """`amp` computes in bfloat16 where PyTorch's autocast does; `channels_last` lays the
        weights of convolutions out for them. Both change rounding, and what the store knows one
        evaluation by. Without `early_exit`, `at_least` says the same after all examples.
        `workspace` is a folder, made when needed, where a recipe that was interrupted finds what
        it had done. `forward` is what soups go through, made for this task and these settings; by
        default one model in this process. A `crew` computes slopes, for recipes that learn, where
        there are several models.

        Raises:
            BadTask: the task has no held-out split, or more than one.
            BadInput: there is no such device.
        """
        self.task = task
        self.held_out = held_out_split(task)
        self.store = store or Store(None)
        self.device = device
        self.batch_size = batch_size
        self.arithmetic = Arithmetic(amp, channels_last)
        self.forward = forward or HereForward(
            task, device=device, batch_size=batch_size, arithmetic=self.arithmetic
        )
        self._early_exit = early_exit
        self.watch = watch
        self.workspace = workspace
        self.crew = crew
        self._memory = Memory()
        self._arranged: dict[Key, Course] = {}
        self._turns = Turns()

    def __call__(self, soup: Soup) -> float:
        return self._score(self._held_out(soup))

    def _score(self, predictions: Predictions) -> float:
        # argmax would take NaN for a class.
        if not np.isfinite(predictions.logits).all():
            return float("nan")
        return self.task.metric.sign * self.task.metric(predictions)

    def at_least(
        self, soup: Soup, bar: float, *, strict: bool = False, order_hint: Soup | None = None
    ) -> Verdict:
        """The score of a soup, or that it does not reach `bar`: see `ladle.soup.Compares`.

        The examples come in an order that begins with what `order_hint` finds hard, the same
        whether or not one stops early. Without a hint, a metric with an `ideal`, and a task that
        is `PredictsSome`, the soup is measured to the end.

        Raises:
            BadTask: see `predict`; or what the metric says of its bound is not true.
        """
        course = self._course_for(soup, order_hint)
        if course is None:
            return Verdict(self(soup))
        key = self._key(soup, self.held_out, course)
        with self._turns(key):
            rows = self.store.logits(*key)
            verdict = None if rows is None else self._settled_by(rows, course, bar, strict)
            if verdict is None:
                earlier = rows
                rows = self.forward.along(
                    soup,
                    self.held_out.name,
                    course.batches,
                    Bar(bar, strict) if self._early_exit else None,
                    progress=self._progress(soup, self.held_out),
                    is_dropped=self._memory.is_dropped,
                )
                self._memory.keep_logits(self.store, key, rows, earlier)
                verdict = self._settled_by(rows, course, bar, strict)
            self._memory.used.add(key)
        if verdict is None:
            raise AssertionError("what was seen did not settle what it was to settle")
        if verdict.score is not None and reaches(verdict.score, bar, strict=strict):
            self._memory.courses[soup.digest] = course
        return verdict

    def apart(self) -> Apart:
        """For what is tried in advance: see `ladle.soup.Speculates`."""
        view = copy.copy(self)
        view._memory = self._memory.apart()
        drop = partial(view._memory.drop, self.store)
        return Apart(view, view._memory.keep, drop)

    def _course_for(self, soup: Soup, hint: Soup | None) -> Course | None:
        """The course on which a soup is compared; None where it is measured in the usual way.

        That of an earlier comparison which it passed, so that it is known in full; the usual way
        if it was measured so; else that of the hint. Nothing here may depend on what was dropped
        when, or early exit would show, nor on what the store has, or a repeated run would differ.
        """
        task, metric = self.task, self.task.metric
        if metric.ideal is None or not isinstance(task, PredictsSome):
            return None
        known = self._memory.courses.get(soup.digest)
        if known is not None or hint is None or soup.digest in self._memory.whole:
            return known
        said = self._as_measured(hint)
        # Many are compared with one, perhaps several at a time.
        key = self._key(hint, self.held_out, self._memory.courses.get(hint.digest))
        with self._turns(("course", *key)):
            found = self._arranged.get(key)
            if found is None:
                found = Course.of(task, said, metric, batch_size=self.batch_size)
                self._arranged.clear()
                self._arranged[key] = found
        return found

    def _as_measured(self, soup: Soup) -> Predictions:
        """Held-out predictions of a soup: those of a comparison that it passed, if there are."""
        split, course = self.held_out, self._memory.courses.get(soup.digest)
        if course is None:
            return self._held_out(soup)
        rows = self.store.logits(*self._key(soup, split, course))
        if rows is None:
            return self._held_out(soup)
        return Predictions(split.name, course.in_split_order(rows), split.labels)

    def _settled_by(self, rows: Array, course: Course, bar: float, strict: bool) -> Verdict | None:
        """What follows from logits of the first examples of a course; None if that is nothing."""
        labels, metric = self.held_out.labels, self.task.metric
        if len(rows) == len(labels):
            said = Predictions(self.held_out.name, course.in_split_order(rows), labels)
            return Verdict(self._score(said), None, len(labels), len(labels))
        tally = Tally(self.held_out.name, labels, metric)
        tally.add(course.order[: len(rows)], rows)
        if tally.can_reach(bar, strict=strict) or not self._early_exit:
            return None
        if np.isnan(tally.bound):
            return Verdict(tally.bound, None, tally.seen, len(labels))
        return Verdict(None, tally.bound, tally.seen, len(labels))

    def ensembles_of(self, members: Sequence[Soup]) -> Callable[[Sequence[int]], float]:
        """Held-out scores of ensembles by their members' numbers: see `ladle.soup.Ensembles`."""
        return EnsembleScores(lambda: [self._held_out(one) for one in members], self._score)

    def _held_out(self, soup: Soup) -> Predictions:
        self._memory.whole[soup.digest] = True
        return self.predict(soup, self.held_out.name)

    def gradients(
        self, pool: Pool, *, integers: Policy = "equal"
    ) -> HeldOutGradients | CrewGradients:
        """Losses of soups of a pool on the held-out split, and their slopes in the weights.

        Raises:
            BadInput: the task is not `Differentiable`.
        """
        from ladle.evaluate.crew import CrewGradients
        from ladle.evaluate.gradients import HeldOutGradients

        if self.crew is None:
            return HeldOutGradients(self, pool, integers=integers)
        return CrewGradients(self, self.crew, pool, integers=integers)

    def describe(self) -> dict[str, Any]:
        """Task, metric and splits, for the record."""
        task = self.task
        return {
            "task": {"name": task.name, "digest": task.digest},
            "metric": {
                "name": task.metric.name,
                "higher_is_better": task.metric.higher_is_better,
            },
            "arithmetic": self.arithmetic.describe(),
            "splits": {split.name: split.describe() for split in task.splits.values()},
        }

    def is_exact_for(self, soup: Soup) -> bool:
        """Whether the model has the soup's weights as a file would, and does not round them anew.

        False where that is not known, for no model was needed yet.
        """
        return self.forward.is_exact_for(soup)

    def predict(self, soup: Soup, split: str) -> Predictions:
        """What the soup says about a split, from the store or from the model.

        Raises:
            BadTask: the task has no such split, or gives logits that are not one row per example.
            LayoutMismatch: the soup does not fit into the task's model.
        """
        if split not in self.task.splits:
            raise BadTask(
                f"task {self.task.name!r} has no split {split!r}; it has "
                + ", ".join(self.task.splits)
            )
        examples = self.task.splits[split]
        key = self._key(soup, examples)
        with self._turns(key):  # Another thread may be about to have it.
            logits = self.store.logits(*key)
            if logits is None:
                logits = self.forward.predict(
                    soup,
                    split,
                    progress=self._progress(soup, examples),
                    is_dropped=self._memory.is_dropped,
                )
                self._memory.keep_logits(self.store, key, logits, None)
            self._memory.used.add(key)
        return Predictions(split, logits, examples.labels)

    def predict_some(self, soup: Soup, split: str, examples: ExampleNumbers) -> Predictions:
        """What the soup says about some examples of a split, by their rising numbers (n,).

        Kept apart from what it says about all: in the last bits, logits depend on the batches.

        Raises:
            BadInput: the task cannot predict some examples alone.
            BadTask, LayoutMismatch: see `predict`.
        """
        task = self.task
        if split not in task.splits or len(examples) == len(task.splits[split]):
            return self.predict(soup, split)
        if not isinstance(task, PredictsSome):
            raise BadInput(
                f"task {task.name!r} cannot predict some examples alone: it lacks `arranged` or "
                "`predict_some`; add them, or let all examples be seen"
            )
        whole = task.splits[split]
        key = self._key_of_some(soup, whole, examples)
        with self._turns(key):
            rows = self._known(soup, whole, examples)
            if rows is None:
                rows = self._run_some(task, soup, whole, examples)
                self._memory.keep_logits(self.store, key, rows, None)
            self._memory.used.add(key)
        return Predictions(split, rows, whole.labels[examples])

    def knows(self, soup: Soup, split: str, examples: ExampleNumbers | None = None) -> bool:
        """Whether what a soup says of a split, or of some of its examples, is in the store."""
        return self._known(soup, self.task.splits[split], examples) is not None

    def _known(self, soup: Soup, split: Split, examples: ExampleNumbers | None) -> Array | None:
        if examples is not None:
            rows = self.store.logits(*self._key_of_some(soup, split, examples))
            if rows is not None:
                return rows
        whole = self.store.logits(*self._key(soup, split))
        return whole if whole is None or examples is None else whole[examples]

    def _key_of_some(self, soup: Soup, split: Split, examples: ExampleNumbers) -> Key:
        digest, task, place = self._key(soup, split)
        return digest, task, f"{place}/{sha256(examples.astype('<i8').tobytes()).hexdigest()}"

    def _run_some(
        self, task: PredictsSome, soup: Soup, split: Split, examples: ExampleNumbers
    ) -> Array:
        # Of one batch of everything, a task may choose the order, and of two the inner one.
        near = task.arranged(split.name, examples, batch_size=len(examples))
        batches = task.arranged(split.name, np.concatenate(near), batch_size=self.batch_size)
        rows = self.forward.along(
            soup,
            split.name,
            batches,
            None,
            progress=self._progress(soup, split, len(examples)),
            is_dropped=self._memory.is_dropped,
        )
        # The examples rise, so each belongs where its number would be sorted to.
        return rows[np.argsort(np.concatenate(batches), kind="stable")]

    def sharing(self, pool: Pool) -> None:
        """Prepare for many soups of a pool: what its ingredients share is loaded only once."""
        self.forward.sharing(pool)

    def _progress(
        self, soup: Soup, split: Split, examples: int | None = None
    ) -> AbstractContextManager[Advance]:
        amount = len(split) if examples is None else examples
        return self.watch(f"{' + '.join(soup.members)} on {split.name}", amount)

    def _key(self, soup: Soup, split: Split, course: Course | None = None) -> Key:
        """What the store knows predictions by; on a course, those of its first examples, in order.

        They are kept apart, since in the last bits logits depend on the batches.
        """
        place = split.key if course is None else f"{split.key}/{course.digest}"
        return soup.digest, self.arithmetic.identity(self.task.digest), place


def held_out_split(task: Task) -> Split:
    """The one split that recipes may look at."""
    found = [split for split in task.splits.values() if split.role == "held-out"]
    first_with: dict[str, str] = {}
    for name, split in task.splits.items():
        first = first_with.setdefault(split.digest, name)
        if first != name:
            raise BadTask(
                f"task {task.name!r} has the same examples in {first!r} and {name!r}; a score on "
                "data that one was chosen by, or that count twice, says nothing"
            )
    if len(found) != 1:
        raise BadTask(
            f"task {task.name!r} has {len(found)} held-out splits; choosing needs exactly one"
        )
    return found[0]
