"""Efficient attention, hand-written in PyTorch. Needs torch and nothing else.

Start with reference.py: it defines every mechanism in a plain function of about ten lines. Then read the mechanism's
class. mechanism.py and settings.py say what a mechanism is; registry.py lists them all.

Glossary; each term has one meaning throughout the library:

    dim, heads, head_dim, ffn_dim, depth   sizes of a model; dim is the width of the activations
    max_len                                the maximum number of tokens that a module accepts
    shared query-key (qk)                  one projection serves as query and, at unit length, as key
    see, visible                           a query sees a key if it attends to it; such a key is visible to the query
    round, n_rounds                        one independent hashing of all tokens; the number of rounds
    bucket, n_buckets                      one value of the hash; the number of values
    bucket_size                            expected number of tokens per bucket
    window                                 the number of tokens of its own bucket that a query sees on each side
    chunk                                  consecutive tokens, or sorted tokens, that attend together
    circle                                 wrap-around: pad to a multiple of this many tokens, then join the two ends
    rank                                   the number of tokens a Linformer projects keys and values to (the paper's k)
    n_features                             size of a Performer's feature map (the paper's m or r)
    landmark                               mean of a segment of the sequence (Nystrom attention)
    columns, off_grid                      width of the grid that the sequence fills row by row; leading tokens off it
    causal                                 a token attends only to itself and earlier tokens
    mask                                   (batch, length), True where a token is real, False where it is padding
    context, cross-attention               the sequence that a decoder also attends to: the encoder's output
    cache, step                            what decoding keeps of earlier tokens; one call that adds the next tokens

Activations are (batch, length, dim), heads (batch, heads, length, head_dim).
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    __version__ = version("dl-proj")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

if TYPE_CHECKING:
    from my_transformers.exports import *  # noqa: F403 (exactly its __all__)
else:

    def __getattr__(name: str) -> Any:
        """Load a public name from exports.py on first use, so that reading settings imports no torch (PEP 562)."""
        if not name.startswith("__") or name == "__all__":
            exports = import_module("my_transformers.exports")
            if name == "__all__" or name in exports.__all__:
                return getattr(exports, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
