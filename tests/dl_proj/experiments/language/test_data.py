"""Windows of tokens: where they start, what counts in them, and the files that they are read from."""

import os
import pickle
import signal
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dl_proj.experiments.language import data as text
from dl_proj.experiments.language import sources as text_sets
from dl_proj.experiments.language.data import RandomWindows, SequentialWindows, TokenFile, load_text
from dl_proj.experiments.language.data_settings import TextDataConfig
from dl_proj.experiments.language.masking import MaskedWindows
from dl_proj.experiments.language.sources import Span, files_corpus
from dl_proj.settings.errors import ConfigError
from dl_proj.text.tokenizers import Tokenizer
from my_custom_ai.custom_train.data import TrainingBatches
from my_custom_ai.utils.measure import process_peak

PARTS = ("train", "val", "test")
BPE = {"kind": "bpe", "vocab_size": 300}
WORDS = "the quick brown fox jumps over a lazy dog and süße 😀 pandas sleep; it was|".replace("|", "\n").split(" ")


def write(name, content):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def prose(n_words, seed=0):
    return " ".join(np.random.default_rng(seed).choice(WORDS, n_words))


def tokens_file(n, n_bytes=None):
    """Tokens 0 to n - 1 after seven other bytes."""
    path = write(f"{n}.bin", b"." * 7 + np.arange(n, dtype=np.uint16).tobytes())
    return TokenFile(path, "uint16", 7, n, n_bytes or n)


def settings_of(path, **changes):
    return TextDataConfig(path=Path(path), root=Path("root"), **({"window": 8} | changes))


def refusal(config, **changes):
    with pytest.raises(ConfigError) as refused:
        load_text(config, seed=0, **changes)
    return refused.value.lines


def whole(windows):
    """The text of evaluation windows with nothing ahead, each token from where it counts."""
    return torch.cat([tokens[counted] for tokens, counted, _ in windows]).tolist()


def written():
    return sorted(
        path for path in Path("root").rglob("*") if path.suffix not in (".lock", ".sha256") and path.is_file()
    )


# -- windows --


@pytest.mark.parametrize(("dtype", "n"), [("uint8", 256), ("uint16", 1000), ("uint32", 70_000)])
def test_tokens_are_read_from_where_they_are(dtype, n):
    path = write("tokens", b"..." + np.arange(n, dtype=dtype).tobytes() + b"....")
    found = TokenFile(path, dtype, 3, n, n).read(n - 20, n)
    assert found.dtype == torch.int64
    assert found.tolist() == list(range(n - 20, n))


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_every_target_counts_exactly_once(tmp_path_factory, n, window, stride, ahead):
    window, stride = min(window, n), min(stride, window, n)
    path = write(tmp_path_factory.mktemp("tokens") / "t", np.arange(n + ahead, dtype=np.uint8).tobytes())
    windows = SequentialWindows(TokenFile(path, "uint8", 0, n + ahead, n), window, ahead, stride=stride)
    targets = []
    for tokens, counted, _ in windows:
        assert tokens.tolist() == list(range(int(tokens[0]), int(tokens[0]) + window + ahead)), "consecutive tokens"
        assert counted.any()
        places = counted.nonzero()[:, 0]
        targets += tokens[places + ahead].tolist()
        context = places.min()
        assert tokens[0] == 0 or context >= window - stride, "each has this much context at least"
    assert targets == list(range(ahead, n + ahead))
    assert len(windows) == len(list(windows))


def test_random_windows_start_anywhere():
    for ahead in (0, 1):
        windows = RandomWindows(tokens_file(40), 8, ahead, seed=0)
        starts = []
        for epoch in range(60):
            windows.set_epoch(epoch)
            starts += [int(tokens[0]) for tokens, *_ in windows]
        assert set(starts) == set(range(40 - 8 - ahead + 1))
        counts = np.bincount(starts)
        mean = counts.mean()
        assert np.abs(counts - mean).max() < 5 * mean**0.5, "and everywhere alike"


def test_an_item_of_random_windows():
    windows = RandomWindows(tokens_file(1000, n_bytes=2500), 64, 1, seed=0)
    assert len(windows) == 999 // 64
    tokens, counted, bytes_per_token = windows[3]
    assert tokens.tolist() == list(range(int(tokens[0]), int(tokens[0]) + 65))
    assert tokens.dtype == torch.int64
    assert counted.tolist() == [True] * 64
    assert bytes_per_token.dtype == torch.float32
    assert bytes_per_token == 2.5


def starts_of(windows, epoch=0):
    windows.set_epoch(epoch)
    return [int(windows[i][0][0]) for i in range(len(windows))]


def test_random_windows_come_from_seed_epoch_and_index_alone():
    file = tokens_file(2000)
    windows = RandomWindows(file, 16, 1, seed=3)
    first = starts_of(windows)
    state = torch.get_rng_state()
    assert starts_of(windows, epoch=1) != first
    assert starts_of(windows, epoch=0) == first
    assert torch.equal(torch.get_rng_state(), state)
    again = RandomWindows(file, 16, 1, seed=3)
    assert [int(again[i][0][0]) for i in reversed(range(len(again)))] == first[::-1]
    assert starts_of(RandomWindows(file, 16, 1, seed=4)) != first
    assert len(set(first)) > 0.85 * len(first)


def test_windows_end():
    for windows in (RandomWindows(tokens_file(40), 8, 0, seed=0), SequentialWindows(tokens_file(40), 8, 0, stride=8)):
        assert len(list(windows)) == 5
        for index in (5, -1):
            with pytest.raises(IndexError):
                windows[index]


def test_windows_that_cannot_be():
    with pytest.raises(ValueError, match="8 tokens are fewer than a window of 8 plus 1 ahead"):
        RandomWindows(tokens_file(8), 8, 1, seed=0)
    for stride in (0, 9):
        with pytest.raises(ValueError, match=f"stride {stride} must be from 1 to window 8"):
            SequentialWindows(tokens_file(20), 8, 1, stride=stride)


@pytest.mark.parametrize("masked", [False, True])
def test_a_resumed_run_sees_the_same_windows(masked):
    def batches():
        windows = RandomWindows(tokens_file(1000), 16, 0, seed=5)
        data = MaskedWindows(windows, Tokenizer([b"x"] * 1000), seed=5) if masked else windows
        return TrainingBatches(data, batch_size=4, seed=1)

    length = len(batches())
    straight = list(islice(batches().starting_at(0), 3 * length))
    for position in (length // 2, 2 * length + 3):
        resumed = list(islice(batches().starting_at(position), 3 * length - position))
        for one, other in zip(straight[position:], resumed, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# -- from text to windows --


def contents(path, part, **shares):
    """What a part has of each file."""
    spans = files_corpus(Path(path), **({"val_share": 0.025, "test_share": 0.025} | shares))[part]
    return [span.path.read_bytes()[span.start : span.end] for span in spans]


def test_the_parts_of_a_folder():
    write("books/b.txt", prose(300, seed=2))
    write("books/a.txt", prose(400, seed=1))
    shares = {"val_share": 0.1, "test_share": 0.2}
    data = load_text(settings_of("books", sampling="sequential", **shares), seed=0, ahead=0)
    for part in PARTS:
        windows = getattr(data, part)
        assert bytes(whole(windows)) == b"".join(contents("books", part, **shares))
        assert all(bytes_per_token == 1 for *_, bytes_per_token in windows)


def test_a_single_file_of_bytes_is_read_as_it_is():
    content = prose(500).encode()
    data = load_text(settings_of(write("a.txt", content)), seed=0, ahead=0)
    assert not Path("root").exists()
    assert content.endswith(bytes(whole(data.val)) + bytes(whole(data.test)))
    tokens, _, _ = data.train[0]
    assert bytes(tokens.tolist()) in content[: int(0.95 * len(content))]


def test_any_bytes_are_tokens():
    content = np.random.default_rng(0).bytes(5000)
    write("a/1.txt", content[:2500])
    write("a/2.txt", content[2500:])
    data = load_text(settings_of("a", sampling="sequential"), seed=0, ahead=0)
    together = b"".join(bytes(whole(getattr(data, part))) for part in PARTS)
    assert sorted(together) == sorted(content)


@pytest.mark.parametrize("tokenizer", [BPE, {"kind": "wordpiece", "vocab_size": 256}], ids=lambda t: t["kind"])
def test_subwords_of_the_parts(tokenizer):
    write("books/a.txt", prose(400, seed=1))
    write("books/b.txt", prose(300, seed=2))
    data = load_text(settings_of("books", tokenizer=tokenizer, sampling="sequential"), seed=0, ahead=0)
    for part in PARTS:
        tokens, files = whole(getattr(data, part)), contents("books", part)
        n_bytes = sum(map(len, files))
        assert tokens == [token for file in files for token in data.tokenizer.encode(file.decode())], "each by itself"
        assert len(tokens) < 0.5 * n_bytes
        if tokenizer is BPE:
            assert data.tokenizer.decode(tokens).encode() == b"".join(files)
        per_token = getattr(data, part)[0][2].item()
        assert per_token * len(tokens) == pytest.approx(n_bytes, rel=1e-6), "bytes of the whole part"


def test_a_large_vocabulary_needs_two_bytes_a_token():
    write("a.txt", prose(3000))
    load_text(settings_of("a.txt", tokenizer={"kind": "bpe", "vocab_size": 256}), seed=0)
    small = [path for path in written() if path.suffix == ".bin"]
    data = load_text(settings_of("a.txt", tokenizer=BPE), seed=0)
    large = [path for path in written() if path.suffix == ".bin" and path not in small]
    assert data.tokenizer.n_symbols > 256
    assert sum(path.stat().st_size - 32 for path in small) == Path("a.txt").stat().st_size
    train = next(path for path in large if "train" in path.name)
    tokens = np.fromfile(train, dtype=np.uint16, offset=32)
    assert [data.tokenizer.decode(tokens.tolist()).encode()] == contents("a.txt", "train")
    assert tokens.max() > 255


def test_a_text_is_tokenised_once(monkeypatch):
    write("a.txt", prose(2000))
    first = load_text(settings_of("a.txt", tokenizer=BPE), seed=0)
    files = {path: path.stat().st_mtime_ns for path in written()}
    assert len(files) == 4

    def fail(*_):
        raise AssertionError("is read again")

    monkeypatch.setattr(Span, "lines", fail)
    again = load_text(settings_of("a.txt", tokenizer=BPE), seed=0)
    assert again.tokenizer.digest == first.tokenizer.digest
    assert all(torch.equal(again.val[i][0], first.val[i][0]) for i in range(len(first.val)))
    assert {path: path.stat().st_mtime_ns for path in written()} == files


@pytest.mark.parametrize("tokenizer", [{"kind": "bytes"}, BPE], ids=["bytes", "bpe"])
def test_changed_files_are_tokenised_anew(tokenizer):
    config = settings_of("books", tokenizer=tokenizer, sampling="sequential")
    for name in "ab":
        write(f"books/{name}.txt", prose(300))
    load_text(config, seed=0)
    before, stat = Path("books/a.txt").read_bytes(), Path("books/a.txt").stat()
    changed = write("books/a.txt", before.replace(b"fox", b"cat"))  # as long as before
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    data = load_text(config, seed=0, ahead=0)
    assert "cat" in data.tokenizer.decode(whole(data.train))
    assert "fox" not in data.tokenizer.decode(whole(data.train))[:100]
    other = load_text(settings_of("books", tokenizer=tokenizer, test_share=0.3, sampling="sequential"), seed=0, ahead=0)
    assert len(whole(other.test)) > 5 * len(whole(data.test)), "other shares, too"
    write("books/c.txt", prose(900))
    assert len(whole(load_text(config, seed=0, ahead=0).train)) > 2 * len(whole(data.train)), "and another file"


@pytest.mark.parametrize("damage", ["cut", "odd", "flipped", "ones", "empty"])
@pytest.mark.parametrize("tokenizer", [{"kind": "bytes"}, BPE], ids=["bytes", "bpe"])
def test_a_damaged_file_of_tokens_is_written_again(tokenizer, damage):
    for name in "ab":
        write(f"books/{name}.txt", prose(400))
    config = settings_of("books", tokenizer=tokenizer, sampling="sequential")
    load_text(config, seed=0)
    path = next(path for path in written() if "train" in path.name and path.suffix == ".bin")
    good = path.read_bytes()
    flipped = good[:-9] + bytes([good[-9] ^ 4]) + good[-8:]
    ones = b"\xff" * len(good)
    path.write_bytes({"cut": good[:-2], "odd": good + b"x", "flipped": flipped, "ones": ones, "empty": b""}[damage])
    load_text(config, seed=0)
    assert path.read_bytes() == good


def test_saved_subwords_are_taken():
    write("a.txt", prose(2000))
    write("b.txt", prose(2000, seed=1).replace("fox", "unknown"))
    data = load_text(settings_of("a.txt", tokenizer=BPE), seed=0)
    data.tokenizer.save(Path("saved/tokenizer.json"))
    config = settings_of("b.txt", tokenizer=BPE)
    taken = load_text(config, seed=0, ahead=0, saved_tokenizer=Path("saved/tokenizer.json"))
    learnt = load_text(config, seed=0)
    assert taken.tokenizer.digest == data.tokenizer.digest != learnt.tokenizer.digest
    assert data.tokenizer.decode(whole(taken.val)).encode() == contents("b.txt", "val")[0]


def test_saved_subwords_that_are_not_there():
    write("a.txt", prose(2000))
    config = settings_of("a.txt", tokenizer=BPE)
    assert refusal(config, saved_tokenizer=Path("none.json")) == (
        "data.tokenizer: none.json is missing: it defines the model's tokens",
    )
    write("broken.json", "{")
    (line,) = refusal(config, saved_tokenizer=Path("broken.json"))
    assert line.startswith("data.tokenizer: broken.json is not a tokenizer of this project (")
    assert "\n" not in line
    load_text(settings_of("a.txt"), seed=0, saved_tokenizer=Path("none.json"))  # bytes need none


def test_evaluation_has_the_stride_and_training_the_window():
    write("a.txt", bytes(2000))
    data = load_text(settings_of("a.txt", sampling="sequential", window=16, eval_stride=4), seed=0)
    assert [len(getattr(data, part)) for part in PARTS] == [119, 10, 10]  # ceil(1899 / 16), 1 + ceil((49 - 16) / 4)
    assert isinstance(load_text(settings_of("a.txt"), seed=0).train, RandomWindows)
    assert not hasattr(data.val, "set_epoch")


@pytest.mark.parametrize("source", ["enwik8", "wikitext2"])
def test_downloads_come_from_root(monkeypatch, source):
    corpus = {part: [Span(write(f"{part}.txt", part.encode() * 9), 0, 9 * len(part))] for part in PARTS}
    asked = []
    monkeypatch.setattr(text, "enwik8_corpus", lambda root: asked.append(("enwik8", root)) or corpus)
    monkeypatch.setattr(text, "wikitext_corpus", lambda source, root: asked.append((source, root)) or corpus)
    data = load_text(TextDataConfig(source=source, root=Path("there"), window=8), seed=0, ahead=0)
    assert asked == [(source, Path("there"))]
    assert bytes(whole(data.val)) == b"val" * 9


# -- what cannot be --


def test_a_part_that_is_too_short():
    write("a.txt", bytes(400))
    assert refusal(settings_of("a.txt", window=10)) == (
        "data.window: 10 tokens and the next one are more than the 10 of the validation text; lower data.window "
        "to at most 9 or raise data.val_share",
        "data.window: 10 tokens and the next one are more than the 10 of the test text; lower data.window to at "
        "most 9 or raise data.test_share",
    )
    load_text(settings_of("a.txt", window=9), seed=0)
    load_text(settings_of("a.txt", window=10), seed=0, ahead=0)
    assert len(refusal(settings_of("a.txt", window=500), ahead=0)) == 3
    write("b.txt", bytes(10))
    assert refusal(settings_of("b.txt", window=2), ahead=0)[1] == (
        "data.window: 2 tokens are more than the 0 of the test text; use a longer text or raise data.test_share"
    )


def test_subwords_of_what_is_no_text():
    write("books/a.txt", prose(50))
    write("books/b.txt", prose(50).encode() + b"\xff" + b"x" * 100)
    place = len(prose(50).encode())
    (line,) = refusal(settings_of("books", tokenizer=BPE))
    assert line.startswith(f"data.tokenizer: books/b.txt is not UTF-8 at byte {place}; subwords need text")
    assert written() == []
    load_text(settings_of("books", window=4), seed=0)  # bytes need not be text


def test_a_root_that_is_a_file():
    write("root", b"")
    for name in "ab":
        write(f"books/{name}.txt", bytes(500))
    (line,) = refusal(settings_of("books"))
    assert line.startswith("data: root")


def test_what_is_not_there():
    assert refusal(settings_of("nowhere"))[0].startswith("data.path: nowhere does not exist")


# -- files larger than memory, kills, processes --


def kill_in_the_middle(folder):
    os.chdir(folder)
    pieces = Span.pieces

    def some(span):
        yield from pieces(span)
        os.kill(os.getpid(), signal.SIGKILL)

    Span.pieces = some
    load_text(settings_of("books"), seed=0)


@pytest.mark.slow
def test_a_killed_tokenisation_leaves_nothing(forkserver, tmp_path):
    for name in "ab":
        write(f"books/{name}.txt", prose(1000, seed=ord(name)))
    process = forkserver.Process(target=kill_in_the_middle, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path for path in written() if path.suffix != ".part"] == []
    data = load_text(settings_of("books"), seed=0, ahead=0)
    assert len(written()) == 3
    assert not [path for path in written() if path.suffix == ".part"]
    held_out = bytes(whole(data.test))
    assert held_out.endswith(Path("books/b.txt").read_bytes()[-50:])


def test_a_failure_leaves_nothing(monkeypatch):
    for name in "ab":
        write(f"books/{name}.txt", prose(1000))

    def interrupted(span):
        yield b"half"
        raise KeyboardInterrupt

    monkeypatch.setattr(Span, "pieces", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_text(settings_of("books"), seed=0)
    assert written() == []


def test_a_text_need_not_fit_into_memory(monkeypatch):
    """Of 64 MiB: neither their tokens nor windows from everywhere make the process grow."""
    monkeypatch.setattr(text_sets, "_PIECE", 2**18)
    block = np.random.default_rng(0).bytes(2**20)
    for name in "ab":
        with Path(write(f"large/{name}.txt", b"")).open("wb") as file:
            for i in range(32):
                file.write(block[i:] + block[:i])

    def read():
        data = load_text(settings_of("large", window=1024), seed=0)
        for index in range(0, len(data.train), 64):
            data.train[index]

    load_text(settings_of("large", window=1024, val_share=0.4), seed=0)  # what is loaded with the first call
    grown = process_peak(read)
    assert grown is None or grown < 6 * 2**20


def test_datasets_go_to_other_processes_without_their_text():
    write("a.txt", bytes(10**6))
    data = load_text(settings_of("a.txt"), seed=0)
    sent = pickle.dumps(data)
    assert len(sent) < 10_000
    assert torch.equal(pickle.loads(sent).train[5][0], data.train[5][0])
