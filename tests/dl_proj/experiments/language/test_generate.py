"""lm_generate.py: the text that a trained model adds, as the model itself draws it."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_scripts import TEXT, as_yaml, assert_refused, assert_states, call, one_thread, tiny_language

from dl_proj import load
from dl_proj.checkpoint_folder import SHIPPED, TOKENIZER
from dl_proj.experiments.language.data import saved_tokenizer
from dl_proj.experiments.language.settings import LanguageTrainConfig
from dl_proj.experiments.language.train import build_configured
from dl_proj.models.sampling import sample
from dl_proj.settings.load import load_config

ROOT = Path(__file__).parents[4]
LSH = {"kind": "lsh", "bucket_size": 4, "n_rounds": 2}
TRAININGS = {
    "bytes": {"model.attention": LSH, "model.positions": {"kind": "axial", "shape": [4, 8]}},  # more than the window
    "bpe": {"data.tokenizer": {"kind": "bpe", "vocab_size": 300}, "data.window": 12},
    "masked": {"objective": {"kind": "masked"}},
    "chunks": {"model.attention": LSH | {"rule": "chunk"}},
    "endless": {"model.attention": {"kind": "performer", "n_features": 8}, "model.positions": {"kind": "none"}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each kind."""
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    with one_thread():
        for name, changes in TRAININGS.items():
            data = {"data.path": str(folder / "text.txt"), "data.root": str(folder / "data"), "train.trackers": []}
            config = tiny_language({"experiment_name": name, "runs_dir": str(folder)} | data | changes)
            assert call("lm_train", "--config", as_yaml(folder / "c.yaml", config)).code == 0
    return {name: folder / name / "version_0" for name in TRAININGS}


def loaded(run):
    """Its configuration, tokenizer and best weights, in eval mode."""
    config = load_config(LanguageTrainConfig, run / "config.yaml")
    tokenizer = saved_tokenizer(config.data.tokenizer, run / TOKENIZER)
    model = build_configured(config, tokenizer)
    model.load_state_dict(load_file(run / "checkpoints/best/model.safetensors"))
    return config, tokenizer, model.eval()


def generated(run, prompt, length, *, seed=0, temperature=1.0, top_k=None, top_p=1.0):
    """By running the model again for each token; noise keeps the length that LSH's buckets were chosen for."""
    config, tokenizer, model = loaded(run)
    uniform = torch.rand(1, length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    tokens = tokenizer.encode(prompt)
    given, window = len(tokens), config.data.window
    with torch.no_grad():
        for i in range(length):
            noise = [0] * (window - len(tokens))
            logits = model(torch.tensor([tokens + noise]))[:, len(tokens) - 1]
            drawn = sample(logits, uniform[:, i], temperature=temperature, top_k=top_k, top_p=top_p)
            tokens.append(drawn.item())
    return tokenizer.decode(tokens[given:])


def started(script, run, *flags):
    """From a file that says no more than which model it is."""
    as_yaml("own.yaml", {"checkpoint": str(run)})
    return script("lm_generate", "--config", "own.yaml", "--device", "cpu", *flags)


def text_of(script, run, *flags):
    outcome = started(script, run, *flags)
    assert outcome.code == 0, outcome.lines
    return outcome.out


@pytest.mark.parametrize("name", ["bytes", "bpe"])
@pytest.mark.parametrize(
    "flags",
    [{}, {"seed": 3}, {"temperature": 0.5}, {"top_k": 2}, {"top_k": 1}, {"top_p": 0.5, "temperature": 2.0}],
    ids=str,
)
def test_what_is_shown_is_what_the_model_draws(flags, name, runs, script):
    words = [word for key, value in flags.items() for word in (f"--{key}", value)]
    expected = generated(runs[name], "The cat", 6, **flags)
    assert text_of(script, runs[name], "--prompt", "The cat", "--length", 6, *words) == f"The cat{expected}\n"


def test_the_seed_says_which_text(runs, script):
    texts = [text_of(script, runs["bytes"], "--length", 10, "--seed", seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_samples_are_numbered_and_each_has_its_own_seed(runs, script):
    out = text_of(script, runs["bytes"], "--length", 8, "--samples", 3, "--prompt", "ab", "--seed", 5)
    texts = [generated(runs["bytes"], "ab", 8, seed=seed) for seed in (5, 6, 7)]
    assert out == "\n".join(f"sample {i}\nab{text}\n" for i, text in enumerate(texts, start=1))


@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_text_comes_while_it_is_drawn(name, runs):
    """The first characters are there before the last token is; together they are what generate gives."""
    generator, drawn = load(runs[name], device="cpu"), []
    generator.model.to_logits.register_forward_hook(lambda module, inputs, output: drawn.append(output))
    parts = generator.stream("The", 8)
    first = next(parts)
    assert first and len(drawn) < 8
    assert first + "".join(parts) == generated(runs[name], "The", 8) == generator.generate("The", 8)
    assert len(drawn) == 16


def test_a_prompt_from_standard_input(runs, script, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("café\n".encode())))
    expected = generated(runs["bytes"], "café\n", 4)
    assert text_of(script, runs["bytes"], "--prompt", "-", "--length", 4) == f"café\n{expected}\n"


def test_a_mark_before_a_prompt_is_not_part_of_it(runs, script, monkeypatch):
    expected = f"café{generated(runs['bytes'], 'café', 4)}\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("café".encode("utf-8-sig"))))
    assert text_of(script, runs["bytes"], "--prompt", "-", "--length", 4) == expected
    assert text_of(script, runs["bytes"], "--prompt", "\ufeffcafé", "--length", 4) == expected


PLAIN_C = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("locale", "shown"),
    [
        (PLAIN_C, b"na?ve ?"),
        ({"PYTHONIOENCODING": "latin-1"}, b"na\xefve ?"),
        ({"PYTHONUTF8": "1"}, "naïve ☕".encode()),
    ],
    ids=["ascii", "latin-1", "utf-8"],
)
def test_what_a_terminal_cannot_show_is_replaced(locale, shown, runs):
    """The model is given the prompt as it was typed, whatever Python made of its bytes."""
    flags = ["--checkpoint", runs["bytes"], "--prompt", "naïve ☕", "--length", "4", "--top_k", "1", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, ROOT / "lm_generate.py", *flags], env=os.environ | locale, capture_output=True, check=True
    )
    encoding = "ascii" if locale is PLAIN_C else locale.get("PYTHONIOENCODING", "utf-8")
    new = generated(runs["bytes"], "naïve ☕", 4, top_k=1)
    assert done.stdout == shown + new.encode(encoding, "replace") + b"\n"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (b"", ("prompt: standard input",)),
        (b"\xef\xbb\xbf", ("prompt: standard input",)),
        (b"ab\xff", ("prompt: standard input", "UTF-8", 2)),
        ("caf\u00e9".encode("utf-16"), ("prompt: standard input", "UTF-16", "UTF-8")),
        ("cafe".encode("utf-16-le"), ("prompt: standard input", "UTF-16", "UTF-8")),
    ],
)
def test_standard_input_that_is_no_prompt(given, line, runs, script, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert_refused(started(script, runs["bytes"], "--prompt", "-"), [line])


def test_standard_input_that_is_closed(runs, script, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert_refused(started(script, runs["bytes"], "--prompt", "-"), [("prompt", "-")])


def test_past_the_window_the_text_goes_on(runs, script):
    """A model that would see other text behind its window slides it, another one just runs on; each says so."""
    fits = started(script, runs["bytes"], "--prompt", "12345", "--length", 12)
    assert (fits.code, fits.lines) == (0, [])
    for name, word in (("bytes", "slides"), ("endless", "continues")):
        outcome = started(script, runs[name], "--prompt", "12345", "--length", 30)
        assert outcome.code == 0
        assert_states(outcome.lines[0], "length", 5, 30, 16, word)
        tokens = load(runs[name], device="cpu").generate("12345", 30)
        assert outcome.out == f"12345{tokens}\n" and tokens.startswith(generated(runs[name], "12345", 12))
    outcome = started(script, runs["bytes"], "--prompt", "x" * 17 + "12345", "--length", 1)
    assert outcome.out == f"{'x' * 17}12345{generated(runs['bytes'], 'x' * 11 + '12345', 1)}\n"


def test_what_cannot_continue_text(runs, script):
    for name, parts in {"masked": ("masked", "objective", "causal"), "chunks": ("rule", "chunk")}.items():
        assert_refused(started(script, runs[name]), [(f"checkpoint: {runs[name]}", *parts)])


def test_checkpoints_that_are_none(runs, script, tmp_path):
    assert_refused(started(script, "nowhere"), [("'nowhere'",)])
    outcome = started(script, "synth-gen-full")
    assert outcome.code == 2
    assert_states(outcome.lines[0], f"{SHIPPED}/synth-gen-full/config.yaml: task", "'language'", "'copy'")


def test_a_checkpoint_without_its_subwords(runs, script, tmp_path):
    for file in (runs["bpe"] / "checkpoints/best").iterdir():
        if file.name != "tokenizer.json":
            Path("lame").mkdir(exist_ok=True)
            (Path("lame") / file.name).write_bytes(file.read_bytes())
    assert_refused(started(script, "lame"), [("data.tokenizer", "lame/tokenizer.json")])


WRONG = {
    "an empty prompt": (["--prompt", ""], "flags: prompt:"),
    "no temperature": (["--temperature", "0"], "flags: temperature:"),
    "no samples": (["--samples", "0"], "flags: samples:"),
    "top_p above 1": (["--top_p", "1.5"], "flags: top_p:"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings(case, runs, script):
    flags, start = WRONG[case]
    assert_refused(started(script, runs["bytes"], *flags), [(start,)])
