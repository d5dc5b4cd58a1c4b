"""Guidance: a denoiser made from denoisers. The scale w always means u + w (c - u); w = 1 is the plain conditional model."""

from reverie.guide.guidance import Guided as Guided
from reverie.guide.guidance import autoguide as autoguide
from reverie.guide.guidance import cfg as cfg
from reverie.guide.guidance import interval as interval
from reverie.guide.guidance import rescale as rescale
from reverie.guide.guidance import threshold as threshold
