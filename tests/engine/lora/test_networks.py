"""What each kind of network does to a weight: against closed forms, and against peft's own layers."""

import numpy as np
import pytest
import torch

from engine.lora.networks import complete, fits, with_halves_swapped
from tests.engine.lora.by_peft import CONFIGS, TARGETS, adapted, from_file
from tests.engine.lora.closed_forms import KINDS, MAGNITUDES, OF_KERNELS, relative_error, sample

SHAPES = {"linear": (12, 8), "1 x 1": (12, 8, 1, 1), "3 x 3": (12, 8, 3, 3)}


@pytest.mark.parametrize("magnitude", [None, *MAGNITUDES], ids=str)
@pytest.mark.parametrize(
    ("shape", "kind"),
    [(shape, kind) for shape in SHAPES for kind in KINDS if shape == "3 x 3" or kind not in OF_KERNELS],
)
def test_the_change_is_the_definitions(shape: str, kind: str, magnitude: str | None) -> None:
    for rank, alpha in ((1, 1.0), (3, 2.0), (4, 10.0)):
        weight = torch.randn(SHAPES[shape], generator=torch.Generator().manual_seed(rank))
        wanted = sample(kind, weight, rank=rank, alpha=alpha, magnitude=magnitude, seed=rank)
        net = from_file(wanted.tensors, weight, alpha=alpha)
        assert relative_error(net.delta(weight), wanted.delta) < 2e-6
        assert (net.rank == rank) or kind == "LoKr, whole"


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_change_is_pefts(kind: str) -> None:
    model, layers = adapted(kind)
    assert layers.keys() == set(TARGETS)
    for name, tensors in layers.items():
        adapted_layer = getattr(model.base_model.model, name)
        weight = adapted_layer.base_layer.weight.detach().clone()
        net = from_file(tensors, weight, alpha=2)
        adapted_layer.merge()
        merged = adapted_layer.base_layer.weight.detach() - weight
        assert relative_error(net.delta(weight), merged.double().numpy()) < 2e-6


@pytest.mark.parametrize("magnitude", [None, *MAGNITUDES], ids=str)
@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr"])
def test_swapped_halves_change_a_weight_whose_halves_are_swapped(kind: str, magnitude: str | None) -> None:
    weight = torch.randn(12, 8, generator=torch.Generator().manual_seed(1))
    made = sample(kind, weight, rank=3, alpha=2.0, magnitude=magnitude)
    swapped = with_halves_swapped(from_file(made.tensors, weight, alpha=2.0))
    expected = np.concatenate([made.delta[6:], made.delta[:6]])
    assert relative_error(swapped.delta(torch.cat([weight[6:], weight[:6]])), expected) < 2e-6


def test_sizes_that_do_not_fit() -> None:
    down, up = (4, 8), (12, 4)
    assert fits({"lora_down": down, "lora_up": up}, (12, 8))
    assert fits({"lora_down": (*down, 1, 1), "lora_up": (*up, 1, 1)}, (12, 8))
    assert fits({"lora_down": down, "lora_up": up}, (12, 8, 1, 1))
    for wrong in (
        {"lora_down": down, "lora_up": (4, 12)},
        {"lora_down": down, "lora_up": (8, 4)},
        {"lora_down": (32,), "lora_up": up},
        {"lora_down": (8, 4), "lora_up": (4, 12)},
        {"lora_down": down, "lora_up": up, "dora_scale": (11, 1)},
        {"lora_down": down, "lora_up": up, "lora_magnitude_vector": (8,)},
        {"lokr_w1": (2, 2), "lokr_w2": (6, 5)},
        {"hada_w1_a": (12, 4), "hada_w1_b": (4, 8), "hada_w2_a": (12, 4), "hada_w2_b": (4, 9)},
    ):
        assert not fits(wrong, (12, 8)), wrong
    assert not fits({"lora_down": (4, 12), "lora_up": (8, 4)}, (12, 8))  # as many numbers, the other way round


def test_a_network_needs_all_its_parts() -> None:
    assert not complete({"lora_down", "alpha"})
    assert not complete({"lokr_w1", "lokr_w2_a"})
    assert not complete({"hada_w1_a", "hada_w1_b", "hada_w2_a"})
    assert complete({"lokr_w1_a", "lokr_w1_b", "lokr_w2", "alpha"})


def test_strength_is_a_factor_of_the_change_and_within_it_for_dora() -> None:
    weight = torch.randn(12, 8, generator=torch.Generator().manual_seed(1))
    plain = sample("LoHa", weight, rank=2, alpha=2.0)
    half = from_file(plain.tensors, weight, alpha=2.0).delta(weight, 0.5)
    assert relative_error(half, 0.5 * plain.delta) < 2e-6

    tensors = sample("LoRA", weight, rank=2, alpha=2.0, magnitude="outputs").tensors
    net = from_file(tensors, weight, alpha=2.0)
    w, down, up = (t.double().numpy() for t in (weight, tensors["lora_down.weight"], tensors["lora_up.weight"]))
    changed = w + 0.5 * up @ down
    size = np.linalg.norm(changed, axis=1, keepdims=True)
    assert relative_error(net.delta(weight, 0.5), tensors["dora_scale"].double().numpy() * changed / size - w) < 2e-6
