"""A bit of a file is not what it was: the file is refused, or made again from what it was made of."""

import random

import pytest
import torch
from tiny_scripts import TEXT, call, tiny_language, tiny_translation, tiny_yaml, write_pairs

from dl_proj.experiments.language.settings import LanguageTrainConfig
from dl_proj.experiments.language.train import language_experiment
from dl_proj.experiments.translation.settings import TranslationTrainConfig
from dl_proj.experiments.translation.train import translation_experiment
from my_custom_ai.custom_train import CheckpointError
from my_custom_ai.custom_train.checkpoint import load_tensors

pytestmark = pytest.mark.torture


SUFFIXES = (".bin", ".arrow", ".npy", ".json", ".sha256")


def with_a_flipped_bit(content, draw):
    flipped, place = bytearray(content), draw.randrange(len(content))
    flipped[place] ^= 1 << draw.randrange(8)
    return bytes(flipped), place


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert call("synth_train", "--config", tiny_yaml(folder / "c.yaml", {"runs_dir": str(folder)})).code == 0
    return folder / "tiny" / "version_0" / "checkpoints"


@pytest.mark.parametrize("name", ["best/model.safetensors", "last/state.safetensors"])
def test_250_flipped_bits_are_refused(run, tmp_path, name, report):
    content, draw, accepted, damaged = (run / name).read_bytes(), random.Random(name), [], tmp_path / "x.safetensors"
    for _ in range(250):
        flipped, place = with_a_flipped_bit(content, draw)
        damaged.write_bytes(flipped)
        try:
            tensors, _ = load_tensors(damaged)
        except CheckpointError:
            continue
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
        accepted.append(place)
    report("flipped bits", {"in weights and states": 250, "of them accepted": len(accepted)})
    assert accepted == []


SUBWORDS = {"data.tokenizer": {"kind": "bpe", "vocab_size": 280}}
HELD_OUT = {
    "data.corpus.val": None,
    "data.corpus.test": None,
    "data.corpus.val_share": 0.1,
    "data.corpus.test_share": 0.1,
}
DATA = {
    "texts": lambda: language_experiment(LanguageTrainConfig(**tiny_language(SUBWORDS))),
    "pairs": lambda: translation_experiment(TranslationTrainConfig(**tiny_translation(HELD_OUT))),
}


@pytest.mark.parametrize("name", DATA)
def test_100_flipped_bits_of_tokens_are_made_good(name, tmp_path, monkeypatch, report):
    """Of token files, tokenizers, the parts of a corpus and their checksums: each is what it was before it is used."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    write_pairs()
    DATA[name]()
    kept = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.suffix in SUFFIXES}
    assert {path.suffix for path in kept} >= ({".bin", ".json"} if name == "texts" else {".arrow", ".npy", ".json"})
    draw, used = random.Random(name), []
    for _ in range(100):
        path = draw.choice(list(kept))
        flipped, place = with_a_flipped_bit(kept[path], draw)
        path.write_bytes(flipped)
        DATA[name]()
        used += [(path.name, place) for path in kept if path.read_bytes() != kept[path]]
    report("flipped bits in token files", {"made": 100, "used": len(used)})
    assert used == []
