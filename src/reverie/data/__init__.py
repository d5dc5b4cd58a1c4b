"""Sets of pictures, and what is known of them. Importing this does not import torch."""

from reverie.data.album import Album, Choices, open_album
from reverie.data.avatar_attributes import HELD_OUT, STYLES, SUPPORT, VALUES, draw, held_out
from reverie.data.avatar_words import PHRASES, VOCABULARY, caption, words
from reverie.data.avatars import avatars, generate, generate_file
from reverie.data.emoji import emoji, generate_emoji
from reverie.data.fashion import fashion_mnist
from reverie.data.folder import folder
from reverie.data.pictures import Pictures

__all__ = [
    "HELD_OUT",
    "PHRASES",
    "STYLES",
    "SUPPORT",
    "VALUES",
    "VOCABULARY",
    "Album",
    "Choices",
    "Pictures",
    "avatars",
    "caption",
    "draw",
    "emoji",
    "fashion_mnist",
    "folder",
    "generate",
    "generate_emoji",
    "generate_file",
    "held_out",
    "open_album",
    "words",
]
