"""The studio against what has happened to others: hostile requests, names, files and pages, and what it tells of its machine.

One studio is watched by Python's own audit hooks, in the server and in its worker: every connection, every address that is looked
up and every command that is run is written down. It has a token, a folder of hostile names, and secrets beside the folder.
"""

import ast
import base64
import contextlib
import http.client
import io
import json
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image, PngImagePlugin
from test_studio_server import TOO_LONG, begun, finished

import reverie
from reverie.errors import UserError
from reverie.files import write_whole
from reverie.studio.library import Library
from reverie.studio.queue import CANCELLED, DONE, Queue
from reverie.systems.shipped import SHIPPED
from reverie.systems.weights import CARD

TOKEN = "token-9f3c1b7e55aa"
CANARY = "canary-4711"
SOURCE = Path(reverie.__file__).parent
WATCH = """
import os, sys
log = open(os.environ["WATCHED"], "a", buffering=1)
log.write(f"began {' '.join(sys.orig_argv[1:])}\\n")
def watch(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        log.write(f"{event} {args[1:] if event in ('socket.connect', 'socket.sendto') else args}\\n")
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        log.write(f"{event} {args[:2]}\\n")
sys.addaudithook(watch)
"""
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "\"'><script>alert(1)<",
    "a\nb\r\nSet-Cookie: a=b",
    "%0d%0aX-Bad: 1",
    "..%2f..%2fx",
    "a\\..\\b",
    "‮gnp.exe",
    "'; DROP TABLE jobs; --",
    "$(touch x)`touch y`",
    "x" * 243,  # 255 bytes with its suffix
    "__proto__",
    "a:0.8",
)


def picture(size=(64, 64), form="PNG", **more):
    levels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(levels).save(out, form, **more)
    return out.getvalue()


def bomb(width, height):
    """A PNG whose header promises more than anybody has, in some bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def hostile(folder):
    """Puts things of hostile names into the library."""
    library, tensors = Library(folder), {"a": np.zeros(1, np.float32)}
    for what in ("models", "loras", "controls"):
        for name in HOSTILE:
            if "/" not in name:
                safetensors.numpy.save_file(tensors, library.folder / what / f"{name}.safetensors")
        (library.folder / what / "gone.safetensors").symlink_to(folder / "nothing")
        os.mkfifo(library.folder / what / "pipe.safetensors")
        Path(os.fsdecode(os.fsencode(library.folder / what) + b"/\xff\xfe.safetensors")).write_bytes(b"")
        for name in ("pickle.pt", "pickle.ckpt", "page.html", "run.py"):
            (library.folder / what / name).write_text(CANARY)
    cards = {
        "card-styles": {"about": {"styles": "<b>", "data": []}},
        "card-halves": {"about": {"styles": ["\ud800", 7]}, "defaults": {"steps": float("nan"), "\ud800": 1}},
        "card-list": [],
        "card-deep": "[" * 50_000,
    }
    for name, card in cards.items():
        text = card if isinstance(card, str) else json.dumps(card)
        safetensors.numpy.save_file(tensors, library.folder / "models" / f"{name}.safetensors", {CARD: text})
    (library.folder / "models" / "header.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    code = library.folder / "models" / "code"  # a folder that asks for its own code to be run
    code.mkdir()
    (code / "model_index.json").write_text(json.dumps({"_class_name": ["pipeline", "Mine"], "unet": ["mine", "Net"]}))
    (code / "pipeline.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text(CANARY)
    (outside / "secret.png").write_bytes(picture() + CANARY.encode())
    (outside / "site").mkdir()
    (outside / "site" / "sitecustomize.py").write_text(WATCH)
    hostile(outside / "studio")
    return outside


@pytest.fixture(scope="module")
def address(place):
    paths = os.pathsep.join([str(place / "site"), str(SOURCE.parent)])
    env = os.environ | {"REVERIE_TOKEN": TOKEN, "WATCHED": str(place / "watched"), "PYTHONPATH": paths}
    with (place / "log").open("w") as log:
        process, url = begun(place / "studio", env=env, stderr=log)
        yield url.partition("?")[0]
        process.terminate()
        process.communicate(timeout=TOO_LONG)


@pytest.fixture
def client(address):
    with httpx.Client(base_url=address, timeout=TOO_LONG, headers={"Authorization": f"Bearer {TOKEN}"}) as made:
        yield made


def watched(place):
    return (place / "watched").read_text().splitlines()


def done(client, **asked):
    job = client.post("/v1/jobs", json={"prompt": "a", **asked}).json()
    return finished(client, job["id"])[-1]


def sent(client, data):
    return client.post("/v1/uploads", content=data)


# S1, S2: who may ask


def raw(address, headers, method="GET", path="/v1/models"):
    """The status of a request whose headers are just these."""
    port = int(address.rstrip("/").rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TOO_LONG)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in (("Authorization", f"Bearer {TOKEN}"), *headers):
        connection.putheader(name, value.format(port=port))
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


OURS = ("Host", "127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([OURS], 200),
        ([("Host", "localhost:{port}")], 200),
        ([("Host", "LOCALHOST:{port}")], 200),
        ([("Host", "[::1]:{port}")], 200),
        ([OURS, ("Origin", "http://127.0.0.1:{port}")], 200),
        ([], 400),
        ([("Host", "")], 421),
        ([("Host", "evil.example")], 421),
        ([("Host", "evil.example:{port}")], 421),  # a name of another that points here
        ([("Host", "127.0.0.1.evil.example:{port}")], 421),
        ([("Host", "evil.example#127.0.0.1:{port}")], 421),
        ([("Host", "127.0.0.1:{port}@evil.example")], 421),
        ([("Host", "user@127.0.0.1:{port}")], 421),
        ([("Host", "127.0.0.1")], 421),
        ([("Host", "127.0.0.1:1")], 421),
        ([("Host", "127.0.0.1:0{port}")], 421),
        ([("Host", "127.0.0.1:{port}x")], 421),
        ([("Host", "0.0.0.0:{port}")], 421),
        ([("Host", "2130706433:{port}")], 421),
        ([("Host", "localhost.:{port}")], 421),
        ([OURS, ("Host", "evil.example")], 400),
        ([OURS, ("Origin", "null")], 403),
        ([OURS, ("Origin", "")], 403),
        ([OURS, ("Origin", "http://evil.example")], 403),
        ([OURS, ("Origin", "http://127.0.0.1:1")], 403),
        ([OURS, ("Origin", "http://127.0.0.1")], 403),
        ([OURS, ("Origin", "http://127.0.0.1:{port}.evil.example")], 403),
        ([OURS, ("Origin", "http://localhost:{port}")], 403),
        ([OURS, ("Origin", "file://127.0.0.1:{port}")], 403),
        ([OURS, ("Origin", "chrome-extension://127.0.0.1:{port}")], 403),
        ([OURS, ("Origin", "http://127.0.0.1:{port}"), ("Origin", "http://evil.example")], 403),
        ([OURS, ("Content-Length", "200000001")], 413),
    ],
    ids=str,
)
def test_who_may_ask(address, headers, status):
    assert raw(address, headers) == status


def test_routes_that_change_things_ask_the_same(address):
    for path in ("/v1/jobs", "/v1/uploads", "/sdapi/v1/interrupt", "/v1/images/generations"):
        assert raw(address, [OURS, ("Origin", "null"), ("Content-Length", "0")], "POST", path) == 403


GUESSES = ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN[:-1]}, {"Cookie": "reverie-token=x"}, {"Cookie": "=;;="})
DOORS = ("", "style.css", "v1/models", "v1/jobs", "openapi.json", "sdapi/v1/options", "?token=wrong", f"v1/models?token={TOKEN}")


@pytest.mark.parametrize("said", GUESSES, ids=str)
def test_nobody_without_the_token(address, said):
    for path in DOORS:
        assert httpx.get(address + path, headers=said).status_code == 401, path


def test_there_are_no_sockets(client):
    """An upgrade is never an error of the server's."""
    key = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "a" * 22 + "=="}
    for path in ("/", "/v1/jobs", "/ws"):
        assert client.get(path, headers=key).status_code < 500


# S3: no path


PATHS = (
    "../secret.txt",
    "../../secret.txt",
    "..%2f..%2fsecret.txt",
    "%2e%2e/%2e%2e/secret.txt",
    "..\\..\\secret.txt",
    "....//....//secret.txt",
    "{outside}/secret.txt",
    "{outside}/secret.png",
    "file://{outside}/secret.png",
    "../secret",
    "../jobs.db",
    "../../outside/secret",
    "/etc/passwd",
    "//etc/passwd",
    "\\\\127.0.0.1\\share\\a.png",
    "//127.0.0.1/share/a.png",
    "C:\\secret.txt",
    "a\0b",
    "secret.png\0.png",
    "~/secret.png",
    "",
    ".",
    "..",
    "pipe",
    "a" * 5000,
)


def fields(path):
    """Every field of a job that names a thing, as this path."""
    yield {"model": path}
    yield {"loras": [path]}
    yield {"loras": [f"{path}:0.5"]}
    yield {"kind": path}
    yield {"settings": {"style": path, "solver": path}}
    for task in ("edit", "outpaint", "upscale", "restore"):
        yield {"tasks": [{"name": task, "image": path}]}
    yield {"tasks": [{"name": "inpaint", "image": path, "mask": path}]}
    yield {"tasks": [{"name": "region", "mask": path, "prompt": "a"}]}
    yield {"tasks": [{"name": path}]}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ascii(path)[:30])
def test_no_field_is_a_path(path, client, place):
    path = path.format(outside=place)
    for asked in fields(path):
        if asked.get("settings", {}).get("style") == path == "":
            continue
        answer = client.post("/v1/jobs", json={"prompt": "a", **asked})
        assert answer.status_code == 400 and CANARY not in answer.text, asked
    uploaded = sent(client, picture()).json()["name"]
    card = {"name": "control", "net": path, "image": uploaded}
    assert client.post("/v1/jobs", json={"tasks": [card], "settings": {"steps": 1}}).status_code == 400
    for route in ("txt2img", "options"):
        body = {"sd_model_checkpoint": path} if route == "options" else {"override_settings": {"sd_model_checkpoint": path}}
        if path:  # which means the model that is set
            assert client.post(f"/sdapi/v1/{route}", json=body).status_code == 400
    if path:
        assert client.post("/v1/images/generations", json={"prompt": "a", "model": path}).status_code == 400


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ascii(path)[:30])
def test_no_route_is_a_path(path, address, place):
    path = path.format(outside=place)
    job = "0" * 32
    routes = ("/", "/v1/pictures/", "/v1/models/", "/v1/jobs/", f"/v1/jobs/{job}/results/", f"/v1/jobs/{job}/previews/")
    port = int(address.rstrip("/").rpartition(":")[2])
    plain = bytes(range(33, 127))
    written = {
        "".join(chr(b) if b in kept else f"%{b:02x}" for b in path.encode()) for kept in (plain, plain.translate(None, b"./\\"))
    }
    for route in (*routes, "/v1/pictures?before="):
        for text in written:  # as it is, and with every dot and slash hidden
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TOO_LONG)
            connection.request("GET", f"{route}{text}", headers={"Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            assert answer.status < 500 and CANARY.encode() not in body and b"SQLite" not in body and b"root:" not in body, (
                route,
                text,
            )


def test_links_out_of_the_page_folder_are_not_followed():
    assert not [path for path in (SOURCE / "studio" / "page").rglob("*") if path.is_symlink()]


# S4, S10: the network


def test_addresses_are_refused_and_nothing_is_asked(client, place):
    before = len(watched(place))
    for url in (
        "http://127.0.0.1:1/a.png",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]:1/",
        "http://[fd00:ec2::254]/",
        "http://2130706433/",
        "http://0x7f.1/",
        "https://example.com/a.png",
        "ftp://example.com/a",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "//example.com/a.png",
        "HTTP://EXAMPLE.COM/a.png",
        "data:text/html,http://example.com",
        "\\\\example.com\\a.png",
    ):
        assert client.post("/sdapi/v1/img2img", json={"init_images": [url], "prompt": "a"}).status_code == 400, url
        whole = base64.b64encode(picture()).decode()
        assert client.post("/sdapi/v1/img2img", json={"init_images": [whole], "mask": url}).status_code == 400, url
        assert client.post("/sdapi/v1/png-info", json={"image": url}).status_code == 400, url
        unit = {"args": [{"image": url, "model": "avatars-edges"}]}
        assert client.post("/sdapi/v1/txt2img", json={"alwayson_scripts": {"ControlNet": unit}}).status_code == 400, url
        assert client.post("/v1/images/edits", data={"prompt": "a", "image": url}).status_code == 400, url
        assert sent(client, url.encode()).status_code == 400, url
        for asked in fields(url):
            assert client.post("/v1/jobs", json=asked).status_code == 400, (url, asked)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:1/x.png"/></svg>'
    assert sent(client, svg).status_code == 400
    assert not [line for line in watched(place)[before:] if line.startswith("socket")]


def test_nothing_is_asked_of_the_network_from_start_to_picture(client, place):
    """Also S7: what is run is the worker, as a list of words."""
    assert done(client, settings={"steps": 1})["state"] == "done"
    client.get("/")
    lines = watched(place)
    began = [line for line in lines if line.startswith("began")]
    assert any("-m reverie studio" in line for line in began) and any("reverie.studio.worker" in line for line in began)
    asked = [line for line in lines if line.startswith("socket")]
    assert not [line for line in asked if not re.search(r"'(127\.0\.0\.1|::1|localhost)'|b?'/|None", line)]
    run = [line for line in lines if line.startswith(("os.", "subprocess"))]
    assert run and all("reverie.studio.worker" in line for line in run), run


def test_the_watch_sees():
    """A hook that saw nothing would pass everything above."""
    with socket.socket() as one:
        seen = []
        sys.addaudithook(lambda event, args: seen.append(event) if event == "socket.connect" and args[0] is one else None)
        with contextlib.suppress(OSError):
            one.connect(("127.0.0.1", 1))
        assert seen == ["socket.connect"]


# S5: what is sent, and how all is served


@pytest.mark.parametrize(
    "data",
    [
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><svg>&a;</svg>",
        b"<html><script>alert(1)</script></html>",
        b"%PDF-1.4",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
        b"GIF89a",
        b"PK\x03\x04",
        b"\x80\x04\x95cos\nsystem\n",
        b"",
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=lambda data: ascii(data[:16]),
)
def test_what_is_no_picture_is_not_taken(client, data, place):
    answer = sent(client, data)
    assert answer.status_code == 400 and "cannot be decoded" in answer.json()["error"]["message"]
    assert not [file for file in (place / "studio" / "uploads").iterdir() if file.suffix != ".png"]


def test_a_page_inside_a_picture_is_gone(client):
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "<script>alert(1)</script>")
    data = picture(pnginfo=info) + b"<script>alert(1)</script>"
    name = sent(client, data).json()["name"]
    kept = client.get(f"/v1/pictures/{name}")
    assert b"script" not in kept.content and kept.headers["content-type"] == "image/png"


def test_every_answer_says_how_it_may_be_used(client, address):
    paths = ("/", "/style.css", "/make.js", "/v1/models", "/v1/jobs", "/nothing", "/v1/jobs/x", "/openapi.json")
    answers = [client.get(path) for path in paths]
    answers += [client.post("/v1/jobs", json=[]), client.request("TRACE", "/"), client.get("/v1/models", headers={"Host": "x"})]
    answers += [httpx.get(address), httpx.get(f"{address}?token={TOKEN}"), sent(client, b"")]
    for answer in answers:
        said = answer.headers
        assert said["x-content-type-options"] == "nosniff" and said["x-frame-options"] == "DENY", answer
        policy = said["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy, answer
        assert "server" not in said and "access-control-allow-origin" not in said
    assert "HttpOnly" in answers[-2].headers["set-cookie"] and "SameSite=strict" in answers[-2].headers["set-cookie"]
    assert TOKEN not in answers[-2].headers["location"]


def test_pages_hold_no_script_and_no_style_of_their_own():
    for page in (SOURCE / "studio" / "page").glob("*.html"):
        text = page.read_text()
        assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:|https?://", text, re.I), page
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text)), page
    for script in (SOURCE / "studio" / "page").rglob("*.js"):
        text = script.read_text()
        made_of_text = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?://(?!www\.w3\.org)"
        assert not re.search(made_of_text, text), script


# S6: nothing of the machine is told


def test_nothing_tells_of_the_machine(client, place):
    """No route, error, log or picture says the token, or where anything lies."""
    lora(place / "studio" / "loras" / "own.safetensors")
    models = place / "studio" / "models"
    (models / "own.safetensors").write_bytes(SHIPPED["reverie-avatars"].read_bytes())
    image = sent(client, picture()).json()["name"]
    control = {"name": "control", "net": "avatars-edges", "image": image, "take": "edges()"}
    jobs = [
        done(client, model="own", loras=["own:0.5"], settings={"steps": 1}, tasks=[{"name": "edit", "image": image}]),
        done(client, settings={"steps": 1}, tasks=[control]),
    ]
    assert [job["error"] for job in jobs] == [None, None]
    jobs += [done(client, model=name) for name in ("header", "code", "card-list", HOSTILE[0])]
    jobs += [done(client, loras=["a:0.8:0.5"]), done(client, tasks=[control | {"net": HOSTILE[1]}])]
    assert all(job["state"] == "failed" and "went wrong" not in job["error"] for job in jobs[2:]), jobs
    texts = [json.dumps(job) for job in jobs]
    names = [name for job in jobs[:2] for name in job["result"]["pictures"]]
    made = [(place / "studio" / "pictures" / f"{name}.png").read_bytes() for name in names]
    for data in made:
        texts += [str(Image.open(io.BytesIO(data)).info)]
        texts += [client.post("/sdapi/v1/png-info", json={"image": base64.b64encode(data).decode()}).text]
    told = client.get(f"/v1/pictures/{names[0]}/made").json()["made"]
    assert told["model"] == "own" and told["loras"] == ["own:0.5"], "and it can be made again"
    texts += [client.get(path).text for path in gets(client)]
    texts += [client.post("/v1/jobs", json={"model": "x"}).text, client.post("/sdapi/v1/txt2img", content=b"{").text]
    texts += [(place / "log").read_text()]
    machine = (TOKEN, str(place), str(SOURCE), str(Path.home() / "reverie"), sys.prefix, socket.gethostname())
    for text in texts:
        assert not [part for part in machine if part in text], text[:2000]
    assert not (place / "studio" / "ran").exists(), "S9: a model's own code is not run"


def lora(path):
    """Writes a LoRA of the shipped model."""
    from reverie.nets.lora import adapt
    from reverie.systems.lora import save_lora
    from reverie.systems.shipped import read_model

    system = read_model("reverie-avatars")
    adapt(system.denoiser.net, 2, alpha=1)
    save_lora(system, path, {"name": system.name, "hash": ""}, {"name": "own"})


def gets(client):
    """Every route that is asked with GET and needs nothing."""
    routes = client.get("/openapi.json").json()["paths"]
    return [path for path, how in routes.items() if "get" in how and "{" not in path]


def test_no_route_installs_or_fetches(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if re.search("install|download|extension|plugin|exec|shell|eval|fetch|proxy", path)]


# S7: the source


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}, node


@pytest.mark.parametrize("path", sorted((SOURCE / "studio").rglob("*.py")), ids=lambda path: path.name)
def test_no_shell_and_no_code_from_text(path):
    for name, words, node in calls(path):
        assert "shell" not in words, f"{path}:{node.lineno}"
        last = name.rpartition(".")[2]
        assert name not in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"), f"{path}:{node.lineno}"
        assert last not in ("getoutput", "create_subprocess_shell"), f"{path}:{node.lineno}"
        foreign = ("pickle.", "marshal.", "torch.load", "urllib.request", "requests.", "httpx.")
        assert not name.startswith(foreign), f"{path}:{node.lineno}"
    assert not re.search(r"trust_remote_code|import (pickle|marshal|httpx|requests|urllib\.request)", path.read_text())


# F5: names


def test_hostile_names_are_names(client):
    listed = {one["id"] for one in client.get("/v1/models").json()["data"]}
    choices = client.get("/v1/choices").json()
    expected = {name for name in HOSTILE if "/" not in name}
    assert expected <= listed and expected <= set(choices["loras"]) and expected <= set(choices["controls"])
    assert not {"gone", "pipe", "pickle", "pickle.pt", "page.html", "run.py"} & listed
    about = {one["id"]: one for one in client.get("/v1/models").json()["data"]}
    assert all(isinstance(style, str) for one in about.values() for style in one.get("styles", []))
    assert about["card-halves"]["defaults"] == {"steps": None, "?": 1}
    for name in sorted(expected):
        answer = client.post("/v1/jobs", json={"model": name, "prompt": name, "settings": {"steps": 1, "negative": name}})
        assert answer.status_code == 202
        failed = finished(client, answer.json()["id"])[-1]
        assert failed["state"] == "failed" and "went wrong" not in failed["error"], failed
        assert "x-bad" not in answer.headers and "set-cookie" not in answer.headers
    assert {one["name"] for one in client.get("/sdapi/v1/loras").json()} >= expected
    assert not [name for name in ("x", "y") if Path(name).exists()]


@pytest.mark.parametrize("name", ["\ud800", "a\ud800b", "\udcff"], ids=ascii)
def test_halves_of_characters_are_refused(client, name):
    bodies = [
        {"prompt": name},
        {"tasks": [{"name": "follow", "said": name}]},
        {name: 1},
        {"model": name},
        {"settings": {name: 1}},
        {"tasks": [{"name": name}]},
        {"loras": [name]},
        {"kind": name},
    ]
    for body in bodies:
        answer = client.post("/v1/jobs", content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and answer.json()["error"]["message"], body
    for route in ("sdapi/v1/txt2img", "v1/images/generations"):
        for body in ({"prompt": name}, {name: 1, "prompt": "a"}):
            answer = client.post(route, content=json.dumps(body), headers={"Content-Type": "application/json"})
            assert answer.status_code == 400 and answer.json()["error"]["message"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(client, number):
    vary = '{"tasks": [{"name": "vary", "seed": 1, "share": %s}]}'
    for body in ('{"settings": {"guidance": %s}}', vary, '{"priority": %s}', '{"x": %s}'):
        answer = client.post("/v1/jobs", content=body % number, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and answer.json()["error"]["message"]
    assert client.get("/v1/jobs").status_code == 200


DEEP = ("[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, '{"tasks": ' + "[" * 900 + "]" * 900 + "}", "9" * 5000)


@pytest.mark.parametrize("body", DEEP, ids=len)
def test_lists_in_lists_without_end(client, body):
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_long_words_stop_no_stream(client):
    """What is said of a job is bounded, and the worker is heard further."""
    for style in ("x" * 100_000, "é" * 300_000):
        failed = done(client, settings={"style": style, "steps": 1})
        assert failed["state"] == "failed" and len(failed["error"]) <= 2000
    assert client.post("/v1/jobs", json={"prompt": "x" * 2_000_000}).status_code == 400
    assert done(client, settings={"steps": 1})["state"] == "done"


# F6: bombs


def memory(url):
    """Most bytes that the server had in memory so far."""
    port = int(url.rstrip("/").rpartition(":")[2])
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"--port\0{port}\0".encode() in (folder / "cmdline").read_bytes() + b"\0":
                return 1024 * int(re.search(r"VmHWM:\s+(\d+)", (folder / "status").read_text())[1])
    pytest.skip("no /proc")
    return 0


def test_bombs_are_known_by_their_headers(client, address):
    sent(client, picture())
    before, begin = memory(address), time.monotonic()
    for size in ((50_000, 50_000), (2**31 - 1, 2**31 - 1), (8000, 7000), (1, 2**31 - 1)):
        data = bomb(*size)
        assert sent(client, data).status_code == 400
        whole = base64.b64encode(data).decode()
        assert client.post("/sdapi/v1/png-info", json={"image": whole}).status_code == 400
        assert client.post("/sdapi/v1/img2img", json={"init_images": [whole]}).status_code == 400
        both = {"image": ("a.png", picture()), "mask": ("m.png", data)}
        assert client.post("/v1/images/edits", data={"prompt": "a"}, files=both).status_code == 400
    assert time.monotonic() - begin < 20 and memory(address) - before < 300e6


def texts(*chunks):
    """A picture with these chunks of text before its end."""
    data, more = picture(), b""
    for kind, body in chunks:
        more += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data[:-12] + more + data[-12:]


HALF = json.dumps({"reverie": 1, "model": {"name": "\ud800"}, "settings": {"prompt": "a"}, "tasks": [{"name": "\udfff"}]})


@pytest.mark.parametrize(
    "data",
    [
        texts(*[(b"zTXt", b"k%d\0\0" % k + zlib.compress(bytes(1_000_000))) for k in range(100)]),
        texts((b"iTXt", b"reverie\0\1\0\0\0" + zlib.compress(b"[" * 900_000))),
        texts((b"tEXt", b"parameters\0" + b"a: " * 300_000 + b"\nSteps: 1, Sampler: x, Seed: 1")),
        texts((b"tEXt", b"parameters\0p\nSteps: 1, Seed: " + b"9" * 5000 + b", CFG scale: 1")),
        texts((b"tEXt", b"prompt\0" + b'{"1": ' * 3000)),
        texts((b"tEXt", b"reverie\0" + HALF.encode())),
        texts((b"tEXt", b"reverie\0" + HALF.replace('"a"', '"\\ud800"').encode())),
        texts((b"eXIf", b"MM\0*\0\0\0\x08\0\1\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\x08")),  # a directory that holds itself
    ],
    ids=["zip", "deep", "long", "digits", "graph", "half", "half prompt", "loop"],
)
def test_texts_of_pictures_are_bounded(client, data):
    begin = time.monotonic()
    for answer in (sent(client, data), client.post("/sdapi/v1/png-info", json={"image": base64.b64encode(data).decode()})):
        assert answer.status_code in (200, 201, 400) and len(answer.content) < 20_000_000
    assert time.monotonic() - begin < 20


# F7: disks


def test_a_full_disk_leaves_the_old_or_nothing(tmp_path):
    """At whatever byte it is full."""
    place = tmp_path / "a.png"
    old, new = picture(), picture((80, 80))
    for room in (0, 1, 4096, len(new) // 2, len(new) - 1):
        write_whole(place, lambda part: part.write_bytes(old))
        with limited(room), pytest.raises(UserError, match="cannot write"):
            write_whole(place, lambda part: part.write_bytes(new))
        assert place.read_bytes() == old and [path.name for path in tmp_path.iterdir()] == ["a.png"]


@contextlib.contextmanager
def limited(room):
    """Files may have no more bytes than this."""
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


KILLED = """
import os, pathlib, signal, sys
from reverie.files import write_whole
stop, seen = int(sys.argv[2]), 0
def count(event, args):
    global seen
    if event in ("open", "os.rename", "os.chmod", "os.remove"):
        seen += 1
        if seen == stop:
            os.kill(os.getpid(), signal.SIGKILL)
place = pathlib.Path(sys.argv[1])
new = b"new" * 100_000
sys.addaudithook(count)
write_whole(place, lambda part: part.write_bytes(new))
sys.addaudithook(lambda event, args: None)
print("whole", flush=True)
os._exit(0)
"""


def test_a_kill_at_each_step_leaves_the_old_or_the_new(tmp_path):
    place, found = tmp_path / "a.png", set()
    for stop in range(1, 12):
        place.write_bytes(b"old")
        said = subprocess.run([sys.executable, "-c", KILLED, str(place), str(stop)], capture_output=True, text=True)
        found.add(place.read_bytes()[:3])
        assert place.read_bytes() in (b"old", b"new" * 100_000)
        if "whole" in said.stdout:
            break
    assert found == {b"old", b"new"} and stop > 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"], "and what was left is gone with the next save"


# Q3, Q4, Q6: the queue after a restart


def test_what_was_cancelled_stays_so_and_a_broken_queue_costs_no_picture(tmp_path):
    queue = Queue(tmp_path)
    stopped = queue.submit("draw", {"prompt": "a"})
    queue.cancel(stopped.id)
    queue.close()
    name = f"{'a' * 32}-0"
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / f"{name}.png").write_bytes(picture())
    for broken in (None, b"", b"no database" * 1000, (tmp_path / "jobs.db").read_bytes()[:5000]):
        if broken is not None:
            for end in ("-wal", "-shm"):
                (tmp_path / f"jobs.db{end}").unlink(missing_ok=True)
            (tmp_path / "jobs.db").write_bytes(broken)
        process, url = begun(tmp_path, "--resume")
        try:
            assert [one["name"] for one in httpx.get(f"{url}v1/pictures").json()["pictures"]] == [name]
            assert httpx.get(f"{url}v1/pictures/{name}").status_code == 200
            found = httpx.get(f"{url}v1/jobs/{stopped.id}")
            assert (found.status_code, found.json().get("state")) == ((200, CANCELLED) if broken is None else (404, None))
            assert httpx.post(f"{url}v1/jobs", json={"prompt": "a"}).status_code == 202
        finally:
            process.kill()
            process.communicate(timeout=TOO_LONG)
    assert DONE != CANCELLED and (tmp_path / "jobs-broken.db").read_bytes() == b"no database" * 1000
