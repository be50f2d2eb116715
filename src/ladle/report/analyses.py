"""Landscapes and comparisons as plain values: `landscape.json` and `comparison.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as Folder

from ladle.report.fields import Fields
from ladle.report.files import check_version, read_object
from ladle.report.record import Metric

LANDSCAPE_RECORD, COMPARISON_RECORD = "landscape.json", "comparison.json"
_VERSION = 1

Number = float | None
Grid = tuple[tuple[Number, ...], ...]


@dataclass(frozen=True)
class About:
    """What every analysis says of itself; `place` is its folder below the one of the page, or
    empty where it is the same."""

    place: str
    ladle: str
    command: str
    created: str
    task: str


@dataclass(frozen=True)
class Landmark:
    """A model at (a, b) of a plane, or at `t` of a path, or beside that by the distance `off`.

    `role` is base, model or soup; `values` are its own, by split and quantity.
    """

    name: str
    role: str
    a: Number
    b: Number
    t: Number
    off: Number
    values: Mapping[tuple[str, str], Number]


@dataclass(frozen=True)
class Surface:
    """A quantity of one split over all points: rows of a grid, or the one row of a path.

    `errors` has the standard errors, where they are known.
    """

    split: str
    role: str
    quantity: str
    values: Grid
    errors: Grid


@dataclass(frozen=True)
class Barrier:
    """How far a quantity rises above the straight line between the ends of a path, and where."""

    split: str
    role: str
    quantity: str
    height: Number
    at: Number


@dataclass(frozen=True)
class Path:
    """The way from one model (t = 0) to another (t = 1), and a little beyond."""

    between: tuple[str, ...]
    t: tuple[float, ...]
    surfaces: tuple[Surface, ...]
    barriers: tuple[Barrier, ...]


@dataclass(frozen=True)
class Landscape:
    """What models between and around a few models are like: on paths between two of them, and in
    the plane through three, where `a` and `b` are the axes of the grid in weight distance.

    A landscape that is a path alone has no plane. `samples` is of how many examples of each split
    it was measured on, if not on all.
    """

    about: About
    landmarks: tuple[Landmark, ...]
    a: tuple[float, ...]
    b: tuple[float, ...]
    surfaces: tuple[Surface, ...]
    paths: tuple[Path, ...]
    samples: int | None
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class OnSplit:
    """A pair of models on one split: soup and ensemble by the metric, how much better the soup is
    than the mean of the two, the difference of losses (soup minus ensemble) and what the formula
    says of it."""

    soup: Number
    ensemble: Number
    advantage: Number
    difference: Number
    approximation: Number


@dataclass(frozen=True)
class Pair:
    """Two models: the angle between them at the base in degrees, their distance, and the barrier
    on the way."""

    names: tuple[str, str]
    angle: Number
    distance: Number
    barrier: Number
    splits: Mapping[str, OnSplit]


@dataclass(frozen=True)
class Matrix:
    """A quantity of all pairs, by the numbers of models."""

    name: str
    values: Grid


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error of one model, soup or ensemble of `size` models, as it is
    and with a temperature fitted on held-out data."""

    kind: str
    size: int
    split: str
    ece: Number
    scaled: Number


@dataclass(frozen=True)
class Size:
    """Scores of soups or ensembles of `size` models in random orders: mean and spread."""

    kind: str
    size: int
    split: str
    mean: Number
    low: Number
    high: Number


@dataclass(frozen=True)
class Agreement:
    """How two numbers go together over pairs: correlation, and how many have the same sign."""

    pairs: int
    pearson: Number
    same_sign: int


@dataclass(frozen=True)
class Agreements:
    """Of one split: soup and ensemble, the formula and the truth, angle and advantage."""

    soups: Agreement
    formula: Agreement
    angles: Agreement


@dataclass(frozen=True)
class Comparison:
    """Soups beside ensembles. `roles` are those of splits and of means over several; `order` puts
    like models side by side in matrices, and `clusters` has a number for each model, the same for
    those without a barrier between them, or nothing where not all pairs were looked at; `samples`
    is of how many examples of each split it was measured on, if not on all."""

    about: About
    metric: Metric
    roles: Mapping[str, str]
    models: tuple[str, ...]
    pairs: tuple[Pair, ...]
    matrices: tuple[Matrix, ...]
    apart: Number
    """A barrier that parts two basins, if the models' mean loss is known."""
    order: tuple[int, ...]
    clusters: tuple[int, ...]
    calibration: tuple[Calibration, ...]
    sizes: tuple[Size, ...]
    agreements: Mapping[str, Agreements]
    samples: int | None
    remarks: tuple[str, ...]


def read_landscape(folder: Folder, place: str = "") -> Landscape:
    """The landscape of an output folder, checked."""
    record = read_object(folder / LANDSCAPE_RECORD)
    check_version(record, _VERSION)
    is_plane = record.one_of("kind", ("path", "plane")) == "plane"
    return Landscape(
        about=_about(record, place),
        landmarks=tuple(map(_landmark, record.objects("models"))),
        a=record.numbers("a"),
        b=record.numbers("b"),
        surfaces=tuple(map(_plane, record.objects("curves"))) if is_plane else (),
        # A path is a record like those that a plane has of its sides.
        paths=tuple(map(_path, record.objects("paths") if is_plane else [record])),
        samples=record.integer_or_none("samples"),
        remarks=record.texts("remarks") if record.has("remarks") else (),
    )


def read_comparison(folder: Folder, place: str = "") -> Comparison:
    """The comparison of an output folder, checked."""
    record = read_object(folder / COMPARISON_RECORD)
    check_version(record, _VERSION)
    metric, matrices = record.object("metric"), record.object("matrices")
    models = tuple(one.text("name") for one in record.objects("models"))
    pairs = tuple(_pair(one, models) for one in record.objects("pairs"))
    summary = record.object("summary").object("splits")
    return Comparison(
        about=_about(record, place),
        metric=_metric(metric, pairs),
        roles={one.text("name"): one.text("role") for one in record.objects("groups")},
        models=models,
        pairs=pairs,
        matrices=tuple(
            Matrix(name, matrices.grid(name)) for name in ("angle", "barrier") if matrices.has(name)
        ),
        apart=_apart(record, matrices),
        order=tuple(int(i) for i in matrices.numbers("order")),
        clusters=tuple(int(i) for i in matrices.numbers("clusters")),
        calibration=tuple(
            Calibration(
                one.text("kind"),
                one.integer("size"),
                one.text("split"),
                one.number_or_none("ece"),
                one.number_or_none("ece_scaled"),
            )
            for one in record.objects("calibration")
        ),
        sizes=tuple(
            Size(
                one.text("kind"),
                one.integer("size"),
                one.text("split"),
                one.number_or_none("mean"),
                one.number_or_none("low"),
                one.number_or_none("high"),
            )
            for one in record.objects("sizes")
        ),
        samples=record.integer_or_none("samples"),
        agreements={name: _agreements(summary.object(name)) for name in summary.values},
        remarks=record.texts("remarks") if record.has("remarks") else (),
    )


def _metric(fields: Fields, pairs: tuple[Pair, ...]) -> Metric:
    values = [one.soup for pair in pairs for one in pair.splits.values() if one.soup is not None]
    name, higher = fields.text("name"), fields.flag("higher_is_better")
    fraction = all(0 <= value <= 1 for value in values)
    return Metric(name, higher, percent=higher and fraction and name.endswith("accuracy"))


def _apart(record: Fields, matrices: Fields) -> Number:
    held_out = record.text_or_empty("held_out")
    found = [one.object("splits").object(held_out) for one in record.objects("models")]
    losses = [loss for one in found if (loss := one.number_or_none("loss")) is not None]
    share = matrices.number_or_none("apart")
    return None if share is None or not losses else share * sum(losses) / len(losses)


def _agreements(fields: Fields) -> Agreements:
    def of(key: str) -> Agreement:
        one = fields.object(key)
        return Agreement(
            one.integer("pairs"), one.number_or_none("pearson"), one.integer("same_sign")
        )

    return Agreements(of("soup_and_ensemble"), of("approximation"), of("angle_and_advantage"))


def _about(record: Fields, place: str) -> About:
    return About(
        place=place,
        ladle=record.text("ladle"),
        command=record.text_or_empty("command"),
        created=record.text("created"),
        task=record.object("task").text_or_empty("name"),
    )


def _landmark(fields: Fields) -> Landmark:
    return Landmark(
        name=fields.text("name"),
        role=fields.text("role"),
        a=fields.number_or_none("a"),
        b=fields.number_or_none("b"),
        t=fields.number_or_none("t"),
        off=fields.number_or_none("off"),
        values={
            (one.text("split"), one.text("quantity")): one.number_or_none("value")
            for one in fields.objects("values")
        },
    )


def _plane(fields: Fields) -> Surface:
    errors = fields.grid("standard_error") if fields.has("standard_error") else ()
    return _surface(fields, fields.grid("values"), errors)


def _path(fields: Fields) -> Path:
    return Path(
        between=fields.texts("between"),
        t=fields.numbers("t"),
        surfaces=tuple(
            _surface(
                one,
                (one.row("values"),),
                (one.row("standard_error"),) if one.has("standard_error") else (),
            )
            for one in fields.objects("curves")
        ),
        barriers=tuple(
            Barrier(
                one.text("split"),
                one.text("role"),
                one.text("quantity"),
                one.number_or_none("height"),
                one.number_or_none("at"),
            )
            for one in fields.objects("barriers")
        ),
    )


def _surface(fields: Fields, values: Grid, errors: Grid) -> Surface:
    return Surface(
        fields.text("split"), fields.text("role"), fields.text("quantity"), values, errors
    )


def _pair(fields: Fields, models: tuple[str, ...]) -> Pair:
    first, second = (int(i) for i in fields.numbers("models"))
    splits = fields.object("splits")
    return Pair(
        names=(models[first], models[second]),
        angle=fields.number_or_none("angle"),
        distance=fields.number_or_none("distance"),
        barrier=fields.number_or_none("barrier"),
        splits={name: _on_split(splits.object(name)) for name in splits.values},
    )


def _on_split(fields: Fields) -> OnSplit:
    return OnSplit(
        soup=fields.object("soup").number_or_none("metric"),
        ensemble=fields.object("ensemble").number_or_none("metric"),
        advantage=fields.number_or_none("advantage"),
        difference=fields.number_or_none("loss_difference"),
        approximation=fields.number_or_none("approximation"),
    )
