"""Why soups work: landscapes and comparisons, as arrays and dataclasses; drawing is apart."""

from ladle.analysis.basins import Basins, require_scipy
from ladle.analysis.comparison import Agreement, Comparison, compare, compared_on, missing
from ladle.analysis.comparison_record import comparison_record
from ladle.analysis.folder import check_folder, header, working
from ladle.analysis.growth import Grown, Size
from ladle.analysis.pairs import Pair, PairOnSplit
from ladle.analysis.plan import Plan, plan
from ladle.analysis.positions import Positions, with_origin
from ladle.analysis.theory import Difference, OnSegment, soup_minus_ensemble

__all__ = [
    "Agreement",
    "Basins",
    "Comparison",
    "Difference",
    "Grown",
    "OnSegment",
    "Pair",
    "PairOnSplit",
    "Plan",
    "Positions",
    "Size",
    "check_folder",
    "compare",
    "compared_on",
    "comparison_record",
    "header",
    "missing",
    "plan",
    "require_scipy",
    "soup_minus_ensemble",
    "with_origin",
    "working",
]
