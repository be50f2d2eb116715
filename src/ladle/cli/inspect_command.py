"""`ladle inspect`: what is in checkpoints, and where they lie as seen from their base."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ladle.cli import options, screen

if TYPE_CHECKING:
    from ladle.soup import Ingredient
    from ladle.soup.geometry import Geometry


@click.command("inspect")
@options.opening
@options.base
@click.option("--tensors", is_flag=True, help="With --base: tensor by tensor.")
@options.always
def command(
    inputs: tuple[str, ...],
    base: str | Path | None,
    tensors: bool,
    opening: options.Opening,
    as_json: bool,
    debug: bool,
) -> None:
    """Show format, tensors, dtypes, size, sha256, non-finite values, and what was recorded.

    With --base: how far each went from it, and the angles between them.
    """
    gathered = opening.gather(inputs)
    ingredients = gathered.ingredients
    found = [_facts(one) for one in ingredients]
    document: dict[str, Any] = {"checkpoints": found, "remarks": list(gathered.remarks)}
    if base is not None:
        document["geometry"] = _geometry(ingredients, base, by_tensor=tensors)
    if as_json:
        screen.print_json(document)
        return
    for facts in found:
        _show(facts)
    if base is not None:
        _show_geometry(document["geometry"])


def _facts(one: Ingredient) -> dict[str, Any]:
    from ladle.merge.finite import count_non_finite

    checkpoint = one.checkpoint
    layout = checkpoint.layout
    with screen.watching(f"reading {checkpoint.path}", layout.nbytes, unit="bytes") as advance:
        bad = count_non_finite(checkpoint, advance=advance)
    return {
        "name": one.name,
        "path": str(checkpoint.path),
        "format": checkpoint.format,
        "tensors": len(layout.tensors),
        "ties": dict(layout.ties),
        "parameters": layout.parameters,
        "dtypes": dict(Counter(spec.dtype for spec in layout.tensors.values())),
        "bytes": layout.nbytes,
        "sha256": checkpoint.digest(),
        "non_finite": bad,
        "metadata": dict(checkpoint.metadata),
        "step": one.facts.step,
        "metrics": dict(one.facts.metrics),
        "hyperparameters": dict(one.facts.hyperparameters),
    }


def _show(facts: dict[str, Any]) -> None:
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in facts["dtypes"].items())
    bad = ", ".join(f"{count} in {name}" for name, count in facts["non_finite"].items())
    ties = ", ".join(f"{alias} = {kept}" for alias, kept in facts["ties"].items())
    screen.say(facts["path"])
    rows = {
        "format": facts["format"],
        "tensors": f"{facts['tensors']:,} ({dtypes})",
        "tied": ties,
        "parameters": f"{facts['parameters']:,}",
        "bytes": f"{facts['bytes']:,}",
        "sha256": facts["sha256"],
        "non-finite": bad or "none",
        "a soup": "yes, made by ladle" if "ladle" in facts["metadata"] else "",
        "step": "" if facts["step"] is None else str(facts["step"]),
        "metrics": ", ".join(f"{name} {value:.6g}" for name, value in facts["metrics"].items()),
        "settings": _settings(facts["hyperparameters"]),
    }
    for name, value in rows.items():
        if value:
            screen.say(f"  {name:<11} {value}")


def _settings(hyperparameters: dict[str, Any]) -> str:
    """Those that are set, as far as a line has room; --json has all."""
    plain = (bool, int, float, str)
    shown = [f"{n} {v}" for n, v in hyperparameters.items() if isinstance(v, plain) and v != ""]
    line = ", ".join(shown)
    return line if len(line) <= 100 else line[:97].rpartition(",")[0] + ", ..."


def _geometry(
    ingredients: tuple[Ingredient, ...], base: str | Path, *, by_tensor: bool
) -> dict[str, Any]:
    from ladle.checkpoint import open_checkpoint
    from ladle.soup import Ingredient, Pool, with_base, without_changes
    from ladle.soup.geometry import geometry

    origin = Ingredient("base", open_checkpoint(base))
    pool = with_base(Pool.of(ingredients), origin)
    total, tensors = geometry(pool, without_changes(origin, pool).checkpoint)
    document = {"base": str(base), "names": list(total.names), **_measures(total)}
    if by_tensor:
        document["tensors"] = {name: _measures(one) for name, one in tensors.items()}
    return document


def _measures(found: Geometry) -> dict[str, Any]:
    return {
        "base_norm": found.base_norm,
        "distances": found.distances.tolist(),
        "angles": found.angles.tolist(),
    }


def _show_geometry(found: dict[str, Any]) -> None:
    screen.say(f"\nfrom the base {found['base']} (norm {found['base_norm']:.4g})")
    columns = ["", "distance", "relative", *(f"angle to {i}" for i in range(len(found["names"])))]
    rows = []
    for i, name in enumerate(found["names"]):
        distance = found["distances"][i]
        relative = f"{100 * distance / found['base_norm']:.2f} %" if found["base_norm"] else "-"
        angles = ["-" if angle != angle else f"{angle:.1f}°" for angle in found["angles"][i]]
        rows.append([f"{i} {name}", f"{distance:.4g}", relative, *angles])
    screen.print_table(columns, rows)
    for name, one in found.get("tensors", {}).items():
        screen.say(f"{name}: " + ", ".join(f"{distance:.4g}" for distance in one["distances"]))
