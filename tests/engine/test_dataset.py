import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from engine.dataset import add_photos, check, export_zip, require_trainable
from engine.errors import BadDataset, NotFound
from engine.samples import SAMPLES_FOLDER, load_samples
from engine.settings import CropBox
from engine.workspace import Dataset, Photo, Workspace

BEAR = load_samples().subject("teddy_bear")
COMPOSITIONS = SAMPLES_FOLDER / "compositions"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def noise(path: Path, seed: int = 0, size_px: tuple[int, int] = (300, 280)) -> Path:
    width, height = size_px
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def added(workspace: Workspace, *files: Path, class_name: str = "teddy bear") -> Dataset:
    dataset = workspace.create_dataset("test", class_name=class_name)
    dataset, refusals = add_photos(workspace, dataset.id, files)
    assert refusals == []
    return dataset


def with_photos(count: int) -> Dataset:
    photos = tuple(
        Photo(id=f"{n}", file=f"{n}.png", image="0" * 64, width_px=600, height_px=600, crop=None) for n in range(count)
    )
    return Dataset(id="d", name="d", created="2025-01-01T00:00:00.000+00:00", photos=photos)


class TestAddPhotos:
    def test_keeps_photo_size_crop_and_caption(self, workspace: Workspace) -> None:
        dataset = added(workspace, *BEAR.photos[:2])

        assert workspace.dataset(dataset.id) == dataset
        for photo, file in zip(dataset.photos, BEAR.photos, strict=False):
            np.testing.assert_array_equal(workspace.image(photo.image), Image.open(file).convert("RGB"))
            assert (photo.file, photo.width_px, photo.height_px) == (file.name, 512, 512)
            assert photo.caption == file.with_suffix(".txt").read_text()
            assert photo.crop is not None
            assert 256 <= photo.crop.side_px <= 512

    def test_captions_come_from_the_same_upload_and_from_zips(self, workspace: Workspace, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        text = tmp_path / "elsewhere" / "a.txt"
        text.write_text("a mug\non a table\n")
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            archive.write(noise(tmp_path / "b.png", 1), "inner/b.png")
            archive.writestr("inner/b.txt", "a bowl")

        dataset = added(workspace, noise(tmp_path / "a.png"), text, tmp_path / "set.zip")

        assert [(p.file, p.caption) for p in dataset.photos] == [("a.png", "a mug on a table"), ("b.png", "a bowl")]

    def test_refuses_one_by_one_and_keeps_the_rest(self, workspace: Workspace, tmp_path: Path) -> None:
        good = noise(tmp_path / "good.png")
        (tmp_path / "copy.png").write_bytes(good.read_bytes())
        (tmp_path / "letter.png").write_text("Dear reader")
        with zipfile.ZipFile(tmp_path / "mixed.zip", "w") as archive:
            archive.writestr("notes.pdf", "%PDF-1.7")
            archive.write(noise(tmp_path / "other.png", 1), "other.png")
        with zipfile.ZipFile(tmp_path / "hostile.zip", "w") as archive:
            archive.writestr("../evil.png", b"")
        dataset = workspace.create_dataset("test")
        names = ("good.png", "copy.png", "letter.png", "mixed.zip", "hostile.zip")

        dataset, refusals = add_photos(workspace, dataset.id, [tmp_path / name for name in names])

        assert [photo.file for photo in dataset.photos] == ["good.png", "other.png"]
        assert {refusal.file for refusal in refusals} == {"copy.png", "letter.png", "notes.pdf", "hostile.zip"}
        reasons = {refusal.file: refusal.reason for refusal in refusals}
        assert reasons["copy.png"] == "copy.png is already there, as good.png."
        assert reasons["letter.png"].startswith("letter.png is not a picture")
        assert reasons["notes.pdf"].startswith("notes.pdf is not a picture")
        assert "points outside" in reasons["hostile.zip"]

        again, refusals = add_photos(workspace, dataset.id, [good])
        assert again == dataset
        assert [refusal.reason for refusal in refusals] == ["good.png is already there, as good.png."]

    def test_too_many_lose_nothing(self, workspace: Workspace, tmp_path: Path) -> None:
        dataset = added(workspace, noise(tmp_path / "a.png"))
        files = [tmp_path / f"{n}.png" for n in range(400)]  # not one of them is opened

        with pytest.raises(BadDataset, match=r"401 photos.*10 to 25 is right, 400 is the most"):
            add_photos(workspace, dataset.id, files)
        assert workspace.dataset(dataset.id) == dataset

    def test_progress_counts_every_photo_also_those_in_zips(self, workspace: Workspace, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
            archive.write(noise(tmp_path / "a.png", 1), "a.png")
            archive.writestr("letter.png", "Dear reader")
        dataset = workspace.create_dataset("test")
        seen: list[tuple[int, int]] = []
        files = [tmp_path / "two.zip", noise(tmp_path / "b.png")]
        dataset, _ = add_photos(workspace, dataset.id, files, lambda *where: seen.append(where))
        assert seen == [(0, 3), (1, 3), (2, 3)]
        seen.clear()
        check(workspace, dataset, lambda *where: seen.append(where))
        assert seen == [(0, 2), (1, 2)]

    def test_unknown_dataset(self, workspace: Workspace) -> None:
        with pytest.raises(NotFound):
            add_photos(workspace, "nosuch", [])


class TestCheck:
    def test_good_sample_has_nothing_to_mend(self, workspace: Workspace) -> None:
        advice = check(workspace, added(workspace, *BEAR.photos))

        assert advice[0].text == "16 photos: good."
        assert {a.level for a in advice} == {"good"}

    @pytest.mark.parametrize(
        ("count", "level", "words"),
        [
            (0, "bad", "No photos yet. Add 10 to 25"),
            (1, "bad", "1 photo: too few. Add at least 9 more; 10 to 25 is right."),
            (3, "bad", "3 photos: too few. Add at least 7 more; 10 to 25 is right."),
            (7, "warn", "7 photos: enough to try"),
            (10, "good", "10 photos: good."),
            (25, "good", "25 photos: good."),
            (40, "warn", "40 photos: more than needed"),
            (400, "bad", "400 photos: too many"),
        ],
    )
    def test_headline_counts(self, workspace: Workspace, count: int, level: str, words: str) -> None:
        image = workspace.keep_image(Image.new("RGB", (600, 600)))
        photos = tuple(photo.replace(image=image) for photo in with_photos(count).photos)

        headline = check(workspace, with_photos(0).replace(photos=photos))[0]

        assert headline.level == level
        assert headline.text.startswith(words)

    def test_names_what_is_small_blurred_and_double(self, workspace: Workspace, tmp_path: Path) -> None:
        bear = Image.open(BEAR.photos[3]).convert("RGB")
        bear.save(tmp_path / "again.jpg", quality=60)
        Image.open(BEAR.photos[5]).filter(ImageFilter.GaussianBlur(4)).save(tmp_path / "soft.png")
        Image.open(BEAR.photos[7]).resize((180, 180)).save(tmp_path / "tiny.png")

        dataset = added(workspace, *BEAR.photos[:4], *(tmp_path / n for n in ("again.jpg", "soft.png", "tiny.png")))
        ids = {photo.file: photo.id for photo in dataset.photos}
        advice = {a.text.split(":")[0]: a for a in check(workspace, dataset)}

        assert advice["Under 256 px"].photos == (ids["tiny.png"],)
        assert advice["Blurred"].photos == (ids["soft.png"],)
        twins = advice["Nearly the same"]
        assert set(twins.photos) == {ids[BEAR.photos[3].name], ids["again.jpg"]}
        assert twins.text.endswith("the sharpest.")

    def test_faces(self, workspace: Workspace, tmp_path: Path) -> None:
        astronaut, admiral = (
            Image.open(COMPOSITIONS / n).convert("RGB") for n in ("astronaut.png", "grace_hopper.jpg")
        )
        both = Image.new("RGB", (1024, 1024))
        both.paste(astronaut, (0, 200))
        both.paste(admiral, (512, 200))
        both.save(tmp_path / "both.png")
        product = added(workspace, *BEAR.photos[:3], COMPOSITIONS / "astronaut.png")
        people = added(
            workspace, COMPOSITIONS / "astronaut.png", COMPOSITIONS / "grace_hopper.jpg", tmp_path / "both.png"
        )
        whole = CropBox(left_px=0, top_px=0, side_px=1024)
        people = people.replace(photos=(*people.photos[:2], people.photos[2].replace(crop=whole)))

        assert [a.photos for a in check(workspace, product) if a.text.startswith("A face in astronaut.png")] == [
            (product.photos[3].id,)
        ]
        texts = [a.text for a in check(workspace, people)]
        assert "Several faces: both.png. Crop to one person, or leave out." in texts
        assert not any(text.startswith("A face") for text in texts)

    def test_captions(self, workspace: Workspace) -> None:
        dataset = added(workspace, *BEAR.photos[:3])
        captions = ("a photo of SKS teddy bear", "a photo of a desks", "")
        photos = tuple(p.replace(caption=c) for p, c in zip(dataset.photos, captions, strict=True))

        advice = check(workspace, dataset.replace(photos=photos))

        assert ("warn", f"No caption: {photos[2].file}.", (photos[2].id,)) in advice
        assert ("warn", f"Without the trigger word sks: the caption of {photos[1].file}.", (photos[1].id,)) in advice
        bare = dataset.replace(photos=tuple(p.replace(caption="") for p in photos))
        assert any(a.text.startswith("No captions yet") and a.level == "good" for a in check(workspace, bare))

    def test_braces_in_names_are_only_text(self, workspace: Workspace, tmp_path: Path) -> None:
        dataset = added(workspace, noise(tmp_path / "{0}{photos}.png", size_px=(200, 200)))

        assert "Under 256 px: {0}{photos}.png." in check(workspace, dataset)[1].text


@pytest.mark.parametrize(("count", "sentence"), [(3, "3 photos: too few"), (201, "201 photos: too many")])
def test_counts_that_cannot_be_trained_on(count: int, sentence: str) -> None:
    with pytest.raises(BadDataset, match=f"{sentence}.*10 to 25 is right"):
        require_trainable(with_photos(count))


def test_five_bare_photos_can_be_trained_on() -> None:
    require_trainable(with_photos(5))


def test_exported_photos_come_back_the_same(workspace: Workspace, tmp_path: Path) -> None:
    dataset = added(workspace, *BEAR.photos[:2], noise(tmp_path / "a b.png"))

    export_zip(workspace, dataset, tmp_path / "export.zip")
    back = added(workspace, tmp_path / "export.zip")

    assert [(p.image, p.crop, p.caption) for p in back.photos] == [(p.image, p.crop, p.caption) for p in dataset.photos]
    assert back.photos[2].file == "003_a_b.png"
