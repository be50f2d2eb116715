from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import ladle
from ladle.checkpoint import MemoryCheckpoint
from ladle.errors import BadInput, NonFiniteTensor
from ladle.recipes import model_stock
from ladle.soup import Ingredient, Pool


def ingredient(name: str, state: dict[str, torch.Tensor]) -> Ingredient:
    return Ingredient(name, MemoryCheckpoint(Path(name), state))


def states(n: int, seed: int = 0, *, spread: float = 0.1) -> list[dict[str, torch.Tensor]]:
    """The base, and models that went from it in directions that agree in part."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (17, 5), "bias": (5,), "scale": (1,), "convolution": (2, 3, 2)}
    start = {k: torch.randn(s, generator=generator) for k, s in shapes.items()}
    shared = {k: torch.randn(s, generator=generator) for k, s in shapes.items()}
    models = [
        {k: start[k] + spread * (shared[k] + torch.randn(s, generator=generator))
         for k, s in shapes.items()}
        for _ in range(n)
    ]  # fmt: skip
    return [start, *models]


def by_the_book(base: np.ndarray, models: list[np.ndarray]) -> np.ndarray:
    """The formula pair by pair, in float64."""
    vectors = [(model - base).ravel() for model in models]
    cosines = []
    for one, other in itertools.combinations(vectors, 2):
        lengths = np.linalg.norm(one) * np.linalg.norm(other)
        cosines.append(one @ other / lengths if lengths else 0.0)
    cosine, n = max(0.0, float(np.mean(cosines))), len(models)
    t = n * cosine / (1 + (n - 1) * cosine)
    return t * np.mean(models, axis=0) + (1 - t) * base


def as_numbers(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in state.items()}


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 1000), st.sampled_from([1e-4, 0.1, 10.0]))
def test_model_stock_is_what_the_formula_says(n: int, seed: int, spread: float) -> None:
    start, *models = states(n, seed, spread=spread)
    pool = Pool.of(ingredient(f"run{i}", state) for i, state in enumerate(models))
    made = model_stock(pool, base=ingredient("base", start)).state_dict()
    for name in start:
        expected = by_the_book(
            as_numbers(start)[name], [as_numbers(model)[name] for model in models]
        )
        np.testing.assert_array_max_ulp(made[name].numpy(), expected.astype(np.float32), 1)


def test_two_models_at_a_right_angle_leave_the_base() -> None:
    start = {"w": torch.tensor([1.0, 1.0])}
    pool = Pool.of(
        [ingredient("a", {"w": torch.tensor([3.0, 1.0])}),
         ingredient("b", {"w": torch.tensor([1.0, 5.0])})]
    )  # fmt: skip
    made = model_stock(pool, base=ingredient("base", start)).state_dict()
    assert made["w"].tolist() == [1.0, 1.0]


def test_models_that_went_one_way_are_averaged_and_opposite_ones_are_not() -> None:
    start = ingredient("base", {"w": torch.tensor([0.0])})

    def stock(*values: float) -> float:
        pool = Pool.of(
            ingredient(f"run{i}", {"w": torch.tensor([value])}) for i, value in enumerate(values)
        )
        return float(model_stock(pool, base=start).state_dict()["w"])

    assert stock(1.0, 3.0) == 2.0
    assert stock(1.0, -3.0) == 0.0
    # Cosines of 1, 0 and 0: their mean is 1/3, and t = 3/3 / (1 + 2/3) = 0.6.
    assert stock(1.0, 2.0, 0.0) == pytest.approx(0.6)


def test_frozen_tensors_and_copies_come_out_bit_by_bit() -> None:
    start, model = states(1)
    model = {**model, "bias": start["bias"]}
    pool = Pool.of(ingredient(f"run{i}", model) for i in range(3))
    made = model_stock(pool, base=ingredient("base", start)).state_dict()
    for name in model:
        assert torch.equal(made[name], model[name]), name


def test_the_order_of_the_models_and_files_or_memory_make_no_difference(tmp_path: Path) -> None:
    start, *models = states(4)
    paths = []
    for i, state in enumerate([start, *models]):
        paths.append(tmp_path / f"{i}.safetensors")
        save_file(state, paths[-1])
    base = Ingredient("base", ladle.open_checkpoint(paths[0]))
    files = ladle.open(paths[1:])
    soup = model_stock(files, base=base)
    turned = model_stock(files.subset([3, 0, 2, 1]), base=base)
    assert soup.digest == turned.digest
    one = soup.save(tmp_path / "one") / "model.safetensors"
    other = turned.save(tmp_path / "other") / "model.safetensors"
    assert one.read_bytes() == other.read_bytes()
    in_memory = Pool.of(ingredient(f"run{i}", state) for i, state in enumerate(models))
    again = model_stock(in_memory, base=ingredient("base", start)).state_dict()
    assert all(torch.equal(again[name], found) for name, found in soup.state_dict().items())
    record = (tmp_path / "one" / "soup.json").read_text()
    assert '"kind": "model-stock"' in record
    assert "by tensor" in (tmp_path / "one" / "README.md").read_text()


def test_model_stock_has_a_digest_of_its_own() -> None:
    start, *models = states(3)
    pool = Pool.of(ingredient(f"run{i}", state) for i, state in enumerate(models))
    soup = model_stock(pool, base=ingredient("base", start))
    # Another base is another soup, though the ingredients are the same.
    swapped = Pool.of([ingredient("base", start), *pool.ingredients[1:]])
    other = model_stock(swapped, base=pool[0])
    assert len({soup.digest, other.digest, ladle.uniform(soup.pool).digest}) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(value: float) -> None:
    start, *models = states(2)
    models[1]["matrix"][3, 2] = value
    pool = Pool.of(ingredient(f"run{i}", state) for i, state in enumerate(models))
    with pytest.raises(NonFiniteTensor, match="run1 has NaN or infinity in tensor 'matrix'"):
        model_stock(pool, base=ingredient("base", start)).state_dict()


def test_one_model_cannot_be_compared() -> None:
    start, model = states(1)
    with pytest.raises(BadInput, match="there is only one"):
        model_stock(Pool.of([ingredient("a", model)]), base=ingredient("base", start))
