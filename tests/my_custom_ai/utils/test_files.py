import errno
import fcntl
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from my_custom_ai.custom_train.checkpoint import save_tensors
from my_custom_ai.utils.files import made_once, whole_file, write_once, write_text


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "deep" / "er" / "file.txt"
    for text in ("old", "neuer Inhalt äöü"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(path.parent.iterdir()) == [path]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("where", "name"), [(os, "fsync"), (Path, "write_text"), (Path, "replace")])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, where, name):
    path = tmp_path / "file.txt"
    path.write_text("old")
    monkeypatch.setattr(where, name, full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    import torch

    path = tmp_path / "state.safetensors"
    save_tensors(path, {"a": torch.zeros(3)})
    old = path.read_bytes()
    monkeypatch.setattr("my_custom_ai.custom_train.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_tensors(path, {"a": torch.ones(3)})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


HALF = """
import os, pathlib, signal, sys
from my_custom_ai.utils.files import whole_file
with whole_file(pathlib.Path(sys.argv[1])) as part:
    part.write_text("a longer text that was never finished")
    print(part, flush=True)
    sys.stdin.read(1)
    part.write_text("of the other process")
"""


@pytest.fixture
def writer(tmp_path):
    """Another process in the middle of writing tmp_path/file.txt, and its temporary file; a letter lets it finish."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(
        [sys.executable, "-c", HALF, str(tmp_path / "file.txt")],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_what_a_kill_left_behind_is_removed_by_the_next_write(writer, tmp_path):
    process, part = writer
    process.kill()
    process.wait()
    path = tmp_path / "file.txt"
    other = tmp_path / f"another-{part.name}"
    other.touch()
    assert part.exists()
    write_text(path, "new")
    assert path.read_text() == "new"
    assert {*tmp_path.iterdir()} == {path, other}


def test_two_processes_that_write_the_same_file_do_not_meet(writer, tmp_path):
    process, part = writer
    path = tmp_path / "file.txt"
    write_text(path, "new")
    assert path.read_text() == "new" and "never finished" in part.read_text()
    process.communicate("x")
    assert process.returncode == 0
    assert path.read_text() == "of the other process"
    assert [*tmp_path.iterdir()] == [path]


def test_the_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("old")
    synced, fsync, replace = [], os.fsync, Path.replace

    def spying_fsync(descriptor):
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR, "Windows syncs no other"
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def spying_replace(part, target):
        assert synced == [part.stat().st_ino]
        assert part.read_text() == "new" and target.read_text() == "old"
        return replace(part, target)

    monkeypatch.setattr(os, "fsync", spying_fsync)
    monkeypatch.setattr(Path, "replace", spying_replace)
    write_text(path, "new")
    assert path.read_text() == "new"


def test_one_process_writes_and_the_others_wait(tmp_path):
    path, calls = tmp_path / "deep" / "file", []

    def write(part):
        calls.append(part)
        time.sleep(0.1)
        part.write_text("whole")

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: write_once(path, write).read_text(), range(3)))
    assert found == ["whole"] * 3
    assert len(calls) == 1
    assert write_once(path, write) == path
    assert len(calls) == 1, "it is there"


def test_what_failed_is_written_by_the_next(tmp_path):
    path = tmp_path / "file"

    def fail(part):
        part.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_once(path, fail)
    assert not path.exists()
    assert write_once(path, lambda part: part.write_text("whole")).read_text() == "whole"


@pytest.mark.parametrize("changed", ["file", "file.sha256"])
@pytest.mark.parametrize("content", [b"whale", b"", None])
def test_what_is_not_what_was_made_is_made_again(tmp_path, changed, content):
    path, calls = tmp_path / "file", []

    def make(part):
        calls.append(part)
        part.write_bytes(b"whole")

    assert made_once(path, make) == made_once(path, make) == path
    assert len(calls) == 1
    (tmp_path / changed).unlink()
    if content is not None:
        (tmp_path / changed).write_bytes(content)
    assert made_once(path, make).read_bytes() == b"whole"
    made_once(path, make)
    assert len(calls) == 2


def test_what_safetensors_cannot_write_is_an_error_of_the_file(tmp_path):
    import torch

    path = tmp_path / "state.safetensors"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            save_tensors(path, {"a": torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert list(tmp_path.iterdir()) == []


def test_errors_of_what_is_read_stay_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, whole_file(tmp_path / "copy"):
        (tmp_path / "source").read_text()
    assert caught.value.filename == str(tmp_path / "source")
    with pytest.raises(ConnectionResetError) as caught, whole_file(tmp_path / "copy"):
        raise ConnectionResetError(errno.ECONNRESET, "reset")
    assert caught.value.filename is None
