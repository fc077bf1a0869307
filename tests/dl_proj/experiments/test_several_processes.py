"""Scripts on several processes: one lock, one record of the data, one line about what ends them."""

import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from picture_files import write_tars
from tiny_scripts import TEXT, as_yaml, saved_tensors, tiny, tiny_classifier, tiny_language

from dl_proj import cli
from dl_proj.commands import run_script
from dl_proj.experiments.copy.objective import CopyObjective
from my_custom_ai.custom_train.checkpoint import load_note
from my_custom_ai.custom_train.running import locked

pytestmark = pytest.mark.slow

RUN = Path("runs/tiny/version_0")


def script_on(rank, world_size, port, name, flags, ends):
    """A script as torchrun starts it; ``ends`` is None or (rank, signal), sent to itself in the fourth update."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    os.environ |= {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    cli._PATIENCE = 2.0  # torchrun would end this process meanwhile
    for stream, file in ((sys.stdout, f"out_{rank}"), (sys.stderr, f"err_{rank}")):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
    if ends is not None and ends[0] == rank:
        measure, calls = CopyObjective.measure, []

        def signalled(self, model, batch):
            calls.append(model.training)
            if calls.count(True) == 4:
                os.kill(os.getpid(), ends[1])
            return measure(self, model, batch)

        CopyObjective.measure = signalled
    sys.argv = [f"{name}.py", *map(str, flags)]
    run_script(name)


@contextlib.contextmanager
def on_two(forkserver, name, *flags, ends=None):
    """Both processes of a script, killed in the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    both: list[BaseProcess] = [
        forkserver.Process(target=script_on, args=(rank, 2, port, name, flags, ends)) for rank in range(2)
    ]
    for process in both:
        process.start()
    try:
        yield both
    finally:
        for process in both:
            process.kill()
            process.join()


def finish(both):
    for process in both:
        process.join(100)
    return [process.exitcode for process in both]


def said(rank):
    """Lines of standard error that are no progress bar's."""
    lines = Path(f"err_{rank}").read_text(encoding="utf-8").replace("\r", "\n").splitlines()
    return [line.strip() for line in lines if line.strip() and "step/s" not in line and "s/step" not in line]


@pytest.mark.parametrize(("number", "lost"), [(signal.SIGKILL, 0), (signal.SIGSTOP, 1)])
def test_a_lost_or_stopped_process_ends_the_other_with_one_line(number, lost, forkserver):
    changes = {"train.max_steps": 1000, "train.save_every": 2, "train.eval_every": 1000, "train.wait_minutes": 0.05}
    as_yaml("c.yaml", tiny(changes | {"train.trackers": []}))
    other = 1 - lost
    with on_two(forkserver, "synth_train", "--config", "c.yaml", ends=(lost, number)) as both:
        start = time.monotonic()
        both[other].join(60)
        assert both[other].exitcode == 1, said(other)
        if number == signal.SIGSTOP:
            assert both[lost].is_alive()
        took = time.monotonic() - start
    assert took < 50, "three seconds, and what starting and ending take"
    lines = [line for line in said(other) if "stopped" in line]
    assert len(lines) == 1 and "Traceback" not in Path(f"err_{other}").read_text()
    assert re.search(rf"another process .*; python synth_train\.py --resume {RUN}", lines[0]), lines
    assert load_note(RUN / "checkpoints/last/state.safetensors")["step"] == 2


def test_two_processes_have_one_lock_and_one_record(forkserver, script):
    """Which the run keeps when it goes on; a second start of both is refused, once, and writes nothing."""
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    as_yaml("c.yaml", tiny_language({"experiment_name": "tiny", "train.trackers": []}))
    with on_two(forkserver, "lm_train", "--config", "c.yaml") as both:
        assert finish(both) == [0, 0], (said(0), said(1))
    assert not (RUN / ".pid").exists()
    record, state = (RUN / "data.json").read_bytes(), (RUN / "checkpoints/last/state.safetensors").read_bytes()
    assert script("lm_train", "--config", "c.yaml", "--experiment_name", "alone").code == 0
    assert json.loads(record) == json.loads(Path("runs/alone/version_0/data.json").read_text()), "of the whole data"

    more = ["--resume", RUN, "--train.max_steps", 4]
    with locked(RUN), on_two(forkserver, "lm_train", *more) as both:
        assert finish(both) == [2, 1], "the second waits for the first one"
        assert "another process" in said(1)[0] and len(said(1)) == 1
        assert [f"pid {os.getpid()}" in line for line in said(0)] == [True]
    Path("text.txt").write_text(TEXT.replace("cat", "cow"), encoding="utf-8")
    with on_two(forkserver, "lm_train", *more) as both:
        assert finish(both) == [2, 2]
        assert "training data" in said(0)[0] and not any("Traceback" in line for line in said(0) + said(1))
    assert (RUN / "checkpoints/last/state.safetensors").read_bytes() == state

    Path("text.txt").write_text(TEXT, encoding="utf-8")
    with on_two(forkserver, "lm_train", *more) as both:
        assert finish(both) == [0, 0], (said(0), said(1))
    assert load_note(RUN / "checkpoints/last/state.safetensors")["step"] == 4
    assert (RUN / "data.json").read_bytes() == record


def test_two_processes_stream_what_they_would_hold(forkserver):
    """Each its share, in the same order; one of them checks the pictures."""
    write_tars("shards")
    data = {"dataset": "image_shards", "root": "shards", "image_size": 8, "patch_size": 4}
    as_yaml("c.yaml", tiny_classifier({"data": data, "train.batch_size": 4, "train.trackers": []}))
    for flags in ((), ("--data.streamed", "true")):
        with on_two(forkserver, "cls_train", "--config", "c.yaml", *flags) as both:
            assert finish(both) == [0, 0], (said(0), said(1))
    held, streamed = (Path(f"runs/tiny-cls/version_{number}") for number in range(2))
    assert (held / "data.json").read_text() == (streamed / "data.json").read_text()
    expected, found = saved_tensors(held), saved_tensors(streamed)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert len(list(Path("data/pictures").glob("*.json"))) == 1
    checks = ["checking" in Path(f"err_{rank}").read_text() for rank in range(2)]
    assert sum(checks) == 1, "the other waits"


def test_sharded_training_goes_on_alone(forkserver, script):
    """The model that shards decode in the end is whole; another script reads the weights."""
    changes = {"train.max_steps": 4, "train.eval_every": 2, "train.trackers": [], "train.parallel": "fsdp"}
    as_yaml("c.yaml", tiny(changes | {"model.reversible": True, "model.depth": 2}))
    with on_two(forkserver, "synth_train", "--config", "c.yaml") as both:
        assert finish(both) == [0, 0], (said(0), said(1))
    assert "2 processes (fsdp)" in Path("out_0").read_text()
    best = RUN / "checkpoints/best"
    assert script("evaluate", "--checkpoint", best).code == 0
    done = script("synth_train", "--resume", RUN, "--train.max_steps", 6)
    assert done.code == 0, done.err
    assert "resumed after step 4 on 1 process(es), begun on 2" in done.out
    note = load_note(RUN / "checkpoints/last/state.safetensors")
    assert (note["step"], note["processes"]) == (6, 2)
