"""The verdict: what the records allow to say, and no more."""

from __future__ import annotations

import pytest

from ladle.report.collect import collect
from ladle.report.record import Metric
from ladle.report.table import tabulate
from ladle.report.words import distance, listed, plain, score, verdict

ACCURACY = Metric("accuracy", higher_is_better=True, percent=True)
NO_DIFFERENCE = "no difference that this set can show"


def said(folder):
    record = collect(folder)
    return [s.replace("\N{NARROW NO-BREAK SPACE}", " ") for s in verdict(record, tabulate(record))]


def compare(lines, split, **changes):
    """Sets the greedy soup's value and comparison on a split; the best single is run-003."""
    value = changes.pop("value")
    for line in lines:
        if line["split"] == split and line["model"] == "run-003":
            line["value"] = 0.812
        if line["split"] == split and line["model"] == "greedy soup":
            line["value"] = value
            line["versus"] |= changes


@pytest.mark.parametrize(
    ("value", "p", "outcome", "words"),
    [
        (0.819, 0.03, "better", "0.7 points above"),
        (0.800, 0.0004, "worse", "1.2 points below"),
        (0.8124, 0.62, NO_DIFFERENCE, "0.04 points above"),
        (0.812, 1.0, NO_DIFFERENCE, "the same as"),
    ],
)
def test_the_first_sentence_is_the_test(soup, lines, write, value, p, outcome, words):
    compare(lines, "test", value=value, p=p, verdict=outcome)
    shown = "p < 0.001" if p < 0.001 else f"p = {p:g}"
    assert said(write(soup, lines))[0] == (
        f"The greedy soup of 5 of 8 models scores {100 * value:.1f} % on test, {words} the best "
        f"single model (run-003): {outcome}, exact McNemar {shown}, n = 4,000."
    )


def test_the_last_sentence_puts_the_other_baselines_beside_it(soup, lines, write):
    for line in lines:
        if line["model"] == "uniform soup" and line["split"] in ("test", "mean of shifts"):
            line["value"] = 0.815
            line["versus"] |= {"verdict": "better", "p": 0.012}
        if line["model"] == "ensemble of 8" and line["split"] in ("test", "mean of shifts"):
            line["value"] = 0.799
            line["versus"] |= {"verdict": NO_DIFFERENCE, "p": 0.3}
    assert said(write(soup, lines))[-1] == (
        "For comparison, each against the best single model: the uniform soup 81.5 % on test "
        "(better, p = 0.012) and 81.5 % over the shifts (better, p = 0.012); the ensemble of 8 "
        f"79.9 % on test ({NO_DIFFERENCE}, p = 0.3) and 79.9 % over the shifts "
        f"({NO_DIFFERENCE}, p = 0.3)."
    )


def test_the_second_sentence_is_the_mean_of_the_shifts(soup, lines, write):
    compare(lines, "tweets", value=0.85, p=0.002, verdict="better")
    compare(lines, "reviews", value=0.82, p=0.4, verdict=NO_DIFFERENCE)
    compare(lines, "forum", value=0.70, p=0.01, verdict="worse")
    compare(lines, "mean of shifts", value=0.79, p=0.02, verdict="worse")
    assert said(write(soup, lines))[1] == (
        "Over the 3 shifts its mean is 79.0 %, 2.2 points below the best single model: "
        "worse, permutation test p = 0.02. One by one: better on tweets (p = 0.002, n = 1,500); "
        f"worse on forum (p = 0.01, n = 800); {NO_DIFFERENCE} on reviews (p = 0.4, n = 3,000)."
    )


def test_a_single_shift_is_named(soup, lines, write):
    compare(lines, "tweets", value=0.85, p=0.002, verdict="better")
    kept = [line for line in lines if line["split"] in ("held-out", "test", "tweets")]
    assert said(write(soup, kept))[1] == (
        "On the shift tweets it scores 85.0 %, 3.8 points above the best single model: "
        "better, exact McNemar p = 0.002, n = 1,500."
    )


def test_below_is_better_when_lower_is(soup, lines, write):
    soup["metric"] = {"name": "nll", "higher_is_better": False}
    for tasting in soup["tastings"]:
        tasting["score"] = 1 - tasting["score"]
    for line in lines:
        line |= {"metric": "nll", "value": 1 - line["value"]}
        if line["versus"]:
            line["versus"]["test"] = "permutation test"
    compare(lines, "test", value=0.8, p=0.01, verdict="better")
    assert said(write(soup, lines))[0] == (
        "The greedy soup of 5 of 8 models scores 0.8000 (nll, lower is better) on test, 0.01200 "
        "below the best single model (run-003): better, permutation test p = 0.01, n = 4,000."
    )


def test_held_out_alone_is_called_optimistic(black_box, write):
    first, second = said(write(black_box, None))
    assert first == (
        "The greedy soup of 5 of 8 models scores 3.360 (perplexity, lower is better) on held-out, "
        "0.3400 below the best single model (run-003); the difference was not tested."
    )
    assert second.endswith("so the number is optimistic; it was not measured on test data.")


def test_a_plain_average_claims_nothing(soup, write):
    soup |= {"metric": None, "task": None, "splits": {}, "tastings": []}
    soup |= {"recipe": {"name": "average", "options": {}}, "pool": soup["ingredients"]}
    assert said(write(soup, None)) == [
        "This is the average of 5 models. Nothing was evaluated when it was made, so whether it "
        "is better than its ingredients is not known."
    ]


def test_a_soup_of_one_is_the_best_single_model_itself(soup, lines, write):
    soup |= {"recipe": {"name": "best", "options": {}}, "ingredients": soup["ingredients"][:1]}
    sentence = said(write(soup, [line for line in lines if line["kind"] != "soup"]))[0]
    assert sentence == (
        "The best single model of 8 is run-003; it scores 81.5 % on test, n = 4,000."
    )


def test_a_greedy_soup_of_one_is_the_best_single_model(soup, lines, write):
    soup["ingredients"] = soup["ingredients"][:1]
    for line in lines:
        if line["model"] == "greedy soup":
            line["members"] = ["run-003"]
    sentence = said(write(soup, lines))[0]
    assert sentence.startswith(
        "The greedy soup of 1 of 8 models is the best single model (run-003) itself; it scores"
    )


def test_a_truncated_soup_of_one_is_not_the_model_itself(soup, lines, write):
    soup["ingredients"] = soup["ingredients"][:1]
    soup["adapter"] = {"rank": 2, "relative_error": {"some.module": 0.1}}
    for line in lines:
        if line["model"] == "greedy soup":
            line["members"] = ["run-003"]
    sentences = said(write(soup, lines))
    assert sentences[0].startswith("The greedy soup of 1 of 8 models, truncated to rank 2, scores")
    assert all("the best single model" in sentence for sentence in sentences[:2])
    soup["adapter"]["relative_error"] = None
    assert "is the best single model (run-003) itself" in said(write(soup, lines))[0]


def test_the_truncated_best_single_has_scores_of_its_own(soup, lines, write):
    soup |= {"recipe": {"name": "best", "options": {}}, "ingredients": soup["ingredients"][:1]}
    soup["adapter"] = {"rank": 2, "relative_error": {"some.module": 0.1}}
    kept = [line for line in lines if line["kind"] != "soup"]
    own = [line | {"model": "best soup"} for line in lines if line["model"] == "greedy soup"]
    for line in own:
        line |= {"members": ["run-003"], "value": 0.5}
    sentence = said(write(soup, kept + own))[0]
    assert sentence.startswith(
        "The best single model of 8 is run-003, truncated to rank 2; it scores 50.0 % on test, "
    )


def test_unmeasured_shifts_are_said(soup, lines, write):
    sentences = said(write(soup, [line for line in lines if line["role"] != "shift"]))
    assert sentences[1] == "It was not measured under distribution shift."


def test_the_best_single_is_found_on_held_out_data(soup, lines, write):
    """A model that is best on test only must not become the baseline."""
    for line in lines:
        line["versus"] = None
    for line in lines:
        if line["model"] == "run-004" and line["role"] != "held-out":
            line["value"] = 0.99
    best = tabulate(collect(write(soup, lines))).of("best")
    assert best is not None
    assert best.model == "run-003"


def test_the_best_single_is_the_lowest_when_lower_is_better(black_box, write):
    worst_first = sorted(black_box["tastings"][:8], key=lambda t: -t["score"])
    table = tabulate(collect(write(black_box | {"tastings": worst_first}, None)))
    best = table.of("best")
    assert best is not None
    assert best.cells["held-out"].value == worst_first[-1]["score"]


def test_a_mean_that_is_not_recorded_needs_all_the_shifts(soup, lines, write):
    lines = [line for line in lines if line["role"] != "mean-shift"]
    lines = [x for x in lines if (x["model"], x["split"]) != ("base", "forum")]
    table = tabulate(collect(write(soup, lines)))
    base, ensemble = table.of("base"), table.of("ensemble")
    assert base is not None
    assert base.mean is None
    assert ensemble is not None
    assert ensemble.mean is not None
    assert ensemble.mean.value == pytest.approx(
        sum(x["value"] for x in lines if (x["kind"], x["role"]) == ("ensemble", "shift")) / 3
    )
    assert ensemble.cost == 8


def test_numbers_have_the_digits_that_matter():
    assert plain(0.5) == "0.5000"
    assert plain(-12.345) == "\N{MINUS SIGN}12.35"
    assert plain(123456.7) == "123,457"
    assert score(0.81949, ACCURACY) == "81.9\N{NARROW NO-BREAK SPACE}%"
    assert distance(0.0003, ACCURACY) == "0.03 points"
    assert listed(["a", "b", "c"]) == "a, b and c"
