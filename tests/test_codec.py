"""The latent space: the same for every autoencoder, whole, in tiles and one by one."""

import pytest
import torch

from reverie.codec import Latent
from reverie.errors import UserError
from reverie.nets.autoencoder import AutoencoderConfig
from reverie.nets.dcae import DCAEConfig
from reverie.nets.tiles import shares, tiled
from reverie.nets.vq import VQConfig
from reverie.systems.system import Part
from reverie.systems.weights import load_any, save

KL = AutoencoderConfig(channels=16, mult=(1, 2), blocks=1, latent=3, groups=4, attention=False)
VQ = VQConfig(channels=16, mult=(1, 2), blocks=1, latent=3, groups=4, codes=32)
DC = DCAEConfig(latent=4, widths=(16, 16), encoder=(1, 1), decoder=(1, 1), attend=(1,), head=8)
NETS = {"kl": KL, "vq": VQ, "dc-ae": DC}


def latent(name):
    torch.manual_seed(0)
    return Latent(NETS[name]).eval().requires_grad_(False)


@pytest.mark.parametrize("name", NETS)
def test_every_autoencoder_is_a_space_and_a_file(name, tmp_path):
    codec = latent(name)
    x = torch.randn(3, 3, 16, 16)
    codec.measure([x, x + 0.1])
    z = codec.encode(x)
    assert z.shape == (3, *codec.shape(16, 16)) and codec.decode(z).shape == x.shape
    both = codec.encode(torch.cat([x, x + 0.1]))
    assert both.mean((0, 2, 3)).abs().max() < 1e-4 and (both.std((0, 2, 3)) - 1).abs().max() < 1e-4
    save(Part(codec=codec), tmp_path / "codec.safetensors")
    again = load_any(tmp_path / "codec.safetensors").codec
    assert torch.equal(again.encode(x), z) and torch.equal(again.decode(z), codec.decode(z))


def test_a_latent_with_codes_is_quantised_when_it_is_decoded():
    codec = latent("vq")
    torch.nn.init.normal_(codec.net.codebook.weight)
    z = torch.randn(1, 3, 8, 8)
    assert torch.equal(codec.decode(z), codec.decode(codec.net.codebook(z)))
    far = codec.net.codebook(z) - z
    assert far.abs().max() > 0.01 and torch.equal(codec.decode(z + 0.1 * far), codec.decode(z))  # nearer still to the same


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_one_by_one_is_the_same(name, dtype):
    codec = latent(name)
    codec.autocast = dtype
    x, z = torch.randn(3, 3, 16, 16), torch.randn(3, *codec.shape(16, 16))
    whole = codec.encode(x), codec.decode(z)
    codec.sliced = True
    near = {"atol": 1e-5, "rtol": 1e-5} if dtype is None else {"atol": 0, "rtol": 0}  # some processors add up a batch otherwise
    torch.testing.assert_close(whole, (codec.encode(x), codec.decode(z)), **near)


@pytest.mark.parametrize("name", NETS)
def test_a_tile_as_large_as_the_picture_changes_nothing(name):
    codec = latent(name)
    x, z = torch.randn(2, 3, 16, 24), torch.randn(2, *codec.shape(16, 24))
    whole = codec.encode(x), codec.decode(z)
    codec.tile = 24
    assert torch.equal(codec.encode(x), whole[0]) and torch.equal(codec.decode(z), whole[1])
    codec.tile = 16
    assert not torch.equal(codec.decode(z), whole[1])


def largest(codec, call, x):
    """Entries of the largest thing that a layer of the codec's net makes on the way."""
    sizes = []
    hooks = [
        m.register_forward_hook(lambda m, i, y: sizes.append(y.numel())) for m in codec.net.modules() if not list(m.children())
    ]
    call(x)
    for hook in hooks:
        hook.remove()
    return max(sizes)


@pytest.mark.parametrize("name", ["kl", "dc-ae"])
def test_tiles_come_near_the_whole_and_need_less(name):
    codec = latent(name)
    y, x = torch.meshgrid(torch.linspace(0, 3, 64), torch.linspace(0, 2, 80), indexing="ij")
    picture = torch.stack([(x + y).sin(), (x - y).cos(), (2 * x).sin()])[None]
    z = codec.encode(picture)
    whole, spread = codec.decode(z), codec.decode(z).std()
    need = largest(codec, codec.decode, z), largest(codec, codec.encode, picture)
    gaps = []
    for codec.tile in (32, 48, 64):
        assert codec.encode(picture).shape == z.shape
        gaps.append(float((codec.decode(z) - whole).abs().mean() / spread))
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 0.1, gaps  # what is left is the norms', which know their tile alone
    codec.tile = 32
    assert largest(codec, codec.decode, z) < need[0] / 4 and largest(codec, codec.encode, picture) < need[1] / 4


def test_where_tiles_disagree_one_passes_into_the_other_without_a_seam():
    x = torch.linspace(0, 1, 72).expand(1, 1, 48, 72)

    def lessened(v):  # every tile has another mean, as norms have
        return v - v.mean()

    def steps(y):
        return torch.diff(y, dim=3).abs().max(), torch.diff(y, dim=2).abs().max()

    across, down = steps(tiled(lessened, x, 24, 12))
    slope = 1 / 71
    assert across < slope + 13 * slope / 12 and down < 1e-6  # the means of tiles differ by 12 columns, which 12 share
    assert steps(tiled(lessened, x, 24, 0))[0] > 20 * slope  # a seam, were there no overlap


def test_the_tiles_of_a_map_without_surroundings_are_exact():
    x = torch.randn(1, 2, 50, 36)
    torch.testing.assert_close(tiled(torch.tanh, x, 16, 5), x.tanh())
    up = torch.nn.functional.interpolate
    torch.testing.assert_close(tiled(lambda v: up(v, scale_factor=3.0), x, 16, 5, gives=3), up(x, scale_factor=3.0))
    pool = torch.nn.functional.avg_pool2d
    torch.testing.assert_close(tiled(lambda v: pool(v, 2), x, 8, 3, takes=2), pool(x, 2))


@pytest.mark.parametrize(("length", "tile", "overlap"), [(9, 8, 2), (50, 16, 5), (16, 16, 4), (33, 16, 0), (7, 16, 3)])
def test_shares_add_up_to_one_and_cover_all(length, tile, overlap):
    total = torch.zeros(length * 4)
    for begin, w in shares(length, tile, overlap, 4):
        assert (w > 0).all() and begin * 4 + len(w) <= len(total)
        total[begin * 4 : begin * 4 + len(w)] += w
    torch.testing.assert_close(total, torch.ones(length * 4))


def test_tiles_that_cannot_be_are_refused():
    codec = latent("kl")
    codec.tile = 6
    with pytest.raises(UserError, match="give 8 or more"):
        codec.decode(torch.randn(1, 3, 8, 8))
    with pytest.raises(ValueError, match="cannot overlap by 4"):
        tiled(torch.tanh, torch.zeros(1, 1, 8, 8), 4, 4)
