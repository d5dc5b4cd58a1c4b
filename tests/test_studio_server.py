"""The studio's server, as programs see it: jobs, OpenAI's routes by its own client, A1111's, and who may ask at all."""

import base64
import io
import json
import re
import socket
import subprocess
import sys

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

TOO_LONG = 60


def begun(folder, *options, env=None, stderr=None):
    """A studio of its own, and where it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "reverie", "studio", "--no-browser", "--folder", str(folder), "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=env)
    said = process.stdout.readline()
    return process, re.search(r"http://\S+", said)[0]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    process, url = begun(tmp_path_factory.mktemp("studio"))
    yield url
    process.terminate()
    process.communicate(timeout=TOO_LONG)


@pytest.fixture
def client(address):
    with httpx.Client(base_url=address, timeout=TOO_LONG) as made:
        yield made


def finished(client, job):
    """The job when it is over, by its stream of events."""
    with client.stream("GET", f"/v1/jobs/{job}/events") as stream:
        told = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    return told


def opened(data):
    return Image.open(io.BytesIO(data))


def test_a_job_is_answered_at_once_and_done_later(client):
    answer = client.post("/v1/jobs", json={"prompt": "a bald man", "settings": {"steps": 3, "seed": 7, "count": 2, "strict": True}})
    assert answer.status_code == 202 and answer.json()["state"] == "queued"
    told = finished(client, answer.json()["id"])
    assert told[-1]["state"] == "done" and any(one["progress"] for one in told[:-1])
    names = told[-1]["result"]["pictures"]
    again = client.get(answer.json()["poll_url"]).json()
    assert again["result"]["pictures"] == names and len(names) == 2
    picture = client.get(f"/v1/pictures/{names[0]}")
    assert picture.headers["content-type"] == "image/png" and picture.headers["x-content-type-options"] == "nosniff"
    assert opened(picture.content).size == (64, 64)
    made = client.get(f"/v1/pictures/{names[1]}/made").json()["made"]
    assert made["prompt"] == "a bald man" and made["settings"]["seed"] == 8 and made["settings"]["steps"] == 3
    same = client.post("/v1/jobs", json={k: made[k] for k in ("model", "prompt", "settings")}).json()
    (name,) = finished(client, same["id"])[-1]["result"]["pictures"]
    assert client.get(f"/v1/pictures/{name}").content == client.get(f"/v1/pictures/{names[1]}").content
    listed = [one["name"] for one in client.get("/v1/pictures").json()["pictures"]]
    assert listed[0] == name and set(names) <= set(listed)


def test_the_same_key_is_the_same_job(client):
    key = {"Idempotency-Key": "k1"}
    one, two = (client.post("/v1/jobs", json={"prompt": "a", "settings": {"steps": 1}}, headers=key).json() for _ in range(2))
    assert one["id"] == two["id"]
    other = client.post("/v1/jobs", json={"prompt": "b"}, headers=key)
    assert other.status_code == 400 and "idempotency key" in other.json()["error"]["message"]


def test_what_is_cancelled_ends_and_only_that(client):
    long = client.post("/v1/jobs", json={"prompt": "a", "settings": {"steps": 400, "count": 16}}).json()
    other = client.post("/v1/jobs", json={"prompt": "b", "settings": {"steps": 1}}).json()
    with client.stream("GET", f"/v1/jobs/{long['id']}/events") as stream:
        next(line for line in stream.iter_lines() if '"step": ' in line)
    assert client.post(f"/v1/jobs/{long['id']}/cancel").status_code == 200
    assert finished(client, long["id"])[-1]["state"] == "cancelled"
    assert finished(client, other["id"])[-1]["state"] == "done"
    again = client.post(f"/v1/jobs/{long['id']}/cancel")
    assert again.status_code == 409 and "cancelled already" in again.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"promt": "a"}, "Did you mean 'prompt'"),
        ({"settings": {"stepz": 3}}, "Did you mean 'steps'"),
        ({"tasks": [{"name": "inpait"}]}, "Did you mean 'inpaint'"),
        ({"model": "../../etc/passwd"}, "there is no model"),
        ({"model": "reverie-avatar"}, "Did you mean 'reverie-avatars'"),
        ({"tasks": [{"name": "edit", "image": "../jobs"}]}, "there is no picture"),
        ({"kind": "drew"}, "no kind of job"),
        ({"priority": 1000}, "priority"),
        ({"settings": {"steps": 0}}, "steps is 0"),
        ([], "dictionary"),
    ],
)
def test_what_is_wrong_with_a_job_is_said_at_once(client, body, said):
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "path", ["/v1/jobs/nothing", "/v1/jobs/nothing/events", f"/v1/pictures/{'0' * 64}", "/v1/models/x", "/nothing"]
)
def test_what_is_not_there_is_not_done(client, path):
    answer = client.get(path)
    assert answer.status_code == 404 and answer.json()["error"]["message"]


def test_pictures_are_sent_and_changed(client):
    png = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(png, "PNG")
    sent = client.post("/v1/uploads", content=png.getvalue())
    assert sent.status_code == 201 and sent.json()["made"] is None
    card = {"name": "edit", "image": sent.json()["name"], "strength": 0.5}
    job = client.post("/v1/jobs", json={"prompt": "a", "settings": {"steps": 4}, "tasks": [card]}).json()
    assert finished(client, job["id"])[-1]["state"] == "done"
    assert client.post("/v1/uploads", content=b"<svg/>").status_code == 400


def test_the_client_of_openai(address):
    with openai.OpenAI(base_url=f"{address}v1", api_key="none", max_retries=0) as ai:
        more = {"seed": 7, "num_inference_steps": 3}
        made = ai.images.generate(model="reverie-avatars", prompt="a bald man", n=2, size="64x64", extra_body=more)
        assert [opened(base64.b64decode(one.b64_json)).size for one in made.data] == [(64, 64)] * 2
        again = ai.images.generate(model="reverie-avatars", prompt="a bald man", extra_body=more, response_format="url")
        both = httpx.get(again.data[0].url).content, base64.b64decode(made.data[0].b64_json)
        one, two = (np.asarray(opened(data), int) for data in both)
        assert np.abs(one - two).max() <= 2, "in a batch of another size"
        picture = ("a.png", base64.b64decode(made.data[0].b64_json), "image/png")
        mask = io.BytesIO()
        hole = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
        hole.paste((0, 0, 0, 0), (16, 0, 48, 24))
        hole.save(mask, "PNG")
        edited = ai.images.edit(
            image=picture, mask=("m.png", mask.getvalue(), "image/png"), prompt="a hat", model="reverie-avatars", extra_body=more
        )
        before, after = (opened(base64.b64decode(one.data[0].b64_json)) for one in (made, edited))
        assert before.crop((0, 32, 64, 64)).tobytes() == after.crop((0, 32, 64, 64)).tobytes(), "known pixels stay"
        assert before.crop((16, 0, 48, 24)).tobytes() != after.crop((16, 0, 48, 24)).tobytes()
        slow = {"num_inference_steps": 20}
        events = list(ai.images.generate(model="reverie-avatars", prompt="a", stream=True, partial_images=2, extra_body=slow))
        assert events[-1].type == "image_generation.completed" and events[-1].b64_json
        assert {event.type for event in events[:-1]} <= {"image_generation.partial_image"}
        assert {model.id for model in ai.models.list()} >= {"reverie-avatars", "reverie-avatars-fast"}
        with pytest.raises(openai.BadRequestError, match="Did you mean 'guidance_scale'"):
            ai.images.generate(prompt="a", extra_body={"guidance_scal": 3})
        with pytest.raises(openai.BadRequestError, match="no model"):
            ai.images.generate(prompt="a", model="nothing")


def test_a_client_of_a1111(client):
    asked = {
        "prompt": "a bald man",
        "steps": 3,
        "seed": 7,
        "cfg_scale": 1.5,
        "sampler_name": "DPM++ 2M",
        "scheduler": "Karras",
        "n_iter": 2,
    }
    made = client.post("/sdapi/v1/txt2img", json=asked).json()
    info = json.loads(made["info"])
    assert len(made["images"]) == 2 and info["all_seeds"] == [7, 8]
    assert "Steps: 3, Sampler: DPM++ 2M, Schedule type: Karras" in info["infotexts"][0]
    told = client.post("/sdapi/v1/png-info", json={"image": made["images"][0]}).json()
    assert told["info"] == info["infotexts"][0] and told["parameters"]["prompt"] == "a bald man"
    changed = client.post(
        "/sdapi/v1/img2img",
        json={"init_images": [f"data:image/png;base64,{made['images'][0]}"], "prompt": "b", "steps": 4, "denoising_strength": 0.4},
    )
    assert len(changed.json()["images"]) == 1
    assert client.get("/sdapi/v1/progress").json()["progress"] == 0
    assert {"DPM++ 2M", "Euler a"} <= {one["name"] for one in client.get("/sdapi/v1/samplers").json()}
    assert "karras" in {one["name"] for one in client.get("/sdapi/v1/schedulers").json()}
    assert "reverie-avatars" in {one["title"] for one in client.get("/sdapi/v1/sd-models").json()}
    assert client.get("/sdapi/v1/loras").json() == []
    assert client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "reverie-avatars-fast"}).status_code == 200
    assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "reverie-avatars-fast"
    client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "reverie-avatars"})
    assert client.post("/sdapi/v1/interrupt").json() == {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"promt": "a"}, "Did you mean 'prompt'"),
        ({"enable_hr": True}, "enable_hr"),
        ({"sampler_name": "Eule"}, "no solver"),
        ({"scheduler": "none such"}, "no scheduler"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, "sd_model_checkpoint"),
        ({"alwayson_scripts": {"ADetailer": {}}}, "no script"),
    ],
)
def test_what_a1111_knows_and_we_do_not_is_said(client, body, said):
    answer = client.post("/sdapi/v1/txt2img", json=body)
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


def test_the_studio_fetches_nothing(client):
    for address in ("http://169.254.169.254/latest", "//host/a.png", "file:///etc/passwd"):
        answer = client.post("/sdapi/v1/img2img", json={"init_images": [address]})
        assert answer.status_code == 400 and "fetches nothing" in answer.json()["error"]["message"]


def test_only_its_own_pages_may_ask(address, client):
    port = address.rstrip("/").rpartition(":")[2]
    for origin in ("null", "http://evil.example", f"http://127.0.0.1:{int(port) + 1}", f"http://evil.example:{port}"):
        assert client.get("/v1/models", headers={"Origin": origin}).status_code == 403, origin
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", "127.0.0.1"):
        assert client.get("/", headers={"Host": host}).status_code == 421, host
    assert client.get("/v1/models", headers={"Origin": address.rstrip("/")}).status_code == 200
    assert "script-src 'self'" in client.get("/").headers["content-security-policy"]


def test_another_address_needs_a_token(tmp_path):
    process, url = begun(tmp_path, "--host", "0.0.0.0")
    try:
        base, _, token = url.replace("0.0.0.0", "127.0.0.1").partition("?token=")
        assert len(token) > 20
        for path in ("", "v1/models", "sdapi/v1/progress", "style.css"):
            assert httpx.get(base + path).status_code == 401
            assert httpx.get(base + path, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert httpx.get(base, params={"token": "wrong"}).status_code == 401
        with httpx.Client(base_url=base, follow_redirects=True) as browser:
            assert browser.get(f"/?token={token}").status_code == 200 and browser.get("/v1/models").status_code == 200
    finally:
        process.terminate()
        process.communicate(timeout=TOO_LONG)
