"""The recipes there are."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from reverie.systems.autoencoder.recipe import AUTOENCODER, DC_AUTOENCODER, VQ_AUTOENCODER
from reverie.systems.avatars.enlarging import LARGE, MIDDLE, REPAIR, SMALL
from reverie.systems.avatars.latent import AUTOENCODER_128, LATENT
from reverie.systems.avatars.recipe import AVATARS, ENLARGER, WORDING
from reverie.systems.control.naming import SUBJECT
from reverie.systems.control.prompting import PICTURE
from reverie.systems.control.recipe import (
    EDGES,
    EDGES_PLUS,
    LOW,
    LOW_LORA,
    PALETTE,
    REGIONS,
    SHADING,
    SHARED,
    SKETCH,
    SKETCH_LORA,
    UNI,
)
from reverie.systems.emoji.recipe import EMOJI, EMOJI_READER, EMOJI_WORDS
from reverie.systems.fashion.recipe import FASHION
from reverie.systems.folder.recipe import FOLDER
from reverie.systems.readers.noisy import AVATARS_SCORER, FASHION_CLASSIFIER
from reverie.systems.readers.recipe import AVATARS_READER, FASHION_READER
from reverie.systems.toy.recipe import TOY

PRESETS = (
    *(TOY, FASHION, AVATARS, WORDING, ENLARGER, AUTOENCODER_128, LATENT, AUTOENCODER, VQ_AUTOENCODER, DC_AUTOENCODER),
    *(EMOJI_WORDS, EMOJI, FOLDER, AVATARS_READER, FASHION_READER, EMOJI_READER),
    *(FASHION_CLASSIFIER, AVATARS_SCORER, SMALL, MIDDLE, LARGE, REPAIR),
    *(EDGES, SKETCH, SHADING, REGIONS, LOW, PALETTE, UNI, EDGES_PLUS, SHARED, SKETCH_LORA, LOW_LORA, PICTURE, SUBJECT),
)
RECIPES: Mapping[str, Any] = MappingProxyType({r.name: r for r in PRESETS})
