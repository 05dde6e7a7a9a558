from collections.abc import Sequence

import torch

from engine.starter.latents import LatentCorpus
from engine.starter.linear_code import LATENT_CHANNELS


def corpus_of(rows: int, pairs: list[int], people: Sequence[int] = ()) -> LatentCorpus:
    latents = torch.arange(rows).half().reshape(rows, 1, 1, 1).expand(rows, LATENT_CHANNELS, 16, 16)
    tokens = torch.arange(rows).to(torch.int16).reshape(rows, 1, 1).expand(rows, 6, 4)
    return LatentCorpus(latents={16: latents}, tokens=tokens, pairs=torch.tensor(pairs), people=torch.tensor(people))


def test_latents_and_captions_are_of_their_rows() -> None:
    latents, tokens = corpus_of(60, [7]).of(torch.tensor([5, 9]), 16, torch.Generator().manual_seed(0))
    assert latents[:, 0, 0, 0].tolist() == [5, 9]
    assert tokens[:, 0].tolist() == [5, 9]


def test_each_of_the_shares_is_taken_after_the_one_before() -> None:
    # Rows 0 and 1 are photos of their scene, so that drawing photos more often does not move them.
    data = corpus_of(600, [0], people=[1])
    rows = data.rows(4000, torch.Generator().manual_seed(0), [(data.pairs, 0.4), (data.people, 0.5)])
    assert 0.47 < (rows == 1).float().mean() < 0.53
    assert 0.17 < (rows == 0).float().mean() < 0.23


def test_photos_come_half_as_often_again() -> None:
    rows = corpus_of(600, [0]).rows(4000, torch.Generator().manual_seed(0))
    photos = (rows % 6 < 2).float().mean()
    assert 0.47 < photos < 0.53
