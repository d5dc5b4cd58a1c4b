"""The shapes of published U-Nets, with the parameters each has.

Ho et al., arXiv:2006.11239; Nichol & Dhariwal, arXiv:2102.09672; Dhariwal & Nichol, arXiv:2105.05233; Rombach et al.,
arXiv:2112.10752. Where a net is told a class, the table of class vectors is not part of it but of the encoder; the count in
brackets has it.
"""

from dataclasses import replace

from reverie.nets.unet import DDPM_CIFAR10 as DDPM_CIFAR10
from reverie.nets.unet import UNetConfig

DDPM_256 = UNetConfig(mult=(1, 1, 2, 2, 4, 4), attention=(4,), eps=1e-6, asymmetric=True, sine_first=True, time_shift=1)
"""Ho et al. on LSUN and CelebA-HQ, 256x256: 113,673,219."""

_IDDPM = UNetConfig(out_channels=6, blocks=3, attention=(2, 3), heads=4, scale_shift=True)
IDDPM_CIFAR10 = replace(_IDDPM, attention=(1, 2), dropout=0.3)
"""Nichol & Dhariwal, whose nets learn the variance, too, on CIFAR-10: 52,546,438."""
IDDPM_64 = replace(_IDDPM, mult=(1, 2, 3, 4))
"""ImageNet, 64x64: 121,063,942."""
IDDPM_64_CLASSES = replace(_IDDPM, mult=(1, 2, 3, 4), channels=192)
"""The same, told one of 1000 classes: 272,281,350 (273,049,350)."""
IDDPM_LSUN = UNetConfig(out_channels=6, mult=(1, 1, 2, 2, 4, 4), attention=(4,))
"""LSUN, 256x256: 113,676,678."""
IDDPM_UPSAMPLER = replace(_IDDPM, in_channels=6, mult=(1, 1, 2, 2, 4, 4), channels=192, blocks=2, attention=(4, 5))
"""From 64x64, told 1000 classes and the small picture: 279,024,390 (279,792,390)."""

_ADM = UNetConfig(
    out_channels=6, channels=256, mult=(1, 1, 2, 2, 4, 4), attention=(3, 4, 5), head_width=64, scale_shift=True, biggan=True
)
ADM_64 = replace(_ADM, channels=192, mult=(1, 2, 3, 4), blocks=3, attention=(1, 2, 3), dropout=0.1)
"""Dhariwal & Nichol on ImageNet, 64x64, told 1000 classes: 295,136,454 (295,904,454)."""
ADM_128 = replace(_ADM, mult=(1, 1, 2, 3, 4), attention=(2, 3, 4), heads=4, head_width=None)
"""128x128, told 1000 classes: 420,505,606 (421,529,606)."""
ADM_256 = _ADM
"""256x256, and with a dropout of 0.1 LSUN: 552,814,086; told 1000 classes (553,838,086)."""
ADM_512 = replace(_ADM, mult=(0.5, 1, 1, 2, 2, 4, 4), attention=(4, 5, 6))
"""512x512, told 1000 classes: 557,973,638 (558,997,638)."""
ADM_UPSAMPLER_256 = replace(_ADM, in_channels=6, channels=192, heads=4, head_width=None)
"""From 64x64 to 256x256, told 1000 classes and the small picture: 311,027,910 (311,795,910)."""
ADM_UPSAMPLER_512 = replace(_ADM, in_channels=6, channels=192, attention=(4, 5))
"""From 128x128 to 512x512, told 1000 classes and the small picture: 308,067,270 (308,835,270)."""

_CLASSIFIER = UNetConfig(channels=128, mult=(1, 1, 2, 2, 4, 4), attention=(3, 4, 5), head_width=64, scale_shift=True, biggan=True)
CLASSIFIER_64 = replace(_CLASSIFIER, mult=(1, 2, 3, 4), blocks=4, attention=(1, 2, 3))
"""The way down of the classifier that guides `ADM_64`: with its head 65,438,568 parameters."""
CLASSIFIER_128 = replace(_CLASSIFIER, mult=(1, 1, 2, 3, 4), attention=(2, 3, 4))
"""128x128: 42,568,040."""
CLASSIFIER_256 = _CLASSIFIER
"""256x256: 54,096,360."""
CLASSIFIER_512 = replace(_CLASSIFIER, mult=(0.5, 1, 1, 2, 2, 4, 4), attention=(4, 5, 6))
"""512x512: 54,448,360."""

LDM_4 = UNetConfig(in_channels=3, out_channels=3, channels=224, mult=(1, 2, 3, 4), attention=(1, 2, 3), head_width=32)
"""Rombach et al. on CelebA-HQ, FFHQ and LSUN bedrooms, in latents 4 times smaller: 274,056,163."""
LDM_8_CHURCHES = UNetConfig(
    in_channels=4,
    out_channels=4,
    channels=192,
    mult=(1, 2, 2, 4, 4),
    attention=(0, 1, 2, 3),
    heads=8,
    scale_shift=True,
    biggan=True,
)
"""LSUN churches, in latents 8 times smaller: 294,966,916."""
LDM_4_IMAGENET = UNetConfig(channels=192, mult=(1, 2, 3, 5), attention=(1, 2, 3), context_dim=512)
"""ImageNet, told one of 1000 classes as one token: 400,920,579."""
LDM_8_IMAGENET = UNetConfig(
    in_channels=4, out_channels=4, channels=256, mult=(1, 2, 4), attention=(0, 1, 2), head_width=32, context_dim=512
)
"""The same in latents 8 times smaller: 394,984,196."""
LDM_4_TEXT = replace(LDM_4_IMAGENET, head_width=32, context_dim=640)
"""Text to picture, 256x256: 403,623,939."""
LDM_8_TEXT = UNetConfig(
    in_channels=4, out_channels=4, channels=320, mult=(1, 2, 4, 4), attention=(0, 1, 2), heads=8, context_dim=1280
)
"""The U-Net of the text to picture model of 1.45 billion parameters: 872,300,484."""

SD_1 = UNetConfig(in_channels=4, out_channels=4, channels=320, mult=(1, 2, 4, 4), attention=(0, 1, 2), heads=8, context_dim=768)
"""Stable Diffusion 1: 859,520,964; with 9 channels in, for inpainting, 859,535,364."""
SD_2 = replace(SD_1, head_width=64, context_dim=1024)
"""Stable Diffusion 2: 865,910,724."""
SDXL = replace(SD_2, mult=(1, 2, 4), attention=(1, 2), depth=(1, 2, 10), context_dim=2048, vector_dim=2816)
"""Podell et al., arXiv:2307.01952: 2,567,463,684."""
SDXL_REFINER = replace(SD_2, channels=384, attention=(1, 2), depth=4, context_dim=1280, vector_dim=2560)
"""Its refiner: 2,259,526,660."""
