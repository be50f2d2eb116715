"""`ladle report`: the page for an output folder."""

from __future__ import annotations

from pathlib import Path

import click

from ladle.cli import options, screen


@click.command("report")
@click.argument("folder", callback=options.anywhere, metavar="DIR")
@click.option(
    "-o", "--output", metavar="FILE", callback=options.anywhere, help="Default: DIR/report.html."
)
@click.option("--overwrite", is_flag=True, help="Replace the file that -o names.")
@options.always
def command(folder: Path, output: Path | None, overwrite: bool, as_json: bool, debug: bool) -> None:
    """Write the self-contained page for an output folder of `ladle cook`, `sweep`, ...

    And its figures, as SVG, PNG and CSV in DIR/figures/, unless -o names another page.
    """
    from ladle.report import write_report

    written = write_report(folder, output, overwrite=overwrite)
    if as_json:
        screen.print_json({"output": str(written)})
        return
    screen.say(f"{folder} -> {written}")
