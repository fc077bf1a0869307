"""translate.py: a line for each sentence, given as words or on standard input."""

import io
import sys
from pathlib import Path

import pytest
import torch
from tiny_scripts import PAIRS, assert_refused, assert_states, call, trained_translators, write_pairs

from dl_proj import load
from dl_proj.experiments.translation.translator import Translator
from dl_proj.models.beam_search import beam_search

TRAININGS = {"joint": {}, "separate": {"data.tokenizer.joint": False, "data.tokenizer.vocab_size": 280}}
LONG = "a dog has the fish and the man sees the tree ."
SENTENCES = [PAIRS[50][0], "", LONG, "a dog", " \t ", PAIRS[51][0], "\u2028\u00e9\U0001f600", "a man has"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each kind, of sources up to 16 tokens."""
    folder = tmp_path_factory.mktemp("mt")
    write_pairs(folder / "pairs")
    return trained_translators(folder, TRAININGS, 16)


def naive(run, sentences, **search):
    """By a search a sentence, which knows of no other and of no padding."""
    translator = load(run, device="cpu")
    found = []
    for sentence in sentences:
        (tokens,) = translator.tokenizer.source.encode([sentence])
        source = torch.tensor(
            [[*tokens[: translator.config.data.max_length - 1], translator.tokenizer.source.boundary]]
        )
        boundary = translator.tokenizer.target.boundary
        (best,) = beam_search(translator.model, source, boundary=boundary, **{"max_len": 15} | search)
        found.append(translator.tokenizer.target.decode(best.tokens) if sentence.strip() else "")
    return found


def translated(script, run, *flags):
    outcome = script("translate", "--checkpoint", run, "--device", "cpu", *flags)
    assert outcome.code == 0, outcome.lines
    assert outcome.out.endswith("\n") or outcome.out == ""
    return outcome.out.split("\n")[:-1], outcome.lines


def standard_input(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_words_are_translated_in_their_order(name, batch_size, runs, script):
    expected = naive(runs[name], SENTENCES)
    assert len(set(expected)) > 4 and expected[1] == expected[4] == ""
    assert translated(script, runs[name], *SENTENCES, "--batch_size", batch_size)[0] == expected


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_of_standard_input(end, runs, script, monkeypatch):
    """Also a last one without an end; what else ends a line to python does not."""
    given = [*SENTENCES, "a \x85 b \x0c c \x1c d \r e"]
    standard_input(monkeypatch, end.join(given).encode())
    assert translated(script, runs["joint"], "--batch_size", 2)[0] == naive(runs["joint"], given)


def test_a_mark_before_the_sentences_is_not_translated(runs, script, monkeypatch):
    taken, translate = [], Translator.translate
    monkeypatch.setattr(
        Translator, "translate", lambda self, some, **how: taken.extend(some) or translate(self, some, **how)
    )
    standard_input(monkeypatch, "a dog\n\ufeffa man\n".encode("utf-8-sig"))
    translated(script, runs["joint"])
    assert taken == ["a dog", "\ufeffa man"], "further down it is a character like others"
    translated(script, runs["joint"], "\ufeffa cat")
    assert taken[2:] == ["a cat"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_sentences_in_another_encoding(encoding, runs, script, monkeypatch):
    standard_input(monkeypatch, "a dog sees the man .\r\n".encode(encoding))
    outcome = script("translate", "--checkpoint", runs["joint"], "--device", "cpu")
    assert_refused(outcome, [("standard input", "UTF-16", "UTF-8")])


def test_standard_input_that_is_closed(runs, script, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    outcome = script("translate", "--checkpoint", runs["joint"], "--device", "cpu")
    assert_refused(outcome, [("standard input", "sentences")])
    assert translated(script, runs["joint"], "")[0] == [""]


def test_lines_of_a_file_become_lines_of_a_file(runs, script, monkeypatch):
    given = [*SENTENCES, "a \x85 b \x0c c \x1c d \r e"]
    Path("in.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(given).encode())
    flags = ["--batch_size", 2, "--output", "new/out.txt"]
    assert translated(script, runs["joint"], "--input", "in.txt", *flags)[0] == ["written: new/out.txt"]
    expected = "".join(f"{line}\n" for line in naive(runs["joint"], given)).encode()
    assert Path("new/out.txt").read_bytes() == expected
    standard_input(monkeypatch, "\n".join(given).encode())
    assert translated(script, runs["joint"], "--input", "-")[0] == expected.decode().split("\n")[:-1]


def test_a_file_given_as_a_sentence_gets_a_hint(runs, script):
    Path("in.txt").write_text("a dog")
    lines, said = translated(script, runs["joint"], "a dog", "in.txt", "x" * 5000)
    assert lines[:2] == naive(runs["joint"], ["a dog", "in.txt"])
    assert_states(said[0], "sentence 2", "in.txt", "--input")
    assert not any("is a file" in line for line in said[1:])


def test_input_that_cannot_be_used(runs, script):
    Path("latin.txt").write_bytes(b"a dog\n\na \xff b\n")
    Path("in.txt").write_text("a dog")
    for flags, line in {
        ("--input", "in.txt", "a dog"): ("input", "in.txt", "arguments"),
        ("--input", "nowhere.txt"): ("input: nowhere.txt",),
        ("--input", "latin.txt", "--output", "out.txt"): ("input: latin.txt: line 3", "UTF-8", 2),
    }.items():
        assert_refused(script("translate", "--checkpoint", runs["joint"], "--device", "cpu", *flags), [line])
    assert not Path("out.txt").exists()


def test_no_input_gives_no_output(runs, script, monkeypatch):
    standard_input(monkeypatch, b"")
    assert translated(script, runs["joint"]) == ([], [])


def test_who_types_has_an_answer_after_each_line(runs, monkeypatch, capfd):
    answers = []

    class Terminal(io.BytesIO):
        def __iter__(self):
            for line in (b"a dog\n", b"a man\n"):
                answers.append(capfd.readouterr().out)
                yield line

    typed = io.TextIOWrapper(Terminal())
    monkeypatch.setattr(typed, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", typed)
    assert call("translate", "--checkpoint", runs["joint"], "--device", "cpu").code == 0
    assert answers == ["", f"{naive(runs['joint'], ['a dog'])[0]}\n"]


def test_what_is_cut_is_named(runs, script):
    """By its number among all, with what was read of it."""
    lines, said = translated(script, runs["separate"], "--batch_size", 2, *SENTENCES)
    translator = load(runs["separate"], device="cpu")
    lengths = [len(tokens) for tokens in translator.tokenizer.source.encode(SENTENCES)]
    cut = [(number, n) for number, n in enumerate(lengths, 1) if n > 15]
    assert (3, lengths[2]) in cut and len(cut) < 4
    assert said == [
        f"sentence {number}: truncated to its first 15 of {n} tokens, the model's maximum" for number, n in cut
    ]
    (tokens,) = translator.tokenizer.source.encode([LONG])
    beginning = translator.tokenizer.source.decode(tokens[:15])
    assert lines[2] == naive(runs["separate"], [beginning])[0]
    assert translated(script, runs["separate"], beginning) == ([lines[2]], []), "which just fits"
    longer = translator.tokenizer.source.decode(tokens[:16])
    (line,) = translated(script, runs["separate"], longer)[1]
    assert line == "sentence 1: truncated to its first 15 of 16 tokens, the model's maximum"


@pytest.mark.parametrize(
    "search",
    [{"beam_size": 1}, {"beam_size": 7, "length_penalty": 0.0}, {"length_penalty": 3.0}, {"max_length": 5}],
    ids=str,
)
def test_the_search_is_the_one_that_is_asked_for(search, runs, script):
    flags = [word for name, value in search.items() for word in (f"--{name}", value)]
    expected = {"max_len" if name == "max_length" else name: value for name, value in search.items()}
    if "max_len" in expected:
        expected["max_len"] -= 1  # the end is one of them
    assert translated(script, runs["joint"], *flags, *SENTENCES)[0] == naive(runs["joint"], SENTENCES, **expected)


def test_words_between_flags_and_such_that_look_like_flags(runs, script):
    given = ["a dog", "a man", "- a fish", "-5", "--device", "--", "--help"]
    flags = [*given[:1], "--beam_size", 1, *given[1:4], "--", *given[4:]]
    assert translated(script, runs["joint"], *flags)[0] == naive(runs["joint"], given, beam_size=1)


def test_a_translation_is_a_line(runs, script, monkeypatch):
    """Whatever the model knows."""
    monkeypatch.setattr(
        "dl_proj.experiments.translation.sentences.SentenceTokenizer.decode", lambda self, tokens: "ein\nHund"
    )
    assert translated(script, runs["joint"], "a dog", "a man")[0] == ["ein Hund"] * 2


def test_a_model_takes_no_more_than_it_knows(runs, script):
    outcome = script("translate", "--checkpoint", runs["joint"], "--max_length", 17, "--device", "cpu", "a dog")
    assert_refused(outcome, [("max_length", 17, 16)])
    translated(script, runs["joint"], "--max_length", 16, "a dog")


def test_what_is_no_text(runs, script, monkeypatch):
    outcome = script("translate", "--checkpoint", runs["joint"], "--device", "cpu", "a dog", "a \udcff")
    assert_refused(outcome, [("sentence 2", "UTF-8")])
    standard_input(monkeypatch, b"a dog\n\na \xff b\n")
    outcome = script("translate", "--checkpoint", runs["joint"], "--device", "cpu")
    assert_refused(outcome, [("standard input: line 3", "UTF-8", 2)])


@pytest.mark.parametrize(("name", "file"), [("joint", "tokenizer.json"), ("separate", "target_tokenizer.json")])
def test_a_checkpoint_without_its_subwords(name, file, runs, script):
    Path("lame").mkdir()
    for path in (runs[name] / "checkpoints/best").iterdir():
        if path.name != file:
            (Path("lame") / path.name).write_bytes(path.read_bytes())
    outcome = script("translate", "--checkpoint", "lame", "--device", "cpu", "a dog")
    assert_refused(outcome, [(f"data.tokenizer: lame/{file}",)])
