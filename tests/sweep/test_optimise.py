"""Groups of parameters, the course of the learning rate, and the climb of SAM."""

from __future__ import annotations

import math
from contextlib import suppress
from itertools import pairwise

import open_clip
import pytest
import timm
import torch
import torchvision
import transformers
from timm.optim import param_groups_layer_decay
from torch import nn

from ladle.errors import BadInput, BadTask
from ladle.sweep.optimise import SCHEDULES, climbed, layers_of, parameter_groups, rate
from toy_task import PointsTask


def groups_by_name(model: nn.Module, groups: list[dict]) -> dict[str, dict]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group for group in groups for p in group["params"]}


# Groups


def test_without_layer_decay_there_are_two_groups_and_norms_and_biases_do_not_decay():
    model = timm.create_model("test_vit", num_classes=3)
    groups = parameter_groups(model, lr=0.1, weight_decay=0.3, layer_decay=1.0)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.1, 0.3), (0.1, 0.0)]
    found = groups_by_name(model, groups)
    assert found.keys() == dict(model.named_parameters()).keys()
    flat = {name for name, p in model.named_parameters() if p.ndim <= 1}
    assert {name for name, group in found.items() if group["weight_decay"] == 0} == flat


def test_a_frozen_parameter_is_in_no_group_and_does_not_change_the_rates_of_others():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    whole = groups_by_name(
        model, parameter_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(
            not name.startswith(("head.", "norm.", "patch_embed.", "blocks.3."))
        )
    part = groups_by_name(model, parameter_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.5))
    assert part.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    # The top is frozen, and still what is counted down from.
    assert {n: g["lr"] for n, g in part.items()} == {n: whole[n]["lr"] for n in part}
    assert part["blocks.11.mlp.fc1.weight"]["lr"] == 0.5


def test_the_order_of_groups_follows_layers_from_the_bottom():
    model = timm.create_model("test_resnet", num_classes=3)
    groups = parameter_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    keys = [(group["lr"], -group["weight_decay"]) for group in groups]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    # A single tensor each of these would be no test.
    assert max(len(group["params"]) for group in groups) > 2
    torch.optim.AdamW(groups)


def test_a_model_with_nothing_to_train_is_refused():
    model = PointsTask().build().requires_grad_(False)
    with pytest.raises(BadTask, match="no parameter of the model is trainable"):
        parameter_groups(model, lr=1.0, weight_decay=0.1, layer_decay=1.0)


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "resnet18", "efficientnet_b0", "tf_efficientnet_lite0", "regnety_002",
     "convnext_atto", "swin_tiny_patch4_window7_224", "beit_base_patch16_224", "test_vit"],
)  # fmt: skip
def test_rates_are_those_of_timm(name: str):
    """But for what lies between the last block and the head: BEiT's own code puts it at the top."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=3)
    ours = groups_by_name(model, parameter_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.5))
    theirs = groups_by_name(model, param_groups_layer_decay(model, 0.1, layer_decay=0.5))
    after = ("norm.", "conv_head.", "bn2.")
    assert len({group["lr"] for group in ours.values()}) > 6
    for key, group in ours.items():
        if key.startswith(after):
            assert group["lr"] == 1.0, key
        else:
            assert group["lr"] == theirs[key]["lr_scale"], key
        assert group["weight_decay"] == theirs[key]["weight_decay"], key


def torchvision_model(name: str) -> nn.Module:
    return torchvision.models.get_model(name, num_classes=3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_b_16", {"class_token": 0, "conv_proj.weight": 0, "encoder.pos_embedding": 0,
                      "encoder.layers.encoder_layer_0.mlp.0.weight": 1,
                      "encoder.layers.encoder_layer_11.mlp.3.bias": 12,
                      "encoder.ln.weight": 13, "heads.head.weight": 13}),
        ("resnet18", {"conv1.weight": 0, "bn1.weight": 0, "layer1.0.conv1.weight": 1,
                      "layer1.1.bn2.weight": 2, "layer2.0.downsample.0.weight": 3,
                      "layer2.1.conv1.weight": 4, "layer4.1.conv2.weight": 8, "fc.bias": 9}),
        ("efficientnet_b0", {"features.0.0.weight": 0, "features.0.1.weight": 0,
                             "features.1.0.block.0.0.weight": 1,
                             "features.2.1.block.2.fc1.weight": 3,
                             "features.7.0.block.0.0.weight": 16,
                             "features.8.0.weight": 17, "classifier.1.weight": 17}),
        # What makes an image smaller belongs to the block that it is made smaller for.
        ("convnext_tiny", {"features.0.0.weight": 0, "features.1.2.layer_scale": 3,
                           "features.2.1.weight": 4, "features.3.0.block.0.weight": 4,
                           "classifier.2.weight": 19}),
        ("alexnet", {"features.0.weight": 1, "features.10.weight": 5, "classifier.1.weight": 6,
                     "classifier.6.bias": 8}),
    ],
)  # fmt: skip
def test_layers_of_torchvision(name: str, expected: dict[str, int]):
    with torch.device("meta"):
        layers = layers_of(torchvision_model(name))
    assert {key: layers[key] for key in expected} == expected
    assert max(layers.values()) == max(expected.values())


SMALL = {"num_labels": 3, "vocab_size": 50}
BERT = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, **SMALL}


@pytest.mark.parametrize(
    ("kind", "sizes", "expected"),
    [
        ("Bert", {**BERT, "num_hidden_layers": 4},
         {"bert.embeddings.position_embeddings.weight": 0, "bert.embeddings.LayerNorm.bias": 0,
          "bert.encoder.layer.0.output.dense.weight": 1,
          "bert.encoder.layer.3.attention.self.key.weight": 4,
          "bert.pooler.dense.weight": 5, "classifier.weight": 5}),
        ("DistilBert", {"dim": 8, "n_heads": 2, "hidden_dim": 8, "n_layers": 3, **SMALL},
         {"distilbert.embeddings.word_embeddings.weight": 0,
          "distilbert.transformer.layer.2.ffn.lin1.weight": 3,
          "pre_classifier.weight": 4, "classifier.bias": 4}),
        # Its table of positions is registered after the layers that read it.
        ("MPNet", {**BERT, "num_hidden_layers": 3},
         {"mpnet.encoder.relative_attention_bias.weight": 0,
          "mpnet.encoder.layer.2.output.dense.weight": 3, "classifier.out_proj.weight": 4}),
        ("GPT2", {"n_embd": 8, "n_head": 2, "n_layer": 3, **SMALL},
         {"transformer.wte.weight": 0, "transformer.wpe.weight": 0,
          "transformer.h.0.attn.c_attn.weight": 1, "transformer.h.2.ln_1.weight": 3,
          "transformer.ln_f.weight": 4, "score.weight": 4}),
        # Two stacks; the first block of each has a table that the others lack.
        ("T5", {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_heads": 2, "num_layers": 2, **SMALL},
         {"transformer.shared.weight": 0,
          "transformer.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": 1,
          "transformer.encoder.block.1.layer.1.DenseReluDense.wi.weight": 2,
          "transformer.encoder.final_layer_norm.weight": 3,
          "transformer.decoder.block.0.layer.1.EncDecAttention.q.weight": 3,
          "transformer.decoder.block.1.layer.2.layer_norm.weight": 4,
          "transformer.decoder.final_layer_norm.weight": 5,
          "classification_head.out_proj.weight": 5}),
        # Several alike feed-forwards within a layer are no layers.
        ("MobileBert", {"num_hidden_layers": 3, "hidden_size": 16, "intra_bottleneck_size": 8,
                        "true_hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8,
                        "embedding_size": 8, **SMALL},
         {"mobilebert.embeddings.embedding_transformation.weight": 0,
          "mobilebert.encoder.layer.0.ffn.0.intermediate.dense.weight": 1,
          "mobilebert.encoder.layer.2.ffn.2.intermediate.dense.weight": 3,
          "classifier.weight": 4}),
    ],
)  # fmt: skip
def test_layers_of_transformers(kind: str, sizes: dict, expected: dict[str, int]):
    config = getattr(transformers, f"{kind}Config")(**sizes)
    layers = layers_of(getattr(transformers, f"{kind}ForSequenceClassification")(config))
    assert {key: layers[key] for key in expected} == expected
    assert max(layers.values()) == max(expected.values())


def test_layers_of_the_towers_of_open_clip():
    small = {"layers": 3, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16}
    text = {"context_length": 8, "vocab_size": 20, "width": 8, "heads": 2, "layers": 2}
    clip = open_clip.CLIP(8, open_clip.CLIPVisionCfg(**small), open_clip.CLIPTextCfg(**text))
    layers = layers_of(clip.visual)
    expected = {
        "class_embedding": 0, "positional_embedding": 0, "conv1.weight": 0, "ln_pre.weight": 0,
        "transformer.resblocks.0.mlp.c_fc.weight": 1,
        "transformer.resblocks.2.mlp.c_fc.weight": 3,
        # Registered before the blocks, and applied after them.
        "proj": 4, "ln_post.weight": 4,
    }  # fmt: skip
    assert {key: layers[key] for key in expected} == expected


def test_a_model_without_blocks_has_a_layer_for_each_module():
    model = PointsTask().build()
    groups = parameter_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    rates = {name: group["lr"] for name, group in groups_by_name(model, groups).items()}
    assert rates == {"head.weight": 1, "head.bias": 1, "body.weight": 0.5, "body.bias": 0.5}


# The learning rate


def test_the_rate_rises_for_a_tenth_and_falls_to_zero_along_a_cosine():
    rates = [rate(step, 100, warm_up=0.1, schedule="cosine") for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))


@pytest.mark.parametrize(
    ("warm_up", "first"),
    [
        (0.0, [1.0, 1.0]),
        (0.001, [1.0, 1.0]),  # a share of at least one step, which is at the peak
        (0.04, [0.25, 0.5, 0.75, 1.0, 1.0]),
        (1.0, [1.0, 1.0]),
        (4.0, [0.25, 0.5, 0.75, 1.0, 1.0]),
        (400.0, [1 / 400, 2 / 400]),  # longer than the whole
    ],
)
def test_a_warm_up_is_a_share_of_the_steps_or_a_number_of_them(warm_up: float, first: list):
    rates = [rate(step, 100, warm_up=warm_up, schedule="constant") for step in range(100)]
    assert rates[: len(first)] == pytest.approx(first)
    if warm_up < 100:
        assert set(rates[len(first) :]) == {1.0}


def test_schedules_start_at_the_peak_after_the_warm_up_and_but_for_one_end_at_zero():
    courses = {
        key: [rate(step, 20, warm_up=4, schedule=key) for step in (4, 12, 19, 20, 25)]
        for key in SCHEDULES
    }
    assert courses["constant"] == [1, 1, 1, 1, 1]
    assert courses["linear"] == pytest.approx([1, 1 / 2, 1 / 16, 0, 0])
    last = (1 + math.cos(math.pi * 15 / 16)) / 2
    assert courses["cosine"] == pytest.approx([1, 1 / 2, last, 0, 0])
    assert rate(0, 1, warm_up=0.1, schedule="linear") == 1.0


def test_without_a_warm_up_the_rate_falls_at_once():
    none, least = (
        [rate(step, 100, warm_up=share, schedule="linear") for step in range(3)]
        for share in (0.0, 0.001)
    )
    assert none == pytest.approx([1, 0.99, 0.98])
    assert least == pytest.approx([1, 1, 98 / 99])  # one step of warm-up, at the peak


def test_an_unknown_schedule_is_refused():
    with pytest.raises(BadInput, match="schedule is 'step'; choose from cosine, linear, constant"):
        rate(0, 10, warm_up=0.1, schedule="step")


# SAM


def gradients(weights: list[nn.Parameter], curvature: list[float]) -> None:
    """Those of ½ Σ c w²: c w."""
    for weight, c in zip(weights, curvature, strict=True):
        weight.grad = None
        (0.5 * c * weight.square().sum()).backward()


def test_the_climb_on_a_quadratic_by_hand():
    w = [nn.Parameter(torch.tensor([3.0], dtype=torch.float64)),
         nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))]  # fmt: skip
    unused = nn.Parameter(torch.ones(2))
    gradients(w, [1.0, 2.0])
    # The gradient is (3, 4), of norm 5: with ρ = 0.5 the ascent is (0.3, 0.4).
    with climbed([*w, unused], 0.5):
        assert [p.item() for p in w] == pytest.approx([3.3, 2.4], abs=1e-15)
        assert unused.tolist() == [1, 1]
        gradients(w, [1.0, 2.0])  # a pass there, gradients included, as in a training loop
    assert [p.item() for p in w] == [3.0, 2.0]
    assert [p.grad.item() for p in w] == pytest.approx([3.3, 4.8], abs=1e-15)


def test_the_way_back_is_bit_for_bit_after_an_error_too():
    task = PointsTask()
    model = task.build()
    torch.nn.init.constant_(model.head.weight[0], 0.3)  # a head of zeros has no gradient below it
    nn.functional.cross_entropy(model(task.points), task.labels).backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with suppress(KeyError), climbed(model.parameters(), 0.05):
        moved = {n for n, tensor in model.state_dict().items() if not tensor.equal(before[n])}
        assert moved == before.keys()
        raise KeyError
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("wrong", [0.0, math.nan, math.inf])
def test_without_a_direction_nothing_moves(wrong: float):
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    weight.grad = torch.full((2,), wrong)
    with climbed([weight], 0.5):
        assert weight.tolist() == [1, 2]
    assert weight.tolist() == [1, 2]
    with climbed([nn.Parameter(torch.ones(1))], 0.5):
        pass


def test_a_tiny_gradient_has_a_direction_too():
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([0.0, 1e-20])
    with climbed([weight], 0.5):
        assert weight.tolist() == pytest.approx([0, 0.5], rel=1e-4)
