"""Published systems learn as ours do, and what they learnt opens again: tiny random ones, two steps each."""

import numpy as np
import published
import pytest
import torch
from PIL import Image

from reverie.cli.adapt import Adapt
from reverie.nets.lora import merged_state
from reverie.systems.lora.places import weights
from reverie.systems.opening import LEARNING
from reverie.systems.shipped import open_model, read_model
from reverie.tasks.train import Session

WAYS = {
    "sd1": ("dreambooth", {"caption": "a fox"}),
    "flux": ("lora", {"caption": "a fox"}),
    "sdxl": ("pivotal", {"word": "<fox>", "encoder": True, "convolutions": True, "vectors": 2}),
}


@pytest.mark.parametrize("name", WAYS)
def test_what_is_learnt_opens_again(name, tmp_path):
    torch.manual_seed(0)
    getattr(published, name)().save_pretrained(tmp_path / name)
    (tmp_path / "pictures").mkdir()
    for k, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{k}.png")
    method, more = WAYS[name]
    asked = Adapt(
        method=method, data=str(tmp_path / "pictures"), model=str(tmp_path / name), size=64, updates=2, batch=2, rate=1e-2, **more
    )
    session = Session.open(asked.recipe(), tmp_path / "run", False)
    for _ in session:
        pass
    files = {k: str(tmp_path / "run" / f"{k}.safetensors") for k in ("lora", "embedding")}
    found = {f"{k}s": [file] for k, file in files.items() if k != "embedding" or "word" in more}
    made, base = open_model(str(tmp_path / name), LEARNING, **found), weights(read_model(str(tmp_path / name)))
    with session.run.averaged():
        ours = {f"net.{k}": v for k, v in merged_state(session.system.system.denoiser.net).items()}
    moved = 0
    for key, value in weights(made).items():
        if key in ours:
            torch.testing.assert_close(value.float(), ours[key].float(), atol=1e-6, rtol=1e-5, msg=key)
        moved += not torch.equal(value, base[key])
    assert moved > 15, "the net learns in most of its layers"
    if word := more.get("word"):
        said = made.prompt_encoder.prompts([f"a {word}"]), read_model(str(tmp_path / name)).prompt_encoder.prompts([f"a {word}"])
        first, second = (c.tokens for c in said)
        assert (first - second).abs().max() > 1e-4, "the word is read by its own name"
