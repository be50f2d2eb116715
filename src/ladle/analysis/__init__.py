"""Why soups work: landscapes and comparisons, as arrays and dataclasses; drawing is apart."""

from ladle.analysis.basins import Basins, require_scipy
from ladle.analysis.comparison import Agreement, Comparison, agreement, compare
from ladle.analysis.comparison_record import comparison_record
from ladle.analysis.folder import check_folder, header, looking, working
from ladle.analysis.ground import Grid, Ground, lay_out
from ladle.analysis.growth import Grown, Size
from ladle.analysis.landscape import Landscape, Path, Place, beyond
from ladle.analysis.measures import Group, Measure, Measured, groups_of, measures_of
from ladle.analysis.pairs import Pair, PairOnSplit
from ladle.analysis.plan import Plan, plan
from ladle.analysis.plane import Plane
from ladle.analysis.positions import Positions, with_origin
from ladle.analysis.said import Said
from ladle.analysis.survey import Curve, Survey, drawn, looked_at
from ladle.analysis.theory import Difference, OnSegment, soup_minus_ensemble

__all__ = [
    "Agreement",
    "Basins",
    "Comparison",
    "Curve",
    "Difference",
    "Grid",
    "Ground",
    "Group",
    "Grown",
    "Landscape",
    "Measure",
    "Measured",
    "OnSegment",
    "Pair",
    "PairOnSplit",
    "Path",
    "Place",
    "Plan",
    "Plane",
    "Positions",
    "Said",
    "Size",
    "Survey",
    "agreement",
    "beyond",
    "check_folder",
    "compare",
    "comparison_record",
    "drawn",
    "groups_of",
    "header",
    "lay_out",
    "looked_at",
    "looking",
    "measures_of",
    "plan",
    "require_scipy",
    "soup_minus_ensemble",
    "with_origin",
    "working",
]
