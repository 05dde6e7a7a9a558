"""The words of the world: a CLIP tokenizer trained on its captions, and an untrained CLIP text encoder for them."""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportArgumentType=false

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

MAX_TOKENS = 48
WIDTH = 192
_START, _END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """Byte-pair encoding as CLIP does it; every byte stays a token, so any word can be written."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2000, min_frequency=2, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator((caption.lower() for caption in captions), trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    merges = [tuple(m) if not isinstance(m, str) else tuple(m.split(" ")) for m in learned["merges"]]
    tokens += [first + second for first, second in merges]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*tokens, _START, _END]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Three layers, 192 wide."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """int64 (n, MAX_TOKENS), padded and cut as the pipelines do it."""
    encoded = tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    return encoded.input_ids


def load_or_train_tokenizer(folder: Path, captions: Iterable[str]) -> CLIPTokenizer:
    """The tokenizer of an earlier run, because token ids must never change under trained weights."""
    if (folder / "tokenizer_config.json").exists():
        return CLIPTokenizer.from_pretrained(folder)
    tokenizer = train_tokenizer(captions)
    tokenizer.save_pretrained(folder)
    return tokenizer


def embed(text_encoder: CLIPTextModel, ids: Tensor) -> Tensor:
    """(n, MAX_TOKENS) -> (n, MAX_TOKENS, WIDTH)."""
    return text_encoder(ids)[0]


def empty_ids(tokenizer: CLIPTokenizer) -> Tensor:
    """The ids of the empty caption, (MAX_TOKENS,)."""
    return token_ids(tokenizer, [""])[0].to(torch.int64)
