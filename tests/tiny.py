"""Transformers with random weights, small enough for a test."""

from __future__ import annotations

from typing import Any

import torch
import transformers

IDS = torch.arange(24).view(2, 12) % 50
"""Two texts for these models."""


def bert(seed: int = 0, *, spread: float = 0.02, **options: Any) -> Any:
    """A classifier of three classes; with a `spread` of 0.5 attention matters to what it says."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        num_labels=3,
        initializer_range=spread,
    )
    return transformers.BertForSequenceClassification(config).to(**options).eval()


def gpt2(seed: int = 0, *, spread: float = 0.02) -> Any:
    """Its output layer is tied to its embedding, and only one of the two is in the file."""
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=50,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=spread,
    )
    return transformers.GPT2LMHeadModel(config).eval()


def llama() -> Any:
    """A language model whose embedding and output layer are not tied."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        initializer_range=0.5,
    )
    return transformers.LlamaForCausalLM(config).eval()
