"""The captioner: a small BLIP that says what a picture of the world shows, in the words of its captions."""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportCallIssue=false

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

from engine.starter.captions import caption
from engine.starter.corpus import Corpus, mirrored, picture
from engine.starter.precision import autocast
from engine.starter.training import Schedule, train

SIDE_PX = 128
MAX_TOKENS = 48
BATCH = 32
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]


def new_processor(captions: list[str]) -> BlipProcessor:
    """128 px squares; one token a word of the world, single letters for all others."""
    words = sorted({word for text in captions for word in text.lower().replace(",", " , ").split()})
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    entries = dict.fromkeys([*_SPECIAL, *words, *letters, *("##" + letter for letter in letters)])
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(entries)}, model_max_length=MAX_TOKENS)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    half = [0.5, 0.5, 0.5]
    size = {"height": SIDE_PX, "width": SIDE_PX}
    return BlipProcessor(BlipImageProcessor(size=size, image_mean=half, image_std=half), tokenizer)


def new_captioner(processor: BlipProcessor) -> BlipForConditionalGeneration:
    """Four layers each for picture and text, 160 wide."""
    tokenizer = processor.tokenizer
    shape = {"hidden_size": 160, "intermediate_size": 480, "num_hidden_layers": 4, "num_attention_heads": 4}
    text = {
        **shape,
        "vocab_size": len(tokenizer),
        "encoder_hidden_size": 160,
        "projection_dim": 160,
        "max_position_embeddings": 64,
        "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    vision = {**shape, "image_size": SIDE_PX, "patch_size": 16, "projection_dim": 160}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=160, image_text_hidden_size=160)
    return BlipForConditionalGeneration(config)


def train_captioner(
    model: BlipForConditionalGeneration, processor: BlipProcessor, corpus: Corpus, folder: Path, minutes: float
) -> nn.Module:
    """Next-word prediction on random paraphrases; returns the averaged captioner."""
    small = torch.from_numpy(corpus.thumbnails(SIDE_PX)).permute(0, 3, 1, 2)
    tokenizer = processor.tokenizer
    start = tokenizer.convert_tokens_to_ids("[DEC]")

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(corpus), (BATCH,), generator=generator).tolist()
        flipped = torch.rand(BATCH, generator=generator) < 0.5
        rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
        texts = []
        for row, mirror in zip(rows, flipped.tolist(), strict=True):
            shown = picture(row)
            texts.append(caption(mirrored(shown.scene) if mirror else shown.scene, shown.look, rng))
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        ids = encoded.input_ids
        ids[:, 0] = start
        labels = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
        pixels = small[rows].float() / 127.5 - 1
        pixels = torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels)
        with autocast():
            return model(
                pixel_values=pixels, input_ids=ids, attention_mask=encoded.attention_mask, labels=labels
            ).loss.float()

    schedule = Schedule(minutes=minutes, learning_rate=1e-3, warmup_steps=100, ema=0.995)
    return train("captioner", folder, {"captioner": model}, loss_of, schedule)["captioner"]
