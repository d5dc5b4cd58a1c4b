"""What of the emoji is never trained on, and the 200 prompts that a generator of emoji is judged by. Both are fixed.

`HELD_OUT` names concepts of which no picture, in any style, is in the training set. They are whole families: no content word of
theirs stands in the name of a concept that is trained on ("camel" and "two-hump camel" go together, "red apple" is not among them
because there is a green one), so nothing is judged by its near duplicate. People, flags, clocks, hearts and other long series of
variants are not held out, and are what is drawn less often in training (`often`).

`PARAPHRASES` say a concept that is trained on in words that no caption holds: tags that are one of them are taken out of the
captions. `COMBINATIONS` are what nobody has drawn; there are no real pictures of them to compare with.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from reverie.data.pictures import Pictures
from reverie.errors import UserError

_NEVER = """
    fox; zebra; parrot; penguin; hedgehog; lobster; snail; flamingo; kangaroo; otter; rhinoceros; sloth; skunk; mosquito;
    jellyfish; goose; donkey; scorpion; gorilla; lizard; badger; camel; two-hump camel; crocodile; owl; t-rex; sunflower;
    cactus; tulip; pineapple; eggplant; broccoli; taco; croissant; doughnut; strawberry; lemon; avocado; pretzel; popcorn;
    waffle; garlic; sushi; lollipop; peanuts; mango; hamburger; teapot; pie; coconut; cupcake; carrot; volcano;
    helicopter; sailboat; rocket; tractor; ambulance; castle; japanese castle; canoe; skateboard; anchor; comet; tornado;
    hospital; parachute; stadium; trophy; plunger; joystick; kite; basketball; piñata; yo-yo; abacus; bowling; guitar;
    violin; candle; scissors; microscope; telescope; backpack; toothbrush; ladder; magnet; bomb; lipstick; trumpet; harp;
    shield; bathtub; axe; jeans; scarf; stethoscope; television; boomerang; ghost
"""
HELD_OUT: frozenset[str] = frozenset(" ".join(label.split()) for label in _NEVER.split(";"))

PARAPHRASES: Mapping[str, str] = MappingProxyType(
    {
        "kitty": "cat", "puppy": "dog", "bunny": "rabbit", "serpent": "snake", "tortoise": "turtle",
        "bumblebee": "honeybee", "ladybird": "lady beetle", "killer whale": "orca", "stag": "deer", "hen": "chicken",
        "king of the jungle": "lion", "grizzly": "bear", "spud": "potato", "corn on the cob": "ear of corn",
        "fries": "french fries", "ramen": "steaming bowl", "pasta": "spaghetti", "cup of coffee": "hot beverage",
        "pint of beer": "beer mug", "martini": "cocktail glass", "champagne": "bottle with popping cork",
        "chilli": "hot pepper", "clementine": "tangerine", "slice of cheese": "cheese wedge", "steak": "cut of meat",
        "drumstick": "poultry leg", "toadstool": "mushroom", "bike": "bicycle", "motorbike": "motorcycle",
        "plane": "airplane", "cab": "taxi", "firetruck": "fire engine", "ufo": "flying saucer",
        "present": "wrapped gift", "xmas tree": "christmas tree", "dice": "game die", "smartphone": "mobile phone",
        "lightbulb": "light bulb", "padlock": "locked", "trash can": "wastebasket", "sofa": "couch and lamp",
        "diamond": "gem stone", "stiletto": "high-heeled shoe", "sneaker": "running shoe", "spectacles": "glasses",
        "tee": "t-shirt", "letter": "envelope", "parcel": "package", "medicine": "pill", "poop": "pile of poo",
        "laughing to tears": "face with tears of joy", "sobbing": "loudly crying face", "furious": "enraged face",
        "father christmas": "santa claus", "sprout": "seedling", "flame": "fire", "tsunami": "water wave",
        "saturn": "ringed planet", "falling star": "shooting star", "swine": "pig",
    }
)  # fmt: skip

COMBINATIONS: tuple[str, ...] = (
    "blue apple", "green cat", "pink elephant", "red banana", "blue dog", "purple frog", "golden fish", "blue rose",
    "yellow bus", "green airplane", "red tree", "white crab", "orange whale", "pink bear", "blue pizza",
    "purple potato", "red moon", "green fire", "black cherries", "blue lion", "pink car", "yellow whale",
    "green octopus", "red elephant", "purple cow", "blue cheese wedge", "golden bell", "red snowflake", "black cloud",
    "green crab", "angry pizza", "smiling banana", "happy cloud", "sad apple", "cat with a top hat",
    "dog with glasses", "frog with a crown", "burning book", "tree with hearts", "house on a cloud",
)  # fmt: skip

SMALL = frozenset(["a", "and", "the", "of", "in", "on", "with", "face", "two", "t", "japanese"])
"""Words that two concepts may share and still be nothing alike."""


@dataclass(frozen=True)
class Wish:
    """A prompt. label: the concept whose real pictures show it, '' where there are none. kind: name, paraphrase, combination."""

    text: str
    label: str
    kind: str


def wishes() -> tuple[Wish, ...]:
    """The 200 prompts: 100 names of concepts never trained on, 60 paraphrases of others, 40 combinations."""
    names = [Wish(label, label, "name") for label in sorted(HELD_OUT)]
    said = [Wish(text, label, "paraphrase") for text, label in PARAPHRASES.items()]
    return (*names, *said, *(Wish(text, "", "combination") for text in COMBINATIONS))


def content(label: str) -> frozenset[str]:
    """The words of a name that say what it is."""
    return frozenset(re.findall(r"[^\W_]+", label)) - SMALL


def unsaid(caption: str, label: str) -> str:
    """The caption without the words that are kept for judging; the label where none would be left."""
    return ", ".join(part for part in caption.split(", ") if part not in PARAPHRASES) or label


def often(attributes: Sequence[Mapping[str, str]]) -> list[int]:
    """How many times each picture is met in a round: 1 for people, flags and symbols, of which many differ little, else 3."""
    return [1 if a.get("group") in ("people-body", "flags", "symbols") else 3 for a in attributes]


def parted(pictures: Pictures) -> tuple[Pictures, Pictures]:
    """(training, held out): the concepts of `HELD_OUT` are held out; captions are without the words of `PARAPHRASES`.

    Raises UserError where these are not the emoji.
    """
    if pictures.attributes is None or pictures.caption is None or not all("label" in a for a in pictures.attributes):
        raise UserError(f"{pictures.name} does not say what its pictures are called: make a set with `reverie data emoji`")
    labels, caption = [a["label"] for a in pictures.attributes], pictures.caption
    pure = replace(pictures, caption=lambda i, rng: unsaid(caption(i, rng), labels[i]))
    held = np.array([label in HELD_OUT for label in labels])
    if not held.any() or held.all():
        raise UserError(f"{pictures.name} is not the set of all emoji: make one with `reverie data emoji`")
    return pure.take(np.flatnonzero(~held)), pure.take(np.flatnonzero(held))
