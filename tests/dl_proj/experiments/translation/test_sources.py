"""Pairs as they are in their source: every text untouched, in order, and clear words about what cannot be read."""

import bz2
import contextlib
import gzip
import io
import logging
import lzma
import os
import re
import socket
import zipfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dl_proj.experiments.translation import sources as pair_sources
from dl_proj.experiments.translation import text_files
from dl_proj.experiments.translation.data_settings import PairsConfig
from dl_proj.experiments.translation.pair_sets import raw_pairs
from dl_proj.settings.errors import ConfigError
from my_custom_ai.utils.files import made_once

PARTS = ("train", "val", "test")


def write(name, content):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("files need no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def library_log(monkeypatch):
    """What the datasets library would print."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    monkeypatch.setattr(logging.getLogger("datasets"), "handlers", [handler])
    return records


def config(**corpus):
    languages = {key: corpus.pop(key) for key in ("source_language", "target_language") if key in corpus}
    return PairsConfig(corpus=corpus, root=Path(corpus.pop("root", "root")), **languages)


def lines(english, german, stem="train"):
    write(f"text/{stem}.en", english)
    write(f"text/{stem}.de", german)
    return config(kind="files", folder="text")


def csv(content, **changes):
    write("t.csv", content)
    return config(kind="csv", train="t.csv", val="t2.csv", test="t3.csv", **changes)


def parquet(table, **changes):
    pq.write_table(pa.table(table), "t.parquet")
    return config(kind="parquet", train="t.parquet", val="b", test="c", **changes)


def pairs_of(configured, split="train", seed=0):
    return list(raw_pairs(configured, split, seed=seed))


def refusal(configured, split="train"):
    with pytest.raises(ConfigError) as refused:
        raw_pairs(configured, split, seed=0)
    return list(refused.value.lines)


# -- lines --


def test_a_line_ends_where_a_line_ends():
    odd = "a\x0bb\x0c\x1c\x1d\x1e\x85c\u2028d\u2029e\rf"
    configured = lines(f"{odd}\n\r\n  x \r\r\nlast\r", f"1\n\n3\n{odd}\n")
    assert pairs_of(configured) == [(odd, "1"), ("", ""), ("  x \r", "3"), ("last\r", odd)]


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\0")).filter(lambda t: t[-1:] != "\r"),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=30, deadline=None)
def test_any_lines_come_back(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("lines")
    write(folder / "a.en", "".join(text + "\n" for text in texts))
    write(folder / "a.de", "".join(text + "\r\n" for text in reversed(texts)))
    made = pair_sources.line_pairs("x", (folder / "a.en", folder / "a.de"), ("en", "de"), folder)
    assert list(made) == list(zip(texts, reversed(texts), strict=True))


def test_many_lines_come_in_order():
    n = 2 * pair_sources._ROWS + 1
    configured = lines("".join(f"e{i}\n" for i in range(n)), "".join(f"d{i}\n" for i in range(n)))
    assert pairs_of(configured) == [(f"e{i}", f"d{i}") for i in range(n)]
    assert [len(sources) for sources, _ in raw_pairs(configured, "train", seed=0).batches()] == [1000, 1000, 1]


def test_either_direction():
    lines("dog\n", "Hund\n")
    there = config(kind="files", folder="text", source_language="de", target_language="en")
    assert pairs_of(there) == [("Hund", "dog")]


def test_unequal_numbers_of_lines_are_refused():
    configured = lines("a\nb\nc\n", "a\n\n")
    (line,) = refusal(configured)
    assert line.startswith("data.corpus.train: text/train.en has 3 lines, but text/train.de has 2;")
    assert not list(Path("root").rglob("*.arrow")), "nothing half-read is kept"
    write("text/train.de", "a\nb\nc")
    assert len(pairs_of(configured)) == 3


def test_a_mark_before_the_lines_is_not_part_of_them():
    marked = pairs_of(lines("\ufeffdog\n\ufeffcat\n", "\ufeffHund\nKatze\n"))
    assert marked == [("dog", "Hund"), ("\ufeffcat", "Katze")], "further down it is a character like others"
    assert pairs_of(lines("dog\n", "\ufeffHund\n")) == [("dog", "Hund")]
    assert pairs_of(lines("\ufeff\ndog\n", "\nHund\n")) == [("", ""), ("dog", "Hund")]
    (line,) = refusal(lines(b"\xef\xbb\xbfa\xff\n", "b\n"))
    assert "is not UTF-8 at byte 4 (line 1)" in line, "the file's byte"


def test_lines_that_were_converted_with_their_mark_are_converted_anew(monkeypatch):
    """By versions that took it for a character."""
    configured = lines("\ufeffdog\n", "Hund\n")
    files = (Path("text/train.en"), Path("text/train.de"))
    schema = pa.schema([("en", pa.string()), ("de", pa.string())])
    old = Path(f"root/pairs/train-en-de-{pair_sources.file_key(files)}.arrow")
    old.parent.mkdir(parents=True)
    made_once(old, lambda part: pair_sources.write_arrow(part, schema, [(["\ufeffdog"], ["Hund"])]))
    assert pairs_of(configured) == [("dog", "Hund")]


ENCODED = ["utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODED)
def test_other_encodings_are_named(encoding):
    name = encoding[:6].upper()
    coded = "a dog runs .\nthe cat\n".encode(encoding)
    if encoding != "utf-32":
        assert refusal(lines("a\nb\n", coded)) == [
            f"data.corpus.train: text/train.de is {name}, must be UTF-8; convert it"
        ]
    (line,) = refusal(csv("de,en\na,b\n".encode(encoding)))
    assert line == f"data.corpus.train: t.csv is {name}, must be UTF-8; convert it"


def test_what_is_no_text_is_refused_with_its_place():
    (line,) = refusal(lines(b"g\xc3\xb6od\n\xc3\xa4 b\xe4d\n", "a\nb\n"))
    assert line == "data.corpus.train: text/train.en is not UTF-8 at byte 10 (line 2); convert the file"


def test_missing_files_are_named_and_what_is_there():
    configured = lines("a\n", "b\n")
    (line,) = refusal(configured, "val")
    assert line == "data.corpus.val: text/val.en does not exist; its folder contains train.de, train.en"
    (line,) = refusal(config(kind="files", folder="nowhere"))
    assert line == "data.corpus.train: no such folder: nowhere"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs files that cannot be read")
def test_a_file_that_may_not_be_read_is_refused():
    configured = lines("a\n", "b\n")
    Path("text/train.en").chmod(0)
    assert refusal(configured) == ["data: text/train.en: permission denied"]


def test_a_changed_file_is_noticed_and_an_unchanged_one_not_read_again(monkeypatch):
    configured = lines("a\n", "b\n")
    assert pairs_of(configured) == [("a", "b")]
    with monkeypatch.context() as patch:
        patch.setattr(pair_sources, "text_lines", None)
        assert pairs_of(configured) == [("a", "b")]
    for changed in ("new", "now"):
        stat = Path("text/train.de").stat()
        write("text/train.de", f"{changed}\n")
        os.utime("text/train.de", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert pairs_of(configured) == [("a", changed)]


# -- CSV --


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_field_is_text(end):
    rows = ["id,en,de", "1,NA,null", "2,007,1.50", "3,None,nan", '4,"a ""b"", c"," d "', "5,,x", "6,true,N/A"]
    expected = [("NA", "null"), ("007", "1.50"), ("None", "nan"), ('a "b", c', " d "), ("", "x"), ("true", "N/A")]
    assert pairs_of(csv(end.join(rows) + end)) == expected


def test_columns_of_numbers_are_text_too():
    assert pairs_of(csv("de,en\n007,1.50\n1e3,0x1\n")) == [("1.50", "007"), ("0x1", "1e3")]


def test_a_row_ends_where_a_row_ends():
    content = 'de,en\na\rb\x0bc,d\x85\u2028e\n"f\ng","h\r\ni"\n'
    assert pairs_of(csv(content)) == [("d\x85\u2028e", "a\rb\x0bc"), ("h\r\ni", "f\ng")]


def test_a_mark_before_the_header_is_not_part_of_it():
    assert pairs_of(csv("\ufeffde,en\na,b\n")) == [("b", "a")]


def test_blank_lines_are_no_rows():
    assert pairs_of(csv("\n  \nde,en\n\na,b\n \n,\n")) == [("b", "a"), ("", "")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("de,fr\na,b\n", "data.corpus.train: t.csv has no column en; its columns: de, fr"),
        ("x;y\na,b\n", "data.corpus.train: t.csv has no column en and no de; its columns: x;y"),
        ("de,de,en\na,b,c\n", "data.corpus.train: t.csv has several columns de"),
        ("", "data.corpus.train: t.csv is empty"),
        ("de,en\n", "data.corpus.train: t.csv has no rows"),
        ("de,en\na,b,c\nd,e,f\n", "t.csv line 2: 3 fields, must be 2; texts with commas need quotes"),
        ("de,en\na,b\nd,e,f\n", "t.csv line 3: 3 fields, must be 2"),
        ('de,en\n"a\nb",c\n\nd\n', "t.csv line 5: 1 field, must be 2"),
        ("x,de,en\n1,b,c\n2,\n", "t.csv line 3: 2 fields, must be 3; an empty field needs its comma"),
        ('de,en\na,b\na,"b\nc,d\n', "t.csv line 3: cannot be read as CSV (its quotes do not end)"),
        ('de,en\n"a"b,c\n', "t.csv line 2: cannot be read as CSV ('"),
        (b"de,en\na,b\nc,\xff\n", "data.corpus.train: t.csv is not UTF-8 at byte 12 (line 3); convert the file"),
        ("de,en\n" + "a,b\n" * 20_000 + "a,b,c\n", "t.csv line 20002: 3 fields, must be 2"),
    ],
)
def test_what_is_no_csv_is_refused(content, said, capfd, library_log):
    (line,) = refusal(csv(content))
    assert said in line and line.startswith("data.corpus.train: t.csv")
    assert capfd.readouterr() == ("", "") and not library_log


def test_odd_names_and_silence(capfd):
    write("a[1]*.csv", "de,en\na,b\n")
    assert pairs_of(config(kind="csv", train="a[1]*.csv", val="x", test="y")) == [("b", "a")]
    assert refusal(config(kind="csv", train="a[2].csv", val="x", test="y")) == [
        "data.corpus.train: a[2].csv does not exist; its folder contains a[1]*.csv"
    ]
    assert capfd.readouterr() == ("", "")
    assert not datasets.utils.are_progress_bars_disabled(), "others' bars stay"
    assert logging.getLogger("datasets").level != logging.CRITICAL


def test_a_changed_csv_is_noticed_even_at_the_same_instant():
    configured = csv("de,en\na,b\n")
    assert pairs_of(configured) == [("b", "a")]
    stat = Path("t.csv").stat()
    write("t.csv", "de,en\nnew,b\n")
    os.utime("t.csv", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert pairs_of(configured) == [("b", "new")]
    assert all(path.is_relative_to("root") for path in Path().rglob("*.arrow")), "not in the home folder"


# -- Parquet --


def test_parquet():
    table = {"de": ["Hund", None, "null"], "z": [1, 2, 3], "en": pa.array(["dog", "x", "\r\n"], pa.large_string())}
    assert pairs_of(parquet(table)) == [("dog", "Hund"), ("x", ""), ("\r\n", "null")]


def test_parquet_with_translations():
    table = {"translation": [{"de": "Hund", "en": "dog", "fr": "chien"}], "id": [1]}
    assert pairs_of(parquet(table)) == [("dog", "Hund")]
    both = parquet(table, source_language="fr", target_language="it")
    assert refusal(both) == ["data.corpus.train: t.parquet has no column it; its columns: de, en, fr"]


def test_what_is_no_parquet_is_refused(capfd):
    (line,) = refusal(parquet({"de": ["x"], "en": [1]}))
    assert line == "data.corpus.train: t.parquet: column 'en' contains int64, must contain text"
    write("t.parquet", "de,en\n")
    (line,) = refusal(config(kind="parquet", train="t.parquet"))
    assert line.startswith("data.corpus.train: t.parquet cannot be read as Parquet (")
    assert capfd.readouterr() == ("", "")


def test_converted_pairs_that_were_damaged_are_converted_anew():
    """Whichever byte it is, the last ones too, or none are left."""
    configured = lines("a dog\na cat\n", "ein Hund\neine Katze\n")
    expected = pairs_of(configured)
    (path,) = Path("root/pairs").glob("*.arrow")
    whole = path.read_bytes()
    assert whole.count(b"Hund") == 1
    for place in (0, whole.index(b"Hund"), len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert pairs_of(configured) == expected and path.read_bytes() == whole
    for rest in (b"", whole[:20], whole[:-32]):
        path.write_bytes(rest)
        assert pairs_of(configured) == expected and path.read_bytes() == whole


# -- the hub --


def test_the_hub_gives_its_own_splits(monkeypatch):
    asked, revisions = [], []

    def load(name, subset, *, split, revision, cache_dir):
        asked.append((name, subset, split, cache_dir))
        revisions.append(revision)
        pq.write_table(pa.table({"translation": [{"de": f"{split} Hund", "en": f"{split} dog"}]}), f"{split}.parquet")
        return datasets.Dataset.from_parquet(f"{split}.parquet", cache_dir="cache")

    monkeypatch.setattr(datasets, "load_dataset", load)
    configured = config(kind="hub", subset="de-fr", source_language="de", target_language="en")
    expected = dict(zip(PARTS, ("train", "validation", "test"), strict=True))
    for part, split in expected.items():
        assert pairs_of(configured, part) == [(f"{split} Hund", f"{split} dog")]
    assert asked == [("wmt/wmt14", "de-fr", split, "root/pairs") for split in expected.values()]
    assert all(re.fullmatch("[0-9a-f]{40}", revision) for revision in revisions), "a commit"
    pairs_of(configured.model_copy(update={"corpus": configured.corpus.model_copy(update={"revision": "v2"})}), "val")
    assert revisions[-1] == "v2"


def test_the_hub_gives_columns_too(monkeypatch):
    """A column a language, and others that are not asked for."""

    def load(name, subset, *, split, revision, cache_dir):
        assert revision is None, "the newest"
        pq.write_table(pa.table({"fr": ["chien"], "en": [f"{split} dog"], "de": ["Hund"]}), f"{split}.parquet")
        return datasets.Dataset.from_parquet(f"{split}.parquet", cache_dir="cache")

    monkeypatch.setattr(datasets, "load_dataset", load)
    configured = config(kind="hub", name="bentrevett/multi30k", subset=None)
    assert pairs_of(configured, "val") == [("validation dog", "Hund")]
    other = config(kind="hub", name="bentrevett/multi30k", subset=None, target_language="cs")
    assert refusal(other) == ["data.corpus: bentrevett/multi30k has no column cs; its columns: fr, en, de"]


def test_without_a_network_the_hub_is_refused(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no way\nout")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert refusal(config(kind="hub")) == [
        "data.corpus: wmt/wmt14 cannot be downloaded (no way)",
        "data.corpus: without a network, use kind: files, csv or parquet with your own pairs",
    ]


# -- held out --


def numbered(n, copies=1, **corpus):
    write("t.csv", "de,en\n" + "".join(f"d{i},e{i}\n" for _ in range(copies) for i in range(n)))
    return config(kind="csv", train="t.csv", **corpus)


def test_shares_are_held_out_and_no_pair_is_in_two_parts():
    configured = numbered(200, val_share=0.1, test_share=0.25)
    parts = [pairs_of(configured, part) for part in PARTS]
    assert [len(part) for part in parts] == [130, 20, 50]
    numbers = [[int(source[1:]) for source, _ in part] for part in parts]
    assert sorted(i for part in numbers for i in part) == list(range(200))
    for part in numbers:
        assert part == sorted(part), "in the file's order"
    assert numbers[1] != list(range(numbers[1][0], numbers[1][0] + 20)), "drawn, not cut"
    assert len(pairs_of(configured.model_copy(update={"corpus": numbered(200, test_share=0.5).corpus}), "test")) == 100
    again = [pairs_of(configured, part) for part in PARTS]
    others = [pairs_of(configured, part, seed=1) for part in PARTS]
    assert parts == again and all(mine != other for mine, other in zip(parts, others, strict=True))


def test_equal_pairs_are_in_one_part():
    configured = numbered(50, copies=3, val_share=0.2, test_share=0.2)
    parts = [pairs_of(configured, part) for part in PARTS]
    assert [len(part) for part in parts] == [90, 30, 30]
    assert not set(parts[0]) & set(parts[1]) and not set(parts[2]) & set(parts[0] + parts[1])


def test_both_directions_hold_out_the_same():
    there = numbered(100)
    back = numbered(100, source_language="de", target_language="en", root="another")
    for part in PARTS:
        assert pairs_of(there, part) == [(source, target) for target, source in pairs_of(back, part)]


def test_one_part_may_have_files_of_its_own():
    write("own.csv", "de,en\nx,y\n")
    configured = numbered(100, test="own.csv")
    assert pairs_of(configured, "test") == [("y", "x")]
    assert [len(pairs_of(configured, part)) for part in ("train", "val")] == [99, 1]
    write("text/a.en", "".join(f"e{i}\n" for i in range(100)))
    write("text/a.de", "".join(f"d{i}\n" for i in range(100)))
    of_lines = config(kind="files", folder="text", train="a", val=None, test=None)
    assert [len(pairs_of(of_lines, part)) for part in PARTS] == [98, 1, 1]


# -- the real ones --


def test_multi30k_is_read_whole(real_data):
    folder = real_data / "multi30k"
    configured = config(kind="files", folder=str(folder), test="test_2016_flickr")
    for part, stem in zip(PARTS, ("train", "val", "test_2016_flickr"), strict=True):
        texts = [(folder / f"{stem}.{language}").read_bytes().decode().split("\n")[:-1] for language in ("en", "de")]
        assert pairs_of(configured, part) == list(zip(*texts, strict=True))


def test_wmt14_is_read_whole(real_data):
    import csv as standard

    path = real_data / "wmt14" / "wmt14_translate_de-en_test.csv"
    with path.open(encoding="utf-8", newline="") as file:
        expected = [(row["de"], row["en"]) for row in standard.DictReader(file)]
    configured = config(kind="csv", train=str(path), val="x", test="y", source_language="de", target_language="en")
    assert len(expected) == 3003
    assert pairs_of(configured) == expected


# -- packed, binary, endless --

PACK = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


def zipped(*members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


TABLE = "\ufeffde,en\n" + "".join(f'"Hund\n{i}",dog {i}\n' for i in range(1500))


@pytest.mark.parametrize("suffix", [*PACK, "zip"])
def test_packed_tables_are_unpacked(suffix):
    def packed(text):
        return zipped(("t.csv", text)) if suffix == "zip" else PACK[suffix](text.encode())

    name = f"t.csv.{suffix}"
    configured = config(kind="csv", train=str(write(name, packed(TABLE))), val="x", test="y")
    assert pairs_of(configured) == [(f"dog {i}", f"Hund\n{i}") for i in range(1500)]
    assert len(packed(TABLE)) < len(TABLE) or suffix == "zip", "it is packed"
    write(name, packed(TABLE + "Katze\n"))
    (line,) = refusal(configured)
    assert line.startswith(f"data.corpus.train: {name} line 3002: 1 field, must be 2")


@pytest.mark.parametrize("suffix", [*PACK, "zip"])
def test_what_is_no_archive_is_refused(suffix):
    path = f"t.csv.{suffix}"
    whole = zipped(("t.csv", TABLE)) if suffix == "zip" else PACK[suffix](TABLE.encode())
    for content in (b"no archive at all\n", b"", whole[: len(whole) // 2]):
        write(path, content)
        (line,) = refusal(config(kind="csv", train=path))
        assert line.startswith(f"data.corpus.train: {path} "), content[:20]


def test_an_archive_of_several_files_is_refused():
    write("t.csv.zip", zipped(("a.csv", "de,en\na,b\n"), ("b.csv", "de,en\na,b\n")))
    assert refusal(config(kind="csv", train="t.csv.zip")) == [
        "data.corpus.train: t.csv.zip cannot be decompressed (it contains 2 files, must contain one)"
    ]


def test_an_archive_writes_nothing_beside_the_cache():
    """Its member's name leads out of every folder."""
    write("t.csv.zip", zipped(("../escaped.csv", "en,de\na dog,ein Hund\n")))
    before = set(Path("..").iterdir())
    assert pairs_of(config(kind="csv", train="t.csv.zip", root="root"), "train") == [("a dog", "ein Hund")]
    assert set(Path("..").iterdir()) == before


NUL = "contains a null character; must be text"


def test_null_characters_are_refused_with_their_line(capfd):
    (line,) = refusal(lines("a\nb\n", "c\nd\0e\n"))
    assert line == f"data.corpus.train: text/train.de line 2 {NUL}"
    for content, number in (
        ("de,en\na,b\n\0c,d\n", 3),
        ("\0" * 5000 + "de,en\na,b\n", 1),
        ("\0" * 5000, 1),
    ):
        (line,) = refusal(csv(content))
        assert line == f"data.corpus.train: t.csv line {number} {NUL}"
    (line,) = refusal(parquet({"de": ["x"] * 70 + ["a\0"], "en": ["y"] * 71}))
    assert line == "data.corpus.train: t.parquet: row 71 of column 'de' contains a null character: must be a sentence"
    assert capfd.readouterr() == ("", "")


def test_lines_without_an_end_are_refused_without_being_held(monkeypatch):
    monkeypatch.setattr(text_files, "LONGEST", 1000)
    longest = "x" * 999 + "\n"
    assert len(pairs_of(lines(longest, longest))) == 1
    (line,) = refusal(lines("a\nb\n", f"a\n{'x' * 1000}\n"))
    assert line == "data.corpus.train: text/train.de line 2 is longer than 1,000 bytes; must be one sentence per line"
    (line,) = refusal(csv(f"de,en\n{'x' * 1000},b\n"))
    assert line.startswith("data.corpus.train: t.csv line 2 is longer than 1,000 bytes")
    (line,) = refusal(parquet({"de": ["x" * 1001], "en": ["b"]}))
    assert line.startswith("data.corpus.train: t.parquet: row 1 of column 'de' is longer than 1,000 bytes")
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(text_files, "_opened", lambda *_: contextlib.nullcontext(Endless(asked)))
        (line,) = refusal(csv("de,en\na,b\nc,d\n"))
    assert "line 1 is longer" in line and max(asked) <= 1001


class Endless:
    """A file of one line."""

    def __init__(self, asked):
        self.asked = asked

    def read(self, size):
        return b"x" * size

    def readline(self, size):
        self.asked.append(size)
        return self.read(size)


# -- broken Parquet --


def test_lists_in_parquet_are_refused():
    pq.write_table(pa.table({"en": [["a"], ["b"]], "de": ["x", "y"]}), "t.parquet")
    (line,) = refusal(config(kind="parquet", train="t.parquet"))
    assert line.startswith("data.corpus.train: t.parquet") and "'en'" in line


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_a_broken_row_group_of_parquet_is_refused(compression, capfd):
    texts = [f"{i} {'abc' * i}" for i in range(60)]
    pq.write_table(
        pa.table({"de": texts, "en": texts}),
        "t.parquet",
        row_group_size=20,
        compression=compression,
        use_dictionary=False,
    )
    configured = config(kind="parquet", train="t.parquet")
    assert len(pairs_of(configured)) > 50
    column = pq.ParquetFile("t.parquet").metadata.row_group(1).column(0)
    whole = bytearray(Path("t.parquet").read_bytes())
    for i in range(column.data_page_offset, column.data_page_offset + column.total_compressed_size):
        whole[i] ^= 0x5A
    write("t.parquet", bytes(whole))
    (line,) = refusal(configured)
    assert line.startswith("data.corpus.train: t.parquet cannot be read as Parquet (") and "\n" not in line
    assert capfd.readouterr() == ("", "")


def test_damaged_parquet_is_refused_or_read(capfd):
    """A flipped byte anywhere: in the schema it is another error of the library than in a page."""
    texts = [f"{i} {'äbc' * i}" for i in range(9)]
    pq.write_table(pa.table({"de": texts, "en": texts}), "t.parquet", compression="none", use_dictionary=False)
    whole = Path("t.parquet").read_bytes()
    configured = config(kind="parquet", train="t.parquet")
    refused = 0
    for place in (*range(20, len(whole), 97), *range(len(whole) - 12, len(whole))):
        write("t.parquet", whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            pairs_of(configured)
        except ConfigError as error:
            (line,) = error.lines
            assert line.startswith("data.corpus.train: t.parquet") and "\n" not in line
            refused += 1
    assert refused > 12
    assert capfd.readouterr() == ("", "")
