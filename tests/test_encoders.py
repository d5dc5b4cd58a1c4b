"""Published text encoders: prompts of any length, the layer that is read, and what is told of words that are not read."""

import pytest
import torch
from published import clip, clip_words, gemma, t5, t5_words

from reverie.encode import from_tensors
from reverie.encode.clip import Clip
from reverie.encode.gemma import Gemma
from reverie.encode.t5 import T5
from reverie.errors import UserError
from reverie.systems.flux.prompt import PromptFlux
from reverie.systems.sd3.prompt import PromptSD3
from reverie.systems.stable_diffusion.prompt import PromptXL

LONG = " ".join("abcdefghij" * 16)
"""160 letters, each of which is a token: two whole chunks of 75, and ten more."""


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@torch.no_grad()
def test_a_long_prompt_is_read_to_its_end_chunk_by_chunk():
    read = Clip(clip(24, projected=True), clip_words())
    assert [len(chunk) for chunk in read.chunks(LONG)] == [75, 75, 10] and read.chunks("") == [[]]
    tokens, pooled = read.read([LONG, "a fox"])
    letters = LONG.split()
    alone = [read.read([" ".join(letters[k : k + 75])]) for k in (0, 75, 150)]
    torch.testing.assert_close(tokens[:1], torch.cat([chunk for chunk, _ in alone], 1))
    torch.testing.assert_close(pooled[:1], alone[0][1])  # the first chunk's
    near, empty = read.read(["a fox"]), read.read([""])
    torch.testing.assert_close(tokens[1:], torch.cat([near[0], empty[0], empty[0]], 1))
    torch.testing.assert_close(pooled[1:], near[1])
    assert (pooled[0] - pooled[1]).abs().max() > 1e-3


@torch.no_grad()
def test_the_layer_that_is_read():
    net, words = clip(24), clip_words()
    tokens = words("a fox", padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
    made = net(tokens, output_hidden_states=True)
    norm = getattr(net, "text_model", net).final_layer_norm
    for skip, hidden in ((0, made.hidden_states[-1]), (1, made.hidden_states[-2]), (2, made.hidden_states[-3])):
        torch.testing.assert_close(Clip(net, words, skip=skip).read(["a fox"])[0], norm(hidden))
        torch.testing.assert_close(Clip(net, words, skip=skip, raw=True).read(["a fox"])[0], hidden)
    with pytest.raises(UserError, match="this encoder has 3 layers"):
        Clip(net, words, skip=3)


def test_rows_are_filled_with_the_mark_of_the_tokenizer():
    """CLIP's is that of the end, OpenCLIP's is the word of the number 0."""
    for words, mark in ((from_tensors.clip_words(), 49407), (from_tensors.clip_words("!"), 0)):
        assert Clip(clip(24), words)._marked([5]) == [49406, 5, 49407, *[mark] * 74]


def test_what_is_not_read_is_told():
    """A row of twelve tokens holds eleven of a prompt and the mark of its end; Gemma's begins with a mark."""
    far = T5(t5(), t5_words(), length=12)
    plain = Clip(clip(24), clip_words())
    every = {
        "only the first 11": (far, PromptFlux(plain, far)),
        "T5: only the first 11": (PromptSD3([plain], far, width=24),),
        "only the first 7": (Gemma(gemma(), t5_words(), length=8),),
    }
    for said, encoders in every.items():
        for encoder in encoders:
            (note,) = encoder.notes("a b c d e f g h j k l m n o")
            assert note.startswith(f"{said} tokens of the prompt are read; ignored: ") and note.endswith("' on") and len(note) < 160
            assert encoder.notes("fox") == encoder.notes("") == []
    assert plain.notes(LONG) == []  # all of it is read
    (note,) = PromptSD3([plain], None, width=24).notes(LONG)
    assert note == "of a prompt of more than 75 tokens, the vector of the whole is that of its first 75"
    for encoder in (PromptFlux(plain, far), PromptXL([plain], size=(64, 64))):
        assert encoder.notes(LONG)[-1] == note
