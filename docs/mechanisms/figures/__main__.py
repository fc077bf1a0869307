"""Draw the figures of the pages on the mechanisms: python -m docs.mechanisms.figures, in the repository's folder.

Every matrix is what the mechanism itself computes. Writes docs/mechanisms/figures/*.png.
"""

import torch

from docs.mechanisms.figures import matrices, schemes

if __name__ == "__main__":
    for draw in (*matrices.ALL, *schemes.ALL):
        torch.manual_seed(0)
        draw()
