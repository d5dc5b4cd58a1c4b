"""The published systems that can be opened, and what each consists of at full size.

Parameters are written down, and a test counts them on nets without memory. How a system is sampled its family says, once for this
list and for what is opened.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from reverie.nets import autoencoder, dcae, dit, mmdit, pixart, sana, unets, vq
from reverie.systems import memory
from reverie.systems.ddpm import folder as of_ddpm
from reverie.systems.dit import folder as of_dit
from reverie.systems.flux import folder as of_flux
from reverie.systems.ldm import folder as of_ldm
from reverie.systems.pixart import folder as of_pixart
from reverie.systems.sana import folder as of_sana
from reverie.systems.sd3 import folder as of_sd3
from reverie.systems.stable_diffusion import folder as of_sd
from reverie.systems.system import Sampling

NETS: Mapping[str, int] = {
    "DDPM CIFAR-10": 35_746_307,
    "iDDPM ImageNet-64 uncond": 121_063_942,
    "ADM-256 class-cond": 552_814_086,
    "LDM-4 CelebA-HQ/FFHQ/bedroom U-Net": 274_056_163,
    "VQ-f4": 55_322_782,
    "SD 1.x U-Net": 859_520_964,
    "SD 2.x U-Net": 865_910_724,
    "SDXL base U-Net": 2_567_463_684,
    "SDXL refiner U-Net": 2_259_526_660,
    "SD VAE 4-ch": 83_653_863,
    "SD3 & Flux VAE 16-ch": 83_819_683,
    "SD3-medium": 2_028_328_000,
    "SD3.5-large": 8_056_627_520,
    "Flux.1-dev": 11_901_408_320,
    "Flux.1-schnell": 11_891_178_560,
    "Sana 1.6B": 1_604_462_752,
    "DC-AE f32c32": 312_250_275,
    "PixArt-alpha XL/2 1024": 611_349_152,
    "DiT-XL/2": 673_976_480,
    "SiT-XL/2": 673_976_480,
}
"""Parameters of the nets: those that public code has; DiT's with their fixed positions, and classes are counted apart."""

ENCODERS: Mapping[str, int] = {
    "CLIP ViT-L/14 text": 123_060_480,
    "CLIP ViT-L/14 text + projection": 123_650_304,
    "OpenCLIP ViT-H/14 text, 23 layers": 340_387_840,
    "OpenCLIP bigG text + projection": 694_659_840,
    "T5 v1.1 XXL encoder": 4_762_310_656,
    "Gemma-2-2B": 2_614_341_888,
}
"""Parameters of the text encoders, which are transformers'."""
L, L_PROJECTED, H, G, T5, GEMMA = ENCODERS
FOLDER, FILE, BOTH = "a folder", "a single file", "a folder or a single file"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A system: its nets by their usual names, with their shapes; the encoders of words; the classes it is told; how it is sampled.

    opens: from what. source: where it was published.
    """

    name: str
    about: str
    source: str
    nets: Mapping[str, Any]
    encoders: tuple[str, ...] = ()
    classes: int = 0
    opens: str = BOTH
    defaults: Sampling

    def parameters(self) -> dict[str, int]:
        """Of each net and encoder, by its name."""
        counts = {name: NETS[name] for name in self.nets}
        if self.classes:
            counts["classes"] = self.classes * _width(next(iter(self.nets.values())))
        return counts | {name: ENCODERS[name] for name in self.encoders}

    def memory(self, inside: torch.dtype | None) -> int:
        """Bytes of the weights as they are held for use, where the nets compute in this type."""
        return sum(n * memory.width(n, inside, hears=name not in self.nets) for name, n in self.parameters().items())

    def record(self) -> dict[str, Any]:
        """All of it as plain values; memory: bytes of the weights as they are used, where nets compute in bfloat16 or float32."""
        counts = self.parameters()
        d = self.defaults
        usual = {"solver": d.solver, "steps": d.steps, "guidance": d.guidance, "grid": d.grid, "size": list(d.size)}
        return {
            "name": self.name,
            "about": self.about,
            "source": self.source,
            "opens": self.opens,
            "parameters": counts,
            "defaults": usual,
            "memory": {"bfloat16": self.memory(torch.bfloat16), "float32": self.memory(None)},
        }


def _width(config: Any) -> int:
    """Of the vector of a class."""
    return int(config.width if hasattr(config, "width") else 4 * config.channels)


KL_4, KL_16 = autoencoder.KL_F8, autoencoder.AutoencoderConfig(latent=16, quant=False)
SD3_WORDS = (L_PROJECTED, G, T5)
SYSTEMS: tuple[Published, ...] = (
    Published(
        name="ddpm",
        about="pixels, CIFAR-10 and 256 px",
        source="arXiv:2006.11239",
        nets={"DDPM CIFAR-10": unets.DDPM_CIFAR10},
        defaults=of_ddpm.sampling(False, (32, 32)),
    ),
    Published(
        name="iddpm",
        about="pixels, with a learnt variance",
        source="arXiv:2102.09672",
        nets={"iDDPM ImageNet-64 uncond": unets.IDDPM_64},
        opens=FILE,
        defaults=of_ddpm.sampling(True, (64, 64)),
    ),
    Published(
        name="adm",
        about="pixels, told one of 1000 classes",
        source="arXiv:2105.05233",
        nets={"ADM-256 class-cond": unets.ADM_256},
        classes=1000,
        opens=FILE,
        defaults=of_ddpm.sampling(True, (256, 256)),
    ),
    Published(
        name="ldm",
        about="latents 4 times smaller; faces, rooms and churches, and ImageNet's classes",
        source="arXiv:2112.10752",
        nets={"LDM-4 CelebA-HQ/FFHQ/bedroom U-Net": unets.LDM_4, "VQ-f4": vq.VQ_F4},
        defaults=of_ldm.sampling(False, (256, 256)),
    ),
    Published(
        name="sd1",
        about="Stable Diffusion 1.1 to 1.5",
        source="arXiv:2112.10752",
        nets={"SD 1.x U-Net": unets.SD_1, "SD VAE 4-ch": KL_4},
        encoders=(L,),
        defaults=of_sd.sampling(False, 512),
    ),
    Published(
        name="sd2",
        about="Stable Diffusion 2.0 and 2.1, base (epsilon) and 768 (v)",
        source="arXiv:2112.10752",
        nets={"SD 2.x U-Net": unets.SD_2, "SD VAE 4-ch": KL_4},
        encoders=(H,),
        defaults=of_sd.sampling(False, 768),
    ),
    Published(
        name="sdxl",
        about="Stable Diffusion XL; with --refiner its second net draws the end",
        source="arXiv:2307.01952",
        nets={"SDXL base U-Net": unets.SDXL, "SD VAE 4-ch": KL_4},
        encoders=(L, G),
        defaults=of_sd.sampling(True, 1024),
    ),
    Published(
        name="sdxl-refiner",
        about="the refiner of Stable Diffusion XL",
        source="arXiv:2307.01952",
        nets={"SDXL refiner U-Net": unets.SDXL_REFINER, "SD VAE 4-ch": KL_4},
        encoders=(G,),
        defaults=of_sd.sampling(True, 1024),
    ),
    Published(
        name="sd3",
        about="Stable Diffusion 3 medium; T5 may be left out",
        source="arXiv:2403.03206",
        nets={"SD3-medium": mmdit.SD3_MEDIUM, "SD3 & Flux VAE 16-ch": KL_16},
        encoders=SD3_WORDS,
        defaults=of_sd3.sampling(mmdit.SD3_MEDIUM, "shifted(shift=3.0)", 1024),
    ),
    Published(
        name="sd35",
        about="Stable Diffusion 3.5 large (and medium)",
        source="arXiv:2403.03206",
        nets={"SD3.5-large": mmdit.SD35_LARGE, "SD3 & Flux VAE 16-ch": KL_16},
        encoders=SD3_WORDS,
        defaults=of_sd3.sampling(mmdit.SD35_LARGE, "shifted(shift=3.0)", 1024),
    ),
    Published(
        name="flux-dev",
        about="Flux.1 dev, which is told the guidance",
        source="github.com/black-forest-labs/flux",
        nets={"Flux.1-dev": mmdit.FLUX_DEV, "SD3 & Flux VAE 16-ch": KL_16},
        encoders=(L, T5),
        defaults=of_flux.sampling(True, "flux_shift()"),
    ),
    Published(
        name="flux-schnell",
        about="Flux.1 schnell, in one to four steps",
        source="github.com/black-forest-labs/flux",
        nets={"Flux.1-schnell": mmdit.FLUX_SCHNELL, "SD3 & Flux VAE 16-ch": KL_16},
        encoders=(L, T5),
        defaults=of_flux.sampling(False, "shifted(shift=1.0)"),
    ),
    Published(
        name="sana",
        about="Sana 0.6B and 1.6B, Sana 1.5",
        source="arXiv:2410.10629",
        nets={"Sana 1.6B": sana.SANA_16B, "DC-AE f32c32": dcae.DCAE_F32},
        encoders=(GEMMA,),
        opens=FOLDER,
        defaults=of_sana.sampling("shifted(shift=3.0)", 1024),
    ),
    Published(
        name="pixart",
        about="PixArt-alpha and PixArt-Sigma",
        source="arXiv:2310.00426",
        nets={"PixArt-alpha XL/2 1024": pixart.PIXART_1024, "SD VAE 4-ch": KL_4},
        encoders=(T5,),
        opens=FOLDER,
        defaults=of_pixart.sampling(1024),
    ),
    Published(
        name="dit",
        about="told one of 1000 classes",
        source="arXiv:2212.09748",
        nets={"DiT-XL/2": dit.DIT_XL_2, "SD VAE 4-ch": KL_4},
        classes=1001,
        defaults=of_dit.sampling(False, 256),
    ),
    Published(
        name="sit",
        about="DiT's net, trained as a flow; the file's name must begin with SiT",
        source="arXiv:2401.08740",
        nets={"SiT-XL/2": dit.DIT_XL_2, "SD VAE 4-ch": KL_4},
        classes=1001,
        opens=FILE,
        defaults=of_dit.sampling(True, 256),
    ),
)
