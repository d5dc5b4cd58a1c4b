"""What a picture of ComfyUI tells: the graph that made it (PNG text `prompt`), of which the first sampler is read.

A graph is {id: {"class_type": ..., "inputs": {...}}}; an input is a value, or a link [id of a node, its output].
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from reverie.errors import UserError
from reverie.solve.names import grid_of

SAMPLERS = ("KSampler", "KSamplerAdvanced")
FAR = 100
"""Links that are followed one after the other."""
Node = Mapping[str, Any]


def told(said: str) -> dict[str, Any]:
    """{model, loras, settings} of the graph; ValueError, KeyError or TypeError where it is damaged or has no sampler."""
    graph = json.loads(said)
    if not isinstance(graph, Mapping):
        raise ValueError("it is no graph")
    sampler = next((n for n in graph.values() if isinstance(n, Mapping) and n.get("class_type") in SAMPLERS), None)
    if sampler is None:
        raise ValueError("its graph has no KSampler")
    given = sampler["inputs"]
    settings: dict[str, Any] = {"prompt": _text(graph, given["positive"]), "negative": _text(graph, given["negative"])}
    settings |= {"seed": _value(graph, given.get("seed", given.get("noise_seed", 0)), "seed", "value")}
    settings |= {"steps": _value(graph, given["steps"], "value"), "guidance": _value(graph, given["cfg"], "value")}
    settings |= {"solver": f"comfyui:{_value(graph, given['sampler_name'], 'value')}"}
    settings |= {"grid": grid_of(str(given.get("scheduler", "")), "comfyui")}
    for node in _way(graph, given["latent_image"], "samples", "pixels", "latent_image"):
        settings |= {side: node["inputs"][side] for side in ("width", "height") if isinstance(node["inputs"].get(side), int)}
    loras, model = [], ""
    for node in _way(graph, given["model"], "model"):
        own = node["inputs"]
        if "lora_name" in own:
            loras.append(f"{own['lora_name']}:{float(own.get('strength_model', 1)):g}")
        model = str(own.get("ckpt_name", own.get("unet_name", model)))
    return {"settings": settings, "model": model, "loras": tuple(reversed(loras))}


def _way(graph: Mapping[str, Any], link: Any, *back: str) -> Iterator[Node]:
    """The node of a link, and those behind it, by the first of the inputs `back` that each has."""
    for _ in range(FAR):
        if not (isinstance(link, list) and link and str(link[0]) in graph):
            return
        node = graph[str(link[0])]
        yield node
        link = next((node["inputs"][name] for name in back if name in node["inputs"]), None)
    raise ValueError("its graph runs in a circle")


def _text(graph: Mapping[str, Any], link: Any) -> str:
    """The words of a condition: of the first node on its way that has some."""
    for node in _way(graph, link, "conditioning", "conditioning_1", "conditioning_to", "positive"):
        for name in ("text", "text_g", "t5xxl"):
            if name in node["inputs"]:
                return str(_value(graph, node["inputs"][name], "text", "string", "value"))
    return ""


def _value(graph: Mapping[str, Any], given: Any, *names: str) -> Any:
    """A value, or that of the node it is linked to, by one of its inputs."""
    for _ in range(FAR):
        if not isinstance(given, list):
            return given
        inputs = graph[str(given[0])]["inputs"]
        given = next((inputs[name] for name in names if name in inputs), None)
        if given is None:
            raise UserError("a value of its graph is computed by a node that is not known here: type its settings")
    raise ValueError("its graph runs in a circle")
