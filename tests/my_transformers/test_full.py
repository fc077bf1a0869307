import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from my_transformers import FullAttention, SharedQKAttention, reference
from my_transformers.masks import HIDDEN, fused_mask


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_full_attention_equals_the_formula(causal: bool, padded: bool) -> None:
    q, k, v = torch.randn(3, 2, 3, 17, 8, dtype=torch.float64).unbind(0)
    mask = torch.ones(2, 17, dtype=torch.bool)
    mask[1, 11:] = not padded
    visible = mask[:, None, None, :] & (torch.ones(17, 17).tril().bool() if causal else torch.tensor(True))
    ours = FullAttention(causal=causal)(q, k, v, mask=mask if padded else None)
    real = mask[:, None, :, None]
    torch.testing.assert_close(ours * real, reference.full_attention(q, k, v, visible) * real)


def test_full_attention_crosses_to_another_length() -> None:
    q = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    k, v = torch.randn(2, 2, 3, 9, 8, dtype=torch.float64).unbind(0)
    mask = torch.arange(9).expand(2, -1) < 6
    ours = FullAttention()(q, k, v, mask=mask)
    torch.testing.assert_close(ours, reference.full_attention(q, k, v, mask[:, None, None, :]))
    with pytest.raises(ValueError, match="5 queries and 9 keys"):
        FullAttention(causal=True)(q, k, v)


@pytest.mark.parametrize("causal", [False, True])
def test_a_token_does_see_itself_in_full_attention(causal: bool) -> None:
    """An earlier system's baseline masked the diagonal."""
    q, k, v = torch.randn(3, 1, 1, 6, 4, dtype=torch.float64).unbind(0)
    changed = v.clone()
    changed[:, :, 3] += 1
    attend = FullAttention(causal=causal)
    assert (attend(q, k, changed) - attend(q, k, v))[0, 0, 3].abs().min() > 1e-4


@pytest.mark.parametrize("causal", [False, True])
def test_shared_query_key_attention_equals_the_formula(causal: bool) -> None:
    qk, v = torch.randn(2, 2, 3, 17, 8, dtype=torch.float64).unbind(0)
    visible = ~torch.eye(17, dtype=torch.bool)
    if causal:
        visible = visible.tril()
        visible[0, 0] = True  # nothing else to see
    keys = qk / qk.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(SharedQKAttention(causal=causal)(qk, v), reference.full_attention(qk, keys, v, visible))


def test_a_lonely_token_gives_its_own_value() -> None:
    qk, v = torch.randn(2, 1, 1, 4, 8).unbind(0)
    mask = torch.tensor([[False, False, True, False]])
    torch.testing.assert_close(SharedQKAttention()(qk, v, mask=mask)[0, 0, 2], v[0, 0, 2])


@pytest.mark.parametrize("mechanism", [FullAttention, SharedQKAttention])
def test_dropout_out_of_range_is_refused(mechanism: type) -> None:
    with pytest.raises(ValueError, match=r"dropout is 1\.5"):
        mechanism(dropout=1.5)


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_hidden_keys_have_no_weight_whatever_their_scores_on_a_gpu_in_bfloat16() -> None:
    """cuDNN would add -65504 to them. Without a GPU: the mask as it would go there, added to scores here."""
    visible = torch.ones(5, 5, dtype=torch.bool).tril()
    with FakeTensorMode() as fake:
        q = {dtype: torch.empty(1, 1, 5, 8, dtype=dtype, device="cuda") for dtype in (torch.float32, torch.bfloat16)}
        there = fake.from_tensor(visible).to("cuda")
        assert fused_mask(there, q[torch.float32]).dtype == torch.bool
        assert fused_mask(there, q[torch.bfloat16]).dtype == torch.bfloat16
    assert fused_mask(visible, torch.empty(1, dtype=torch.bfloat16)) is visible
    scores = torch.randn(5, 5).mul(1e9).bfloat16()
    weights = (scores + torch.zeros(5, 5, dtype=torch.bfloat16).masked_fill(~visible, HIDDEN)).softmax(-1)
    torch.testing.assert_close(weights, scores.masked_fill(~visible, -torch.inf).softmax(-1))
