"""Identity: closed forms with features of our own, and faces of real people."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from engine.cache import ModelCache
from engine.errors import MissingModel, NothingDetected
from engine.samples import load_samples
from engine.scores import identity
from engine.scores.networks import dino_features

RED, GREEN, BLUE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def plain(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (32, 32), colour)


def first_pixel(images: Sequence[Image.Image], models: ModelCache) -> torch.Tensor:
    pixels = torch.tensor([image.getpixel((0, 0)) for image in images]).float()
    return torch.nn.functional.normalize(pixels, dim=1)


@pytest.fixture
def by_colour(monkeypatch: pytest.MonkeyPatch) -> str:
    """A method whose similarity is the cosine of the colours."""
    method = identity.Method(
        name="colour", title="colour", features=first_pixel, similarity=lambda one, other: one @ other.T
    )
    monkeypatch.setitem(identity.METHODS, "colour", method)
    return "colour"


def test_the_ceiling_is_what_photos_reach_among_themselves(by_colour: str) -> None:
    """Of three photos two agree: of six ordered pairs two have a cosine of 1, the others 0."""
    reference = identity.reference([plain(RED), plain(RED), plain(GREEN)], method=by_colour)
    assert reference.ceiling == pytest.approx(1 / 3)


def test_identity_is_the_mean_cosine_to_the_photos(by_colour: str) -> None:
    reference = identity.reference([plain(RED), plain(GREEN)], method=by_colour)
    assert identity.identity(plain(RED), reference).value == pytest.approx(0.5)
    assert identity.identity(plain(BLUE), reference).value == pytest.approx(0)
    assert identity.identity(plain((255, 255, 0)), reference).value == pytest.approx(2**-0.5)


def test_one_photo_is_too_few(by_colour: str) -> None:
    with pytest.raises(NothingDetected, match="Fewer than two photos"):
        identity.reference([plain(RED)], method=by_colour)


def test_a_picture_is_wholly_like_itself() -> None:
    picture = Image.open(load_samples().subject("teddy_bear").photos[0]).convert("RGB")
    assert identity.subject_similarity([picture], [picture]) == pytest.approx(1, abs=1e-5)


def person(name: str) -> Image.Image:
    return Image.open(next(one.file for one in load_samples().compositions if one.name == name)).convert("RGB")


def test_a_face_is_its_persons_mirrored_turned_and_darkened() -> None:
    """dlib's border between one person and another is a distance of 0.6, which is a score of 0.4 here."""
    photo = person("astronaut")
    others = [ImageOps.mirror(photo), photo.rotate(12), Image.fromarray((np.asarray(photo) * 0.6).astype(np.uint8))]
    reference = identity.reference(others, faces=True)
    assert reference.method.name == "face"
    assert identity.identity(photo, reference).value > 0.65
    assert identity.identity(person("grace_hopper"), reference).value < 0.4
    nobody = identity.identity(person("coffee"), reference)
    assert (nobody.value, nobody.label) == (0, "not kept")
    assert "No face" in nobody.note


def test_photos_without_faces_are_compared_by_their_features() -> None:
    photos = [Image.open(file).convert("RGB") for file in load_samples().subject("stone_lantern").photos[:3]]
    assert identity.reference(photos, faces=True).method.name != "face"


def test_dino_from_a_folder_gives_unit_class_tokens(tmp_path: pytest.TempPathFactory) -> None:
    folder = str(tmp_path)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    model = Dinov2Model(config).eval()
    model.save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    images = [plain(RED), plain(BLUE)]
    features = dino_features(images, ModelCache(), folder)
    pixels = BitImageProcessor.from_pretrained(folder)(images=images, return_tensors="pt").pixel_values
    with torch.no_grad():
        tokens = model(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(features, tokens / tokens.norm(dim=1, keepdim=True))


def test_a_network_that_is_not_here_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.scores.networks.DINO", "/nowhere")
    with pytest.raises(MissingModel):
        dino_features([plain(RED)], ModelCache(), "/nowhere/dino")
