from collections.abc import Sequence

import torch

from engine.starter.latents import LatentCorpus
from engine.starter.linear_code import LATENT_CHANNELS


def corpus_of(rows: int, pairs: list[int], people: Sequence[int] = ()) -> LatentCorpus:
    latents = torch.arange(rows).half().reshape(rows, 1, 1, 1).expand(rows, LATENT_CHANNELS, 16, 16)
    tokens = torch.arange(rows).to(torch.int16).reshape(rows, 1, 1).expand(rows, 6, 4)
    return LatentCorpus(latents={16: latents}, tokens=tokens, pairs=torch.tensor(pairs), people=torch.tensor(people))


def test_latents_and_captions_of_a_batch_are_of_its_rows() -> None:
    rows, latents, tokens = corpus_of(60, [7]).batch(16, 50, torch.Generator().manual_seed(0), pairs_share=0.5)
    assert torch.equal(latents[:, 0, 0, 0].long(), rows)
    assert torch.equal(tokens[:, 0], rows)


def test_pairs_take_their_share() -> None:
    # Row 0 is the photo of its scene, so that drawing photos more often does not move it.
    rows, _, _ = corpus_of(600, [0]).batch(16, 4000, torch.Generator().manual_seed(0), pairs_share=0.4)
    assert 0.37 < (rows == 0).float().mean() < 0.43


def test_people_take_their_share_after_pairs() -> None:
    data = corpus_of(600, [0], people=[1])
    rows, _, _ = data.batch(16, 4000, torch.Generator().manual_seed(0), pairs_share=0.4, people_share=0.5)
    assert 0.47 < (rows == 1).float().mean() < 0.53
    assert 0.17 < (rows == 0).float().mean() < 0.23
