"""Models to and from the hub: by a folder, and by an upload that a mock receives."""

import dataclasses
import hashlib
import json
import re
import shutil
import socket
from pathlib import Path
from unittest import mock

import pytest
import torch
from huggingface_hub import HfApi, ModelCard

import dl_proj
from dl_proj.checkpoint_folder import find_checkpoint
from dl_proj.hub import HubModel
from my_custom_ai.custom_train import CheckpointError


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a test wants the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def assert_same_model(one, other):
    assert one.config == other.config
    own, others = one.model.state_dict(), other.model.state_dict()
    assert own.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in own.items())


@pytest.mark.parametrize("checkpoint", ["mnist-cls-lsh-r4", "lm-books-reformer", "translation-multi30k"])
def test_model_comes_back_from_its_folder(checkpoint, tmp_path):
    saved = HubModel.of(checkpoint)
    saved.save_pretrained(tmp_path / "saved")
    back = HubModel.from_pretrained(tmp_path / "saved")
    assert_same_model(saved.trained, back.trained)
    assert_same_model(saved.trained, dl_proj.load(tmp_path / "saved"))
    assert json.loads((tmp_path / "saved/config.json").read_text()) == saved.trained.config.model_dump(mode="json")
    if checkpoint == "translation-multi30k":
        sentence = "Two dogs play in the snow."
        assert back.trained.translate(sentence) == saved.trained.translate(sentence)
    if checkpoint == "mnist-cls-lsh-r4":
        images = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
        assert torch.equal(back(images), saved.trained.model(images))


def test_what_is_saved_has_its_checksums(tmp_path):
    """As ``sha256sum -c`` reads them: those of what was saved, not of the checkpoint; a change is refused."""
    HubModel.of("translation-multi30k").save_pretrained(tmp_path)
    lines = dict(reversed(line.split("  ")) for line in (tmp_path / "SHA256SUMS").read_text().splitlines())
    assert lines.keys() == {"model.safetensors", "tokenizer.json"}
    for name, digest in lines.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    HubModel.of("mnist-cls-lsh-r4").save_pretrained(tmp_path / "digits")
    for path in (tmp_path / "tokenizer.json", tmp_path / "digits/classes.json"):
        path.write_text(f"{path.read_text()} ")  # of the same meaning
        with pytest.raises(CheckpointError, match=f"{re.escape(str(path))}.*SHA256SUMS"):
            HubModel.from_pretrained(path.parent)


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", '{"test/loss": 0.5, "test/words": "x"', "\xff"])
def test_figures_that_are_none_are_refused_by_name(text, tmp_path):
    folder = shutil.copytree(find_checkpoint("mnist-cls-lsh-r4"), tmp_path / "own")
    (folder / "metrics.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=re.escape(str(folder / "metrics.json"))):
        HubModel.of(folder).save_pretrained(tmp_path / "saved")


def test_classes_of_a_picture_folder_come_along(tmp_path):
    saved = HubModel.of("mnist-cls-lsh-r4")
    other = dataclasses.replace(saved.trained, classes=tuple("abcdefghij"))
    HubModel(other).save_pretrained(tmp_path)
    assert HubModel.from_pretrained(tmp_path).trained.classes == other.classes


def test_card_states_figures_and_how_the_model_was_trained(tmp_path):
    HubModel.of("mnist-cls-lsh-r4").save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.tags == ["efficient-attention", "classification"]
    assert "| test/accuracy | 0.9884 |" in card.text
    assert "65,866 parameters" in card.text
    assert (tmp_path / "config.yaml").read_text().strip() in card.text


def test_push_uploads_the_folder_and_pull_reads_it(tmp_path):
    uploaded = tmp_path / "hub"

    def upload(_, *, repo_id, folder_path, **__):
        Path(folder_path).rename(uploaded)
        return f"https://huggingface.co/{repo_id}/commit/0"

    with (
        mock.patch.object(HfApi, "create_repo", return_value=mock.Mock(repo_id="me/digits")),
        mock.patch.object(HfApi, "upload_folder", upload),
    ):
        HubModel.of("mnist-cls-lsh-r4").push_to_hub("me/digits")
    names = {"README.md", "config.json", "config.yaml", "model.safetensors", "metrics.json", "classes.json"}
    names.add("SHA256SUMS")
    assert {path.name for path in uploaded.iterdir()} == names

    def download(*_, filename, **__):
        return str(uploaded / filename)

    with (
        mock.patch("huggingface_hub.hub_mixin.hf_hub_download", download),
        mock.patch("dl_proj.hub.snapshot_download", return_value=str(uploaded)) as snapshot,
    ):
        back = HubModel.from_pretrained("me/digits", revision="main")
    assert snapshot.call_args.args == ("me/digits",)
    assert snapshot.call_args.kwargs["revision"] == "main"
    assert_same_model(back.trained, dl_proj.load("mnist-cls-lsh-r4"))


def test_arguments_that_nobody_knows_are_refused(tmp_path):
    HubModel.of("mnist-cls-lsh-r4").save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="colour"):
        HubModel.from_pretrained(tmp_path, colour="red")
