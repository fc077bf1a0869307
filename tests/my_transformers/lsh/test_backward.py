import pytest
import torch

from my_transformers.lsh.backward import _band
from my_transformers.lsh.layout import BlockLayout, BlockRange
from my_transformers.memory import Scratch


@pytest.mark.parametrize(("blocks_before", "blocks_after"), [(1, 0), (2, 0), (2, 2), (0, 1)])
@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_the_band_is_a_matrix_of_queries_and_keys(blocks_before: int, blocks_after: int, block_size: int) -> None:
    """What is written by query is read by key as the columns of the whole matrix, with zeros where no query is."""
    n_blocks = 4
    layout = BlockLayout(n_blocks * block_size, block_size, blocks_before, blocks_after, earlier_positions_only=0)
    c, s, padding = block_size, layout.keys_per_query, layout.padding
    scratch = Scratch(torch.device("cpu"))
    scratch("band", 1000, dtype=torch.float32).fill_(torch.nan)  # what earlier work left there
    by_query, by_key = _band(BlockRange(torch.empty(0), 0, n_blocks, layout), torch.float32, scratch)
    by_query.copy_(torch.rand(n_blocks, c, s))
    whole = torch.zeros(n_blocks * c + 2 * padding, n_blocks * c + padding)  # queries with padding, keys
    for block in range(n_blocks):
        queries = slice(padding + block * c, padding + (block + 1) * c)
        whole[queries, block * c : block * c + s] = by_query[block]
    assert by_key.shape == (n_blocks + layout.neighbours, s, c)
    for block, columns in enumerate(by_key):
        assert torch.equal(columns, whole[block * c : block * c + s, block * c : (block + 1) * c])
