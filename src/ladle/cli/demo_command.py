"""`ladle demo`: the whole way once."""

from __future__ import annotations

from pathlib import Path

import click

from ladle.cli import evaluations, options, screen, sweep_command, sweep_progress, tastings


@click.command("demo")
@click.option("--task", default="demo-text", show_default=True, help="Or demo-vision.")
@click.option(
    "-o", "--output", default="ladle-demo", show_default=True, type=click.Path(path_type=Path)
)
@options.seed
@options.device
@options.always
def command(task: str, output: Path, seed: int, device: str, as_json: bool, debug: bool) -> None:
    """Fine-tune a real pre-trained model eight times, cook a soup, and judge it.

    On data that Python packages carry. What is done is kept: a second run finds it.
    """
    from ladle.demo import demonstrate
    from ladle.report import verdict

    shown = demonstrate(
        task,
        output,
        seed=seed,
        device=device,
        watch=screen.watching,
        watch_sweep=sweep_progress.watching,
        tell=screen.remark,
    )
    if as_json:
        screen.print_json(
            {
                "sweep": str(shown.sweep),
                "soup": str(shown.soup),
                "runs": shown.runs,
                "record": shown.record,
                "evaluations": shown.evaluations,
            }
        )
        return
    sweep_command.show(shown.runs)
    screen.say("")
    tastings.show(shown.record, shown.soup, shown.evaluations)
    screen.say("")
    higher = shown.record["metric"]["higher_is_better"]
    evaluations.show(shown.evaluations, higher_is_better=higher)
    screen.say("")
    for sentence in verdict(shown.soup):
        screen.say(sentence)
    screen.say(f"\nThe page: {shown.soup / 'report.html'}\nThe model: {shown.soup}")
