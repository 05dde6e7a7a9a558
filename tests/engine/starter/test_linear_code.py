"""The picture code against linear algebra, and the encoder that it is written into against the code."""

import numpy as np
import pytest
import torch

from engine.starter import linear_code
from engine.starter.linear_code import Code

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Smooth colour ramps with a disc each, so that blocks differ."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:64, 0:64] / 64
    images = []
    for _ in range(40):
        ramp = rng.random(3) * x[..., None] + rng.random(3) * y[..., None]
        disc = ((x - rng.random()) ** 2 + (y - rng.random()) ** 2 < rng.uniform(0.02, 0.1))[..., None]
        images.append(np.where(disc, rng.random(3), ramp))
    return (np.clip(images, 0, 1) * 255).astype(np.uint8)


def test_components_are_the_right_singular_vectors() -> None:
    data = np.random.default_rng(1).normal(size=(200, 6)) * np.arange(1, 7)
    _, _, vectors = np.linalg.svd(data, full_matrices=False)
    ours = linear_code.components(data, 3)
    np.testing.assert_allclose(np.abs(np.sum(ours * vectors[:3], axis=1)), 1, atol=1e-9)


def test_latents_are_centred_and_have_unit_variance_on_average(pictures: np.ndarray) -> None:
    code = Code.fit(pictures)
    latents = code.encode(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1)
    np.testing.assert_allclose(latents.mean(dim=(0, 2, 3)).numpy(), 0, atol=1e-4)
    assert latents.var(dim=(0, 2, 3)).mean().item() == pytest.approx(1, rel=1e-3)


def test_written_encoder_computes_the_code(pictures: np.ndarray) -> None:
    code = Code.fit(pictures)
    autoencoder = linear_code.new_autoencoder().eval()
    linear_code.write_encoder(autoencoder, code, pictures)
    x = torch.from_numpy(pictures[:4]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        posterior = autoencoder.encode(x).latent_dist
    expected = code.encode(x)
    # What 31 of the 48 components of 4x4 blocks cannot carry.
    assert (posterior.mean - expected).square().mean().sqrt() < 0.01 * expected.std()
    assert posterior.std.max() < 1e-5
