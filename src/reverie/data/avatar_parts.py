"""Which DiceBear part shows which attribute, style by style, and the few parts drawn here.

Every variant below was looked at when rendered: those that are ambiguous, or not to be made out at 64 px, are left out.
Some styles lack a part that others have (a mohawk in avataaars, sunglasses in micah), and Open Peeps draws most hair in
black. The licences allow changes (CC0, CC BY 4.0, "free for personal and commercial use"), so `retouch` adds and recolours.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from reverie.data.avatar_attributes import CLOTHING_COLORS, COVERED, HAIR_COLORS, SKINS, Attributes

Parts = Mapping[str, tuple[str, ...]]

_AVATAAARS_EXPRESSION = {
    "smiling": ("twinkle", "default", "defaultNatural"),
    "laughing": ("smile", "happy", "default"),
    "sad": ("sad", "default", "sadConcernedNatural"),
    "angry": ("grimace", "default", "angryNatural"),
    "surprised": ("screamOpen", "surprised", "raisedExcited"),
    "neutral": ("serious", "default", "flatNatural"),
}
_AVATAAARS: dict[str, Parts] = {
    "hair": {
        "bald": (), "mohawk": (),
        "short": ("shortFlat", "shortRound", "theCaesar", "theCaesarAndSidePart", "shortWaved"),
        "long": ("straight01", "straight02", "straightAndStrand", "curvy"),
        "bob": ("bob", "miaWallace"), "curly": ("curly",), "afro": ("fro",), "bun": ("bun",), "dreads": ("dreads",),
        "hat": ("hat",), "beanie": ("winterHat03", "winterHat02"), "turban": ("turban",), "hijab": ("hijab",),
    },
    "glasses": {"none": (), "round": ("round",), "square": ("prescription02",), "sunglasses": ("sunglasses", "wayfarers")},
    "facial_hair": {
        "none": (), "beard": ("beardMedium", "beardLight", "beardMajestic"), "mustache": ("moustacheFancy", "moustacheMagnum"),
    },
    "clothing": {
        "t-shirt": ("shirtCrewNeck", "shirtVNeck", "shirtScoopNeck"), "hoodie": ("hoodie",), "overalls": ("overall",),
        "jacket": ("blazerAndShirt",), "sweater": ("collarAndSweater",),
    },
}  # fmt: skip
_MICAH: dict[str, Parts] = {
    "hair": {
        "bald": ("mrClean",), "short": ("fonze",), "long": ("full",), "bob": ("pixie",), "mohawk": ("mrT",),
        "turban": ("turban",),
    },
    "glasses": {"none": (), "round": ("round",), "square": ("square",), "sunglasses": ("round", "square")},
    "facial_hair": {"none": (), "beard": ("beard",), "mustache": ()},
    "clothing": {"t-shirt": ("open",), "sweater": ("crew",), "collared shirt": ("collared",)},
    "mouth": {
        "smiling": ("smile", "smirk"), "laughing": ("laughing",), "sad": ("frown", "sad"), "angry": ("nervous",),
        "surprised": ("surprised",),
    },
}  # fmt: skip
_PEEPS: dict[str, Parts] = {
    "hair": {
        "bald": ("noHair1",), "short": ("short1", "short2", "short5", "grayShort", "pomp", "flatTop"),
        "long": ("long", "longBangs"), "bob": ("bangs2", "medium1", "medium3", "bangs"),
        "curly": ("longCurly",), "afro": ("afro", "longAfro"), "bun": ("grayBun",),
        "mohawk": ("mohawk", "mohawk2"), "hat": ("hatHip",), "beanie": ("hatBeanie",), "turban": ("turban",),
        "hijab": ("hijab",),
    },
    "glasses": {
        "none": (), "round": ("glasses5", "glasses2"), "square": ("glasses3", "glasses"),
        "sunglasses": ("sunglasses", "sunglasses2"),
    },
    "facial_hair": {
        "none": (), "beard": ("full2", "full3", "full4"), "mustache": ("moustache2", "moustache5", "moustache6", "moustache9"),
    },
    "face": {
        "smiling": ("smile", "calm", "cute"), "laughing": ("smileBig", "smileTeethGap", "smileLOL"), "sad": ("solemn",),
        "angry": ("veryAngry",), "surprised": ("hectic",), "neutral": ("serious", "eyesClosed"),
    },
}  # fmt: skip
_PIXEL: dict[str, Parts] = {
    "hair": {
        "bald": (), "mohawk": (), "afro": (), "curly": ("short11", "short13"),
        "short": ("short22", "short17", "short15", "short10", "short02", "short01"),
        "long": ("long13", "long12", "long09", "long07"), "bob": ("long04", "long21"), "bun": ("long05",),
        "hat": ("short04",), "beanie": ("short04",),
    },
    "hat": {"hat": ("variant06",), "beanie": ("variant03", "variant04")},
    "glasses": {"none": (), "square": ("light05", "light06"), "sunglasses": ("dark05", "dark06")},
    "facial_hair": {"none": (), "beard": (), "mustache": ()},
    "clothing": {
        "t-shirt": ("variant03", "variant04", "variant05", "variant08"), "sweater": ("variant12",),
        "tank top": ("variant09", "variant20"),
    },
    "mouth": {
        "smiling": ("happy09",), "laughing": ("happy06", "happy12"), "sad": ("sad01",), "angry": ("sad05",),
        "surprised": ("happy01",), "neutral": ("sad05", "sad06", "sad07"),
    },
}  # fmt: skip
TABLES = {"avataaars": _AVATAAARS, "micah": _MICAH, "open-peeps": _PEEPS, "pixel-art": _PIXEL}
DARK = "24262b"  # frames of glasses


def _part(rng: np.random.Generator, option: str, variants: tuple[str, ...], probability: bool = True) -> dict[str, Any]:
    """One variant for sure, or none for sure."""
    pick = [variants[int(rng.random() * len(variants))]] if variants else []
    return {option: pick} | ({f"{option}Probability": 100 if variants else 0} if probability else {})


def _avataaars(a: Attributes, rng: np.random.Generator) -> dict[str, Any]:
    mouth, eyes, brows = _AVATAAARS_EXPRESSION[a["expression"]]
    return {
        **_part(rng, "top", _AVATAAARS["hair"][a["hair"]]),
        **_part(rng, "accessories", _AVATAAARS["glasses"][a["glasses"]]),
        **_part(rng, "facialHair", _AVATAAARS["facial_hair"][a["facial_hair"]]),
        **_part(rng, "clothing", _AVATAAARS["clothing"][a["clothing"]], probability=False),
        "mouth": [mouth], "eyes": [eyes], "eyebrows": [brows], "style": ["default"], "accessoriesColor": [DARK],
        "hairColor": [hair_hex(a)], "facialHairColor": [hair_hex(a)], "hatColor": [hat_hex(a)],
        "clothesColor": [CLOTHING_COLORS[a["clothing_color"]]], "skinColor": [SKINS[a["skin"]]],
    }  # fmt: skip


def _frame(a: Attributes) -> str:
    return "f4f4f4" if a["skin"] == "dark" and a["glasses"] != "sunglasses" else DARK


def _micah(a: Attributes, rng: np.random.Generator) -> dict[str, Any]:
    pale_mouth = a["facial_hair"] == "beard" and a.get("hair_color") in ("black", "brown", "purple", "blue")
    return {
        **_part(rng, "hair", _MICAH["hair"][a["hair"]]),
        **_part(rng, "glasses", _MICAH["glasses"][a["glasses"]]),
        **_part(rng, "facialHair", _MICAH["facial_hair"][a["facial_hair"]]),
        **_part(rng, "shirt", _MICAH["clothing"][a["clothing"]], probability=False),
        **_part(rng, "mouth", _MICAH["mouth"][a["expression"]], probability=False),
        **_part(rng, "nose", ("curve", "pointed"), probability=False),
        "mouthColor": ["ffffff" if pale_mouth else "000000"], "glassesColor": [_frame(a)], "earringsProbability": 0,
        "eyebrows": ["up"], "ears": ["attached"],
        "eyes": ["smiling" if a["expression"] == "laughing" else "round" if a["expression"] == "surprised" else "eyes"],
        "hairColor": [hat_hex(a) if a["hair"] in COVERED else hair_hex(a)], "facialHairColor": [hair_hex(a)],
        "shirtColor": [CLOTHING_COLORS[a["clothing_color"]]], "baseColor": [SKINS[a["skin"]]],
    }  # fmt: skip


def _peeps(a: Attributes, rng: np.random.Generator) -> dict[str, Any]:
    faces = _PEEPS["face"][a["expression"]]
    if a["expression"] == "angry" and a["glasses"] == "sunglasses":
        faces = ("rage",)  # behind dark glasses only the mouth can tell anger from sadness
    return {
        **_part(rng, "head", _PEEPS["hair"][a["hair"]], probability=False),
        **_part(rng, "accessories", _PEEPS["glasses"][a["glasses"]]),
        **_part(rng, "facialHair", _PEEPS["facial_hair"][a["facial_hair"]]),
        **_part(rng, "face", faces, probability=False),
        "maskProbability": 0, "headContrastColor": [hair_hex(a)], "skinColor": [SKINS[a["skin"]]],
        "clothingColor": [CLOTHING_COLORS[a["clothing_color"]]],
    }  # fmt: skip


def _pixel(a: Attributes, rng: np.random.Generator) -> dict[str, Any]:
    return {
        **_part(rng, "hair", _PIXEL["hair"][a["hair"]], probability=False),
        **_part(rng, "hat", _PIXEL["hat"].get(a["hair"], ())),
        **_part(rng, "glasses", _PIXEL["glasses"][a["glasses"]]),
        **_part(rng, "clothing", _PIXEL["clothing"][a["clothing"]], probability=False),
        **_part(rng, "mouth", _PIXEL["mouth"][a["expression"]], probability=False),
        "beardProbability": 0, "accessoriesProbability": 0, "glassesColor": ["191919"], "mouthColor": ["b3261e"],
        "eyes": ["variant01" if a["expression"] == "surprised" else "variant11"], "eyesColor": ["3a3a44"],
        "hairColor": [hair_hex(a)], "hatColor": [hat_hex(a)],
        "clothingColor": [CLOTHING_COLORS[a["clothing_color"]]], "skinColor": [SKINS[a["skin"]]],
    }  # fmt: skip


_OPTIONS = {"avataaars": _avataaars, "micah": _micah, "open-peeps": _peeps, "pixel-art": _pixel}


def hair_hex(a: Attributes) -> str:
    """Colour of the hair. Hair that peeps out from under head-wear and is not in the attributes is black."""
    return HAIR_COLORS[a.get("hair_color", "black")]


def hat_hex(a: Attributes) -> str:
    return CLOTHING_COLORS[a.get("hat_color", "black")]


def job(a: Attributes, rng: np.random.Generator) -> dict[str, Any]:
    """What `avatars.mjs` is told: every option has exactly one value, so DiceBear has nothing left to draw."""
    return {"style": a["style"], "options": {"seed": "", **_OPTIONS[a["style"]](a, rng)}}


def _on_top(svg: str, drawing: str) -> str:
    return svg.replace("</svg>", drawing + "</svg>")


def _retouch_avataaars(svg: str, a: Attributes) -> str:
    if a["hair"] != "mohawk":
        return svg
    crest = "M114 76C104 50 108 14 140 2C172 14 176 50 166 76C152 62 128 62 114 76Z"
    return _on_top(svg, f'<path d="{crest}" fill="#{hair_hex(a)}"/>')


_MICAH_BROWS = {"angry": "M94 18l34-18M18 10l40 16", "sad": "M98 0l28 14M22 34l30-20"}


def _retouch_micah(svg: str, a: Attributes) -> str:
    if a["glasses"] == "sunglasses":
        frame = f'<g stroke="#{DARK}" stroke-width="4">'
        svg = svg.replace(frame, f'<g stroke="#{DARK}" stroke-width="5" fill="#{DARK}">')
    if a["expression"] in _MICAH_BROWS:
        raised = "M99 10.21c5.67-2.66 19-5.1 27 6.5M23.58 35.52c2.07-5.9 9.68-17.12 23.56-14.7"
        svg = svg.replace(
            f'{raised}" stroke="#000000" stroke-width="4"', f'{_MICAH_BROWS[a["expression"]]}" stroke="#000" stroke-width="6"'
        )
    if a["facial_hair"] == "mustache":
        shape = "M158 199C167 181 185 174 197 183C207 171 227 170 239 184C226 192 209 195 199 190C189 199 171 203 158 199Z"
        svg = _on_top(svg, f'<path d="{shape}" fill="#{hair_hex(a)}" stroke="#000" stroke-width="3"/>')
    return svg


def _colour_inside(part: str, colour: str, edge: int) -> str:
    """Colours the black shapes of an ink drawing from `edge / 2` inwards: lines stay black, areas keep a black outline."""

    def paint(found: re.Match[str]) -> str:
        shape = found.group(1)
        name = f"m{len(shape)}-{edge}"
        return (
            f'<path {shape} fill="#000"/><mask id="{name}" maskUnits="userSpaceOnUse" x="-300" y="-300" width="1400" height="1400">'
            f'<path {shape} fill="#fff" stroke="#000" stroke-width="{edge}"/></mask>'
            f'<path {shape} fill="#{colour}" mask="url(#{name})"/>'
        )

    part = re.sub(r'<path ((?:(?!fill="#)[^>])*d="[^"]*")/>', r'<path \1 fill="#000"/>', part)  # no fill means black
    return re.sub(r'<path ([^>]*d="[^"]*") fill="#000"/>', paint, part)


_PEEPS_GROUPS = re.compile(
    r'(<g transform="matrix\(\.99789 0 0 1 156 62\)">.*?)(<g transform="translate\(315 248\)">.*?)'
    r'(<g transform="translate\(279 400\)">.*?)(<g transform="translate\(179 343\)">)', re.S,
)  # fmt: skip


def _retouch_peeps(svg: str, a: Attributes) -> str:
    found = _PEEPS_GROUPS.search(svg)
    assert found, "not an Open Peeps drawing"
    head, face, beard, rest = found.groups()
    covered = a["hair"] in COVERED
    clothes = CLOTHING_COLORS[a["clothing_color"]]
    new_head = head.replace(f'fill="#{clothes}"', f'fill="#{hat_hex(a)}"') if covered else head
    colour = hat_hex(a) if covered else hair_hex(a)
    if a["hair"] not in ("bald", "turban", "beanie") and colour not in (HAIR_COLORS["black"], CLOTHING_COLORS["black"]):
        new_head = _colour_inside(new_head, colour, 17)
    if a["facial_hair"] != "none":
        beard = _colour_inside(beard, "403c46" if a["hair_color"] == "black" else hair_hex(a), 7)
    order = beard + face if a["facial_hair"] == "beard" else face + beard  # the mouth shows on the beard
    return svg[: found.start()] + new_head + order + rest + svg[found.end() :]


_PIXEL_HAIR = {
    "mohawk": "M6 1h1V0h2v1h1v3H6z",
    "afro": "M4 0h8v1h2v1h1v6h-1v1h-1V5h-1V4H4v1H3v4H2V8H1V2h1V1h2z",
}
_PIXEL_BEARD = {"beard": "M3 7h1v1h2v1h4V8h2V7h1v4h-1v1h-2v1H6v-1H4v-1H3zM6 9v2h4V9z", "mustache": "M5 8h6v1h1v1h-2V9H6v1H4V9h1z"}


def _retouch_pixel(svg: str, a: Attributes) -> str:
    drawing = ""
    if a["facial_hair"] != "none":
        drawing += f'<path d="{_PIXEL_BEARD[a["facial_hair"]]}" fill-rule="evenodd" fill="#{hair_hex(a)}"/>'
    if a["hair"] in _PIXEL_HAIR:
        drawing += f'<path d="{_PIXEL_HAIR[a["hair"]]}" fill="#{hair_hex(a)}"/>'
    if a["expression"] == "angry":
        drawing += '<path d="M3 4h2v1h1v1h1v1H6V6H5V5H3zM13 4h-2v1h-1v1H9v1h1V6h1V5h2z" fill="#1c1412"/>'
    return _on_top(svg, drawing)


_RETOUCH = {"avataaars": _retouch_avataaars, "micah": _retouch_micah, "open-peeps": _retouch_peeps, "pixel-art": _retouch_pixel}


def retouch(svg: str, a: Attributes) -> str:
    """The picture with the parts that its style lacks, and hair in the drawn colour."""
    return _RETOUCH[a["style"]](svg, a)
