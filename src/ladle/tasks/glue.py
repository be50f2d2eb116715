"""The four GLUE tasks of the model soups paper, in the files in which they are distributed.

Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language
Understanding" (2019). The files are tab-separated without quoting, so a `"` in a text is just
that; everywhere else (Parquet, saved data sets, files of one's own) the columns have the names of
the data set `glue` on the Hugging Face hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ladle.predictions import Metric, accuracy
from ladle.predictions.metrics import accuracy_f1, matthews
from ladle.tasks.sources import Columns
from ladle.tasks.tables import Form

_TABS = Form("\t", quoted=False)
_ENDINGS = {".tsv", ".txt"}  # Microsoft's own archive of MRPC has msr_paraphrase_train.txt


@dataclass(frozen=True)
class Glue:
    """One task: label names in the order of their numbers, metric, and where the columns are."""

    labels: tuple[str, ...]
    metric: Metric
    form: Form
    distributed: Columns
    elsewhere: Columns

    def reading(self, path: Path) -> tuple[Columns, Form | None]:
        """The columns of a file, and how it is written."""
        if path.suffix.lower() in _ENDINGS:
            return self.distributed, self.form
        return self.elsewhere, None


_PAIR = Columns(("sentence1", "sentence2"))
_ONE = Columns(("sentence",))
# The third column is the judgement in the source, `*` where it is unacceptable.
_COLA = replace(_TABS, header=("source", "label", "judgement", "sentence"))

GLUE: Mapping[str, Glue] = {
    "mrpc": Glue(
        ("not_equivalent", "equivalent"),
        accuracy_f1,
        _TABS,
        Columns(("#1 String", "#2 String"), "Quality"),
        _PAIR,
    ),
    "rte": Glue(("entailment", "not_entailment"), accuracy, _TABS, _PAIR, _PAIR),
    "cola": Glue(("unacceptable", "acceptable"), matthews, _COLA, _ONE, _ONE),
    "sst2": Glue(("negative", "positive"), accuracy, _TABS, _ONE, _ONE),
}
