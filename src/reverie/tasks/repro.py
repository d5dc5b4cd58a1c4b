"""A file of what was learnt, learnt again: its recipe is inside, and the record of its pictures; what comes out is compared."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from reverie.errors import UserError
from reverie.files import load_tensors
from reverie.systems.adapted import Adapting
from reverie.systems.shipped import SHIPPED, open_model
from reverie.systems.weights import CARD
from reverie.tasks.train import restored


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is to be done again, and what was made by it; kind: which of a run's files that is."""

    recipe: Adapting
    version: str
    kind: str
    tensors: Mapping[str, Tensor]


def read(path: Path, data: str, model: str = "", regular: str = "", begin: str = "") -> Recipe:
    """The recipe in a file, with the places of its data and model, which it does not tell.

    UserError where it holds none, or where the pictures or the model are others.
    """
    tensors, metadata = load_tensors(path)
    held = metadata.get(CARD)
    card = held if isinstance(held, dict) else {}
    about = card.get("about", {})
    told = about.get("recipe")
    if not isinstance(told, Mapping) or not {"model", "rank", "caption"} <= told.keys() or not about.get("steps"):
        raise UserError(f"{path} holds no recipe of `reverie adapt`: only what that has written can be made again")
    if about.get("planned"):
        raise UserError(f"{path} was written at step {about['steps']} of {about['planned']}: only a whole run can be made again")
    model = model or (told["model"] if told["model"] in SHIPPED else "")
    if not model:
        raise UserError(f"{path} was learnt by {told['model']}: name the file of that model with --model")
    if told.get("regular") and not regular:
        raise UserError(f"{path} was kept from forgetting by pictures in {told['regular']}: name their folder with --regular")
    if told.get("begin") and not begin:
        raise UserError(f"{path} began as the encoder {told['begin']} says: name it with --begin")
    places = {"data": data, "model": model, "regular": regular, "begin": begin}
    recipe = restored(Adapting(name=about.get("name", path.stem), model=model), {**told, **places})
    recipe = replace(recipe, training=replace(recipe.training, steps=int(about["steps"])))
    base = card.get("base", {})
    if base.get("hash") and (found := open_model(model)).hash != base["hash"]:
        raise UserError(f"{model} has other weights than {base.get('name')}, by which {path} was learnt: name that model")
    pictures = recipe.pictures()
    if (found := pictures.record()["sha256"]) != (want := about.get("data", {}).get("sha256")):
        raise UserError(
            f"the pictures and captions in {data} ({found[:8]}) are not those that {path} learnt from ({str(want)[:8]})"
        )
    kind = next((kind for kind in ("lora", "embedding") if kind in card), "model")
    return Recipe(recipe=recipe, version=str(about.get("version", "")), kind=kind, tensors=tensors)


def apart(asked: Recipe, path: Path) -> float:
    """How far a file is from what was made before: the root of the square distance, over that of all of it.

    0 = bit for bit the same; infinite where it does not hold the same tensors.
    """
    other, _ = load_tensors(path)
    if other.keys() != asked.tensors.keys() or any(v.shape != other[k].shape for k, v in asked.tensors.items()):
        return math.inf
    gap = sum(float((v.double() - other[k]).square().sum()) for k, v in asked.tensors.items())
    whole = sum(float(v.double().square().sum()) for v in asked.tensors.values())
    return math.sqrt(gap / max(whole, 1e-300))
