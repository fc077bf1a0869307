"""Every checkpoint under dl_proj/checkpoints is whole, says what it is, and is as good as it says."""

import contextlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchvision.transforms.v2 import functional as pictures

from dl_proj.checkpoint_folder import SHIPPED, config_path, find_checkpoint, read_config
from dl_proj.cli import CONFIGS
from dl_proj.experiments.copy.settings import SynthComparisonConfig
from dl_proj.experiments.copy.train import build_copy_model, copy_dataset
from dl_proj.experiments.images.classification.train import build_classification_model
from dl_proj.experiments.images.decoding import quantised
from dl_proj.experiments.images.generation.train import build_generator
from dl_proj.experiments.language.train import build_configured
from dl_proj.experiments.registry import EXPERIMENT_TYPES
from dl_proj.experiments.translation.train import build_configured as build_translator
from dl_proj.experiments.translation.train import saved_beside
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.load import differences, load_config
from dl_proj.settings.read_yaml import read_yaml
from dl_proj.text.tokenizers import Tokenizer
from my_custom_ai.custom_train import load_weights

pytestmark = pytest.mark.slow

N_SEQUENCES = 64
N_IMAGES = 250  # of 10,000 test images; generators, which take longer, are shown every other one of them
BUILD = {
    "copy": build_copy_model,
    "classification": lambda config: build_classification_model(config, 10),
    "generation": lambda config: build_generator(config, 10),
    "language": lambda config: build_configured(config, Tokenizer()),
    "translation": lambda config: build_translator(config, tokenizers(config)),
}
TASKS = {
    path.parent.name: read_yaml(path.with_name("config.yaml"))["task"]
    for path in sorted(SHIPPED.glob("*/model.safetensors"))
}


def presets_of(schema):
    """By the names of their runs."""
    for path in sorted(CONFIGS.rglob("*.yaml")):
        with contextlib.suppress(ConfigError):  # another script's
            yield load_config(schema, path).experiment_name, path


PRESETS = {name: path for one in EXPERIMENT_TYPES.values() for name, path in presets_of(one.schema)}


def tokenizers(config):
    """A translator's, whose folder has the experiment's name."""
    return saved_beside(config, SHIPPED / config.experiment_name)


def of(*tasks):
    return [name for name, task in TASKS.items() if task in tasks]


def configured(name):
    return read_config(EXPERIMENT_TYPES[TASKS[name]].schema, SHIPPED / name)


def figures(name):
    return json.loads((SHIPPED / name / "metrics.json").read_text())


def loaded(name):
    model = BUILD[TASKS[name]](configured(name))
    load_weights(SHIPPED / name / "model.safetensors", model)
    return model.eval()


@pytest.mark.parametrize("name", TASKS)
def test_it_is_complete(name):
    folder = find_checkpoint(name)
    assert folder == SHIPPED / name
    files = {"model.safetensors", "config.yaml", "metrics.json"}
    files |= {"samples.png"} if TASKS[name] == "generation" else set()
    assert files <= {path.name for path in folder.iterdir()}
    tensors = load_file(folder / "model.safetensors")
    parameters = {parameter for parameter, _ in loaded(name).named_parameters()}  # random directions are none
    assert figures(name)["parameters"] == sum(tensor.numel() for key, tensor in tensors.items() if key in parameters)
    assert all(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize("name", TASKS)
def test_a_committed_configuration_trains_it(name):
    """What may differ is where files lie and what computes."""
    trained = configured(name)
    preset = load_config(type(trained), PRESETS[name])
    changed = {key for key, *_ in differences(trained.model_dump(mode="json"), preset.model_dump(mode="json"))}
    assert changed <= {"runs_dir", "data.root", "train.device", "train.num_workers", "train.trackers"}
    assert config_path(SHIPPED / name).parent == SHIPPED / name


@torch.no_grad()
def copied(config, model):
    """Share of the second words' symbols that are right, in the first test sequences."""
    data = copy_dataset(config.data, "test", N_SEQUENCES, config.seed)
    second_sos = (config.data.length + 1) // 2
    right = count = 0
    for start in range(0, N_SEQUENCES, 8):
        batch = torch.stack([data[i] for i in range(start, start + 8)])
        said = model(batch[:, :-1]).argmax(-1)[:, second_sos:]
        right += (said == batch[:, second_sos + 1 :]).sum().item()
        count += said.numel()
    return right / count


@pytest.mark.parametrize("name", of("copy"))
def test_it_copies_as_well_as_it_says(name):
    recorded = figures(name)["test/accuracy"]
    assert 0 <= recorded <= 1
    torch.manual_seed(1)
    first = copied(configured(name), loaded(name))
    torch.manual_seed(2)
    assert copied(configured(name), loaded(name)) == first, "whatever was drawn before"
    assert first == pytest.approx(recorded, abs=0.02)


@pytest.fixture(scope="module")
def mnist(real_data):
    """Every tenth test image (n, 1, 28, 28) and its label, read by the letter of their format."""
    raw = real_data / "MNIST/raw"
    images = np.fromfile(raw / "t10k-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 1, 28, 28)
    labels = np.fromfile(raw / "t10k-labels-idx1-ubyte", np.uint8, offset=8).astype(np.int64)
    every = len(images) // N_IMAGES
    return torch.from_numpy(images[::every].copy()), torch.from_numpy(labels[::every].copy())


def prepared(data, images):
    """As levels, in the model's size."""
    assert data.dataset == "mnist"
    assert data.labels is None
    return quantised(pictures.resize(images, [data.side, data.side], antialias=True), data.vocab_size)


@torch.no_grad()
def in_batches(forward, levels, labels):
    """A function's values over all images; the first batch again, after other random numbers, gives the same."""
    torch.manual_seed(1)
    values = [forward(*batch) for batch in zip(levels.split(50), labels.split(50), strict=True)]
    torch.manual_seed(2)
    assert torch.equal(forward(levels[:50], labels[:50]), values[0]), "whatever was drawn before"
    return torch.cat(values)


@pytest.mark.parametrize("name", of("classification"))
def test_it_classifies_as_well_as_it_says(name, mnist):
    images, labels = mnist
    model = loaded(name)
    said = in_batches(lambda some, _: model(some), prepared(configured(name).data, images), labels).argmax(-1)
    told = figures(name)["test/accuracy"]
    chance = 3 * (told * (1 - told) / len(labels)) ** 0.5  # these are a part of the test images
    assert (said == labels).double().mean().item() == pytest.approx(told, abs=max(0.015, chance))


@pytest.mark.parametrize("name", of("generation"))
def test_it_generates_as_well_as_it_says(name, mnist):
    images, labels = (part[::2] for part in mnist)
    model = loaded(name)

    def bits(some, their_labels):
        pixels = some.flatten(1).long()
        log_p = model(pixels[:, :-1], labels=their_labels).double().log_softmax(-1)
        return -log_p.gather(-1, pixels.unsqueeze(-1)) / np.log(2)

    found = in_batches(bits, prepared(configured(name).data, images), labels).mean().item()
    assert found == pytest.approx(figures(name)["test/bits_per_dim"], rel=0.03)


@pytest.mark.parametrize("name", [name for name in of("classification") if name.startswith("mnist-cls")])
def test_it_classifies_well(name):
    least = 0.985 if configured(name).model.attention.kind == "full" else 0.98
    assert figures(name)["test/accuracy"] >= least


MNIST14 = {"performer": 0.95, "linformer": 0.95, "relative": 0.95, "clipped-relative": 0.85}


@pytest.mark.parametrize("name", [name for name in of("classification") if name.startswith("mnist14")])
def test_positions_are_worth_much(name):
    """Models that know where pixels stand, or how far apart, read digits; one that knows neither reads few."""
    kind = name.removeprefix("mnist14-")
    accuracy = figures(name)["test/accuracy"]
    assert accuracy < 0.6 if kind == "nopos" else accuracy >= MNIST14[kind]


def with_full_attention(config):
    """The shipped generator of the same images with full attention."""
    return next(
        name
        for name in of("generation")
        if configured(name).model.attention.kind == "full" and configured(name).data == config.data
    )


@pytest.mark.parametrize("name", [name for name in of("generation") if "full" not in name])
def test_hashing_generates_almost_as_well_as_full_attention(name):
    """The more rounds, the nearer."""
    config = configured(name)
    full = figures(with_full_attention(config))["test/bits_per_dim"]
    most = {1: 0.10, 2: 0.05, 4: 0.03}[config.model.attention.n_rounds]
    assert figures(name)["test/bits_per_dim"] == pytest.approx(full, rel=most)


@pytest.mark.parametrize("name", of("language"))
@torch.no_grad()
def test_it_knows_the_held_out_text_as_well_as_it_says(name, real_data):
    """Some windows, from all over the last bytes of each book; a token is a byte."""
    config, model = configured(name), loaded(name)
    books = [path.read_bytes() for path in sorted((real_data / config.data.path.name).glob("*.txt"))]
    text = b"".join(book[len(book) - round(config.data.test_share * len(book)) :] for book in books)
    window = config.data.window
    starts = range(0, len(text) - window - 1, len(text) // 60)
    tokens = torch.stack([torch.tensor(list(text[start : start + window + 1])) for start in starts])
    log_p = torch.cat([model(some[:, :-1]).double().log_softmax(-1) for some in tokens.split(10)])
    bits = -log_p.gather(-1, tokens[:, 1:].unsqueeze(-1)) / np.log(2)
    assert bits.mean().item() == pytest.approx(figures(name)["test/bits_per_byte"], rel=0.04)


@pytest.mark.parametrize("name", of("translation"))
@torch.no_grad()
def test_it_knows_the_translations_as_well_as_it_says(name, real_data):
    """Nats a token of every fifth test pair, one pair at a time."""
    config, model = configured(name), loaded(name)
    corpus, both = config.data.corpus, tokenizers(config)
    languages = (config.data.source_language, config.data.target_language)
    texts = [
        (real_data / corpus.folder.name / f"{corpus.test}.{language}").read_text(encoding="utf-8").splitlines()[::5]
        for language in languages
    ]
    nats, count = 0.0, 0
    for source, target in zip(both.source.encode(texts[0]), both.target.encode(texts[1]), strict=True):
        whole = torch.tensor([[both.target.boundary, *target, both.target.boundary]])
        log_p = model(torch.tensor([[*source, both.source.boundary]]), whole[:, :-1]).double().log_softmax(-1)
        nats -= log_p.gather(-1, whole[:, 1:].unsqueeze(-1)).sum().item()
        count += whole.shape[1] - 1
    assert nats / count == pytest.approx(figures(name)["test/cross_entropy"], rel=0.08)


def test_translations_are_good_with_any_attention():
    """By beam search, as translation_evaluate.py wrote it down."""
    results = SHIPPED.parents[1] / "docs/results"
    bleu = {name: json.loads((results / name / "scores.json").read_text())["BLEU"] for name in of("translation")}
    assert min(bleu.values()) >= 30
    assert max(bleu.values()) - min(bleu.values()) <= 2


@pytest.mark.skipif(not of("copy"), reason="none is shipped yet")
def test_the_comparisons_rows_are_shipped():
    assert set(load_config(SynthComparisonConfig, CONFIGS / "synth_comparison.yaml").checkpoints) <= set(of("copy"))
