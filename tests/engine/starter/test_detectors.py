"""The views that detectors learn from, and that what is exported is what was trained."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import SegformerForSemanticSegmentation

from engine.starter import ade20k, detectors
from engine.starter.detectors import Detectors, Views
from engine.starter.world import OBJECTS, PERSON, SETTINGS, Scene, Thing


def views(count: int = 2, side: int = 16) -> Views:
    """A slope that faces right, with a thing in the upper left quarter."""
    depth = torch.linspace(0, 1, side).expand(count, side, side).clone()
    normals = torch.tensor([0.6, 0.0, 0.8])[:, None, None].expand(count, 3, side, side).clone()
    things = torch.zeros(count, side, side, dtype=torch.bool)
    things[:, : side // 2, : side // 2] = True
    classes = torch.where(things, ade20k.THINGS["car"], ade20k.SKY)
    return Views(
        pictures=depth[:, None].expand(-1, 3, -1, -1).clone(),
        depth=depth,
        normals=normals,
        classes=classes,
        things=things,
    )


def test_everything_in_the_world_has_a_class() -> None:
    assert set(ade20k.THINGS) == {*OBJECTS, PERSON}
    assert set(ade20k.SURROUNDINGS) == set(SETTINGS)
    scene = Scene(things=(Thing(kind="mug", colour="red"), Thing(kind="car", colour="blue")), setting="beach", seed=0)
    assert ade20k.classes_of(scene).tolist() == [ade20k.SKY, ade20k.SAND, 147, 20]


def test_a_sculpture_has_no_class_and_none_is_asked_for() -> None:
    things = (Thing(kind="mug", colour="red"), Thing(kind="sofa", colour="blue"))
    shown = Scene(things=things, setting="beach", seed=0)
    assert ade20k.classes_of(shown, sculptures=True).tolist() == [ade20k.SKY, ade20k.SAND, 147, ade20k.UNKNOWN]
    truth = views()
    unknown = replace(truth, classes=torch.where(truth.things, ade20k.UNKNOWN, truth.classes))
    said = 50.0 * torch.nn.functional.one_hot(truth.classes, 150).permute(0, 3, 1, 2)
    said[:, 7] += 100.0 * truth.things  # something else on every thing
    right = {"depth": truth.depth[:, None], "normal": truth.normals, "segmentation": said}
    assert detectors.detection_loss(right, truth) > 1
    assert detectors.detection_loss(right, unknown) < 5e-3


def test_a_cut_out_keeps_its_things_and_stands_before_a_flat_wall() -> None:
    before = views()
    after = detectors.cut_out(before, torch.tensor([True, False]), torch.Generator().manual_seed(0))
    thing = before.things[0]
    for name in ("depth", "classes"):
        assert torch.equal(getattr(after, name)[0][thing], getattr(before, name)[0][thing])
        assert torch.equal(getattr(after, name)[1], getattr(before, name)[1])
    assert torch.equal(after.pictures[0][:, :7, :7], before.pictures[0][:, :7, :7])
    assert torch.equal(after.pictures[1], before.pictures[1])
    assert set(after.classes[0][~thing].tolist()) == {ade20k.WALL}
    assert after.depth[0][~thing].max() == 0
    assert torch.equal(after.normals[0][:, ~thing], torch.tensor([[0.0], [0.0], [1.0]]).expand(-1, 3 * 64))


def test_a_mirrored_crop_mirrors_its_truth_and_its_normals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "LEAST_CROP", 1.0)
    before = views(count=16)
    after = detectors.cropped(before, torch.Generator().manual_seed(1))
    mirrored = after.normals[:, 0, 0, 0] < 0
    assert 0 < mirrored.sum() < 16
    for place in range(16):
        flip = (lambda x: x.flip(-1)) if mirrored[place] else (lambda x: x)
        torch.testing.assert_close(after.pictures[place], flip(before.pictures[place]))
        torch.testing.assert_close(after.depth[place], flip(before.depth[place]))
        assert torch.equal(after.classes[place], flip(before.classes[place]))
        assert torch.equal(after.things[place], flip(before.things[place]))
        side = -0.6 if mirrored[place] else 0.6
        torch.testing.assert_close(after.normals[place, :, 3, 3], torch.tensor([side, 0.0, 0.8]))


def test_a_shrunk_view_shows_the_same_where_its_logits_are() -> None:
    before = views(side=64)
    after = detectors.shrunk(before, 32)
    assert after.pictures.shape == (2, 3, 32, 32)
    assert after.depth.shape == after.classes.shape == after.things.shape == (2, 8, 8)
    torch.testing.assert_close(after.depth, before.depth.reshape(2, 8, 8, 8, 8).mean(dim=(2, 4)))
    torch.testing.assert_close(after.normals, before.normals[:, :, ::8, ::8])
    assert torch.equal(after.classes, before.classes[:, 4::8, 4::8])
    assert torch.equal(after.things, before.things[:, 4::8, 4::8])


def test_the_angle_between_vectors_of_any_length() -> None:
    a = torch.tensor([[[1.0, 0, 0], [1, 1, 0], [0, 0, 2], [0, 3, 4]]]).mT
    b = torch.tensor([[[4.0, 0, 0], [1, 0, 0], [0, 0, -1], [0, 0, 1]]]).mT
    a.requires_grad_(True)
    angles = detectors.angle(a, b)
    torch.testing.assert_close(angles, torch.tensor([[0, math.pi / 4, math.pi, math.atan2(3, 4)]]))
    angles.sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_the_loss_of_the_truth_is_zero_whatever_depths_scale_and_shift() -> None:
    truth = views()
    classes = 50.0 * torch.nn.functional.one_hot(truth.classes, 150).permute(0, 3, 1, 2)
    right = {"depth": 3 * truth.depth[:, None] - 7, "normal": 5 * truth.normals, "segmentation": classes}
    # The scale is not quite free: a thousandth is added to the deviation, against division by zero.
    assert detectors.detection_loss(right, truth) < 5e-3
    assert detectors.detection_loss(right | {"depth": -truth.depth[:, None]}, truth) > 1
    assert detectors.detection_loss(right | {"normal": -truth.normals}, truth) > 3


def test_what_is_exported_says_what_was_trained_and_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = Detectors().eval()
    picture = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = trained(picture)
        for kind, model in trained.exported().items():
            model.save_pretrained(tmp_path / kind)
        read = {
            kind: SegformerForSemanticSegmentation.from_pretrained(tmp_path / kind).eval() for kind in detectors.OUTPUTS
        }
        for kind, model in read.items():
            torch.testing.assert_close(model(picture).logits, expected[kind])
        other = Detectors().eval()
        other.load(read)
        for kind, logits in other(picture).items():
            torch.testing.assert_close(logits, expected[kind])
            assert logits.shape == (1, detectors.OUTPUTS[kind], 16, 16)
