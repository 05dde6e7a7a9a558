import hashlib
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.errors import NoRoom, NotFound
from engine.recipe import Recipe, png_bytes
from engine.settings import CropBox, GenerateSettings
from engine.workspace import Photo, Workspace, append_line, atomic_write, read_json, write_json

HOSTILE_IDS = ["", ".", "..", "../jobs", "a/../b", "/etc/passwd", "x\0", "x\n", "A B", "~", "é", "a" * 300, "pid\\x"]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def noise(seed: int = 0, size_px: tuple[int, int] = (40, 30)) -> Image.Image:
    width, height = size_px
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def picture(seed: int) -> tuple[bytes, dict]:
    recipe = Recipe(settings=GenerateSettings(prompt="a mug"), seed=seed, base_hash="0" * 64)
    return png_bytes(noise(seed), recipe, {}), json.loads(json.dumps(recipe.to_dict() | {"duration_s": 0.0}))


class TestImages:
    def test_name_is_the_hash_of_the_file(self, workspace: Workspace) -> None:
        content_hash = workspace.keep_image(noise())
        file = workspace.image_path(content_hash)
        assert hashlib.sha256(file.read_bytes()).hexdigest() == content_hash
        assert workspace.image(content_hash).tobytes() == noise().tobytes()

    def test_equal_pixels_are_kept_once_whatever_their_metadata(self, workspace: Workspace) -> None:
        tagged = noise()
        tagged.info = {"icc_profile": b"profile", "dpi": (300, 300), "comment": "home address"}
        assert workspace.keep_image(tagged) == workspace.keep_image(noise())
        assert len(list((workspace.root / "images").rglob("*.png"))) == 1

    @pytest.mark.parametrize(
        ("mode", "kept"), [("RGB", "RGB"), ("L", "L"), ("RGBA", "RGB"), ("P", "RGB"), ("1", "RGB")]
    )
    def test_modes(self, workspace: Workspace, mode: str, kept: str) -> None:
        assert workspace.image(workspace.keep_image(noise().convert(mode))).mode == kept

    def test_a_pictures_thumbnail_goes_with_it(self, workspace: Workspace) -> None:
        png = io.BytesIO()
        noise(size_px=(400, 200)).save(png, "PNG")
        picture = workspace.add_picture(png.getvalue(), {}).id
        thumbnail = workspace.picture_thumbnail_path(picture, 100)
        with Image.open(thumbnail) as image:
            assert image.size == (100, 50)
        workspace.delete_picture(picture)
        assert not thumbnail.exists()

    def test_thumbnail_keeps_the_proportions(self, workspace: Workspace) -> None:
        path = workspace.thumbnail_path(workspace.keep_image(noise(size_px=(400, 200))), 100)
        with Image.open(path) as thumbnail:
            assert thumbnail.size == (100, 50)

    @pytest.mark.parametrize("content_hash", [*HOSTILE_IDS, "0" * 64, "A" * 64])
    def test_unknown(self, workspace: Workspace, content_hash: str) -> None:
        assert not workspace.has_image(content_hash)
        with pytest.raises(NotFound):
            workspace.image(content_hash)


class TestDatasets:
    def test_comes_back_as_it_was_saved(self, workspace: Workspace) -> None:
        dataset = workspace.create_dataset("Meine Bären!", trigger="zxq", class_name="bear")
        photo = Photo(
            id="p1",
            file="IMG_1.HEIC",
            image="0" * 64,
            width_px=40,
            height_px=30,
            crop=CropBox(left_px=1, top_px=2, side_px=20),
            caption="zxq bear, “outside”",
        )
        dataset = dataset.replace(photos=(photo, photo.replace(id="p2", crop=None)))
        workspace.save_dataset(dataset)
        assert Workspace(workspace.root).dataset("meine-baren") == dataset

    def test_one_name_twice_gives_two_datasets_newest_first(self, workspace: Workspace) -> None:
        first = workspace.create_dataset("bear")
        second = workspace.create_dataset("bear")
        assert [dataset.id for dataset in workspace.datasets()] == [second.id, first.id]

    @pytest.mark.parametrize("name", ["", "///", "熊", "..", "x" * 500, "CON", "a.b"])
    def test_any_name_will_do(self, workspace: Workspace, name: str) -> None:
        assert workspace.dataset(workspace.create_dataset(name).id).name == name

    def test_deleted_is_gone(self, workspace: Workspace) -> None:
        dataset = workspace.create_dataset("bear")
        workspace.delete_dataset(dataset.id)
        assert workspace.datasets() == []
        with pytest.raises(NotFound):
            workspace.save_dataset(dataset)

    def test_updates_from_many_threads_are_all_kept(self, workspace: Workspace) -> None:
        dataset = workspace.create_dataset("bear")

        def add_letter() -> None:
            for _ in range(10):
                workspace.update_dataset(dataset.id, lambda d: d.replace(class_name=d.class_name + "x"))

        threads = [threading.Thread(target=add_letter) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert workspace.dataset(dataset.id).class_name == "x" * 40

    @pytest.mark.parametrize("dataset_id", HOSTILE_IDS)
    def test_unknown(self, workspace: Workspace, dataset_id: str) -> None:
        with pytest.raises(NotFound):
            workspace.dataset(dataset_id)
        with pytest.raises(NotFound):
            workspace.delete_dataset(dataset_id)


class TestLoras:
    VALUES = {"family": "sd15", "base": "starter", "trigger": "sks", "class_name": "bear", "rank": 16}

    def test_keeps_a_copy(self, workspace: Workspace, tmp_path: Path) -> None:
        file = tmp_path / "some.safetensors"
        file.write_bytes(b"weights")
        record = workspace.add_lora(file, name="My bear", settings={"steps": 400, "prompts": ["a"]}, **self.VALUES)
        file.unlink()
        assert record.id == "my-bear"
        assert record.sha256 == hashlib.sha256(b"weights").hexdigest()
        assert workspace.lora_path(record.id).read_bytes() == b"weights"
        assert Workspace(workspace.root).loras() == [record] == [workspace.lora("my-bear")]
        workspace.delete_lora(record.id)
        assert workspace.loras() == []

    @pytest.mark.parametrize("lora_id", HOSTILE_IDS)
    def test_unknown(self, workspace: Workspace, lora_id: str) -> None:
        for look_up in (workspace.lora, workspace.lora_path, workspace.delete_lora):
            with pytest.raises(NotFound):
                look_up(lora_id)


class TestPictures:
    def test_newest_first_page_by_page(self, workspace: Workspace) -> None:
        ids = [workspace.add_picture(*picture(seed)).id for seed in range(5)]
        newest = workspace.pictures(limit=2)
        assert [record.id for record in newest] == [ids[4], ids[3]]
        assert [record.recipe["seed"] for record in workspace.pictures(limit=2, before=newest[-1].id)] == [2, 1]
        assert workspace.picture(ids[0]).recipe == picture(0)[1]
        assert workspace.picture_path(ids[0]).read_bytes() == picture(0)[0]

    def test_deleted_is_gone(self, workspace: Workspace) -> None:
        record = workspace.add_picture(*picture(0))
        workspace.delete_picture(record.id)
        assert workspace.pictures() == []
        with pytest.raises(NotFound):
            workspace.picture(record.id)

    @pytest.mark.parametrize("damage", [b"", b"not a database at all" * 100, None])
    def test_index_is_rebuilt_from_the_files(self, workspace: Workspace, damage: bytes | None) -> None:
        for seed in range(3):
            workspace.add_picture(*picture(seed))
        before = workspace.pictures()
        index = workspace.root / "index.sqlite"
        if damage is None:
            index.unlink()
        else:
            index.write_bytes(damage)
        assert [
            r.replace(recipe=r.recipe | {"duration_s": 0.0}) for r in Workspace(workspace.root).pictures()
        ] == before

    def test_index_with_a_damaged_middle_is_rebuilt(self, workspace: Workspace) -> None:
        for seed in range(10):
            workspace.add_picture(*picture(seed))
        ids = [record.id for record in workspace.pictures()]
        index = workspace.root / "index.sqlite"
        content = bytearray(index.read_bytes())
        content[4096:] = b"\xff" * (len(content) - 4096)
        index.write_bytes(content)
        assert [record.id for record in Workspace(workspace.root).pictures()] == ids

    def test_index_follows_what_a_kill_left(self, workspace: Workspace) -> None:
        kept, lost = (workspace.add_picture(*picture(seed)) for seed in range(2))
        workspace.picture_path(lost.id).unlink()  # killed between the two halves of a deletion
        unlisted = workspace.root / "pictures" / "20300101-000000-000000-00000000.png"
        unlisted.write_bytes(picture(7)[0])  # killed between the two halves of an addition
        (workspace.root / "pictures" / "20300101-000000-000000-00000001.png").write_bytes(b"a stranger's file")
        (workspace.root / "pictures" / "holiday.png").write_bytes(picture(8)[0])
        assert [record.id for record in Workspace(workspace.root).pictures()] == [unlisted.stem, kept.id]

    @pytest.mark.parametrize("picture_id", [*HOSTILE_IDS, "20300101-000000-000000-00000000"])
    def test_unknown(self, workspace: Workspace, picture_id: str) -> None:
        for look_up in (workspace.picture, workspace.picture_path, workspace.delete_picture):
            with pytest.raises(NotFound):
                look_up(picture_id)


class TestJobs:
    def test_a_folder_counts_once_its_job_json_is_there(self, workspace: Workspace) -> None:
        folder = workspace.job_folder("token_-1")
        assert workspace.job_tokens() == []
        write_json(folder / "job.json", {})
        assert workspace.job_tokens() == ["token_-1"]
        workspace.delete_job("token_-1")
        assert not workspace.has_job("token_-1")

    @pytest.mark.parametrize("token", HOSTILE_IDS)
    def test_hostile_tokens(self, workspace: Workspace, token: str) -> None:
        assert not workspace.has_job(token)
        with pytest.raises(NotFound):
            workspace.job_folder(token)


class TestWriting:
    def test_nothing_changes_when_the_body_raises(self, tmp_path: Path) -> None:
        write_json(tmp_path / "a.json", 1)

        def write_half() -> None:
            with atomic_write(tmp_path / "a.json") as staged:
                staged.write_text("half")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            write_half()
        assert read_json(tmp_path / "a.json") == 1
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_torn_line_spoils_no_other(self, tmp_path: Path) -> None:
        file = tmp_path / "lines"
        append_line(file, "one")
        with file.open("a") as opened:
            opened.write("tw")
        append_line(file, "three")
        assert file.read_text() == "one\ntw\nthree\n"

    def test_leftovers_of_a_kill_are_swept_once_no_one_can_be_writing_them(self, workspace: Workspace) -> None:
        young, old = workspace.root / "loras" / ".staged-young", workspace.root / "loras" / ".staged-old"
        for folder in (young, old):
            folder.mkdir()
            (folder / "lora.safetensors").write_bytes(b"half")
        os.utime(old, (0, 0))
        assert Workspace(workspace.root).loras() == []
        assert young.exists()
        assert not old.exists()

    def test_full_disk(self, workspace: Workspace) -> None:
        workspace.require_room(0.001)
        with pytest.raises(NoRoom, match="MB left"):
            workspace.require_room(1e12)


def killed_at_line(number: int, action: Callable[[], None]) -> bool:
    """Run `action` in a fork that kills itself before Python executes line `number`; False if it got through."""
    pid = os.fork()
    if pid == 0:
        lines = count()

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "line" and next(lines) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)
            action()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_moment_leaves_everything_readable(workspace: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    file.write_bytes(bytes(100_000))
    dataset = workspace.create_dataset("bear")
    workspace.add_lora(file, name="bear", **TestLoras.VALUES)
    events = workspace.job_folder("job") / "events.jsonl"

    def write() -> None:
        workspace.save_dataset(dataset.replace(class_name="new " * 100))
        workspace.thumbnail_path(workspace.keep_image(noise(os.getpid())))
        workspace.add_picture(*picture(os.getpid()))
        workspace.delete_lora(workspace.add_lora(file, name="bear", **TestLoras.VALUES).id)
        append_line(events, json.dumps({"message": "new"}))

    write()  # so that the forks find everything imported
    workspace.save_dataset(dataset)
    kills = 0
    while killed_at_line(67 * kills, write):
        kills += 1
        assert workspace.dataset("bear").class_name in ("", "new " * 100)
        assert "bear" in [lora.id for lora in workspace.loras()]
    assert kills > 30

    after = Workspace(workspace.root)
    for path in (after.root / "images").glob("*/[!.]*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
    for path in (after.root / "thumbnails").glob("[!.]*"):
        with Image.open(path) as thumbnail:
            thumbnail.load()
    for record in after.pictures(limit=1000):
        assert after.picture_path(record.id).read_bytes() == picture(record.recipe["seed"])[0]
    for lora in after.loras():
        assert after.lora_path(lora.id).stat().st_size == 100_000
    assert after.dataset("bear").class_name == "new " * 100
    assert json.loads(events.read_text().splitlines()[-1]) == {"message": "new"}
