"""The picture of the README, from the shipped model, with each prompt under its picture: no selection, seeds 7, 8, 9, ...

python bench/pictures.py [docs/avatars.png]
"""

import sys
from pathlib import Path

import reverie
from reverie.data.sheet import sheet

OUT = Path(__file__).parents[1] / "docs" / "avatars.png"
PROMPTS = (
    "a smiling woman with long red hair and round glasses, blue hoodie, avataaars style",
    "a bald man with a beard, open peeps style",
    "a laughing person with a purple mohawk and sunglasses, micah style",
    "a sad girl with a purple bob, yellow shirt, pixel art style",
    "an angry man with a brown mustache, green jacket, avataaars style",
    "a woman with dark skin and a blonde afro, open peeps style",
    "long pink hair, square glasses, orange sweater, micah style",
    "a man with a red beanie and sunglasses, pixel art style",
    "a surprised woman wearing a green hijab, avataaars style",
    "black curly hair, pink top, laughing, open peeps style",
    "a smiling man with tan skin and a blue turban, micah style",
    "a neutral face, brown skin, short gray hair, purple t-shirt, pixel art style",
)

if __name__ == "__main__":
    system = reverie.load("reverie-avatars")
    images = system.generate(PROMPTS, seed=7)
    sheet(images, columns=4, scale=3, gap=8, below=PROMPTS).save(sys.argv[1] if len(sys.argv) > 1 else OUT)
