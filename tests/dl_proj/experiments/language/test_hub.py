"""Text of the hub: streamed from a folder as from the hub, into the files that all texts are read from."""

import json
import re
import time
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from tiny_scripts import as_yaml, tiny_language

from dl_proj.experiments.language.data import load_text
from dl_proj.experiments.language.data_settings import HubTextConfig, TextDataConfig
from dl_proj.experiments.language.hub import hub_corpus
from dl_proj.settings.errors import ConfigError

HOME = Path("stories")
TEXTS = {
    "train": [f"Story {i}: größer.\nIt has two lines." for i in range(60)],
    "validation": ["One\n", "", "Two\n\n"],
    "test": ["Three"],
}


@pytest.fixture(autouse=True)
def no_hub_folder(monkeypatch):
    """Nothing that these tests read lies on the hub; the library's own files land here."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", Path("datasets"))


@pytest.fixture(params=["parquet", "json"])
def stories(request):
    """A folder like that of a dataset on the hub."""
    write(request.param)
    return HOME


def write(kind="parquet", texts=TEXTS, column="text"):
    (HOME / "data").mkdir(parents=True, exist_ok=True)
    for split, rows in texts.items():
        path = HOME / "data" / f"{split}-00000-of-00001.{kind}"
        if kind == "json":
            path.write_text("".join(json.dumps({"id": i, column: row}) + "\n" for i, row in enumerate(rows)))
        else:
            table = pa.table({"id": range(len(rows)), column: pa.array(rows, pa.string())})
            parquet.write_table(table, path, row_group_size=20)


def corpus(val_share=0.2, test_share=0.1, **how):
    found = hub_corpus(HubTextConfig(name=str(HOME), **how), Path("root"), val_share=val_share, test_share=test_share)
    return {
        split: b"".join(piece for span in spans for piece in span.pieces()).decode() for split, spans in found.items()
    }


def refusal(**how):
    with pytest.raises(ConfigError) as refused:
        corpus(**how)
    assert not [path for path in Path("root").rglob("*") if path.is_file() and path.suffix != ".lock"], "no half of it"
    return refused.value.lines


TRAIN = "".join(f"{text}\n" for text in TEXTS["train"])


def test_named_splits(stories):
    assert corpus(val="validation", test="test") == {"train": TRAIN, "val": "One\nTwo\n\n", "test": "Three\n"}
    assert {path.name for path in Path("root/hub").glob("stories-*/*.txt")} == {"train.txt", "val.txt", "test.txt"}


def test_what_is_not_named_is_cut_off_the_training_text(stories):
    found = corpus()
    assert found["train"] + found["val"] + found["test"] == TRAIN
    size = len(TRAIN.encode())
    assert [len(found[split].encode()) / size for split in ("val", "test")] == pytest.approx([0.2, 0.1], abs=0.01)
    found = corpus(test="test")
    assert (found["train"] + found["val"], found["test"]) == (TRAIN, "Three\n")


def test_reading_stops_at_a_size(stories):
    lengths = [len(f"{text}\n".encode()) for text in TEXTS["train"]]
    found = corpus(max_bytes=sum(lengths[:3]) - 1, val="validation", test="validation")
    assert found["train"] == "".join(f"{text}\n" for text in TEXTS["train"][:3])


def test_text_is_read_once_until_the_folder_changes(monkeypatch):
    write()
    first = corpus(val="validation", test="test")
    with monkeypatch.context() as patch:
        patch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("it is there"))
        assert corpus(val="validation", test="test") == first
    time.sleep(0.01)
    write(texts=TEXTS | {"test": ["Four"]})
    assert corpus(val="validation", test="test")["test"] == "Four\n"
    (path,) = [path for path in Path("root/hub").glob("*/test.txt") if path.read_text() == "Four\n"]
    path.write_text("Fore\n")
    with pytest.raises(ConfigError, match="SHA256SUMS"):
        corpus(val="validation", test="test")


def test_mistakes_are_lines():
    write(texts=TEXTS | {"test": [""]})
    assert refusal(column="story")[0] == f"data.hub.column: {HOME} has no column story, it has id, text"
    assert "id of row 0 of train must be text (got int)" in refusal(column="id")[0]
    first, second = refusal(train="training")
    assert first.startswith(f"data.hub: {HOME} cannot be read, split training, after 0 rows (")
    assert "source: files" in second
    Path("root").rename("before")
    with pytest.raises(ConfigError, match=rf"data.hub: {HOME} has no text in its split test"):
        corpus(val="validation", test="test")


def test_a_source_that_breaks_off_leaves_nothing(monkeypatch):
    def load_dataset(*_, **__):
        yield {"text": "one"}
        yield {"text": "two"}
        raise ConnectionError("the line went dead\nand more")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert refusal()[0] == f"data.hub: {HOME} cannot be read, split train, after 2 rows (the line went dead)"


def killed(to):
    """Stream rows without an end."""
    import datasets

    def load_dataset(*_, **__):
        while True:
            yield {"text": "a row" * 1000}

    datasets.load_dataset = load_dataset
    Path(to).touch()
    corpus()


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_nothing_wrong(forkserver):
    write()
    process = forkserver.Process(target=killed, args=("begun",))
    process.start()
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 10**6 for path in Path("root").rglob("*.part")):
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    assert not list(Path("root").rglob("*.txt"))
    found = corpus()
    assert found["train"] + found["val"] + found["test"] == TRAIN
    assert not list(Path("root").rglob("*.part")), "what was left is gone"


MEGABYTES, SHARDS = 128, 16


def peak(to):
    """Write by how many MB the memory grew at most while text was streamed, and read once."""
    torch.set_num_threads(1)

    def load(**how):
        hub = HubTextConfig(name=str(HOME), val="validation", test="test", **how)
        train = load_text(TextDataConfig(source="hub", root=Path("root"), hub=hub, window=2**16), seed=0).train
        return sum(len(train[index][0]) for index in range(len(train)))

    load(max_bytes=10**6)  # what is allocated once
    before = memory()
    assert load() > 0.7 * MEGABYTES * 2**20
    Path(to).write_text(str(memory() - before))


def memory():
    (line,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(line) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux says how much memory a process has had")
def test_text_is_never_whole_in_memory(forkserver):
    rows = ["ab cd ef gh ij " * 1000] * 50  # a group of rows
    (HOME / "data").mkdir(parents=True)
    for shard in range(SHARDS):
        path = HOME / f"data/train-{shard:02d}.parquet"
        with parquet.ParquetWriter(path, pa.schema([("text", pa.string())])) as file:
            for _ in range(MEGABYTES // SHARDS):
                file.write_table(pa.table({"text": rows}))
    for split in ("validation", "test"):
        parquet.write_table(pa.table({"text": rows[:10]}), HOME / f"data/{split}-0.parquet")
    process = forkserver.Process(target=peak, args=("peak",))
    process.start()
    process.join(100)
    assert process.exitcode == 0
    assert float(Path("peak").read_text()) < MEGABYTES / 3, "a few files; the library reads ahead in the one it is at"


@pytest.mark.slow
def test_a_model_learns_from_it_and_goes_on(script):
    write()
    changes = {"data.source": "hub", "data.path": None, "data.hub": {"name": "stories"}, "data.window": 8}
    as_yaml("c.yaml", tiny_language(changes))
    assert script("lm_train", "--config", "c.yaml").code == 0
    (run,) = Path("runs").glob("*/version_0")
    assert script("lm_train", "--resume", run).code == 0
    time.sleep(0.01)
    write(texts=TEXTS | {"train": ["other", *TEXTS["train"]]})
    outcome = script("lm_train", "--resume", run)
    assert outcome.code == 2 and any("training data: the run has" in line for line in outcome.lines)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"source": "hub"}, "hub.name is required with source: hub"),
        ({"source": "hub", "hub": {"name": "a"}, "path": "b"}, "path b has no effect: source hub has its own text"),
        (
            {"source": "hub", "hub": {"name": "a", "val": "v"}, "val_share": 0.1},
            "val_share 0.1 has no effect: hub has a split for it, v",
        ),
        ({"path": "a", "hub": {"name": "b"}}, "hub.name b has no effect: source is files, not hub"),
        (
            {"source": "hub", "hub": {"name": "a"}, "val_share": 0.5, "test_share": 0.6},
            "val_share 0.5 and test_share 0.6 leave nothing to train on",
        ),
    ],
    ids=["no name", "path", "two validations", "another source", "shares"],
)
def test_settings_that_do_not_fit(values, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        TextDataConfig(**values)
