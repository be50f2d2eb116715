"""Makes checkpoints of real models' shapes, with numbers of the usual size but no meaning.

    python benchmarks/inputs.py {clip,llama} DTYPE FORMAT MODELS FOLDER [WIDTH_PERCENT]

FORMAT is safetensors, pt or shards (three to a model, with `config.json`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def clip(percent: int = 100) -> Shapes:
    """The 151 million parameters of CLIP ViT-B/32, with wider or narrower layers."""
    shapes: Shapes = {}
    vision, text = (width * percent // 100 for width in (768, 512))
    for tower, width in (("visual.transformer", vision), ("transformer", text)):
        for i in range(12):
            block = f"{tower}.resblocks.{i}"
            shapes |= {
                f"{block}.ln_1.weight": (width,),
                f"{block}.ln_1.bias": (width,),
                f"{block}.attn.in_proj_weight": (3 * width, width),
                f"{block}.attn.in_proj_bias": (3 * width,),
                f"{block}.attn.out_proj.weight": (width, width),
                f"{block}.attn.out_proj.bias": (width,),
                f"{block}.ln_2.weight": (width,),
                f"{block}.ln_2.bias": (width,),
                f"{block}.mlp.c_fc.weight": (4 * width, width),
                f"{block}.mlp.c_fc.bias": (4 * width,),
                f"{block}.mlp.c_proj.weight": (width, 4 * width),
                f"{block}.mlp.c_proj.bias": (width,),
            }
    return shapes | {
        "visual.conv1.weight": (vision, 3, 32, 32),
        "visual.class_embedding": (vision,),
        "visual.positional_embedding": (50, vision),
        "visual.proj": (vision, text),
        "token_embedding.weight": (49408, text),
        "positional_embedding": (77, text),
        "text_projection": (text, text),
        "logit_scale": (),
    }


def llama() -> Shapes:
    """297 million parameters in the architecture of Llama."""
    width, inner = LLAMA["hidden_size"], LLAMA["intermediate_size"]
    shapes: Shapes = {"model.embed_tokens.weight": (LLAMA["vocab_size"], width)}
    for i in range(LLAMA["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.self_attn.{p}_proj.weight": (width, width) for p in "qkvo"}
        shapes |= {
            f"{layer}.mlp.gate_proj.weight": (inner, width),
            f"{layer}.mlp.up_proj.weight": (inner, width),
            f"{layer}.mlp.down_proj.weight": (width, inner),
            f"{layer}.input_layernorm.weight": (width,),
            f"{layer}.post_attention_layernorm.weight": (width,),
        }
    return shapes | {
        "model.norm.weight": (width,),
        "lm_head.weight": shapes["model.embed_tokens.weight"],
    }


def state(shapes: Shapes, dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    """Normal numbers, as initial weights have them; drawn once and used again, to save time."""
    noise = 0.02 * torch.randn(2**22 + 7919 * seed, generator=torch.Generator().manual_seed(seed))
    found = {}
    for name, shape in shapes.items():
        count = torch.Size(shape).numel()
        found[name] = (
            noise.repeat(count // len(noise) + 1)[:count].reshape(shape).to(dtype, copy=True)
        )
    return found


def save_shards(tensors: dict[str, Tensor], folder: Path) -> None:
    """Three files and their index, as the hubs have them."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    names, weight_map = list(tensors), {}
    for i in range(3):
        file = f"model-{i + 1:05d}-of-00003.safetensors"
        mine = names[len(names) * i // 3 : len(names) * (i + 1) // 3]
        save_file({name: tensors[name] for name in mine}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(mine, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def main(model: str, dtype: str, form: str, models: str, folder: str, percent: str = "100") -> None:
    shapes = clip(int(percent)) if model == "clip" else llama()
    Path(folder).mkdir(parents=True)
    for i in range(int(models)):
        tensors = state(shapes, getattr(torch, dtype), i)
        if form == "shards":
            save_shards(tensors, Path(folder, f"model-{i}"))
        elif form == "safetensors":
            save_file(tensors, Path(folder, f"model-{i}.safetensors"))
        else:
            torch.save(tensors, Path(folder, f"model-{i}.pt"))


if __name__ == "__main__":
    main(*sys.argv[1:])
