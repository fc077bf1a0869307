import random

import numpy as np
import torch

from my_custom_ai.custom_train.checkpoint import load_tensors, save_tensors
from my_custom_ai.utils.seeding import generator_states, seed_everything, set_generator_states

CPU = torch.device("cpu")


def draws():
    return [
        *(f() for f in (random.random, lambda: random.gauss(0, 1), np.random.random, np.random.standard_normal)),
        torch.rand(3).tolist(),
        torch.randn(17).tolist(),
        torch.randint(9, (4,)).tolist(),
    ]


def test_states_go_through_a_file_and_give_the_same_draws(tmp_path):
    seed_everything(3)
    random.gauss(0, 1), np.random.standard_normal()  # both now hold a second number back
    save_tensors(tmp_path / "g", generator_states(CPU))
    expected = [draws(), draws()]
    seed_everything(4)
    set_generator_states(load_tensors(tmp_path / "g")[0], CPU)
    assert [draws(), draws()] == expected


def test_reading_a_state_draws_nothing():
    seed_everything(3)
    expected = draws()
    seed_everything(3)
    generator_states(CPU)
    assert draws() == expected


def test_a_seed_seeds_all_and_another_differs_in_all():
    seed_everything(3)
    one = draws()
    seed_everything(3)
    assert draws() == one
    seed_everything(4)
    assert not any(a == b for a, b in zip(draws(), one, strict=True))
    seed_everything(2**31 + 5)  # more than numpy's 32 bits hold with a rank added
