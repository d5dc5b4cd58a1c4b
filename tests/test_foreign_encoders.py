"""Published text encoders from folders: what transformers makes of them, and nothing made up where tensors or words are missing."""

import contextlib
import json
import logging
import time

import pytest
import torch
import transformers
from published import clip, clip_words, dit, gemma, sana, t5, t5_words
from safetensors.torch import load_file, save_file

from reverie.errors import UserError
from reverie.systems.folders import Folder
from reverie.systems.foreign import open_folder
from reverie.systems.opening import Opening

CLIP, T5, GEMMA = "CLIPTokenizer", "AutoTokenizer", "AutoTokenizer"
ENCODERS = {
    "CLIPTextModel": (clip, clip_words, CLIP),
    "CLIPTextModelWithProjection": (lambda: clip(projected=True), clip_words, CLIP),
    "T5EncoderModel": (t5, t5_words, T5),
    "Gemma2Model": (gemma, t5_words, GEMMA),
}
WEIGHTS = "text_encoder/model.safetensors"


@pytest.fixture(params=ENCODERS)
def written(request, tmp_path):
    """(class, class of the tokenizer, folder)."""
    torch.manual_seed(0)
    net, words, kind = ENCODERS[request.param]
    net().save_pretrained(tmp_path / "text_encoder")
    words().save_pretrained(tmp_path / "tokenizer")
    return request.param, kind, tmp_path


def changed(file, change):
    tensors = load_file(file)
    tensors = change(tensors) or tensors
    file.unlink()
    save_file({k: v.contiguous() for k, v in tensors.items()}, file)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_what_transformers_makes_of_it(written, dtype):
    kind, words, folder = written
    changed(folder / WEIGHTS, lambda t: {k: v.to(dtype) for k, v in t.items()})
    net, tokenizer = Folder(folder).reader(kind, words)
    theirs = getattr(transformers, kind).from_pretrained(folder / "text_encoder", dtype=dtype).eval()
    asked = tokenizer(["a red fox", "b"], padding="max_length", max_length=20, return_tensors="pt")
    ours, due = (
        n(**{k: asked[k] for k in ("input_ids", "attention_mask")}, output_hidden_states=True)
        for n in (net.to(dtype), theirs.to(dtype))
    )
    assert all(torch.equal(a, b) for a, b in zip(ours.hidden_states, due.hidden_states, strict=True))
    assert torch.equal(ours[0], due[0])
    assert [k for k, _ in net.named_parameters()] == [k for k, _ in theirs.named_parameters()]  # what is tied is one
    assert all(torch.equal(b, dict(theirs.named_buffers())[k]) for k, b in net.named_buffers())


def test_names_of_other_versions_and_what_stands_beside(written):
    """text_model. is left out of some, numbers that are counted are in old ones, and a whole T5 or Gemma has more than is read."""
    kind, words, folder = written
    due = Folder(folder).reader(kind, words)[0].state_dict()
    more = {
        "embeddings.position_ids": torch.arange(77)[None],
        "decoder.block.0.weight": torch.ones(2),
        "lm_head.weight": torch.ones(2),
    }
    before = {"CLIPTextModel": "text_model.", "Gemma2Model": "model."}.get(kind, "")
    changed(folder / WEIGHTS, lambda t: {before + k: v for k, v in {**t, **more}.items()})
    made = Folder(folder).reader(kind, words)[0].state_dict()
    assert made.keys() == due.keys() and all(torch.equal(made[k], due[k]) for k in due)


def test_what_is_missing_or_too_much_is_named(written, caplog):
    kind, words, folder = written
    lost = next(k for k in load_file(folder / WEIGHTS) if k.endswith("layer_norm.weight") or "norm" in k)
    changed(folder / WEIGHTS, lambda t: (t.pop(lost), t.update(extra=torch.zeros(1)))[:0])
    with pytest.raises(
        UserError, match=r"text_encoder: \d+ of \d+ tensors applied; missing: .*; unknown: extra; the file is damaged"
    ):
        Folder(folder).reader(kind, words)
    caplog.set_level(logging.INFO, "reverie")
    made = Folder(folder, Opening(partial=True)).reader(kind, words)[0].state_dict()
    assert "tensors applied; missing" in caplog.text
    assert not next(v for k, v in made.items() if k.endswith(lost.removeprefix("text_model."))).any()
    changed(folder / WEIGHTS, lambda t: {"extra": torch.zeros(1)})
    with pytest.raises(UserError, match=r"text_encoder: 0 of \d+ tensors applied"):
        Folder(folder).reader(kind, words)


def test_tables_that_are_one_differ_in_no_file(tmp_path):
    t5().save_pretrained(tmp_path / "text_encoder")
    t5_words().save_pretrained(tmp_path / "tokenizer")
    table, far = load_file(tmp_path / WEIGHTS)["shared.weight"], "encoder.embed_tokens.weight"
    for other in (table, table + 1):
        changed(tmp_path / WEIGHTS, lambda t, other=other: {**t, far: other.clone()})
        if other is table:
            Folder(tmp_path).reader("T5EncoderModel", T5)
    with pytest.raises(UserError, match=r"encoder.embed_tokens.weight and shared.weight are one table and differ"):
        Folder(tmp_path).reader("T5EncoderModel", T5)
    changed(tmp_path / WEIGHTS, lambda t: {k: v for k, v in t.items() if k != "shared.weight"})
    net = Folder(tmp_path).reader("T5EncoderModel", T5)[0]
    assert net.shared.weight is net.encoder.embed_tokens.weight and torch.equal(net.shared.weight, table + 1)


def test_weights_in_shards_and_halves_are_read(written):
    kind, words, folder = written
    due = Folder(folder).reader(kind, words)[0].state_dict()
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    places = {k: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, k in enumerate(tensors)}
    for shard in set(places.values()):
        save_file({k: v for k, v in tensors.items() if places[k] == shard}, folder / "text_encoder" / shard)
    (folder / "text_encoder/model.safetensors.index.fp16.json").write_text(json.dumps({"weight_map": places}))
    made = Folder(folder).reader(kind, words)[0].state_dict()
    assert all(torch.equal(made[k], due[k]) for k in due)


def test_an_encoder_without_words_or_with_anothers_is_refused(written):
    kind, words, folder = written
    kept = {file: file.read_bytes() for file in (folder / "tokenizer").iterdir()}
    for file in kept:
        file.unlink()
    with pytest.raises(UserError, match=r"tokenizer holds no words \(tokenizer.json or .*\): the download is not complete"):
        Folder(folder).reader(kind, words)
    for file, held in kept.items():
        file.write_bytes(held)
    rows = {"vocab_size": 30, "pad_token_id": 0}
    said = json.loads((folder / "text_encoder/config.json").read_text())
    (folder / "text_encoder/config.json").write_text(json.dumps(said | rows))
    changed(
        folder / WEIGHTS,
        lambda t: {k: v[:30] if "embed_tokens" in k or "shared" in k or "token_emb" in k else v for k, v in t.items()},
    )
    with pytest.raises(UserError, match=r"tokenizer holds \d+ words, and the table of its encoder 30: they are of two models"):
        Folder(folder).reader(kind, words)


def _numbers(said):
    return [k for k, v in said.items() if isinstance(v, int) and not isinstance(v, bool) and v > 0]


@pytest.mark.parametrize("make", [sana, dit])
def test_no_number_of_a_configuration_is_without_bound(make, tmp_path):
    """Each is refused, or changes nothing; none takes the time or the memory that it asks for."""
    make().save_pretrained(tmp_path)
    before = time.process_time()
    open_folder(tmp_path)  # imports what it needs, once
    usual = time.process_time() - before
    for part in Folder(tmp_path).weights:
        file = tmp_path / part / "config.json"
        text = file.read_text()
        for field in _numbers(json.loads(text)):
            file.write_text(json.dumps(json.loads(text) | {field: 10**8}))
            with pytest.raises(UserError, match=part) if field == "num_layers" else contextlib.suppress(UserError):
                before = time.process_time()
                open_folder(tmp_path)
            assert time.process_time() - before < 5 + 2 * usual, f"{part}: {field}"
        file.write_text(text)
