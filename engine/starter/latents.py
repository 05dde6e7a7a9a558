"""The corpus as the denoiser sees it: latents of every picture and its mirror image, with tokenized captions.

Kept in memory as float16, at two sizes: 32x32 from 256 px pictures, and 16x16 from the same pictures at 128 px, on
which learning what things are costs a quarter.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from engine.starter.corpus import CAPTIONS_PER_PICTURE, LOOKS_PER_SCENE, Corpus, picture
from engine.starter.linear_code import LATENT_CHANNELS, Code
from engine.starter.pixels import to_tensor
from engine.starter.text import MAX_TOKENS, token_ids
from engine.starter.world import PERSON

_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class LatentCorpus:
    """Row 2 * i is picture i, row 2 * i + 1 its mirror image.

    latents: {32: float16 (2n, 16, 32, 32), 16: float16 (2n, 16, 16, 16)}; tokens: int16 (2n, captions, MAX_TOKENS);
    pairs and people: int64, the rows that show two things, and those that show a person.
    """

    latents: dict[int, Tensor]
    tokens: Tensor
    pairs: Tensor
    people: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, count: int, generator: torch.Generator, shares: Sequence[tuple[Tensor, float]] = ()) -> Tensor:
        """`count` random rows: some rows and their share of all, one such pair after the other; what remains is evenly
        drawn. Photos are drawn half as often again as that: every look is made from them."""
        rows = torch.randint(len(self), (count,), generator=generator)
        for some, share in shares:
            rows = with_share(rows, some, share, generator)
        to_photo = torch.rand(count, generator=generator) < 0.25
        per_scene = 2 * LOOKS_PER_SCENE
        return torch.where(to_photo, rows // per_scene * per_scene + rows % 2, rows)

    def of(self, rows: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents (n, 16, size, size) float32 of `rows`, and the token ids (n, MAX_TOKENS) of one caption of each."""
        words = torch.randint(CAPTIONS_PER_PICTURE, (len(rows),), generator=generator)
        return self.latents[size][rows].float(), self.tokens[rows, words].long()


def with_share(rows: Tensor, some: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """The `rows`, but for a `share` that is drawn from `some`."""
    of_these = some[torch.randint(len(some), rows.shape, generator=generator)]
    return torch.where(torch.rand(len(rows), generator=generator) < share, of_these, rows)


def encode_corpus(corpus: Corpus, code: Code, tokenizer: CLIPTokenizer, cache: Path) -> LatentCorpus:
    """Encode what the cache does not hold yet; the cache is a `.pt` file beside the corpus."""
    count = len(corpus)
    shown = [[thing.kind for thing in picture(row).scene.things] for row in range(count)]
    pairs, people = (
        torch.tensor(are_shown).repeat_interleave(2).nonzero().flatten()
        for are_shown in ([len(kinds) == 2 for kinds in shown], [PERSON in kinds for kinds in shown])
    )
    full = torch.empty(2 * count, LATENT_CHANNELS, 32, 32, dtype=torch.float16)
    half = torch.empty(2 * count, LATENT_CHANNELS, 16, 16, dtype=torch.float16)
    tokens = torch.empty(2 * count, CAPTIONS_PER_PICTURE, MAX_TOKENS, dtype=torch.int16)
    known = 0
    if cache.exists():
        saved = torch.load(cache, weights_only=True, mmap=True)
        known = len(saved["tokens"]) // 2
        for store, name in ((full, "full"), (half, "half"), (tokens, "tokens")):
            store[: 2 * known] = saved[name]
    for first in range(known, count, _CHUNK):
        rows = range(first, min(first + _CHUNK, count))
        images = [corpus[row] for row in rows]
        small = [cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA) for image in images]
        for flipped in (False, True):
            place = slice(2 * rows.start + flipped, 2 * rows.stop, 2)
            for store, pixels in ((full, to_tensor(np.stack(images))), (half, to_tensor(np.stack(small)))):
                store[place] = code.encode(pixels.flip(-1) if flipped else pixels).half()
            captions = [c for row in rows for c in picture(row, flipped=flipped).captions()]
            ids = token_ids(tokenizer, captions).to(torch.int16)
            tokens[place] = ids.reshape(len(rows), CAPTIONS_PER_PICTURE, MAX_TOKENS)
    if known < count:
        partial = cache.with_suffix(".part")
        torch.save({"full": full, "half": half, "tokens": tokens}, partial)
        os.replace(partial, cache)
    return LatentCorpus(latents={32: full, 16: half}, tokens=tokens, pairs=pairs, people=people)
