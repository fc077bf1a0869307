"""Stacks under FSDP2: outputs and gradients are those of the same stack on one process, on all data."""

import copy

import pytest
import torch
from decoders import decoder_layers
from several_processes import on_processes
from torch import distributed

from my_transformers import (
    EncoderLayer,
    EncoderStack,
    FeedForward,
    LearnedProjection,
    LinformerAttention,
    LSHAttention,
    MultiHeadAttention,
    ReversibleDecoderStack,
    ReversibleStack,
)

pytestmark = pytest.mark.slow


def encoder(stack, attention, **settings):
    layers = [
        EncoderLayer(
            MultiHeadAttention(attention(i), dim=16, heads=4),
            FeedForward(16, 10),  # ten rows are no multiple of four processes
            dim=16,
            dropout=0.2,
        )
        for i in range(3)
    ]
    return stack(layers, dim=16, **settings)


def hashed(i):
    return LSHAttention(bucket_size=4, n_rounds=2, max_len=12, seed=i)


def shared():
    projection = LearnedProjection(12, 5)
    return lambda _: LinformerAttention(projection, dropout=0.2)


CASES = {
    "plain, shared projection": lambda: encoder(EncoderStack, shared()),
    "recomputed": lambda: encoder(EncoderStack, hashed, recompute=True),
    "reversible": lambda: encoder(ReversibleStack, hashed),
    "reversible, shared projection": lambda: encoder(ReversibleStack, shared()),
    "reversible decoder": lambda: ReversibleDecoderStack(decoder_layers(2, "lsh", "linformer", dropout=0.2), dim=16),
}


def with_gradients(stack, rank):
    """One process's batch through a stack, twice, as in an accumulation; outputs of evaluation and training."""
    x, context, weights = torch.randn(3, 2, 12, 16, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)
    inputs = (x, context) if isinstance(stack, ReversibleDecoderStack) else (x,)
    torch.manual_seed(5)  # of dropout and hashes
    with torch.no_grad():
        outputs = [stack(*inputs)]
    for _ in range(2):
        outputs.append(stack(*inputs))
        (outputs[-1] * weights).sum().backward()
    return outputs


def on_one_and_on_all():
    """Largest differences between each sharded stack and the mean of the same stack's gradients over all data."""
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo")
    rank, n = distributed.get_rank(), distributed.get_world_size()
    found = {}
    for name, build in CASES.items():
        torch.manual_seed(0)
        alone = build().double().train()
        ours = copy.deepcopy(alone)
        if "shared" in name:
            fully_shard(ours.layers[0].attention.mechanism.project_keys)
        for unit in [*ours.layers, ours]:
            fully_shard(unit)
        outputs = with_gradients(ours, rank)
        expected = [with_gradients(alone, other) for other in range(n)][rank]
        differences = [(a - b).abs().max().item() for a, b in zip(outputs, expected, strict=True)]
        for own, parameter in zip(ours.parameters(), alone.parameters(), strict=True):
            assert own.grad.shape == parameter.shape and own.grad.to_local().numel() <= parameter.numel()
            assert parameter.grad.abs().max() > 1e-3
            differences.append((own.grad.full_tensor() - parameter.grad / n).abs().max().item())
        found[name] = max(differences)
    distributed.destroy_process_group()
    return found


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view:UserWarning")
@pytest.mark.parametrize("n", [2, 4])
def test_sharded_stacks_equal_whole_ones(n, forkserver, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for found in on_processes(n, forkserver, on_one_and_on_all):
        assert found.keys() == CASES.keys() and max(found.values()) < 1e-11, found
