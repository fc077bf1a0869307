"""performance_studies.py: a trained encoder with other attention."""

import json
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr
from transformers import BertConfig, BertModel, BertTokenizerFast

from dl_proj.studies.pretrained import agreement, fine_tune, lines_of, load, pretrained, variants
from dl_proj.studies.pretrained_settings import PretrainedConfig
from my_custom_ai.custom_train import SetupError

CPU = torch.device("cpu")
WORDS = ["a", "dog", "cat", "man", "child", "runs", "sleeps", "jumps", "in", "on", "the", "snow", "grass", "red"]


@pytest.fixture
def config(tmp_path):
    """A tiny encoder with uneven attention, and sentences of three to nine words."""
    torch.manual_seed(0)
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
    model = BertModel(BertConfig(vocab_size=19, initializer_range=0.3, max_position_embeddings=16, **sizes))
    model.save_pretrained(tmp_path / "encoder")
    BertTokenizerFast(vocab=str(vocabulary)).save_pretrained(tmp_path / "encoder")
    draws = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, 10, (40,), generator=draws).tolist()
    text = [" ".join(WORDS[i] for i in torch.randint(14, (n,), generator=draws)) for n in lengths]
    (tmp_path / "text.en").write_text("\n".join(text) + "\n\n")
    return PretrainedConfig(
        folder=tmp_path / "encoder",
        sentences=tmp_path / "text.en",
        training=tmp_path / "text.en",
        n_sentences=20,
        max_tokens=12,
        n_features=(8, 2048),
        ranks=(2, 12),
        chunk_sizes=(1, 12),
        steps=8,
        lr=3e-3,
    )


def test_what_equals_full_attention_changes_nothing_and_fine_tuning_brings_nearer(config):
    rows = {
        (row["curve"], row["n_features"], row["rank"], row["tokens_seen"]): row for row in pretrained(config, 0, CPU)
    }
    exact = {"cosine": 1, "rank_correlation": 1, "same_neighbour": 1}
    for same in (("full", None, None, None), ("Linformer", None, 12, None), ("local", None, None, 36)):
        assert {name: rows[same][name] for name in exact} == pytest.approx(exact, abs=1e-5)
    assert rows["Performer", 2048, None, None]["cosine"] > rows["Performer", 8, None, None]["cosine"]
    for changed in (("Performer", 8, None, None), ("Linformer", None, 2, None), ("local", None, None, 3)):
        tuned = rows[(f"{changed[0]}, fine-tuned", *changed[1:])]
        assert tuned["cosine"] > rows[changed]["cosine"]
        assert rows[changed]["cosine"] < 0.9999


def test_embeddings_are_means_over_real_tokens(config):
    encoder = load(config.folder, 12, CPU)
    together, alone = encoder.embed(["a dog", "the child jumps in the snow"]), encoder.embed(["a dog"])
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-5)
    hidden = encoder.model(**encoder.tokenize(["a dog"])).last_hidden_state.mean(1)
    torch.testing.assert_close(alone, hidden / hidden.norm())


def test_the_measures_are_what_their_names_say():
    draws = torch.Generator().manual_seed(2)
    wanted, noise = torch.randn(2, 12, 5, generator=draws, dtype=torch.float64)
    wanted, found = (x / x.norm(dim=1, keepdim=True) for x in (wanted, wanted + 0.3 * noise))
    i, j = torch.triu_indices(12, 12, offset=1)
    similar = [(x[i] * x[j]).sum(1) for x in (found, wanted)]
    nearest = [
        max(range(12), key=lambda b: (a != b) * (2 + x[a] @ x[b]).item()) for x in (found, wanted) for a in range(12)
    ]
    row = agreement(found, wanted)
    assert row["cosine"] == pytest.approx(torch.cosine_similarity(found, wanted).mean().item())
    assert row["rank_correlation"] == pytest.approx(spearmanr(*similar).statistic)
    assert 0 < row["same_neighbour"] < 1
    assert row["same_neighbour"] == sum(a == b for a, b in zip(nearest[:12], nearest[12:], strict=True)) / 12


def test_fine_tuning_takes_every_lesson_and_comes_nearer(config):
    exact, changed = load(config.folder, 12, CPU), load(config.folder, 12, CPU)
    torch.nn.init.zeros_(changed.model.encoder.layer[0].output.dense.weight)
    sentences = lines_of(config.training)
    wanted = exact.embed_all(sentences)
    before = agreement(changed.embed_all(sentences), wanted)["cosine"]
    fine_tune(changed, [(sentences, wanted)] * 5, lr=3e-3)
    assert agreement(changed.embed_all(sentences), wanted)["cosine"] > before
    assert all(p.grad is not None for name, p in changed.model.named_parameters() if "pooler" not in name)


@pytest.mark.slow
def test_the_command_writes_its_table_and_picture(config, script):
    flags = [f"--pretrained.{name}={getattr(config, name)}" for name in ("folder", "sentences", "training")]
    small = ["--pretrained.n_sentences=5", "--pretrained.steps=1", "--pretrained.max_tokens=12"]
    few = ["--pretrained.ranks=2,6", "--pretrained.n_features=8", "--pretrained.chunk_sizes=2"]
    outcome = script("performance_studies", "--studies=pretrained", "--device=cpu", *flags, *small, *few)
    assert outcome.code == 0, outcome.lines
    written = json.loads(Path("runs/performance_studies/pretrained.json").read_text())
    assert len(written["rows"]) == 1 + 2 * len(
        list(variants(PretrainedConfig(ranks=(2, 6), n_features=(8,), chunk_sizes=(2,))))[1:]
    )
    assert Path("runs/performance_studies/pretrained.png").stat().st_size > 1000


def test_what_is_missing_is_said(config, tmp_path):
    (tmp_path / "empty.en").write_text("\n")
    (tmp_path / "nothing").mkdir()
    for says, call in (
        ("cannot be read", lambda: lines_of(tmp_path / "none.en")),
        ("is empty", lambda: lines_of(tmp_path / "empty.en")),
        ("no config.json", lambda: load(tmp_path / "nothing", 12, CPU)),
    ):
        with pytest.raises(SetupError, match=says):
            call()


def test_ranks_that_do_not_fit_are_mistakes():
    with pytest.raises(ValueError, match=r"n_features: 4 .*\nranks: 5 .* 12 .*use 4\nranks: 24 .* 12 "):
        PretrainedConfig(max_tokens=12, ranks=(5, 12, 24), n_features=(4, 4))
