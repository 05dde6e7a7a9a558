"""Networks of depth, normals and classes: what they say is what the map shows. Tiny ones, whose last bias decides."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.cache import ModelCache
from engine.controls import detect, networks
from engine.controls.ade20k import PALETTE

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 100, 3), np.uint8))
TINY: dict[str, Any] = {
    "hidden_sizes": (8, 8, 8, 8),
    "depths": (1, 1, 1, 1),
    "num_attention_heads": (1, 1, 1, 1),
    "decoder_hidden_size": 8,
}


def save_tiny(folder: Path, bias: list[float], last_weights: float = 0.0) -> None:
    """A SegFormer whose logits are `bias`, whatever it sees unless `last_weights`, a deviation, are given."""
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    model = SegformerForSemanticSegmentation(SegformerConfig(**TINY, num_labels=len(bias)))  # type: ignore[call-arg]
    last: Any = model.decode_head.classifier
    last.weight.data = last_weights * torch.randn(last.weight.shape, generator=torch.Generator().manual_seed(0))
    last.bias.data = torch.tensor(bias)
    model.half().save_pretrained(folder)


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(networks, "DETECTORS_FOLDER", tmp_path)
    return tmp_path


def test_embedded_normals_are_made_unit(embedded: Path) -> None:
    save_tiny(embedded / "normal", [0.0, 0.7, 2.4])
    colours = np.asarray(detect("normal", PHOTO))
    assert colours.shape == (70, 100, 3)
    assert np.unique(colours.reshape(-1, 3), axis=0).tolist() == [[128, 163, 250]]  # of (0, 0.28, 0.96)


def test_a_mirrored_picture_has_the_mirrored_normals(embedded: Path) -> None:
    save_tiny(embedded / "normal", [0.7, 0.2, 2.4], last_weights=100.0)
    normals, of_mirrored = (
        np.asarray(detect("normal", picture), np.float32) - 127.5
        for picture in (PHOTO, PHOTO.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    )
    assert np.ptp(normals[..., 0]) > 20
    np.testing.assert_allclose(of_mirrored[:, ::-1] * (-1, 1, 1), normals, atol=2)


def test_embedded_classes_have_ade20ks_colours(embedded: Path) -> None:
    save_tiny(embedded / "segmentation", [float(c == 12) for c in range(150)])
    colours = np.asarray(detect("segmentation", PHOTO))
    assert np.unique(colours.reshape(-1, 3), axis=0).tolist() == [PALETTE[12].tolist()]


def test_a_network_stays_in_the_cache(embedded: Path) -> None:
    save_tiny(embedded / "depth", [0.5])
    models = ModelCache()
    for _ in range(2):
        assert detect("depth", PHOTO, models=models).size == PHOTO.size
    assert models.keys() == [("detector", "depth")]
    assert models.used_bytes() > 0


def test_classes_of_the_hubs_networks_are_those_that_transformers_reads(tmp_path: Path) -> None:
    from transformers import SegformerImageProcessor

    save_tiny(tmp_path, [float(c == 3) for c in range(150)])
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    colours = np.asarray(networks.hub_segmentation(str(tmp_path), PHOTO, ModelCache()))
    assert colours.shape == (70, 100, 3)
    assert np.unique(colours.reshape(-1, 3), axis=0).tolist() == [PALETTE[3].tolist()]


@pytest.mark.parametrize("metric", [False, True])
def test_depth_of_the_hubs_networks_is_transformers_own(tmp_path: Path, metric: bool) -> None:
    import torch
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=64,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        backbone_out_indices=[0, 1, 2, 3],
    )
    model = DPTForDepthEstimation(config).eval()
    last: Any = model.head.head[-2]
    last.weight.data *= 1e4  # as initialised, it says nearly nothing
    last.bias.data += 1.0
    model.save_pretrained(tmp_path)
    look = DPTImageProcessor(size={"height": 64, "width": 64})
    look.save_pretrained(tmp_path)

    taken = np.asarray(networks.hub_depth(str(tmp_path), PHOTO, ModelCache(), metric=metric))[:, :, 0].astype(int)

    with torch.no_grad():
        output = model(**look(images=PHOTO, return_tensors="pt"))
    [expected] = look.post_process_depth_estimation(output, target_sizes=[(70, 100)])
    depth = expected["predicted_depth"].numpy()
    depth = 1 / np.maximum(depth, 1e-3) if metric else depth
    far, near = np.quantile(depth, (0.001, 0.999))
    np.testing.assert_allclose(taken, 255 * np.clip((depth - far) / (near - far), 0, 1), atol=1)
