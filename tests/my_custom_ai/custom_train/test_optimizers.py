import pytest
import torch
from torch import nn

from my_custom_ai.custom_train.optimizers import build_optimizer

NAMES = ["adam", "adamw", "adafactor"]


@pytest.mark.parametrize("name", NAMES)
def test_reduces_a_convex_loss(name):
    torch.manual_seed(0)
    x, model = torch.randn(64, 5), nn.Linear(5, 3)
    y = x @ torch.randn(5, 3) + 1
    optimizer = build_optimizer(model, name, lr=0.05)

    def loss():
        return (model(x) - y).square().mean()

    start = loss().item()
    for _ in range(200):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.05 * start


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_matrices_decay_and_vectors_do_not(name):
    """Without a gradient decoupled decay is all that moves a weight: by the factor 1 - lr * weight_decay."""
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Conv1d(2, 2, 3))
    nn.init.normal_(model[0].bias)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = build_optimizer(model, name, lr=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for n, p in model.named_parameters():
        assert torch.allclose(p, before[n] * (0.95 if p.ndim >= 2 else 1.0), rtol=1e-6, atol=1e-9), n


def test_adam_takes_decay_of_matrices_as_gradient():
    model = nn.Linear(3, 4)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = build_optimizer(model, "adam", lr=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(model.weight, before["weight"] - 0.1 * before["weight"].sign(), atol=1e-5)
    assert torch.equal(model.bias, before["bias"])


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_settings_arrive(name):
    optimizer = build_optimizer(nn.Linear(2, 2), name, lr=0.3, weight_decay=0.01, betas=(0.5, 0.6), eps=0.1)
    assert type(optimizer) is {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.3, (0.5, 0.6), 0.1)


@pytest.mark.parametrize("name", NAMES)
def test_takes_each_parameter_that_wants_a_gradient_once(name):
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False))
    model[2].weight = model[0].weight
    model[1].weight.requires_grad_(False)
    taken = [id(p) for group in build_optimizer(model, name, lr=1e-3).param_groups for p in group["params"]]
    assert sorted(taken) == sorted([id(model[0].weight), id(model[1].bias)])


@pytest.mark.parametrize("shape", [(3,), (3, 3)])
def test_vectors_alone_and_matrices_alone(shape):
    model = nn.ParameterList([torch.zeros(shape)])
    assert len(build_optimizer(model, "adam", lr=1e-3).param_groups) == 1


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="'sgd', must be adam, adamw or adafactor"):
        build_optimizer(nn.Linear(1, 1), "sgd", lr=0.1)
