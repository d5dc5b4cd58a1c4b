"""Measures: distances between sets of pictures, agreement with what was asked, copies. Arrays and callables in, numbers out."""

from reverie.measure.agreement import Agreement as Agreement
from reverie.measure.agreement import agreement as agreement
from reverie.measure.agreement import shown as shown
from reverie.measure.classes import ClassReader as ClassReader
from reverie.measure.distances import copies as copies
from reverie.measure.distances import frechet as frechet
from reverie.measure.distances import kid as kid
from reverie.measure.distances import precision_recall as precision_recall
from reverie.measure.features import imagenet as imagenet
from reverie.measure.features import thumbnails as thumbnails
from reverie.measure.prompts import Asked as Asked
from reverie.measure.prompts import avatar_prompts as avatar_prompts
from reverie.measure.reader import Reader as Reader
