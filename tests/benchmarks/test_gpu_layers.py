"""The GPU stage "layers": its order and tables, going on after a death, and what its measuring sticks compute."""

import json
import math
import os
import signal
import sys
import types

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from benchmarks import layers as library
from benchmarks.gpu import layers
from benchmarks.gpu.by_length import key_of
from benchmarks.gpu.results import fail_running_case
from benchmarks.layers import Sizes
from dl_proj.tables import markdown

SIZES = Sizes(dim=32, heads=2)
CPU = torch.device("cpu")
INF = float("inf")


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        ({1: 9, 2: 9, 4: 1, 8: 1}, {1: 2, 2: 4, 4: 8, 8: 16}, "4"),
        ({1: 1, 2: 1}, {1: 2, 2: 4}, "1"),
        ({1: 9, 2: 9}, {1: 2, 2: 4}, "none up to 2"),
        ({1: 1, 2: 9, 4: 7}, {1: 2, 2: 8, 4: 8}, "4"),  # faster at 1 by chance: not from there on
        ({1: 1, 2: 9}, {1: 2, 2: 8}, "none up to 2"),
        ({2: 3, 4096: 1}, {2: 3, 4096: 2}, "4,096"),  # as fast is not faster
        ({1: 9, 2: INF, 4: 1}, {1: 2, 2: INF, 4: 2}, "4"),  # both out of memory
        ({1: 9, 2: 5}, {1: 2, 2: INF}, "2"),
        ({1: 1, 2: INF}, {1: 2, 2: 2}, "none up to 2"),
        ({1: 9, 2: 1, 4: 9}, {1: 2, 2: 2}, "2"),  # nobody knows what is at 4
    ],
)
def test_crossing_is_where_it_stays_faster(own, other, expected):
    assert layers.crossing(own, other) == expected


def case(*milliseconds, mib=1):
    return {"seconds": [ms / 1000 for ms in milliseconds], "peak": mib * 2**20, "batch": 1}


def failure(error):
    return {"error": error, "lasting": True}


def test_tables_show_medians_failures_and_who_overtakes():
    found = {
        ("flash", 1024, layers.BOTH): case(1, 2, 90, mib=10),
        ("flash", 4096, layers.BOTH): case(8, mib=10),
        ("LSH-2", 1024, layers.BOTH): case(5, mib=30),
        ("LSH-2", 4096, layers.BOTH): case(4, mib=15),
        ("LSH-2", 4096, layers.STEP): case(0.25),
        ("LSH-4", 4096, layers.BOTH): failure("OutOfMemoryError: CUDA out of memory. Tried to allocate"),
        ("flash-linear-attention", 1024, layers.BOTH): failure("ModuleNotFoundError: No module named 'fla'"),
        ("local", 1024, layers.BOTH): failure("RuntimeError: CUDA error: an illegal memory access"),
        ("full", 4096, layers.FORWARD): case(1234),
    }
    tables = layers.tables({"cases": {key_of(*key): found[key] for key in reversed(found)}})
    speed, both, forward, step, memory = tables.values()
    assert speed[0] == {
        "": "LSH-2",
        "than": "flash",
        "faster from length": "4,096",
        "longest": "4,096",
        "times as fast there": "2.00",
        "times its memory there": "1.50",
    }
    assert speed[1] == {"": "LSH-4", "than": "flash", "faster from length": "none up to 4,096"}
    assert both == [
        {"": "flash", "1,024": "2", "4,096": "8"},
        {"": "LSH-2", "1,024": "5", "4,096": "4"},
        {"": "LSH-4", "1,024": None, "4,096": "out of memory"},
        {"": "local", "1,024": "failed", "4,096": None},
        {"": "flash-linear-attention", "1,024": "not installed", "4,096": None},
    ]
    assert forward == [{"": "full", "4,096": "1,234"}]
    assert step == [{"": "LSH-2", "4,096": "0.25"}]
    assert [row["4,096"] for row in memory[:2]] == ["10", "15"]
    assert all(markdown(rows).count("\n") == len(rows) + 1 for rows in tables.values())
    assert layers.tables({"cases": {}}) == {}


def test_what_matters_most_comes_first():
    cases = layers.cases(layers.REAL, torch.device("cuda"))
    keys = [one.key for one in cases]
    assert len(set(keys)) == len(keys)
    headline = {"flash", "LSH-2", "LSH-4", "LSH-2, Triton", "LSH-4, Triton", "Performer", "Performer, Triton"}
    of_headline = [key.split(" / ")[0] in headline for key in keys]
    assert of_headline == sorted(of_headline, reverse=True)
    assert keys[:4] == [key_of(name, 4096, layers.BOTH) for name in ("flash", "LSH-2")] + [
        key_of("LSH-2", 4096, layers.STEP),
        key_of("LSH-4", 4096, layers.BOTH),
    ]
    lengths = {int(key.split(" / ")[1]) for key in keys}
    assert lengths == {2**power for power in range(10, 18)}


def deadly(length, sizes):
    os.kill(os.getpid(), signal.SIGKILL)


def run_stage(path):
    """The stage with three layers, of which the second kills the process."""
    torch.set_num_threads(1)
    layers.CONTENDERS = {name: layers.CONTENDERS[name] for name in ("flash", "LSH-2", "full")}
    layers.CONTENDERS["LSH-2"] = layers.CONTENDERS["LSH-2"]._replace(make=deadly)
    layers.TINY = layers.TINY._replace(lengths=(64,))
    all_cases = layers.cases
    layers.cases = lambda *settings: [one for one in all_cases(*settings) if one.key.endswith(layers.BOTH)]
    sys.argv = ["layers", "--device", "cpu", "--tiny", "--output", str(path)]
    layers.main()


@pytest.mark.slow
def test_a_case_that_kills_the_process_is_left_out_by_the_next_start(tmp_path, forkserver):
    path = tmp_path / "layers.json"

    def run():
        process = forkserver.Process(target=run_stage, args=(path,))
        process.start()
        process.join()
        return process.exitcode

    first, dead, last = (key_of(name, 64, layers.BOTH) for name in ("flash", "LSH-2", "full"))
    assert run() == -signal.SIGKILL
    before = json.loads(path.read_text())
    assert list(before["cases"]) == [first]
    assert fail_running_case(path, "died") == dead
    assert run() == 0
    after = json.loads(path.read_text())
    assert after["complete"]
    assert list(after["cases"]) == [first, dead, last]
    assert after["cases"][first] == before["cases"][first]
    assert after["cases"][dead] == failure("died")
    assert "error" not in after["cases"][last]


def with_the_same_weights(layer, other):
    """``other`` with ``layer``'s projections, which lie in the same order."""
    other.to_qkv.weight, other.to_out.weight = layer.to_heads.weight, layer.to_out.weight
    return other.double()


def naive_linear_attention(q, k, v, *, normalize):
    """(b, n, h, ·): sums of phi(q_i) . phi(k_j) v_j over j <= i, divided by those of phi(q_i) . phi(k_j)."""
    assert normalize
    weights = torch.einsum("bihf,bjhf->bhij", q, k).tril()
    return torch.einsum("bhij,bjhd->bihd", weights / weights.sum(-1, keepdim=True), v), None


def test_linear_attention_is_given_the_features_of_our_performer(monkeypatch):
    ops = types.ModuleType("fla.ops.linear_attn")
    ops.chunk_linear_attn = naive_linear_attention
    for name, module in {
        "fla": types.ModuleType("fla"),
        "fla.ops": types.ModuleType("fla.ops"),
        ops.__name__: ops,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    own = library.performer(130, SIZES, causal=True).double()
    other = with_the_same_weights(own, library.fla_performer(130, SIZES))
    x = torch.randn(2, 130, SIZES.dim, dtype=torch.float64)
    torch.testing.assert_close(other(x), own(x))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_sliding_window_sees_so_many_keys_up_to_itself(monkeypatch):
    compile_for_real = torch.compile  # which FlexAttention calls itself
    monkeypatch.setattr(torch, "compile", lambda f, **how: f if f is flex_attention else compile_for_real(f, **how))
    torch.manual_seed(0)
    other = library.sliding_window(300, SIZES, keys=70).double()
    x = torch.randn(2, 300, SIZES.dim, dtype=torch.float64)
    q, k, v = (part.unflatten(-1, (2, 16)).transpose(1, 2) for part in other.to_qkv(x).chunk(3, dim=-1))
    near = torch.ones(300, 300, dtype=torch.bool).tril().triu(-69)
    assert near[200].sum() == 70
    weights = (q @ k.mT / math.sqrt(16)).masked_fill(~near, -INF).softmax(-1)
    expected = other.to_out((weights @ v).transpose(1, 2).flatten(2))
    with torch.no_grad():
        torch.testing.assert_close(other(x), expected)


@pytest.mark.parametrize("name", [name for name, one in layers.CONTENDERS.items() if one.steps])
def test_a_step_reads_a_full_cache(name):
    """The cache's last token is the one that is decoded, and all tokens before it may be read."""
    layer = layers.CONTENDERS[name].make(256, SIZES)
    caches = []
    new_cache = layer.new_cache
    layer.new_cache = lambda batch, length: caches.append(new_cache(batch, length)) or caches[0]
    call = layers._step(layer, 2, 256, SIZES.dim)
    for _ in range(3):
        call()
        assert caches[0].length == 256
    if hasattr(caches[0], "keys"):
        assert (caches[0].keys != 0).all()
        assert (caches[0].values != 0).all()
    if hasattr(caches[0], "recent"):
        assert caches[0].recent.float().mean() == pytest.approx(128, abs=8)
        assert caches[0].counts.float().mean() == pytest.approx(64, abs=1)


def test_a_case_says_what_it_took():
    found = layers.measure(layers.CONTENDERS["full"].make, 64, layers.BOTH, layers.TINY, CPU)
    assert found["batch"] == layers.TINY.tokens // 64
    assert len(found["seconds"]) == 1
    assert found["peak"] > 3 * 4 * found["batch"] * 64 * layers.TINY.sizes.dim  # q, k and v are kept for backward
    json.dumps(found)
