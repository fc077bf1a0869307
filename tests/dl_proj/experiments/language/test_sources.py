"""Where text comes from: parts of files that never overlap, downloads that are checked."""

import bz2
import gzip
import hashlib
import io
import logging
import lzma
import os
import re
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_scripts import TEXT, assert_states

from dl_proj.experiments.language import sources as text_sets
from dl_proj.experiments.language.sources import Span, enwik8_corpus, files_corpus, wikitext_corpus
from dl_proj.settings.errors import ConfigError

SHARES = {"val_share": 0.2, "test_share": 0.1}


def write(name, content):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def zipped(data):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("a.txt", data)
    return archive.getvalue()


def content(spans):
    return b"".join(span.path.read_bytes()[span.start : span.end] for span in spans)


def parts(corpus):
    return [content(corpus[split]) for split in ("train", "val", "test")]


def refusal(call, *args, **changes):
    with pytest.raises(ConfigError) as refused:
        call(*args, **changes)
    return refused.value.lines


# -- one's own files --


def test_the_end_of_a_file_is_held_out():
    path = write("a.txt", bytes(range(60, 110)) * 2)
    assert parts(files_corpus(path, **SHARES)) == [
        path.read_bytes()[part] for part in (slice(70), slice(70, 90), slice(90, 100))
    ]


@given(st.binary(min_size=1, max_size=200), st.floats(0.01, 0.49), st.floats(0.01, 0.49))
def test_parts_are_the_file_and_never_overlap(tmp_path_factory, text, val, test):
    text = b"\x80" + text  # or it may begin with a mark, or as UTF-16 does
    path = write(tmp_path_factory.mktemp("text") / "a.txt", text)
    corpus = files_corpus(path, val_share=val, test_share=test)
    assert b"".join(parts(corpus)) == text
    ends = [(span.start, span.end) for split in ("train", "val", "test") for span in corpus[split]]
    assert all(before[1] == after[0] for before, after in pairwise(ends))
    for split, share in (("test", test), ("val", val)):
        assert abs(len(content(corpus[split])) - share * len(text)) <= 4, "shares, but for rounding and characters"


@given(st.text(st.sampled_from("aé€😀"), min_size=1, max_size=60))
def test_no_character_is_cut(tmp_path_factory, text):
    path = write(tmp_path_factory.mktemp("text") / "a.txt", text)
    assert "".join(part.decode() for part in parts(files_corpus(path, **SHARES))) == text


def test_each_file_of_a_folder_by_name_has_its_end_held_out(capsys):
    write("books/b.txt", b"B" * 7 + b"C" * 2 + b"D")
    write("books/a.txt", b"1" * 14 + b"2" * 4 + b"3" * 2)
    write("books/empty.txt", b"")
    for other in ("books/.hidden.txt", "books/c.md", "books/deeper/d.txt"):
        write(other, b"x" * 100)
    corpus = files_corpus(Path("books"), **SHARES)
    assert parts(corpus) == [b"1" * 14 + b"B" * 7, b"2222CC", b"33D"]
    assert_states(capsys.readouterr().err.strip(), "data.path: books", 1, ".md", 1, "folder", ".txt")


def test_the_suffix_may_be_in_capitals():
    write("books/a.TXT", b"1" * 7 + b"2" * 2 + b"3")
    assert parts(files_corpus(Path("books"), **SHARES)) == [b"1" * 7, b"22", b"3"]


@pytest.mark.parametrize(
    ("names", "facts"),
    [
        (["a.md", "b.MD", "c"], [2, ".md", 1, "suffix"]),
        (["a.txt.gz"], [1, ".gz"]),
        (["deeper/a.txt"], [1, "folder"]),
    ],
)
def test_a_folder_without_texts_says_what_it_holds_instead(names, facts):
    for name in names:
        write(f"books/{name}", b"x")
    (line,) = refusal(files_corpus, Path("books"), **SHARES)
    assert_states(line, "data.path", "books", "*.txt", *facts)


@pytest.mark.parametrize(
    ("name", "pack"), [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress), ("zip", zipped)]
)
def test_compressed_texts_are_refused(name, pack):
    for path in ("a.txt.gz", "books/a.txt"):
        write(path, pack(TEXT.encode()))
    for path in ("a.txt.gz", "books"):
        (line,) = refusal(files_corpus, Path(path), **SHARES)
        assert_states(line, "data.path", name)


def test_a_file_may_have_any_name():
    assert parts(files_corpus(write("corpus.bin", bytes(10)), **SHARES)) == [bytes(7), bytes(2), bytes(1)]


def test_what_is_no_text():
    Path("empty").mkdir()
    write("nothing/a.txt", b"")
    assert refusal(files_corpus, Path("none"), **SHARES) == (
        "data.path: none does not exist; must be a file, or a folder with *.txt files",
    )
    assert refusal(files_corpus, Path("empty"), **SHARES) == ("data.path: the folder empty has no *.txt files",)
    assert refusal(files_corpus, Path("nothing"), **SHARES) == ("data.path: nothing is empty",)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_no_text():
    """To open it would wait for who writes into it."""
    os.mkfifo("text.txt")
    with pytest.raises(ConfigError, match=r"data\.path: text\.txt is a pipe or a device; must be a file"):
        files_corpus(Path("text.txt"), val_share=0.1, test_share=0.1)


def test_a_mark_is_no_part_of_a_text():
    """Nor does it count in the shares."""
    mark = b"\xef\xbb\xbf"
    write("books/a.txt", mark + b"1" * 14 + b"2" * 4 + b"3" * 2)
    write("books/b.txt", b"B" * 7 + b"C" * 2 + b"D")
    write("books/c.txt", mark)
    assert parts(files_corpus(Path("books"), **SHARES)) == [b"1" * 14 + b"B" * 7, b"2222CC", b"33D"]
    assert refusal(files_corpus, Path("books/c.txt"), **SHARES) == ("data.path: books/c.txt is empty",)
    assert parts(files_corpus(write("a", b"x" * 6 + mark + b"y"), **SHARES)) == [b"x" * 6 + mark, b"", b"y"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_named(encoding):
    write("books/b.txt", "Der kleine Hund läuft.\n" * 20)
    for text in ("The little dog runs.\n", "D"):
        write("books/a.txt", (text * 20).encode(encoding))
        (line,) = refusal(files_corpus, Path("books"), **SHARES)
        assert line == f"data.path: books/a.txt is {encoding[:6].upper()}, must be UTF-8; convert it"


def test_bytes_that_are_no_text_need_no_encoding():
    for content in (b"\xff\xfe\x00\xd8" + bytes(96), b"\xff\xfeRIFF\0\xdc" * 9, bytes(100), b"ab\0cd\0", b"a\0b\1" * 9):
        assert sum(map(len, parts(files_corpus(write("a.bin", content), **SHARES)))) == len(content)


@pytest.mark.parametrize("piece", [1, 3, 10, 99])
def test_a_part_is_read_in_pieces(monkeypatch, piece):
    monkeypatch.setattr(text_sets, "_PIECE", piece)
    path = write("a.txt", bytes(range(50)))
    pieces = list(Span(path, 10, 37).pieces())
    assert b"".join(pieces) == bytes(range(10, 37))
    assert max(map(len, pieces)) <= piece


def test_lines_of_a_part():
    path = write("a.txt", "eins\nzw€i\r\n\ndrei")
    assert list(Span(path, 2, path.stat().st_size - 2).lines()) == ["ns\n", "zw€i\r\n", "\n", "dr"]


def test_lines_need_utf8_and_say_where_it_is_none():
    path = write("a.txt", "ä\nbc\n".encode() + b"d\xe4e\n" + b"x" * 9)
    start = "data.tokenizer: a.txt is not UTF-8 at byte 7; "
    assert refusal(lambda: list(Span(path, 0, 17).lines()))[0].startswith(start)
    assert refusal(lambda: list(Span(path, 3, 17).lines()))[0].startswith(start), "of the file, not of the part"
    assert "kind: bytes" in refusal(lambda: list(Span(path, 0, 17).lines()))[0]
    truncated = write("b.txt", b"abc\xe2\x82")
    assert "byte 3;" in refusal(lambda: list(Span(truncated, 0, 5).lines()))[0]


# -- enwik8 --


@pytest.fixture
def archive(monkeypatch, tmp_path):
    """A made-up enwik8.zip of 1,000 bytes, at the address that is downloaded from."""
    text = b"".join(b"%05d" % i for i in range(200))
    path = tmp_path / "elsewhere" / "enwik8.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("enwik8", text)
    monkeypatch.setattr(text_sets, "_ENWIK8", path.as_uri())
    monkeypatch.setattr(text_sets, "_ENWIK8_BYTES", 1000)
    monkeypatch.setattr(text_sets, "_ENWIK8_SHA1", hashlib.sha1(text).hexdigest())
    return path, text


def test_enwik8_is_downloaded_once_and_cut_as_usual(archive):
    path, text = archive
    assert parts(enwik8_corpus(Path("root"))) == [text[:900], text[900:950], text[950:]]
    path.unlink()
    assert parts(enwik8_corpus(Path("root"))) == [text[:900], text[900:950], text[950:]], "it is there"


def test_the_real_sizes():
    assert (text_sets._ENWIK8_BYTES * 90 // 100, text_sets._ENWIK8_BYTES * 95 // 100) == (90_000_000, 95_000_000)


def test_enwik8_copied_by_hand(archive):
    path, text = archive
    Path("root/enwik8").mkdir(parents=True)
    path.rename("root/enwik8/enwik8.zip")
    assert parts(enwik8_corpus(Path("root")))[1] == text[900:950]


def test_enwik8_without_a_network(archive):
    path, _ = archive
    path.unlink()
    lines = refusal(enwik8_corpus, Path("root"))
    assert lines[0].startswith(f"data.source: {path.as_uri()} cannot be downloaded (")
    assert lines[1].startswith("data.source: without a network, use source: files with your own path")
    assert lines[1].endswith("to root/enwik8/enwik8.zip")
    assert not [file for file in Path("root/enwik8").iterdir() if file.suffix != ".lock"]


def test_an_archive_with_another_text(archive, monkeypatch):
    monkeypatch.setattr(text_sets, "_ENWIK8_SHA1", "0" * 40)
    (line,) = refusal(enwik8_corpus, Path("root"))
    assert line.startswith("data.root: root/enwik8/enwik8.zip is not enwik8: its text's SHA-1 is ")
    assert "must be 0000" in line
    assert not Path("root/enwik8/enwik8").exists()


def test_a_hostile_archive_writes_one_file_of_bounded_size(archive, monkeypatch):
    path, text = archive
    monkeypatch.setattr(text_sets, "_PIECE", 100)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as members:
        for name in ("../evil", "/evil", "../../elsewhere/evil"):
            members.writestr(name, "evil")
        members.writestr("enwik8", text)
    before = {*Path("..").iterdir()}
    enwik8_corpus(Path("root"))
    assert {*Path("..").iterdir()} == before and not [*Path("root").rglob("evil")]
    Path("root/enwik8/enwik8").unlink()
    with zipfile.ZipFile("root/enwik8/enwik8.zip", "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("enwik8", bytes(10**6))
    written = []
    monkeypatch.setattr(Path, "open", noting_size(Path.open, written))
    refusal(enwik8_corpus, Path("root"))
    assert 1000 < max(written) <= 1100, "of a million bytes"


def noting_size(open_file, sizes):
    """Path.open, which notes how large each file that is written to has become."""

    def opened(path, mode="r", *args, **named):
        file = open_file(path, mode, *args, **named)
        if "w" in mode:
            close = file.close
            file.close = lambda: (sizes.append(file.tell()), close())
        return file

    return opened


@pytest.mark.parametrize("damage", [lambda data: data[:300], lambda data: data[:100] + b"!!!!!!" + data[106:]])
def test_a_broken_archive(archive, damage):
    path, _ = archive
    path.write_bytes(damage(path.read_bytes()))
    (line,) = refusal(enwik8_corpus, Path("root"))
    assert line.startswith("data.root: root/enwik8/enwik8.zip is no")
    assert line.endswith("; remove it")


def test_a_text_of_another_size():
    write("root/enwik8/enwik8", b"short")
    assert refusal(enwik8_corpus, Path("root")) == (
        "data.root: root/enwik8/enwik8 has 5 bytes, must have 100000000; remove it, or copy it again",
    )


def test_enwik8_with_a_changed_byte(archive):
    enwik8_corpus(Path("root"))
    path = Path("root/enwik8/enwik8")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    (line,) = refusal(enwik8_corpus, Path("root"))
    assert line.startswith("data.root: root/enwik8/enwik8 is damaged: its SHA-1 is ")


# -- WikiText --


@pytest.fixture
def hub(monkeypatch):
    """Rows as the datasets library gives them, without a network; the calls are noted."""
    calls = []

    def load_dataset(*args, split, revision, streaming):
        assert streaming, "nor is there a copy on the disk"
        calls.append((*args, split))
        assert re.fullmatch("[0-9a-f]{40}", revision), "a commit"
        return [{"text": ""}, {"text": f" = {split} = \n"}, {"text": ""}, {"text": " Größe \n"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return calls


@pytest.mark.parametrize(
    ("source", "name"), [("wikitext2", "wikitext-2-raw-v1"), ("wikitext103", "wikitext-103-raw-v1")]
)
def test_wikitext_is_written_as_the_original_has_it(hub, source, name):
    expected = [f" \n = {split} = \n \n Größe \n".encode() for split in ("train", "validation", "test")]
    assert parts(wikitext_corpus(source, Path("root"))) == expected
    assert hub == [("Salesforce/wikitext", name, split) for split in ("train", "validation", "test")]
    assert parts(wikitext_corpus(source, Path("root"))) == expected
    assert len(hub) == 3, "downloaded once"
    assert Path(f"root/{source}/val.txt").read_bytes() == expected[1]


def test_wikitext_with_a_changed_byte(hub):
    wikitext_corpus("wikitext2", Path("root"))
    path = Path("root/wikitext2/val.txt")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"validation", b"valid\0tion"))
    (line,) = refusal(wikitext_corpus, "wikitext2", Path("root"))
    assert_states(line, "data.root", path, "SHA256SUMS")
    path.write_bytes(whole)
    assert content(wikitext_corpus("wikitext2", Path("root"))["val"]) == whole


def test_empty_lines_of_wikitext_hold_a_space(real_data):
    lines = (real_data / "wikitext-2" / "test.txt").read_text(encoding="utf-8").split("\n")
    assert " " in lines[:-1]
    assert "" not in lines[:-1]


def test_wikitext_without_a_network(monkeypatch):
    levels = []

    def load_dataset(*_, **__):
        levels.append(logging.getLogger("huggingface_hub").getEffectiveLevel())
        raise ConnectionError("Couldn't reach the hub\nand more")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    before = logging.getLogger("huggingface_hub").level
    assert refusal(wikitext_corpus, "wikitext2", Path("root")) == (
        "data.source: wikitext2 cannot be downloaded (Couldn't reach the hub)",
        "data.source: without a network, use source: files with your own path; or write its raw text to "
        "root/wikitext2/train.txt",
    )
    assert levels == [logging.ERROR], "it does not tell of each attempt"
    assert logging.getLogger("huggingface_hub").level == before
    assert not [file for file in Path("root/wikitext2").iterdir() if file.suffix != ".lock"]
