"""Why soups work: landscapes and comparisons, as arrays and dataclasses; drawing is apart."""

from ladle.analysis.folder import check_folder, header, working
from ladle.analysis.ground import Grid, Ground, lay_out
from ladle.analysis.landscape import Landscape, Path, Place, beyond
from ladle.analysis.measures import Group, Measure, Measured, groups_of, measures_of
from ladle.analysis.plane import Plane
from ladle.analysis.positions import Positions, with_origin
from ladle.analysis.survey import Curve, Survey, drawn, looked_at

__all__ = [
    "Curve",
    "Grid",
    "Ground",
    "Group",
    "Landscape",
    "Measure",
    "Measured",
    "Path",
    "Place",
    "Plane",
    "Positions",
    "Survey",
    "beyond",
    "check_folder",
    "drawn",
    "groups_of",
    "header",
    "lay_out",
    "looked_at",
    "measures_of",
    "with_origin",
    "working",
]
