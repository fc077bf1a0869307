"""dl_proj.load: a trained model of each task, and what it does."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file
from tiny_scripts import (
    PAIRS,
    TEXT,
    as_yaml,
    assert_states,
    call,
    one_thread,
    tiny_classifier,
    tiny_generator,
    tiny_language,
    tiny_translation,
    write_pairs,
)

import dl_proj
from dl_proj.experiments.images.classification.classifier import Classifier
from dl_proj.experiments.translation.translator import Translator
from dl_proj.settings.errors import ConfigError
from my_custom_ai.custom_train import CheckpointError

ROOT = Path(__file__).parents[3]
TRAININGS = {
    "classification": ("cls_train", tiny_classifier, {}),
    "generation": ("generation_train", tiny_generator, {"samples_per_label": 0}),
    "masked": ("lm_train", tiny_language, {"objective": {"kind": "masked"}}),
    "translation": ("translation_train", tiny_translation, {}),
}
SHIPPED = {"copy": "synth-gen-lsh-r1", "language": "lm-books-reformer", "translation": "translation-multi30k"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each task that is not tried on a shipped model."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    write_pairs(folder / "pairs")
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.chdir(folder)
        patch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())
        for name, (script, tiny, changes) in TRAININGS.items():
            config = tiny({"experiment_name": name, "train.trackers": [], "train.device": "cpu"} | changes)
            assert call(script, "--config", as_yaml("c.yaml", config)).code == 0
    return {name: folder / "runs" / name / "version_0" for name in TRAININGS}


@pytest.mark.slow
def test_importing_the_package_imports_no_torch():
    program = "import sys, dl_proj; assert callable(dl_proj.load); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", TRAININGS)
def test_a_run_gives_its_best_model_ready_for_use(name, runs):
    for path in (runs[name], str(runs[name] / "checkpoints/best")):
        loaded = dl_proj.load(path, device="cpu")
        assert loaded.folder == runs[name] / "checkpoints/best"
        assert not loaded.model.training
        saved = load_file(loaded.folder / "model.safetensors")
        own = loaded.model.state_dict()
        assert saved and all(torch.equal(own[key], value) for key, value in saved.items())
        assert loaded.config.experiment_name == name


def test_a_classifier_says_how_probable_each_class_is(runs):
    classifier = dl_proj.load(runs["classification"], device="cpu")
    assert isinstance(classifier, Classifier) and classifier.classes == tuple("0123456789")
    pictures = [Image.effect_noise((8, 8), 90), Image.effect_noise((20, 9), 20)]
    pictures[0].save("a.png")
    found = classifier.predict(["a.png", pictures[1], Path("a.png")], batch_size=2)
    alone = classifier.predict(pictures[0])
    assert found[0] == pytest.approx(found[2]) and found[0] == pytest.approx(alone[0])
    assert found[0] != pytest.approx(found[1])
    for shares in found:
        assert sorted(shares) == list("0123456789")
        assert sum(shares.values()) == pytest.approx(1)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
    levels = torch.from_numpy(np.array(pictures[0])).view(1, 1, 8, 8)
    with torch.no_grad():
        logits = classifier.model(levels)[0]
    assert list(found[0]) == [str(i) for i in logits.argsort(descending=True).tolist()]
    Path("broken.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"broken\.png"):
        classifier.predict(["a.png", "broken.png"])


def test_a_generator_draws_as_mnist_generator_does(runs, script):
    generator = dl_proj.load(runs["generation"], device="cpu")
    pictures = generator.generate(["3", "3", 7], seed=5, top_k=4)
    flags = ("--labels", "3,7", "--per_label", 2, "--seed", 5, "--top_k", 4, "--single_files")
    assert script("mnist_generator", "--checkpoint", runs["generation"], "--device", "cpu", *flags).code == 0
    for number, name in enumerate(("3_0", "3_1", "7_0")):
        with Image.open(f"runs/mnist_generator/{name}.png") as file:
            assert np.array_equal(np.asarray(file), pictures[number])
    with pytest.raises(ValueError, match="'cow'"):
        generator.generate(["cow"])


def test_a_masked_model_fills_in_what_is_hidden(runs):
    filler = dl_proj.load(runs["masked"], device="cpu")
    first, second = filler.predict("The [MASK]at s[MASK]t", top=4)
    tokens = torch.tensor([[*b"The ", 256, *b"at s", 256, *b"t"]])
    with torch.no_grad():
        shares = filler.model(tokens)[0, :, :256].softmax(-1)
    for found, place in ((first, 4), (second, 9)):
        expected = shares[place].topk(4)
        assert list(found.values()) == pytest.approx(expected.values.tolist())
        assert list(found) == [bytes([i]).decode(errors="replace") for i in expected.indices.tolist()]
    with pytest.raises(ValueError, match="MASK"):
        filler.predict("The cat")
    with pytest.raises(ValueError, match="17 tokens, must have at most 16"):
        filler.predict("[MASK]" + "x" * 16)


def test_a_translator_takes_one_sentence_or_several(runs):
    translator = dl_proj.load(runs["translation"], device="cpu")
    assert isinstance(translator, Translator)
    sentences = [PAIRS[0][0], PAIRS[1][0]]
    both = [translation.log_probability for translation in translator.translate(sentences, beam_size=2)]
    alone = [translator.translate(sentence, beam_size=2)[0].log_probability for sentence in sentences]
    assert both == pytest.approx(alone) and both[0] != both[1]
    with pytest.raises(ValueError, match="at most the model"):
        translator.translate("a dog", max_length=1000)


@pytest.mark.slow
def test_shipped_models_by_their_names():
    copier = dl_proj.load(SHIPPED["copy"], device="cpu")
    word = [1 + 37 * i % 120 for i in range(copier.word_length)]
    assert sum(a == b for a, b in zip(copier.generate(word), word, strict=True)) > 0.9 * len(word)
    for wrong in (word[1:], [0, *word[1:]], [*word[1:], 128]):
        with pytest.raises(ValueError, match=f"word must have {len(word)} symbols, each from 1 to 127"):
            copier.generate(wrong)
    text = dl_proj.load(SHIPPED["language"], device="cpu").generate("It was ", 80, top_k=1)
    assert len(text) == 80 and text.count(" ") > 8
    (german,) = dl_proj.load(SHIPPED["translation"], device="cpu").translate("Two dogs play in the snow.")
    assert str(german) == "Zwei Hunde spielen im Schnee."


def test_what_cannot_be_loaded(runs):
    with pytest.raises(CheckpointError, match="'nowhere'"):
        dl_proj.load("nowhere")
    with pytest.raises(ValueError, match="'gpu'"):
        dl_proj.load(runs["masked"], device="gpu")
    shutil.copytree(runs["classification"] / "checkpoints/best", "other")
    Path("other/classes.json").write_text('{"a": 1}')
    with pytest.raises(CheckpointError, match=r"other/classes\.json"):
        dl_proj.load("other")
    Path("other/config.yaml").write_text("task: cooking\n")
    with pytest.raises(ConfigError) as refused:
        dl_proj.load("other")
    assert_states(refused.value.lines[0], "other/config.yaml: task", "classification", "'cooking'")
