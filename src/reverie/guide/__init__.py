"""Guidance: a denoiser made from denoisers. The scale w always means u + w (c - u); w = 1 is the plain conditional model."""

from reverie.guide.finishes import clamp as clamp
from reverie.guide.finishes import rescale as rescale
from reverie.guide.finishes import temperature as temperature
from reverie.guide.finishes import threshold as threshold
from reverie.guide.guidance import Asked as Asked
from reverie.guide.guidance import Guide as Guide
from reverie.guide.guidance import Guided as Guided
from reverie.guide.guidance import cfg as cfg
from reverie.guide.guidance import guided as guided
from reverie.guide.guidance import idle as idle
from reverie.guide.weights import apg as apg
from reverie.guide.weights import cfg_plus as cfg_plus
from reverie.guide.weights import cfg_zero as cfg_zero
from reverie.guide.weights import interval as interval
from reverie.guide.witness import classifier as classifier
from reverie.guide.witness import scored as scored
from reverie.guide.worse import autoguide as autoguide
from reverie.guide.worse import pag as pag
from reverie.guide.worse import slg as slg

GUIDES = (interval, rescale, threshold, clamp, cfg_plus, cfg_zero, apg, autoguide, pag, slg, classifier, scored, temperature)
"""The wishes there are, for `rebuild(parse("apg(eta=0)"), GUIDES, "guide")`."""
