"""The whole workflow through the public endpoints, as another program would drive it."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from engine.samples import load_samples

ENDPOINTS = {
    *("/new_dataset", "/add_photos", "/caption", "/train", "/add_image", "/extract", "/generate"),
    *("/scores", "/rank", "/sheet", "/job", "/cancel", "/picture"),
}
SMALL = {"steps": 2, "resolution": 64, "batch_size": 1, "rank": 2, "sample_every": 2, "checkpoint_every": 2}
DEADLINE_S = 300  # for one job, on a machine that is busy with other things


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False)


def finish(client: Client, token: str) -> dict[str, Any]:
    """The last answer about a job that goes well."""
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        job = client.predict(token, api_name="/job")
        assert job["error"] is None
        if job["state"] == "done":
            return job
        time.sleep(0.2)
    raise TimeoutError(job)


def test_what_is_public_and_nothing_else(client: Client) -> None:
    described: Any = client.view_api(return_format="dict", print_info=False)
    assert set(described["named_endpoints"]) == ENDPOINTS
    assert described["unnamed_endpoints"] == {}


def test_from_photos_to_a_picture(client: Client) -> None:
    samples = load_samples()
    bear = samples.subject("teddy_bear")
    dataset = client.predict("Bear", "sks", "teddy bear", api_name="/new_dataset")["dataset"]
    added = client.predict(dataset, [handle_file(file) for file in bear.photos[:5]], api_name="/add_photos")
    assert len(added["photos"]) == 5
    assert added["refused"] == []

    started = client.predict({"dataset": dataset, "trigger": "sks", "class_name": "bear"}, api_name="/caption")
    assert finish(client, started["token"])["result"] == {"captioned": 5}

    started = client.predict({"dataset": dataset, "name": "Bear", **SMALL}, api_name="/train")
    lora = finish(client, started["token"])["result"]["lora"]

    photo = client.predict(handle_file(samples.compositions[0].file), api_name="/add_image")["image"]
    started = client.predict(photo, "canny", {}, "canny", api_name="/extract")
    layout = finish(client, started["token"])["result"]["map"]

    look = client.predict(handle_file(samples.looks[0].file), api_name="/add_image")["image"]
    settings = {
        "prompt": "a photo of sks teddy bear",
        "width": 64,
        "height": 64,
        "steps": 2,
        "seed": 5,
        "loras": [{"lora": lora}],
        "controls": [{"kind": "canny", "image": layout, "detected": True}],
        "styles": [{"image": look}],
    }
    job = finish(client, client.predict(settings, api_name="/generate")["token"])
    assert (job["step"], job["total"]) == (2, 2)
    [picture] = job["result"]["pictures"]
    with Image.open(client.predict(picture, api_name="/picture")) as png:
        assert png.size == (64, 64)
        assert "Seed: 5" in png.text["parameters"]  # type: ignore[attr-defined]
        recipe = json.loads(png.text["tripod"])  # type: ignore[attr-defined]
    assert recipe["settings"]["controls"][0]["image"] == layout
    assert recipe["settings"]["styles"][0]["image"] == look

    scores = client.predict(picture, api_name="/scores")
    assert {score["name"] for score in scores} == {"identity", "layout", "style"}
    [ranked] = client.predict([picture], api_name="/rank")
    assert (ranked["picture"], ranked["place"]) == (picture, 1)


def test_what_is_no_photo_is_refused_with_a_reason(client: Client, tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("not a picture")
    dataset = client.predict("Notes", "sks", "", api_name="/new_dataset")["dataset"]
    added = client.predict(dataset, [handle_file(text)], api_name="/add_photos")
    assert added["photos"] == []
    assert [refusal["file"] for refusal in added["refused"]] == ["notes.png"]


@pytest.mark.parametrize(
    ("endpoint", "arguments", "sentence"),
    [
        ("/generate", [{"prompt": " "}], "The prompt is empty. Say what the picture should show."),
        ("/generate", [{"prompt": "a mug", "width": 250}], "The width is 250 px. Use a multiple of 8, such as 248."),
        ("/generate", [{"prompt": "a mug", "cfg": 7}], "There is no setting called 'cfg'. Remove it."),
        ("/train", [{"dataset": "none", "name": "Bear"}], "There is no dataset 'none' in this workspace."),
        ("/job", ["../../etc"], "There is no job with this token here."),
        ("/picture", ["../index"], "The picture '../index' is not in this workspace."),
    ],
)
def test_a_bad_request_gets_one_sentence(client: Client, endpoint: str, arguments: list[Any], sentence: str) -> None:
    with pytest.raises(AppError, match=r"[.]") as caught:
        client.predict(*arguments, api_name=endpoint)
    assert sentence in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_files_of_the_server_cannot_be_named(address: str, tmp_path: Path) -> None:
    """Asked for as a client would that does not upload what it names."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64)).save(secret)
    asked = {"data": [{"path": str(secret), "meta": {"_type": "gradio.FileData"}}]}
    event = httpx.post(f"{address}gradio_api/call/add_image", json=asked).json()["event_id"]
    answer = httpx.get(f"{address}gradio_api/call/add_image/{event}", timeout=30).text
    assert "event: error" in answer
    assert "image" not in answer


def test_the_workspace_is_not_served(address: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    records = list(tmp_path_factory.getbasetemp().glob("workspace*/*/*/record.json"))
    assert records != []
    for record in records:
        assert httpx.get(f"{address}gradio_api/file={record}").status_code == 403
