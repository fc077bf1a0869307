"""Efficient attention, hand-written in PyTorch: usable by itself, needs torch alone.

Start with reference.py: the definition of every mechanism, a plain function of some ten lines. Then its class.

One word per thing, everywhere:

    dim, heads, head_dim, ffn_dim, depth   sizes of a model; dim is the width of the activations
    max_len                                tokens, the most that a module can take
    shared query-key (qk)                  one projection serves as query and, at unit length, as key
    round, n_rounds                        one independent hashing; how many there are
    bucket, n_buckets                      a value that a hash can take; how many there are
    bucket_size                            expected tokens per bucket
    window                                 tokens of its bucket, in sorted order, that a query can see on one side
    chunk                                  consecutive tokens, or sorted tokens, that attend together
    circle                                 a sequence is padded to a multiple of so many tokens, and its ends then meet
    rank                                   tokens that a Linformer projects the keys and values to (the paper's k)
    n_features                             size of a Performer's feature map (the paper's m or r)
    columns, off_grid                      of a grid that a sequence fills row by row; tokens before it without a place
    causal                                 a token attends only to itself and earlier tokens
    mask                                   (batch, length), True where a token is real
    context, cross-attention               other tokens that a decoder's attend to: the encoder's output
    cache, step                            what decoding keeps of earlier tokens, a row per sequence; the next tokens

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
        """Take a public name from exports.py, imported no earlier: settings are read without torch (PEP 562)."""
        if not name.startswith("__") or name == "__all__":
            exports = import_module("my_transformers.exports")
            if name == "__all__" or name in exports.__all__:
                return getattr(exports, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
