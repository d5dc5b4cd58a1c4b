"""Adapters: what changes a denoiser's weights or its condition, and never the loop."""

from reverie.adapt.adapted import Adapted as Adapted
from reverie.adapt.control import Control as Control
from reverie.adapt.control import Controlled as Controlled
from reverie.adapt.image_prompt import ImagePrompt as ImagePrompt
from reverie.adapt.image_prompt import ImagePrompted as ImagePrompted
from reverie.adapt.when import When as When
