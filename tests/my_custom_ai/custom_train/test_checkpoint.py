import logging
import pickle
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_training import assert_same_tensors
from torch import nn

from my_custom_ai.custom_train.checkpoint import (
    CheckpointError,
    fill,
    load_tensors,
    load_weights,
    optimizer_state,
    optimizer_tensors,
    prefixed,
    save_tensors,
    save_weights,
    weights,
    without_prefix,
)
from my_custom_ai.custom_train.checksums import write_sums


class Odd(nn.Module):
    """One of each: tied weights, a strided weight, bfloat16, no dimensions, a buffer of integers, one not kept."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(5, 4)
        self.out = nn.Linear(4, 5, bias=False)
        self.out.weight = self.embedding.weight
        self.strided = nn.Parameter(torch.randn(3, 2).t())
        self.brief = nn.Linear(2, 2, dtype=torch.bfloat16)
        self.scale = nn.Parameter(torch.randn(()))
        self.register_buffer("count", torch.tensor(2**60 + seed))
        self.register_buffer("table", torch.randn(2), persistent=False)


def error_of(call, *arguments):
    """The message, which must be one line."""
    with pytest.raises(CheckpointError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


def test_weights_come_back_bit_for_bit(tmp_path):
    path, model, other = tmp_path / "m.safetensors", Odd(1), Odd(2)
    with torch.no_grad():
        model.brief.weight[0, 0], model.scale[...] = 2.0**-133, -0.0
    note = {"step": 7, "val/loss": 0.1 + 0.2, "text": "ä"}
    save_weights(path, model, note)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    assert load_weights(path, other) == note
    for name, value in other.state_dict().items():
        assert value.dtype == expected[name].dtype
        assert (
            value.contiguous()
            .flatten()
            .view(torch.uint8)
            .equal(expected[name].contiguous().flatten().view(torch.uint8))
        ), name
    assert other.out.weight is other.embedding.weight
    assert not torch.equal(other.table, model.table)


def test_each_flipped_bit_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    save_weights(path, Odd(1), {"step": 7})
    whole, draws = path.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [draws.randrange(*bounds) for bounds in ((8, header), (header, len(whole))) for _ in range(60)]
    for bit in (8 * place + draws.randrange(8) for place in places):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        error_of(load_weights, path, Odd(2))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused(dtype, tmp_path):
    path, tensors = tmp_path / "m.safetensors", weights(Odd(1))
    save_tensors(path, tensors | {"strided": tensors["strided"].to(dtype)})
    assert "strided" in (message := error_of(load_weights, path, Odd(2))) and str(dtype).split(".")[1] in message
    save_tensors(path, tensors | {"strided": tensors["strided"].double()})
    load_weights(path, Odd(2))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused(value, tmp_path):
    path, model = tmp_path / "m.safetensors", Odd(1)
    with torch.no_grad():
        model.out.weight[1, 1] = value
    save_weights(path, model)
    assert "embedding.weight" in error_of(load_weights, path, Odd(2))


def test_file_of_others_is_read_and_said_once_unless_a_checksum_lies_beside_it(tmp_path, caplog):
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING):
        assert load_tensors(path)[0]["a"].tolist() == load_tensors(path)[0]["a"].tolist() == [1, 1]
        assert [str(path) in record.getMessage() for record in caplog.records] == [True]
        other = tmp_path / "beside" / "m.safetensors"
        other.parent.mkdir()
        path.rename(other)
        write_sums(other.parent, [other.name])
        load_tensors(other)
        assert len(caplog.records) == 1
    save_file({"a": torch.zeros(2)}, other, metadata={"format": "pt"})
    assert "SHA256SUMS" in error_of(load_tensors, other)


def test_what_agrees_is_filled_and_the_rest_is_listed():
    """A shape that differs, a name that the model lacks and one that it alone has; nothing at all is refused."""
    model, other = Odd(1), Odd(2)
    tensors = {name: tensor.clone() for name, tensor in weights(model).items()}
    tensors |= {"strided": torch.zeros(3), "more": torch.zeros(1)}
    del tensors["scale"]
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError):
        fill(other, tensors, "there")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    listed = fill(other, tensors, "there", strict=False)
    assert [next(name for name in ("scale", "more", "strided") if name in line) for line in listed] == [
        "scale",
        "more",
        "strided",
    ]
    for name, value in other.state_dict().items():
        source = before if name in ("strided", "scale", "table") else model.state_dict()
        assert torch.equal(value, source[name]), name
    assert "weights of another model" in error_of(lambda: fill(other, {"more": torch.zeros(1)}, "there", strict=False))


def test_shared_weights_are_stored_once_and_an_untied_model_is_another(tmp_path):
    path, model = tmp_path / "m.safetensors", Odd(1)
    save_weights(path, model)
    stored = load_tensors(path)[0]
    assert set(model.state_dict()) - set(stored) == {"out.weight"}
    untied = Odd(2)
    untied.out.weight = nn.Parameter(torch.randn(5, 4))
    assert "lacks out.weight" in error_of(load_weights, path, untied)
    save_weights(path, untied)
    assert "has out.weight, which the model lacks" in error_of(load_weights, path, model)
    assert_same_tensors(load_tensors(path)[0], untied.state_dict())


def test_parts_of_one_memory_are_stored_apart(tmp_path):
    whole = torch.arange(6.0)
    save_tensors(tmp_path / "t", {"front": whole[:4], "back": whole[2:], "all": whole})
    stored = load_tensors(tmp_path / "t")[0]
    assert_same_tensors(stored, {"front": whole[:4], "back": whole[2:], "all": whole})


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adafactor", "SGD"])
def test_optimizer_state_comes_back_bit_for_bit(tmp_path, name):
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    models[1].load_state_dict(models[0].state_dict())
    one, other = (
        getattr(torch.optim, name)(m.parameters(), **({"momentum": 0.9} if name == "SGD" else {})) for m in models
    )

    def update(model, optimizer, seed):
        model(torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    for seed in range(3):
        update(models[0], one, seed)
    tensors, numbers = optimizer_tensors(one.state_dict())
    save_tensors(tmp_path / "o", tensors, numbers)
    models[1].load_state_dict(models[0].state_dict())
    other.load_state_dict(optimizer_state(*load_tensors(tmp_path / "o"), like=other.state_dict()))
    for seed in range(3, 6):
        update(models[0], one, seed)
        update(models[1], other, seed)
    assert_same_tensors(models[0].state_dict(), models[1].state_dict())
    assert_same_tensors(optimizer_tensors(one.state_dict())[0], optimizer_tensors(other.state_dict())[0])


def test_prefixes_come_off_as_they_went_on():
    tensors = {"a": torch.ones(1), "model.a": torch.zeros(1)}
    both = prefixed("model", tensors) | prefixed("models", {"b": torch.ones(1)})
    assert without_prefix("model", both) == tensors


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole, path = tmp_path / "whole", tmp_path / "cut"
    save_tensors(whole, {"a": torch.arange(30.0), "b": torch.ones(2, 2)}, {"step": 1})
    content = whole.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert f"{path}: not a complete safetensors file" in error_of(load_tensors, path)
    path.write_bytes(content + b"x")
    error_of(load_tensors, path)


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("save", [lambda bomb, path: path.write_bytes(pickle.dumps(bomb)), torch.save])
def test_a_pickle_is_not_executed(tmp_path, save):
    path, marker = tmp_path / "model.safetensors", tmp_path / "executed"
    save(Bomb(marker), path)
    assert str(path) in error_of(load_weights, path, nn.Linear(1, 1))
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists()  # it would have gone off


@settings(deadline=None)
@given(content=st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_a_foreign_file_is_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("foreign") / "model.safetensors"
    path.write_bytes(content)
    assert str(path) in error_of(load_tensors, path)


def test_flipped_bits_in_the_header_never_surprise(tmp_path):
    """The header is read or refused in one line; the tensors themselves bear no checksum."""
    path = tmp_path / "m.safetensors"
    save_tensors(path, {"a": torch.arange(4.0)}, {"step": 1})
    content, draw = bytearray(path.read_bytes()), random.Random(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content) - 16)] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            load_tensors(path)
        except CheckpointError as error:
            assert "\n" not in str(error)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    assert error_of(load_tensors, tmp_path / "gone") == f"{tmp_path / 'gone'}: no such file"
    assert error_of(load_tensors, tmp_path) == f"{tmp_path}: no such file"


def test_weights_of_another_model_are_refused_and_the_model_stays_as_it_was(tmp_path):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    good = {name: torch.full_like(value, 9.0) for name, value in model.state_dict().items()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = tmp_path / "m.safetensors"

    def complaint(tensors):
        save_file(tensors, path)
        message = error_of(load_weights, path, model)
        assert message.startswith(f"{path}: weights of another model: ")
        assert_same_tensors(dict(model.state_dict()), before)
        return message

    assert "lacks 1.bias" in complaint({name: value for name, value in good.items() if name != "1.bias"})
    assert "has 2.bias, which the model lacks" in complaint(good | {"2.bias": torch.ones(1)})
    assert "0.weight is (2, 3), the model's is (3, 2)" in complaint(good | {"0.weight": torch.ones(2, 3)})
    assert "0.bias is (), the model's is (3,)" in complaint(good | {"0.bias": torch.ones(())})
    many = complaint({f"x{i}": torch.ones(1) for i in range(50)})
    assert "lacks 0.weight" in many and "(and 51 more)" in many
    save_file(good, path)
    load_weights(path, model)
    assert_same_tensors(dict(model.state_dict()), good)


# -- compiled models, and models in DataParallel --


def inner_compiled(model):
    model[0] = torch.compile(model[0])
    return model


WRAPPED = {
    "not at all": lambda model: model,
    "compiled": torch.compile,
    "in DataParallel": nn.DataParallel,
    "compiled in DataParallel": lambda model: nn.DataParallel(torch.compile(model)),
    "DataParallel, compiled": lambda model: torch.compile(nn.DataParallel(model)),
    "a layer compiled": inner_compiled,
    "a layer in DataParallel": lambda model: nn.Sequential(nn.DataParallel(model[0]), model[1]),
}


def two_layers(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize("into", WRAPPED)
@pytest.mark.parametrize("origin", WRAPPED)
def test_wrappers_do_not_matter(tmp_path, origin, into):
    """Whoever wrote the file: torch's own names as they are, and what is saved here."""
    saved, path = two_layers(1), tmp_path / "m.safetensors"
    expected = {name: value.clone() for name, value in saved.state_dict().items()}
    wrapped = WRAPPED[origin](saved)
    for save in (lambda: save_file(wrapped.state_dict(), path), lambda: save_weights(path, wrapped)):
        save()
        filled = two_layers(2)
        load_weights(path, WRAPPED[into](filled))
        found = [value for _, value in sorted(filled.state_dict().items())]
        assert all(map(torch.equal, found, [value for _, value in sorted(expected.items())]))


def test_a_compiled_model_is_saved_by_its_own_names(tmp_path):
    for name in ("compiled", "a layer compiled"):
        save_weights(tmp_path / "m", WRAPPED[name](two_layers(1)))
        assert set(load_tensors(tmp_path / "m")[0]) == set(two_layers(1).state_dict())


def test_a_part_that_is_called_module_is_not_mistaken_for_a_wrapper(tmp_path):
    def model(seed):
        torch.manual_seed(seed)
        inner = nn.ModuleDict({"a": nn.Linear(2, 2), "module": nn.ModuleDict({"a": nn.Linear(2, 2)})})
        return nn.ModuleDict({"module": inner})

    one, other = model(1), model(2)
    save_weights(tmp_path / "m", one)
    load_weights(tmp_path / "m", other)
    assert_same_tensors(dict(other.state_dict()), dict(one.state_dict()))


def test_names_that_would_become_one_are_refused(tmp_path):
    path, model = tmp_path / "m.safetensors", nn.Linear(2, 2)
    save_file({**model.state_dict(), "module.weight": torch.ones(2, 2)}, path)
    assert "has module.weight, which the model lacks" in error_of(load_weights, path, model)
