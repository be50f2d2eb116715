from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ladle
from ladle.errors import BadInput, ScoringFailed
from ladle.evaluate import BlackBox, Store, command_identity, on_disk, shell_command
from ladle.evaluate.black_box import last_answer, number_in
from toys import toy_pool


@pytest.mark.parametrize(
    ("printed", "answer"),
    [
        ("0.5", 0.5),
        ("epoch 3\naccuracy: 81.25 %\n", 81.25),
        ("loss -1.5e-3", -1.5e-3),
        ("score nan", "nan"),
        ('done\n{"acc": 0.5, "n": 3}\n', {"acc": 0.5, "n": 3}),
        ('{\n "acc": 0.5\n}\n', {"acc": 0.5}),
        ("model-17 has .25", 0.25),
        ('{"seed": 0}\naccuracy: 0.83', 0.83),
        ("seed 17 gives {not json}", 17.0),
    ],
)
def test_the_last_number_or_object_counts(printed: str, answer: object) -> None:
    found = last_answer(printed, "eval")
    if answer == "nan":
        assert isinstance(found, float)
        assert math.isnan(found)
    else:
        assert found == answer


def test_no_number_is_an_error() -> None:
    with pytest.raises(ScoringFailed, match="eval printed no number; print the score last"):
        last_answer("all is well\n", "eval")


def test_which_of_several_values_has_to_be_said() -> None:
    assert number_in({"acc": 0.5}, None) == 0.5
    assert number_in({"acc": 0.5, "loss": 2}, "loss") == 2.0
    with pytest.raises(ScoringFailed, match="gave acc, loss; say which with --metric"):
        number_in({"acc": 0.5, "loss": 2}, None)
    with pytest.raises(ScoringFailed, match="no 'f1'; change --metric"):
        number_in({"acc": 0.5}, "f1")
    with pytest.raises(ScoringFailed, match="'great', which is no number"):
        number_in("great", None)


def test_a_command_without_a_place_for_the_model_is_refused() -> None:
    with pytest.raises(BadInput, match=r"put \{model\} where"):
        shell_command("python eval.py")


def test_a_path_with_spaces_and_quotes_reaches_the_command_whole(tmp_path: Path) -> None:
    odd = tmp_path / "it's a model; echo 7"
    odd.write_text("4.5")
    score = shell_command(
        f"{sys.executable} -c 'import sys; print(open(sys.argv[1]).read())' {{model}}"
    )
    assert score(odd) == 4.5


def test_candidates_come_as_the_ingredients_are_and_leave_nothing(tmp_path: Path) -> None:
    paths = []
    for i, value in enumerate((1.0, 3.0)):
        folder = tmp_path / f"run-{i}"
        folder.mkdir()
        save_file({"w": torch.tensor([value])}, folder / "model.safetensors")
        (folder / "config.json").write_text('{"a": 1}')
        paths.append(folder)
    seen: list[tuple[str, float]] = []

    def score(path: Path) -> float:
        assert (path / "config.json").read_text() == '{"a": 1}'
        value = float(load_file(path / "model.safetensors")["w"])
        seen.append((path.name, value))
        return value

    box = BlackBox(on_disk(score, tmp_path / "work"), identity="s")
    assert box(ladle.uniform(ladle.open(paths))) == 2.0
    assert box(ladle.uniform(ladle.open(paths[:1]))) == 1.0
    assert seen == [("work", 2.0), ("run-0", 1.0)]
    assert not (tmp_path / "work").exists()


def test_a_scorer_that_fails_leaves_no_candidate_behind(tmp_path: Path) -> None:
    def score(path: Path) -> float:
        raise RuntimeError("out of memory")

    ask = on_disk(score, tmp_path / "work")
    with pytest.raises(RuntimeError):
        ask(ladle.uniform(toy_pool(1.0, 2.0)))
    assert not (tmp_path / "work").exists()


def test_a_score_is_asked_for_once_also_in_a_later_process(tmp_path: Path) -> None:
    asked: list[tuple[str, ...]] = []

    def ask(soup: ladle.Soup) -> float:
        asked.append(soup.members)
        return 1.0 if len(asked) == 1 else math.nan

    soups = [ladle.uniform(toy_pool(1.0)), ladle.uniform(toy_pool(2.0))]
    for _ in range(2):
        store = Store(tmp_path / "ladle.sqlite")
        box = BlackBox(ask, identity="s", store=store)
        assert box(soups[0]) == 1.0
        assert math.isnan(box(soups[1]))
        store.close()
    assert len(asked) == 2
    other = BlackBox(ask, identity="another scorer", store=Store(tmp_path / "ladle.sqlite"))
    other(soups[0])
    assert len(asked) == 3


def test_another_version_of_a_script_is_another_scorer(tmp_path: Path) -> None:
    script = tmp_path / "eval.py"
    script.write_text("print(1)")
    before = command_identity(f"python {script} {{model}}")
    assert command_identity(f"python {script} {{model}}") == before
    script.write_text("print(2)")
    assert command_identity(f"python {script} {{model}}") != before


def test_quotes_around_the_place_of_the_model_do_no_harm(tmp_path: Path) -> None:
    odd = tmp_path / "my model"
    odd.write_text("4.5")
    for place in ("{model}", "'{model}'", '"{model}"'):
        assert shell_command(f"cat {place}")(odd) == 4.5


def test_what_a_scorer_raises_or_prints_is_kept_apart(capsys: pytest.CaptureFixture[str]) -> None:
    def ask(soup: ladle.Soup) -> float:
        print("loading the data")
        raise ValueError("no such column")

    with pytest.raises(ScoringFailed, match="scoring function failed: ValueError: no such column"):
        BlackBox(ask, identity="s")(ladle.uniform(toy_pool(1.0)))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "loading the data\n")


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "ladle.sqlite").write_text("a shopping list, long enough to be no database at all")
    with pytest.raises(BadInput, match=r"ladle\.sqlite is no ladle store"):
        Store(tmp_path / "ladle.sqlite")
