"""Loss and accuracy count the answers alone, in parallel and token by token."""

import pytest
import torch
from torch.utils.data import default_collate

from dl_proj.experiments.copy.settings import SynthTrainConfig
from dl_proj.experiments.copy.train import build_copy_model, recall_dataset
from dl_proj.experiments.recall.dataset import NONE
from dl_proj.experiments.recall.objective import RecallObjective

CONFIG = {
    "data": {"task": "recall", "vocab_size": 20, "length": 24, "n_pairs": 3, "n_train": 8, "n_val": 4, "n_test": 4},
    "model": {"dim": 16, "heads": 2, "depth": 2, "ffn_dim": 16, "attention": {"kind": "full"}},
    "train": {"max_steps": 1, "batch_size": 4},
}


def model_and_batch(attention=None, n=6):
    model = {**CONFIG["model"], "attention": attention or {"kind": "full"}}
    config = SynthTrainConfig.model_validate(CONFIG | {"model": model})
    data = recall_dataset(config.data, "train", n, config.seed)
    return build_copy_model(config).eval(), default_collate([data[i] for i in range(n)])


def by_hand(model, batch):
    """Loss and hits of one sequence after the other, one answer after the other."""
    losses, hits = [], []
    for tokens, answers in zip(*batch, strict=True):
        logits = model(tokens.unsqueeze(0))[0]
        for at, answer in enumerate(answers.tolist()):
            if answer != NONE:
                losses.append(-logits[at].log_softmax(-1)[answer].item())
                hits.append(logits[at].argmax().item() == answer)
    return losses, hits


def test_loss_and_accuracy_are_those_of_the_answers_alone():
    model, batch = model_and_batch()
    with torch.no_grad():
        model.to_logits.weight.mul_(30)  # so that some answers are right
        found = RecallObjective().measure(model, batch)
    losses, hits = by_hand(model, batch)
    assert 0 < sum(hits) < len(hits) == found["loss"].count == 18
    assert found["loss"].total.item() == pytest.approx(sum(losses), rel=1e-5)
    assert found["accuracy"].total.tolist() == [sum(hits[3 * i : 3 * i + 3]) for i in range(6)]
    assert found["accuracy"].count.tolist() == [3] * 6


def test_what_follows_a_query_does_not_matter():
    model, (tokens, answers) = model_and_batch()
    after = tokens.clone()
    last = int((answers != NONE).nonzero()[:, 1].max())
    after[:, last + 1 :] = 7
    measure = RecallObjective().measure
    assert torch.equal(measure(model, (tokens, answers))["loss"].total, measure(model, (after, answers))["loss"].total)


@pytest.mark.parametrize(
    "attention", [{"kind": "full"}, {"kind": "lsh", "bucket_size": 4}, {"kind": "performer", "n_features": 16}], ids=str
)
def test_token_by_token_it_answers_as_in_parallel(attention):
    model, batch = model_and_batch(attention)
    model.train()
    objective = RecallObjective()
    with torch.no_grad():
        model.to_logits.weight.mul_(30)
    decoded = objective.decoded_accuracy(model, batch)
    assert model.training
    with torch.no_grad():
        accuracy = objective.measure(model.eval(), batch)["accuracy"]
        assert torch.allclose(model.logits_in_steps(batch[0]), model(batch[0]), atol=1e-4)
    assert decoded == pytest.approx(accuracy.total.sum().item() / accuracy.count.sum().item())


def test_logits_are_taken_where_they_are_asked_for():
    model, (tokens, answers) = model_and_batch()
    asked = answers != NONE
    assert torch.equal(model(tokens, at=asked), model(tokens)[asked])
