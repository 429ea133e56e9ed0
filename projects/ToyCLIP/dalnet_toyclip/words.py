# SPDX-License-Identifier: Apache-2.0
"""The words of the toy world: for each class, attribute and ground one word and two synonyms.

The first word is the one that configs use; captions take it as often as both others together.
"""

from dalnet.data.datasets.toy import TOY_CLASSES
from dalnet.data.datasets.toy.background import GROUNDS
from dalnet.data.datasets.toy.drawing import PALETTES, SHAPES, TEXTURES

Words = tuple[tuple[str, ...], ...]

_CLASSES = {
    "goldfish": ("goldfish", "carp", "koi"),
    "water lily": ("water lily", "lotus", "nymphaea"),
    "ladybird": ("ladybird", "ladybug", "beetle"),
    "leaf": ("leaf", "frond", "foliage"),
    "starfish": ("starfish", "sea star", "asteroid"),
    "seashell": ("seashell", "scallop", "clam"),
    "wheel": ("wheel", "tire", "cartwheel"),
    "crate": ("crate", "wooden box", "chest"),
    "moon": ("moon", "crescent moon", "luna"),
    "rocket": ("rocket", "spaceship", "spacecraft"),
}
# Shapes that bear a class's name in the code have other words here: "leaf" is the class alone.
_SHAPES = {
    "disc": ("disc", "circle", "round"),
    "square": ("square", "block", "cube"),
    "star": ("star", "pentagram", "five-pointed figure"),
    "ring": ("ring", "hoop", "annulus"),
    "crescent": ("crescent", "sickle", "arc"),
    "blossom": ("blossom", "flower", "rosette"),
    "fan": ("fan", "wedge", "sector"),
    "leaf": ("almond", "lens", "spindle"),
    "fish": ("fish shape", "fish outline", "fish figure"),
    "rocket": ("missile", "dart", "arrow"),
}
_TEXTURES = {
    "stripes": ("striped", "lined", "banded"),
    "checks": ("checked", "checkered", "plaid"),
    "dots": ("dotted", "spotted", "polka-dot"),
    "rings": ("ringed", "concentric", "circled"),
    "rays": ("rayed", "spoked", "radiating"),
    "bricks": ("bricked", "brick-patterned", "walled"),
    "scales": ("scaly", "scaled", "shingled"),
    "speckle": ("speckled", "grainy", "mottled"),
}
_PALETTES = {
    "orange": ("orange", "amber", "tangerine"),
    "pink": ("pink", "rose", "magenta"),
    "red": ("red", "scarlet", "crimson"),
    "green": ("green", "lime", "emerald"),
    "brown": ("brown", "chestnut", "tan"),
    "yellow": ("yellow", "golden", "lemon"),
    "violet": ("violet", "purple", "lilac"),
}
_GROUNDS = {
    "pond": ("pond", "lake", "pool"),
    "meadow": ("meadow", "lawn", "field"),
    "beach": ("beach", "shore", "sandbank"),
    "street": ("street", "road", "pavement"),
    "night sky": ("night sky", "starry sky", "dark sky"),
}

CLASS_WORDS: Words = tuple(_CLASSES[name] for name in TOY_CLASSES)
GROUND_WORDS: Words = tuple(_GROUNDS[name] for name in GROUNDS)
# Of shape, texture and palette: the fields of an Appearance.
ATTRIBUTE_WORDS: tuple[Words, ...] = (
    tuple(_SHAPES[name] for name in SHAPES),
    tuple(_TEXTURES[name] for name in TEXTURES),
    tuple(_PALETTES[name] for name in PALETTES),
)
EMPTY_WORDS = ("background", "empty background", "scenery")
ANY_OBJECT = ("object", "thing", "shape")
PREPOSITIONS = ("on", "in", "at", "over", "in front of")
