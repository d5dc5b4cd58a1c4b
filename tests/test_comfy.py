"""Pictures of ComfyUI give their settings back, whatever their graph looks like."""

import json

import pytest
from PIL import Image

from reverie.errors import UserError
from reverie.tasks.metadata import read, write

GRAPH = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": ["12", 0], "steps": 20, "cfg": 7.5, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1.0,
            "model": ["10", 0], "positive": ["11", 0], "negative": ["7", 0], "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15/v1-5.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["13", 0], "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
    "10": {"class_type": "LoraLoader", "inputs": {"lora_name": "hats.safetensors", "strength_model": 0.8, "model": ["4", 0]}},
    "11": {"class_type": "ControlNetApply", "inputs": {"conditioning": ["6", 0], "strength": 1.0}},
    "12": {"class_type": "PrimitiveInt", "inputs": {"value": 41}},
    "13": {"class_type": "PrimitiveString", "inputs": {"value": "a red hat"}},
}  # fmt: skip


def wrote(path, graph):
    write(Image.new("RGB", (8, 8)), path, {"prompt": graph if isinstance(graph, str) else json.dumps(graph), "workflow": "{}"})
    return path


def test_a_graph_is_followed_from_its_sampler(tmp_path):
    made = read(wrote(tmp_path / "a.png", GRAPH))
    s = made.settings
    assert (s.prompt, s.negative, s.seed, s.steps, s.guidance) == (("a red hat",), "blurry", 41, 20, 7.5)
    assert (s.solver, s.grid, s.width, s.height) == ("comfyui:dpmpp_2m", "karras()", 512, 768)
    assert (made.model, made.loras) == ("v1-5", ("hats.safetensors:0.8",))


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        ("{", "cannot be read"),
        ([], "no graph"),
        ({"1": {"class_type": "SaveImage", "inputs": {}}}, "no KSampler"),
        (GRAPH | {"10": {"class_type": "LoraLoader", "inputs": {"model": ["10", 0]}}}, "in a circle"),
        (GRAPH | {"12": {"class_type": "Random", "inputs": {"low": 0}}}, "computed by a node"),
        (GRAPH | {"12": {"class_type": "Primitive", "inputs": {"value": "x"}}}, "seed is 'x'"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_damaged_graphs_are_said_to_be_so(tmp_path, graph, said):
    with pytest.raises(UserError, match=said):
        read(wrote(tmp_path / "a.png", graph))
