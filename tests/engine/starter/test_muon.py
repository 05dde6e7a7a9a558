import torch
from torch import nn

from engine.starter.muon import Muon, orthogonalized, suits_muon


def test_singular_values_become_about_one_and_directions_stay() -> None:
    matrices = torch.randn(3, 64, 160, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    for ours, exact in zip(orthogonalized(matrices).float(), u @ vh, strict=True):
        # The polynomial of Jordan et al. leaves singular values between 0.68 and 1.13.
        values = torch.linalg.svdvals(ours)
        assert values.min() > 0.6
        assert values.max() < 1.3
        assert nn.functional.cosine_similarity(ours.flatten(), exact.flatten(), dim=0) > 0.97


def test_the_small_squares_take_the_steps_of_newton_and_schulz() -> None:
    matrices = torch.randn(2, 50, 450, generator=torch.Generator().manual_seed(3))
    x = matrices.double() / matrices.double().norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    assert (orthogonalized(matrices) - x).norm() < 1e-4 * x.norm()


def test_tall_matrices_are_the_transposed_wide_ones() -> None:
    wide = torch.randn(1, 50, 90, generator=torch.Generator().manual_seed(1))
    assert torch.equal(orthogonalized(wide.mT), orthogonalized(wide).mT)


def test_a_convolution_is_a_matrix_and_its_step_has_the_size_of_adams() -> None:
    layer = nn.Conv2d(64, 64, 3, bias=False)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(2))
    Muon(layer.parameters(), lr=0.01, weight_decay=0.0).step()
    step = (layer.weight - before) / 0.01
    # 0.2 sqrt(max(rows, columns)) times an orthogonal matrix, whose entries have an RMS of 1 / sqrt(max(...))
    assert 0.15 < step.square().mean().sqrt() < 0.25


def test_embeddings_biases_and_narrow_ends_are_left_to_adam() -> None:
    network = nn.ModuleDict(
        {"token_embedding": nn.Embedding(100, 64), "inner": nn.Linear(64, 64), "conv_out": nn.Conv2d(64, 16, 3)}
    )
    assert [name for name, p in network.named_parameters() if suits_muon(name, p)] == ["inner.weight"]
