"""import_reformer.py: convert a Reformer saved by the transformers library to a checkpoint.

Its LSH layers become :class:`~my_transformers.TransformersLSHAttention`; settings without a counterpart are refused.
Dropout is placed where our layers have it, which does not affect evaluation.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dl_proj.checkpoint_folder import TOKENIZER
from dl_proj.experiments.language.data_settings import BytesConfig
from dl_proj.experiments.language.import_settings import ImportReformerConfig
from dl_proj.experiments.language.settings import LanguageTrainConfig
from dl_proj.experiments.language.train import build_configured
from dl_proj.settings.errors import ConfigError, shown
from dl_proj.text.tokenizers import Tokenizer, load_tokenizer
from my_custom_ai.custom_train.checkpoint import save_weights, unwrapped
from my_custom_ai.utils.files import write_text

Settings = dict[str, Any]
"""The settings of a configuration file, by name."""

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"  # replaces it if the weights are in several files
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")  # a name without a folder
_NON_BYTES = 2  # extra symbols before the bytes in a vocabulary of 258: token = byte + 2 (google/reformer-enwik8)
_KEY_EPSILON = 1e-6  # added by transformers to the mean square of a query when it is normalised to a key
_DEFAULTS: Settings = {  # of optional settings
    "architectures": None,
    "axial_pos_embds": True,
    "chunk_size_feed_forward": 0,
    "hash_seed": None,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.0,
    "is_decoder": False,
    "layer_norm_eps": 1e-12,
    "local_attention_probs_dropout_prob": 0.0,
    "local_num_chunks_after": 0,
    "local_num_chunks_before": 1,
    "lsh_attention_probs_dropout_prob": 0.0,
    "lsh_num_chunks_after": 0,
    "lsh_num_chunks_before": 1,
    "num_buckets": None,
    "num_hashes": 1,
    "tie_word_embeddings": False,
}
_SIZES = (  # required whole numbers
    "attention_head_size",
    "feed_forward_size",
    "hidden_size",
    "num_attention_heads",
    "num_hashes",
    "vocab_size",
)
_ATTENTION = {"lsh": ("query_key", "value"), "local": ("query", "key", "value")}  # projections by kind


def import_reformer(config: ImportReformerConfig) -> None:
    """Write the checkpoint: model.safetensors, config.yaml and, for subwords, tokenizer.json.

    Raises:
        ConfigError: missing files, settings without a counterpart, or a vocabulary that does not fit the tokenizer.
    """
    theirs = read_settings(_find(config.source, "config.json"))
    tokenizer = _tokenizer(config)
    ours = _our_config(config, theirs)
    n_unused = _unused_symbols(theirs["vocab_size"], tokenizer, ours)
    weights = translated_weights(_read_weights(config.source), theirs, config.data.window)
    for name in ("embedding.weight", "to_logits.weight", "to_logits.bias"):
        weights[name] = weights[name][n_unused:]
    model = build_configured(ours, tokenizer)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(f"source: model.safetensors does not match config.json: {error}".splitlines()[0]) from None
    config.output_dir.mkdir(parents=True, exist_ok=True)
    tokenizer.save(config.output_dir / TOKENIZER)
    write_text(config.output_dir / "config.yaml", yaml.safe_dump(ours.model_dump(mode="json"), sort_keys=False))
    save_weights(config.output_dir / "model.safetensors", model)
    print(f"written: {config.output_dir}")


def _find(source: str, name: str) -> Path:
    """Return the path of a file in a folder or on the hub."""
    if path := _find_optional(source, name):
        return path
    folder = Path(source)
    if not folder.is_dir():
        raise ConfigError(f"source: {source} has no {name} on the hub; load and save the model with transformers")
    pickled = "; pytorch_model.bin could run code, so it is never read: load and save the model with transformers"
    raise ConfigError(f"source: {folder} has no {name}{pickled if (folder / 'pytorch_model.bin').is_file() else ''}")


def _find_optional(source: str, name: str) -> Path | None:
    """Return the path of a file in a folder or on the hub; None if there is none."""
    folder = Path(source)
    if not folder.is_dir():
        return _download(source, name)
    return folder / name if (folder / name).is_file() else None


def _download(source: str, name: str) -> Path | None:
    # imported here because it takes a second
    from huggingface_hub import errors, hf_hub_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it would report each retry without a network
    unreachable = ConfigError(
        f"source: {source} is not a folder, and the Hugging Face hub cannot be reached; pass a folder written by "
        "save_pretrained"
    )
    try:
        return Path(hf_hub_download(source, name))
    except (errors.HFValidationError, errors.RepositoryNotFoundError):
        raise ConfigError(f"source: {source} is neither a folder nor a model on the Hugging Face hub") from None
    except errors.LocalEntryNotFoundError:
        raise unreachable from None
    except errors.EntryNotFoundError:
        return None
    except OSError:
        raise unreachable from None


def read_settings(path: Path) -> Settings:
    """Read a config.json, with defaults for optional settings.

    Raises:
        ConfigError: not JSON, or not a mapping.
    """
    return _DEFAULTS | _read_mapping(path)


def _read_mapping(path: Path) -> Settings:
    try:
        settings = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: must be a mapping of settings (got {shown(settings)})")
    return settings


def _read_weights(source: str) -> dict[str, Tensor]:
    """Read all tensors from one file or several, by their names without those of wrappers such as torch.compile's."""
    path = _find_optional(source, _WEIGHTS)
    index = None if path else _find_optional(source, _INDEX)
    tensors = _read_shards(source, index) if index else _read_tensors(path or _find(source, _WEIGHTS))
    return unwrapped(tensors)


def _read_shards(source: str, index: Path) -> dict[str, Tensor]:
    """Read the tensors of a model in several files; the index maps tensor names to files."""
    file_of = _read_mapping(index).get("weight_map")
    if not isinstance(file_of, dict) or not file_of:
        raise ConfigError(f"{index}: weight_map: must map tensor names to files (got {shown(file_of)})")
    for name, file in file_of.items():
        if not isinstance(file, str) or not _SHARD.fullmatch(file):  # '../' could lead anywhere
            raise ConfigError(
                f"{index}: weight_map: {name}: must be the name of a .safetensors file beside it (got {shown(file)})"
            )
    shards = {file: _read_tensors(_find(source, file)) for file in dict.fromkeys(file_of.values())}
    if missing := [(name, file) for name, file in file_of.items() if name not in shards[file]]:
        name, file = missing[0]
        raise ConfigError(f"source: {file} has no {name!r}, contrary to {_INDEX}")
    return {name: shards[file][name] for name, file in file_of.items()}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ConfigError(f"{path}: not a safetensors file: {error}") from None


def _tokenizer(config: ImportReformerConfig) -> Tokenizer:
    if isinstance(config.data.tokenizer, BytesConfig):
        return Tokenizer()
    path = _find(config.source, TOKENIZER)
    try:
        return load_tokenizer(path)
    except ValueError as error:
        raise ConfigError(f"data.tokenizer: {path} must be a byte-level BPE or a WordPiece ({error})") from None


def _unused_symbols(theirs: int, tokenizer: Tokenizer, ours: LanguageTrainConfig) -> int:
    """Return how many symbols at the start of their vocabulary never occur in the text."""
    own = tokenizer.n_symbols if ours.causal else tokenizer.vocab_size
    is_bytes = isinstance(ours.data.tokenizer, BytesConfig)
    allowed = [own, own + _NON_BYTES] if is_bytes else [own]
    if theirs not in allowed:
        raise ConfigError(
            f"vocab_size: {theirs}: must be {' or '.join(map(str, allowed))} for data.tokenizer.kind: "
            f"{ours.data.tokenizer.kind}"
        )
    return theirs - own


def _our_config(config: ImportReformerConfig, theirs: Settings) -> LanguageTrainConfig:
    if mistakes := unsupported(theirs):
        raise ConfigError(*(f"{config.source}: config.json: {line}" for line in mistakes))
    values = {
        "experiment_name": "imported-reformer",
        "objective": {"kind": "causal" if theirs["is_decoder"] else "masked"},
        "data": config.data.model_dump(),
        "model": translated_settings(theirs),
        "optimizer": {"lr": 1e-4},  # for training with --init_from; the original value is not recorded
        "train": {"max_steps": 1000},
    }
    try:
        return LanguageTrainConfig.model_validate(values)
    except ValidationError as error:  # an unsuitable data.window
        found = [mistake["msg"].removeprefix("Value error, ") for mistake in error.errors()]
        raise ConfigError(*(line for message in found for line in message.splitlines())) from None


def unsupported(theirs: Settings) -> list[str]:
    """Return a line for each setting without a counterpart: the key, its value and what is supported."""
    kinds = set(theirs.get("attn_layers") or ())
    if not kinds or kinds - _ATTENTION.keys():
        return [f"attn_layers: {shown(theirs.get('attn_layers'))}: must be a list of {' and '.join(_ATTENTION)}"]
    sizes = [*_SIZES, *(f"{kind}_attn_chunk_length" for kind in sorted(kinds))]
    wrong = [key for key in sizes if not isinstance(theirs.get(key), int) or theirs[key] < 1]
    if wrong:
        return [f"{key}: {shown(theirs.get(key))}: must be a whole number, at least 1" for key in wrong]
    causal = theirs["is_decoder"]
    allowed: dict[str, list[Any]] = {
        "model_type": ["reformer"],
        "hidden_act": ["relu", "gelu"],
        "tie_word_embeddings": [False],
    }
    if "lsh" in kinds:
        allowed |= {"lsh_num_chunks_before": [1], "lsh_num_chunks_after": [0]}
    if "local" in kinds:  # with more, transformers repeats chunks in a sequence of few chunks
        allowed |= {"local_num_chunks_before": [0, 1], "local_num_chunks_after": [0] if causal else [0, 1]}
    found = [
        f"{key}: {shown(theirs[key])}: must be {' or '.join(map(shown, values))}"
        for key, values in allowed.items()
        if theirs[key] not in values
    ]
    architecture = "ReformerModelWithLMHead" if causal else "ReformerForMaskedLM"
    if theirs.get("architectures") != [architecture]:
        found.append(
            f"architectures: {shown(theirs['architectures'])}: must be {[architecture]} with is_decoder: "
            f"{shown(causal)}"
        )
    if "lsh" in kinds and theirs["num_buckets"] is None and theirs["hash_seed"] is not None:
        found.append(
            "num_buckets: null: must be a number, or a list of factors, with a hash_seed; transformers sets it from "
            "the first input and saves it"
        )
    return found


def translated_settings(theirs: Settings) -> Settings:
    """Translate their settings into those of a LanguageModelConfig."""
    positions = {"kind": "learned"}
    if theirs["axial_pos_embds"]:
        positions = {"kind": "axial", "shape": theirs["axial_pos_shape"], "dims": theirs["axial_pos_embds_dim"]}
    mechanisms = {"local": _local, "lsh": _lsh}
    return {
        "dim": theirs["hidden_size"],
        "heads": theirs["num_attention_heads"],
        "head_dim": theirs["attention_head_size"],
        "attention_bias": False,
        "ffn_dim": theirs["feed_forward_size"],
        "ffn_chunk_size": theirs["chunk_size_feed_forward"],
        "activation": theirs["hidden_act"],
        "dropout": theirs["hidden_dropout_prob"],
        "norm_epsilon": theirs["layer_norm_eps"],
        "reversible": True,
        "streams": "concatenate",
        "positions": positions,
        "depth": len(theirs["attn_layers"]),
        "attentions": [mechanisms[kind](theirs) for kind in theirs["attn_layers"]],
    }


def _padding_multiple(theirs: Settings) -> int:
    """Return the number of tokens to a multiple of which transformers pads sequences."""
    return math.lcm(*(theirs[f"{kind}_attn_chunk_length"] for kind in set(theirs["attn_layers"])))


def _local(theirs: Settings) -> Settings:
    return {
        "kind": "local",
        "dropout": theirs["local_attention_probs_dropout_prob"],
        "chunk_size": theirs["local_attn_chunk_length"],
        "back": theirs["local_num_chunks_before"],
        "ahead": theirs["local_num_chunks_after"],
        "circle": None if theirs["is_decoder"] else _padding_multiple(theirs),
    }


def _lsh(theirs: Settings) -> Settings:
    n_buckets = theirs["num_buckets"]
    is_factored = isinstance(n_buckets, list)
    return {
        "kind": "transformers_lsh",
        "dropout": theirs["lsh_attention_probs_dropout_prob"],
        "chunk_size": theirs["lsh_attn_chunk_length"],
        "n_rounds": theirs["num_hashes"],
        "n_buckets": None if is_factored else n_buckets,
        "bucket_factors": n_buckets if is_factored else None,
        "multiple_of": _padding_multiple(theirs),
        "epsilon": _KEY_EPSILON * theirs["attention_head_size"] ** 2,  # our queries are longer by sqrt(head_dim)
        "keep_rotations": theirs["hash_seed"] is not None,
    }


def translated_weights(tensors: dict[str, Tensor], theirs: Settings, max_len: int) -> dict[str, Tensor]:
    """Rename their weights to our names, in float32 or float64; a hash_seed adds the rotations it produces on a CPU.

    The bias of the logits is part of the model, although version 5 of transformers ignores it; if a file also has the
    bias that newer versions add instead (5.24), the two are summed.

    Args:
        tensors: their weights, by name.
        theirs: their settings.
        max_len: number of learned positions to keep, unless they are axial.

    Raises:
        ConfigError: a tensor is missing.
    """
    tensors = {name: tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for name, tensor in tensors.items()}
    try:
        found = _outside(tensors, theirs, max_len)
        for i, kind in enumerate(theirs["attn_layers"]):
            found |= {f"stack.layers.{i}.{name}": tensor for name, tensor in _layer(tensors, i, kind).items()}
    except KeyError as error:
        raise ConfigError(f"source: model.safetensors has no {error}") from None
    lsh = [i for i, kind in enumerate(theirs["attn_layers"]) if kind == "lsh"]
    if theirs["hash_seed"] is not None:
        found |= {f"stack.layers.{i}.attention.mechanism.rotations": _rotations(theirs) for i in lsh}
    return found


def _outside(tensors: dict[str, Tensor], theirs: Settings, max_len: int) -> dict[str, Tensor]:
    """Return all weights outside of the layers."""
    names = {
        "embedding.weight": "reformer.embeddings.word_embeddings.weight",
        "stack.final_norm.weight": "reformer.encoder.layer_norm.weight",
        "stack.final_norm.bias": "reformer.encoder.layer_norm.bias",
        "to_logits.weight": "lm_head.decoder.weight",
    }
    if theirs["axial_pos_embds"]:
        axis = "reformer.embeddings.position_embeddings.weights"
        names |= {"positions.rows": f"{axis}.0", "positions.columns": f"{axis}.1"}
    found = {ours: tensors[name] for ours, name in names.items()}
    found["to_logits.bias"] = _logit_bias(tensors)
    if not theirs["axial_pos_embds"]:
        found["positions.weight"] = tensors["reformer.embeddings.position_embeddings.embedding.weight"][:max_len]
    return found


def _logit_bias(tensors: dict[str, Tensor]) -> Tensor:
    """Return the head's bias, plus that of its linear layer, which newer versions of transformers also save."""
    bias, newer = tensors["lm_head.bias"], tensors.get("lm_head.decoder.bias")
    return bias if newer is None or torch.equal(bias, newer) else bias + newer  # if equal: one tensor, two names


def _layer(tensors: dict[str, Tensor], i: int, kind: str) -> dict[str, Tensor]:
    prefix = f"reformer.encoder.layers.{i}."
    projections = [tensors[f"{prefix}attention.self_attention.{name}.weight"] for name in _ATTENTION[kind]]
    names = {"attention.to_out.weight": "attention.output.dense.weight"}
    for part in ("weight", "bias"):
        names |= {
            f"norm_attention.{part}": f"attention.layer_norm.{part}",
            f"norm_feed_forward.{part}": f"feed_forward.layer_norm.{part}",
            f"feed_forward.expand.{part}": f"feed_forward.dense.dense.{part}",
            f"feed_forward.contract.{part}": f"feed_forward.output.dense.{part}",
        }
    found = {ours: tensors[prefix + name] for ours, name in names.items()}
    return found | {"attention.to_heads.weight": torch.cat(projections)}


def _rotations(theirs: Settings) -> Tensor:
    """Draw the rotations as transformers does in each forward pass, after seeding: (h, r, d, directions)."""
    sizes = [theirs[key] for key in ("num_attention_heads", "attention_head_size", "num_hashes")]
    generator = torch.Generator().manual_seed(theirs["hash_seed"])
    n_buckets = theirs["num_buckets"]
    directions = (sum(n_buckets) if isinstance(n_buckets, list) else n_buckets) // 2
    drawn = torch.randn(*sizes, directions, generator=generator)
    return drawn.transpose(1, 2).contiguous()
