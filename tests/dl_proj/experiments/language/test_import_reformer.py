"""Reformers made at random by the transformers library give the same logits here."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_scripts import assert_refused, over
from transformers import ReformerConfig, ReformerForMaskedLM, ReformerModelWithLMHead
from transformers.utils import logging

from dl_proj.checkpoint_folder import read_config
from dl_proj.experiments.language.import_reformer import (
    read_settings,
    translated_settings,
    translated_weights,
    unsupported,
)
from dl_proj.experiments.language.settings import LanguageTrainConfig
from dl_proj.experiments.language.train import language_experiment
from dl_proj.models.build import build_language_model
from dl_proj.models.settings import LanguageModelConfig
from dl_proj.text.tokenizers import load_tokenizer, train_bpe

logging.disable_progress_bar()

SMALL = {
    "attn_layers": ["local", "lsh"],
    "hidden_size": 16,
    "num_attention_heads": 2,
    "attention_head_size": 6,
    "feed_forward_size": 20,
    "vocab_size": 11,
    "axial_pos_shape": [8, 8],
    "axial_pos_embds_dim": [6, 10],
    "max_position_embeddings": 64,
    "lsh_attn_chunk_length": 4,
    "local_attn_chunk_length": 4,
    "num_buckets": 4,
    "hash_seed": 3,
    "initializer_range": 0.4,  # their default makes attention all but uniform
    "is_decoder": True,
}


def theirs(folder=None, **changes):
    """A model at random, with vectors that are not 0 or 1, saved."""
    torch.manual_seed(0)
    config = ReformerConfig(**SMALL | changes)
    kind = ReformerModelWithLMHead if config.is_decoder else ReformerForMaskedLM
    model = kind(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and name != "lm_head.bias":
                parameter.add_(0.3 * torch.randn_like(parameter))
    if folder is not None:
        model.save_pretrained(folder)
    return model


def ours(folder, max_len=64):
    settings = read_settings(folder / "config.json")
    assert unsupported(settings) == []
    config = LanguageModelConfig.model_validate(translated_settings(settings))
    model = build_language_model(
        config, causal=settings["is_decoder"], vocab_size=settings["vocab_size"], max_len=max_len
    )
    model.load_state_dict(translated_weights(load_file(folder / "model.safetensors"), settings, max_len))
    return model.eval()


CASES = {
    "local": {"attn_layers": ["local", "local"]},
    "local, chunk alone": {"attn_layers": ["local"], "local_num_chunks_before": 0},
    "lsh": {"attn_layers": ["lsh", "lsh"]},
    "lsh, 3 rounds": {"attn_layers": ["lsh", "lsh"], "num_hashes": 3},
    "mixed": {"attn_layers": ["local", "lsh", "local", "lsh"], "num_hashes": 2},
    "chunks of two sizes": {"lsh_attn_chunk_length": 6, "num_hashes": 2},
    "larger local chunks": {"local_attn_chunk_length": 8, "num_hashes": 2},
    "factors": {"attn_layers": ["lsh", "local"], "num_buckets": [2, 4], "num_hashes": 2},
    "three factors": {"attn_layers": ["lsh"], "num_buckets": [4, 2, 2]},
    "one factor": {"attn_layers": ["lsh"], "num_buckets": [6]},
    "positions one by one": {"axial_pos_embds": False},
    "gelu in chunks": {"hidden_act": "gelu", "chunk_size_feed_forward": 1},
    "another epsilon": {"layer_norm_eps": 0.1},
}
LENGTHS = (1, 3, 4, 5, 8, 12, 13, 24, 37)


def compare(model, mine, length, *, tolerance, masked=False):
    """Logits at real tokens."""
    tokens = torch.randint(1, 11, (3, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones(3, length, dtype=torch.bool)
    if masked:
        mask[0, length // 2 :] = False
        mask[1, ::3] = False
        mask[:, 0] = True
    with torch.no_grad():
        wanted = model(tokens, **({"attention_mask": mask} if masked else {})).logits
        found = mine(tokens, mask=mask if masked else None)
    assert wanted.abs().max() > 1, "something to compare"
    torch.testing.assert_close(found[mask], wanted[mask], rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_same_logits(case, causal, tmp_path, monkeypatch):
    """In float32, and in float64 to its precision, where nothing is rounded away."""
    model = theirs(tmp_path, is_decoder=causal, **CASES[case])
    mine = ours(tmp_path)
    everything = [(length, masked) for length in LENGTHS for masked in (False, True)]
    for length, masked in everything:
        in_rounds = case == "chunks of two sizes" and 4 < length <= 6  # for them, where one chunk of ours holds all
        compare(model, mine, length, tolerance=2e-2 if in_rounds else 2e-5, masked=masked)
    draw = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *sizes, dtype, **how: draw(*sizes, **how).to(dtype))  # the same numbers
    for length, masked in everything:
        compare(model.double(), mine.double(), length, tolerance=1e-11, masked=masked)


def test_the_bias_of_the_logits_is_imported(tmp_path):
    """Version 5 of their library keeps it, but adds it no more."""
    model = theirs(tmp_path)
    with torch.no_grad():
        before = model.lm_head(torch.zeros(1, 1, 32))
        model.lm_head.bias.copy_(torch.arange(11.0))
    model.save_pretrained(tmp_path)
    tokens = torch.randint(1, 11, (2, 9))
    with torch.no_grad():
        wanted = model(tokens).logits
        added = ours(tmp_path)(tokens) - wanted
    applied = 0 if torch.equal(model.lm_head(torch.zeros(1, 1, 32)), before) else 1
    torch.testing.assert_close(added, (1 - applied) * torch.arange(11.0).expand_as(added), rtol=0, atol=1e-4)


@pytest.mark.parametrize("newer", [None, "equal", "another"])
def test_a_file_with_one_bias_of_the_logits_or_two(newer, tmp_path):
    """The matrix has a bias of its own since version 5.24; older files may name one tensor twice."""
    theirs(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("lm_head.decoder.bias", None)
    tensors["lm_head.bias"] = torch.arange(11.0)
    if newer:
        tensors["lm_head.decoder.bias"] = torch.arange(11.0) + (5 if newer == "another" else 0)
    save_file(tensors, tmp_path / "model.safetensors")
    expected = torch.arange(11.0) * (2 if newer == "another" else 1) + (5 if newer == "another" else 0)
    assert torch.equal(ours(tmp_path).to_logits.bias, expected)


def test_gradients_are_the_same(tmp_path):
    """Of a training step without dropout, on a sequence of whole chunks, which is what theirs can train on."""
    still = dict.fromkeys(("hidden_dropout_prob", "local_attention_probs_dropout_prob"), 0.0)
    model = theirs(tmp_path, axial_pos_shape=[4, 6], num_hashes=2, **still).train()
    mine = ours(tmp_path, 24).train()
    tokens = torch.randint(1, 11, (2, 24))
    for each, logits in ((model, model(tokens).logits), (mine, mine(tokens))):
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
        assert each.training
    named = {name: p.grad for name, p in model.named_parameters() if name != "lm_head.bias"}
    bias = mine.to_logits.bias.grad
    named["lm_head.bias"] = torch.zeros_like(bias) if "lm_head.decoder.bias" in named else bias
    settings = read_settings(tmp_path / "config.json")
    wanted = translated_weights(named, settings, 24)
    for name, parameter in mine.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-6)


# -- the script --

TEXT = "".join(f"{i} owls and {i * i} mice, said the caf\u00e9's owner.\n" for i in range(300))
BYTES = {"vocab_size": 258, "axial_pos_shape": [16, 16], "max_position_embeddings": 256}
FLAGS = ["--data.source", "files", "--data.path", "text.txt", "--data.window", "64", "--output_dir", "made"]


@pytest.fixture
def text():
    Path("text.txt").write_text(TEXT)
    return TEXT


def bits_per_byte(model):
    """Of the test split, by their model, whose first two symbols are no bytes."""
    experiment = language_experiment(read_config(LanguageTrainConfig, Path("made")))
    losses = []
    for tokens, counted, _ in experiment.test_data:
        with torch.no_grad():
            logits = model(tokens[None, :-1] + 2).logits[0, :, 2:]
        losses.append(torch.nn.functional.cross_entropy(logits[counted], tokens[1:][counted], reduction="none"))
    return torch.cat(losses).mean().item() / math.log(2)


def test_a_model_of_bytes_is_evaluated_and_continues_as_theirs(script, text):
    """Two of its symbols are no bytes; local attention is decoded with our cache."""
    model = theirs("saved", **BYTES, attn_layers=["local", "local"])
    outcome = script("import_reformer", "--source", "saved", *FLAGS)
    assert (outcome.code, outcome.lines, outcome.out) == (0, [], "written: made\n")
    assert script("evaluate", "--checkpoint", "made", "--device", "cpu", "--output_dir", "measured").code == 0
    (row,) = csv.DictReader(Path("measured/evaluation.csv").read_text().splitlines())
    prompt = list(b"12 owls")
    continued = script("lm_generate", "--checkpoint", "made", "--prompt", "12 owls", "--length", "40", "--top_k", "1")
    tokens = torch.tensor([prompt]) + 2
    with torch.no_grad():
        for _ in range(40):
            tokens = torch.cat((tokens, model(tokens).logits[:, -1:, 2:].argmax(-1) + 2), dim=1)
    assert continued.out.encode("utf-8").decode() == bytes((tokens[0] - 2).tolist()).decode(errors="replace") + "\n"
    assert row["attention"] == "local"
    assert float(row["bits_per_byte"]) == pytest.approx(bits_per_byte(model), rel=1e-5)


def test_an_imported_model_is_trained_further(script, text):
    """With LSH layers; at almost no learning rate it keeps their weights, and the text's first loss is theirs."""
    model = theirs("saved", **BYTES, attn_layers=["local", "lsh"])
    assert script("import_reformer", "--source", "saved", *FLAGS).code == 0
    flags = ["--init_from", "made", "--data.window", "48", "--train.trackers", "[]"]
    assert script("lm_train", *flags, "--optimizer.lr", "1e-30", "--train.max_steps", "2").code == 0
    run = Path("runs/imported-reformer-tuned/version_0")
    imported = load_file("made/model.safetensors")
    kept = load_file(run / "checkpoints/best/model.safetensors")
    assert all(torch.allclose(kept[name], imported[name], atol=1e-20) for name in imported)
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["test/bits_per_byte"] == pytest.approx(bits_per_byte(model), rel=0.05), "windows of 48, not 64"
    assert script("lm_train", *flags, "--optimizer.lr", "0.003", "--train.max_steps", "30").code == 0
    learnt = json.loads((run.with_name("version_1") / "metrics.json").read_text())
    assert learnt["test/bits_per_byte"] < 0.9 * figures["test/bits_per_byte"]


def test_chunks_that_later_tokens_move_continue_nothing(script, text):
    """Said once, however many layers have them."""
    theirs("saved", **BYTES, attn_layers=["local", "lsh", "lsh"])
    assert script("import_reformer", "--source", "saved", *FLAGS).code == 0
    refused = script("lm_generate", "--checkpoint", "made", "--prompt", "12 owls", "--length", "4")
    assert_refused(refused, [("checkpoint: made: model.attention.kind: transformers_lsh", "kind", "lsh")])


def config_with(**changes):
    """A saved configuration with other values, and no weights beside it."""
    Path("saved").mkdir(exist_ok=True)
    settings = json.loads(ReformerConfig(**SMALL | BYTES, architectures=["ReformerModelWithLMHead"]).to_json_string())
    Path("saved/config.json").write_text(json.dumps({**settings, "model_type": "reformer", **changes}))


REFUSED = {
    "another model": ({"model_type": "bert"}, [("model_type", "'bert'", "'reformer'")]),
    "another activation": ({"hidden_act": "silu"}, [("hidden_act", "'silu'", "'relu'", "'gelu'")]),
    "a tied head": ({"tie_word_embeddings": True}, [("tie_word_embeddings", True, False)]),
    "more sorted chunks": ({"lsh_num_chunks_before": 2}, [("lsh_num_chunks_before", 2, 1)]),
    "sorted chunks behind": ({"lsh_num_chunks_after": 1}, [("lsh_num_chunks_after", 1, 0)]),
    "more local chunks": ({"local_num_chunks_before": 2}, [("local_num_chunks_before", 2, 0, 1)]),
    "local chunks to come": ({"local_num_chunks_after": 1}, [("local_num_chunks_after", 1, 0)]),
    "another head": (
        {"architectures": ["ReformerForQuestionAnswering"]},
        [("architectures", ["ReformerForQuestionAnswering"], ["ReformerModelWithLMHead"], "is_decoder", True)],
    ),
    "a masked model that is causal": (
        {"is_decoder": False},
        [("architectures", ["ReformerModelWithLMHead"], ["ReformerForMaskedLM"], "is_decoder", False)],
    ),
    "another layer": ({"attn_layers": ["lsh", "global"]}, [("attn_layers", ["lsh", "global"])]),
    "no layer": ({"attn_layers": []}, [("attn_layers", [])]),
    "no buckets": ({"num_buckets": None}, [("num_buckets", None)]),
    "no chunks": (
        {"lsh_attn_chunk_length": None, "local_attn_chunk_length": 0},
        [("local_attn_chunk_length", 0, 1), ("lsh_attn_chunk_length", None, 1)],
    ),
    "two things": (
        {"hidden_act": "silu", "lsh_num_chunks_after": 1},
        [("hidden_act", "'silu'"), ("lsh_num_chunks_after", 1, 0)],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_counterpart(case, script, text):
    changes, expected = REFUSED[case]
    config_with(**changes)
    expected = [(f"saved: config.json: {key}", *facts) for key, *facts in expected]
    assert_refused(script("import_reformer", "--source", "saved", *FLAGS), expected)
    assert not Path("made").exists()


def test_what_is_no_refusal(script, text):
    """Settings of the other kind of layer, and chunks that are only about memory."""
    local = {"attn_layers": ["local"], "lsh_num_chunks_before": 3, "num_buckets": None}
    theirs("saved", **BYTES, **local, chunk_size_lm_head=1)
    assert script("import_reformer", "--source", "saved", *FLAGS).code == 0
    theirs("saved", **BYTES, hash_seed=None, num_buckets=None)  # whose logits are random
    assert script("import_reformer", "--source", "saved", *FLAGS).code == 0
    assert script("evaluate", "--checkpoint", "made", "--device", "cpu").code == 0


def test_files_that_are_not_there(script, text, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    outcome = script("import_reformer", "--source", "google/reformer-enwik8", *FLAGS)
    assert_refused(outcome, [("source: google/reformer-enwik8", "hub", "save_pretrained")])
    outcome = script("import_reformer", "--source", "/no/such/folder", *FLAGS)
    assert_refused(outcome, [("source: /no/such/folder", "hub")])
    Path("saved").mkdir()
    assert_refused(script("import_reformer", "--source", "saved", *FLAGS), [("source: saved", "config.json")])
    Path("saved/config.json").write_text("{")
    assert_refused(script("import_reformer", "--source", "saved", *FLAGS), [("saved/config.json", "JSON")])
    config_with()
    outcome = script("import_reformer", "--source", "saved", *FLAGS)
    assert_refused(outcome, [("source: saved", "model.safetensors")])
    Path("saved/pytorch_model.bin").write_bytes(b"anything")
    outcome = script("import_reformer", "--source", "saved", *FLAGS)
    assert_refused(outcome, [("source: saved", "model.safetensors", "pytorch_model.bin")])
    Path("saved/model.safetensors").write_bytes(b"anything else")
    outcome = script("import_reformer", "--source", "saved", *FLAGS)
    assert_refused(outcome, [("saved/model.safetensors", "safetensors")])


def test_weights_in_several_files(script, text):
    """And of a compiled model in DataParallel: the same checkpoint."""
    model = theirs("saved", **BYTES)
    assert script("import_reformer", "--source", "saved", *FLAGS).code == 0
    model.save_pretrained("shards", max_shard_size="8KB")
    assert len(list(Path("shards").glob("model-0*.safetensors"))) > 2
    assert not Path("shards/model.safetensors").exists()
    model.save_pretrained("wrapped")
    weights = {f"module._orig_mod.{name}": tensor for name, tensor in load_file("wrapped/model.safetensors").items()}
    save_file(weights, "wrapped/model.safetensors")
    for source in ("shards", "wrapped"):
        assert script("import_reformer", "--source", source, *FLAGS[:-1], f"from_{source}").code == 0
        same = Path(f"from_{source}/model.safetensors").read_bytes() == Path("made/model.safetensors").read_bytes()
        assert same, source


def indexed(file_of):
    Path("shards/model.safetensors.index.json").write_text(json.dumps({"weight_map": file_of}))


@pytest.mark.parametrize(
    "file", ["../outside.safetensors", "/outside.safetensors", "sub/a.safetensors", "..", "a.bin", "", 3, None]
)
def test_an_index_that_names_files_elsewhere_is_refused(file, script, text):
    theirs("shards", **BYTES)
    Path("shards/model.safetensors").rename("outside.safetensors")
    indexed({"lm_head.bias": file})
    outcome = script("import_reformer", "--source", "shards", *FLAGS)
    place = "shards/model.safetensors.index.json: weight_map: lm_head.bias"
    assert_refused(outcome, [(place, ".safetensors")])
    assert not Path("made").exists()


def test_an_index_that_is_wrong_is_refused(script, text):
    theirs("shards", **BYTES)
    Path("shards/model.safetensors").rename("shards/model-1.safetensors")
    for index, expected in (
        ({}, ("shards/model.safetensors.index.json: weight_map",)),
        ({"lm_head.bias": "model-2.safetensors"}, ("source: shards", "model-2.safetensors")),
        (
            {"lm_head.bias": "model-1.safetensors", "lm_head.tail": "model-1.safetensors"},
            ("source: model-1.safetensors", "'lm_head.tail'", "model.safetensors.index.json"),
        ),
    ):
        indexed(index)
        assert_refused(script("import_reformer", "--source", "shards", *FLAGS), [expected])


def test_shards_on_the_hub(script, text, monkeypatch):
    """As its client answers: a file, or that there is none."""
    import huggingface_hub

    theirs("saved", **BYTES).save_pretrained("shards", max_shard_size="8KB")

    def download(name, file):
        assert name == "someone/reformer"
        if not Path("shards", file).is_file():
            raise huggingface_hub.errors.EntryNotFoundError(file)
        return Path("shards", file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert script("import_reformer", "--source", "someone/reformer", *FLAGS).code == 0
    Path("shards/model.safetensors.index.json").unlink()
    outcome = script("import_reformer", "--source", "someone/reformer", *FLAGS)
    assert_refused(outcome, [("source: someone/reformer", "model.safetensors", "hub")])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lm_head.bias": None}, ("source: model.safetensors", "'lm_head.bias'")),
        (
            {"reformer.encoder.layer_norm.bias": torch.zeros(5)},
            ("source: model.safetensors", "config.json"),
        ),
    ],
)
def test_weights_that_do_not_fit(changes, expected, script, text):
    theirs("saved", **BYTES)
    weights = load_file("saved/model.safetensors") | changes
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, "saved/model.safetensors")
    assert_refused(script("import_reformer", "--source", "saved", *FLAGS), [expected])


def test_a_vocabulary_that_is_not_the_texts(script, text):
    theirs("saved", **BYTES | {"vocab_size": 320})
    outcome = script("import_reformer", "--source", "saved", *FLAGS)
    assert_refused(outcome, [("vocab_size: 320", 256, 258, "data.tokenizer.kind", "bytes")])
    outcome = script("import_reformer", "--source", "saved", *FLAGS, "--data.tokenizer.kind", "bpe")
    assert_refused(outcome, [("source: saved", "tokenizer.json")])
    train_bpe(text.splitlines(keepends=True), 300).save(Path("saved/tokenizer.json"))
    outcome = script("import_reformer", "--source", "saved", *FLAGS, "--data.tokenizer.kind", "bpe")
    assert_refused(outcome, [("vocab_size: 320", 300, "data.tokenizer.kind", "bpe")])


def test_subwords_come_along(script, text):
    tokenizer = train_bpe(text.splitlines(keepends=True), 300)
    theirs("saved", **BYTES | {"vocab_size": 300}, attn_layers=["local"])
    tokenizer.save(Path("saved/tokenizer.json"))
    assert script("import_reformer", "--source", "saved", *FLAGS, "--data.tokenizer.kind", "bpe").code == 0
    assert load_tokenizer(Path("made/tokenizer.json")).encode("12 owls") == tokenizer.encode("12 owls")
    assert script("lm_generate", "--checkpoint", "made", "--prompt", "12 owls", "--length", "4").code == 0


def test_more_tokens_than_positions(script, text):
    theirs("saved", **BYTES)
    outcome = script("import_reformer", "--source", "saved", *over(FLAGS, ["--data.window", "257"]))
    assert_refused(outcome, [("model.positions.shape", 16, 16, 257)])


def test_a_masked_model_of_bytes_and_a_mask(script, text):
    """Both ways, with the mask as the last symbol."""
    theirs("saved", **BYTES | {"vocab_size": 257, "is_decoder": False})
    assert script("import_reformer", "--source", "saved", *FLAGS).code == 0
    assert script("evaluate", "--checkpoint", "made", "--device", "cpu", "--output_dir", "measured").code == 0
    (row,) = csv.DictReader(Path("measured/evaluation.csv").read_text().splitlines())
    assert (row["task"], row["attention"]) == ("language", "local, LSH-1 (transformers)")


BOOK = {  # google/reformer-crime-and-punishment
    "attn_layers": ["local", "lsh"] * 3,
    "hidden_size": 256,
    "num_attention_heads": 2,
    "attention_head_size": 64,
    "feed_forward_size": 512,
    "vocab_size": 320,
    "axial_pos_shape": [512, 1024],
    "axial_pos_embds_dim": [64, 192],
    "max_position_embeddings": 524288,
    "lsh_attn_chunk_length": 64,
    "local_attn_chunk_length": 64,
    "num_buckets": [64, 128],
    "initializer_range": 0.02,
}
ENWIK8 = {  # google/reformer-enwik8
    "architectures": ["ReformerModelWithLMHead"],
    "attn_layers": ["local", "local", "lsh", "local"] * 3,
    "hidden_size": 1024,
    "num_attention_heads": 8,
    "attention_head_size": 128,
    "feed_forward_size": 4096,
    "vocab_size": 258,
    "axial_pos_shape": [128, 512],
    "axial_pos_embds_dim": [256, 768],
    "lsh_attn_chunk_length": 256,
    "local_attn_chunk_length": 128,
    "num_buckets": 512,
    "num_hashes": 4,
    "is_decoder": True,
    "model_type": "reformer",
}


def test_a_model_of_the_size_that_the_hub_has(tmp_path):
    model = theirs(tmp_path, **BOOK)
    mine = ours(tmp_path, 512)
    for length in (64, 200):
        compare(model, mine, length, tolerance=1e-4)


def test_another_size_that_the_hub_has():
    """Too large to be run here; its random hashes are not kept."""
    Path("config.json").write_text(json.dumps(ENWIK8))
    settings = read_settings(Path("config.json"))
    assert unsupported(settings) == []
    config = LanguageModelConfig.model_validate(translated_settings(settings))
    with torch.device("meta"):
        model = build_language_model(config, causal=True, vocab_size=258, max_len=65536)
    assert model.positions.max_len == 128 * 512
    lsh = [layer.attention.mechanism for layer in model.stack.layers][2]
    assert (lsh.n_rounds, lsh.chunk_size, lsh.n_buckets, lsh.multiple_of) == (4, 256, 512, 256)
    assert lsh.rotations is None
