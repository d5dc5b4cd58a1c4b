"""DiT and SiT from their authors' files, which hold the net and its table of classes: the autoencoder comes from a folder.

The two have the same tensors, of the same shapes; only the name of the file tells them apart, in which SiT's authors say so.
"""

from reverie.denoiser import Denoiser, timestep
from reverie.encode import Classes
from reverie.nets.dit import DiT
from reverie.process import rules, schedules
from reverie.systems.building import building
from reverie.systems.dit import transformer
from reverie.systems.dit.folder import labels, sampling
from reverie.systems.names import filled
from reverie.systems.single import Single
from reverie.systems.sit import transformer as sit
from reverie.systems.stable_diffusion import vae
from reverie.systems.system import System

MARKS = ("x_embedder.proj.weight", "y_embedder.embedding_table.weight", "blocks.0.mlp.fc1.weight")


def recognises(file: Single) -> bool:
    """Whether a file holds one of these systems."""
    return all(mark in file.tensors for mark in MARKS)


def open_file(file: Single) -> System:
    """A system from the file, and the autoencoder of the folder beside it."""
    flows = file.path.stem.casefold().startswith("sit")
    config = transformer.original_config(file.tensors, str(file.path))
    with building(str(file.path), len(file.tensors), "DiT"):
        net, classes = DiT(config), Classes(labels(None, len(file.tensors[MARKS[1]]) - 1), config.width)
    tensors = sit.turned(file.tensors) if flows else file.tensors
    filled(transformer.parts(net, classes), tensors, transformer.original, str(file.path), file.opening.partial)
    codec = file.lacking("autoencoder").codec("vae", vae.KIND)
    table = schedules.linear_table(), rules.eps(), timestep(1000.0, -1.0)
    path, rule, clock = (schedules.flow(), rules.velocity(), sit.clock) if flows else table
    side = codec.factor * config.size
    return System(
        denoiser=Denoiser(net, path, rule, clock, learned_variance=config.learn_sigma),
        codec=codec,
        encoders={"class": classes},
        defaults=sampling(flows, side),
    )
