"""The simulation of greedy selection with many workers adds up."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ladle
from toys import near, toy_pool

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "speculation.py"


def loaded() -> Any:
    spec = importlib.util.spec_from_file_location("speculation", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["speculation"] = module  # Dataclasses look there.
    spec.loader.exec_module(module)
    return module


simulation = loaded()
ONE = simulation.Times()


def candidates(text: str) -> list[Any]:
    """K is kept; r is refused after a quarter of the examples, R after all."""
    return [simulation.Candidate(0.25 if c == "r" else 1.0, c == "K") for c in text]


@pytest.mark.parametrize(
    ("text", "workers", "seconds"),
    [
        ("RRRRRRRR", 1, 8),
        ("RRRRRRRR", 2, 4),
        ("RRRRRRRR", 3, 3),
        ("RRRRRRRR", 64, 1),
        ("KKKK", 1, 4),
        ("KKKK", 4, 4),  # Nothing is gained where all are accepted.
        ("RKRR", 2, 2),  # One wave each: R and K; then R and R.
        ("RKRR", 4, 2),
        ("RRKR", 2, 3),  # R, R; K (and R in vain); R again.
        ("rrrr", 2, 0.5),
        ("rK", 1, 1.25),
        ("rK", 2, 1),
        ("Krrr", 4, 1.25),
        ("", 2, 0),
    ],
)
def test_what_can_be_worked_out_by_hand(text: str, workers: int, seconds: float) -> None:
    assert simulation.greedy(candidates(text), workers, ONE) == pytest.approx(seconds)


def test_dropping_and_loading_cost_what_they_cost() -> None:
    times = simulation.Times(load=0.5, examples=1.0, drop=0.25)
    assert simulation.greedy(candidates("K"), 1, times) == 1.5
    # After the acceptance one worker is free at once, the other when it has heard of it.
    assert simulation.greedy(candidates("KRR"), 2, times) == 1.5 + 0.25 + 1.5
    assert simulation.alone(3, 2, times) == 3.0


@given(st.text("KRr", max_size=30), st.integers(1, 9))
def test_it_is_between_its_bounds(text: str, workers: int) -> None:
    tried = candidates(text)
    took = simulation.greedy(tried, workers, ONE)
    one = simulation.greedy(tried, 1, ONE)
    assert one == pytest.approx(sum(c.part for c in tried))
    assert one / workers - 1e-9 <= took <= one + 1e-9
    assert took >= simulation.least(tried, ONE) - 1e-9
    assert simulation.greedy(tried, 64, ONE) == pytest.approx(simulation.least(tried, ONE))


def test_the_page_has_the_papers_sweep_and_a_soup_of_ours(tmp_path: Path) -> None:
    ladle.greedy(toy_pool(1.0, 4.0, -2.0), near(2.0)).save(tmp_path / "soup")
    record = tmp_path / "soup" / "soup.json"
    kept = json.loads(record.read_text())
    kept |= {"task": {"name": "toys"}, "splits": {"some": {"role": "held-out", "n": 100}}}
    kept["tastings"][-1]["examples"] = 25
    record.write_text(json.dumps(kept))
    log = simulation.logged(record)
    assert (log.models, [(c.part, c.kept) for c in log.candidates]) == (
        3, [(1.0, True), (0.25, False)]
    )  # fmt: skip
    logs = [simulation.published(1.0), log]
    assert [logs[0].models, len(logs[0].candidates), logs[0].accepted] == [72, 71, 4]
    page = simulation.page(logs, ONE, "a unit")
    # All but four of 71 in full, by one: 71. By any number: 4 accepted, and what is behind.
    assert "| 1 | 71.00 | 1.00 | 143.00 | 1.00 |" in page
    assert simulation.least(logs[0].candidates, ONE) == 5
