"""Schemas of the models."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from dl_proj.models.attention_settings import AnyOrNoAttention, AttentionConfig, AttentionSchema
from dl_proj.settings.base import Strict, null_is_none
from my_transformers.full_settings import FullSettings
from my_transformers.lsh.settings import LSHSettings
from my_transformers.registry import SETTINGS
from my_transformers.settings import Places, Site

_ATTENTION: TypeAdapter[AttentionConfig] = TypeAdapter(AttentionConfig)

Width = Annotated[int, Field(ge=1)]


class LearnedPositionsConfig(Strict):
    """A learned vector for each position."""

    kind: Literal["learned"] = "learned"
    """positional encoding"""


class SinusoidalPositionsConfig(Strict):
    """Fixed sines and cosines."""

    kind: Literal["sinusoidal"] = "sinusoidal"
    """positional encoding"""
    amplitude: float = Field(0.02, gt=0)
    """sinusoidal: amplitude of the sines; the default is the initial scale of token embeddings, which 1 would drown"""


class AxialPositionsConfig(Strict):
    """A learned vector for each row and each column of a grid."""

    kind: Literal["axial"] = "axial"
    """positional encoding"""
    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    """axial: rows,columns of the grid; their product is the number of positions"""
    dims: Annotated[tuple[Width, Width] | None, BeforeValidator(null_is_none)] = None
    """axial: widths of row and column vectors, which must add up to dim; null: half each"""


class LearnedSinusoidalPositionsConfig(Strict):
    """Sines and cosines with learned frequencies and amplitudes; of row and column if the tokens form a grid."""

    kind: Literal["learned_sinusoidal"] = "learned_sinusoidal"
    """positional encoding"""


class NoPositionsConfig(Strict):
    """No positional encoding; for attention with relative positions, or none at all."""

    kind: Literal["none"] = "none"
    """positional encoding"""


PositionsConfig = Annotated[
    LearnedPositionsConfig
    | SinusoidalPositionsConfig
    | AxialPositionsConfig
    | LearnedSinusoidalPositionsConfig
    | NoPositionsConfig,
    Field(discriminator="kind"),
]


class _LayersConfig(Strict):
    dim: int = Field(128, ge=1)
    """width of the activations"""
    heads: int = Field(4, ge=1)
    """attention heads"""
    attention_bias: bool = True
    """whether the projections around attention have biases"""
    head_dim: int | None = Field(None, ge=1)
    """width of a head; null: dim / heads"""
    ffn_dim: int = Field(512, ge=1)
    """hidden width of the feed-forward network"""
    ffn_chunk_size: int = Field(0, ge=0)
    """positions that the feed-forward network processes at a time; 0: all"""
    activation: Literal["gelu", "relu"] = "gelu"
    """activation of the feed-forward network"""
    dropout: float = Field(0.0, ge=0, lt=1)
    """dropout on the embedding, in the feed-forward network and on each sublayer's output"""
    norm: Literal["pre", "post"] = "pre"
    """layer normalisation before or after each sublayer"""
    norm_epsilon: float = Field(1e-5, gt=0)
    """added to the variance in layer normalisation"""
    reversible: bool = False
    """use reversible residual streams, whose activation memory does not grow with depth"""
    recompute: bool = False
    """backward runs each layer again (activation checkpointing)"""
    positions: PositionsConfig = LearnedPositionsConfig()
    """the positional encoding, chosen by kind"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = []
        if self.head_dim is None and self.dim % self.heads:
            found.append(f"dim {self.dim} must be divisible by heads {self.heads}, unless head_dim is set")
        if self.reversible and self.norm == "post":
            found.append("reversible: true needs norm: pre (norm: post cannot be inverted)")
        if self.reversible and self.recompute:
            found.append("recompute: true has no effect with reversible: true, which keeps less; remove one of them")
        dims = getattr(self.positions, "dims", None)
        if dims is not None and sum(dims) != self.dim:
            found.append(f"positions.dims {dims[0]} + {dims[1]} must add up to dim {self.dim}")
        return found


class StackConfig(_LayersConfig):
    """A stack of encoder layers around any attention."""

    depth: int = Field(1, ge=1)
    """number of layers"""
    attention: AttentionConfig = AttentionSchema.of(LSHSettings())
    """the attention mechanism, chosen by kind"""
    attentions: Annotated[tuple[AttentionConfig, ...] | None, BeforeValidator(null_is_none)] = None
    """per-layer mechanisms, repeated cyclically if there are more layers, such as [{kind: local}, {kind: lsh}]; null:
    attention in all layers"""
    streams: Literal["mean", "concatenate"] = "mean"
    """reversible: output of the stack: the mean of the two streams, or their concatenation, twice as wide"""

    @property
    def mechanisms(self) -> tuple[AttentionConfig, ...]:
        """The attention of the first layers, repeated cyclically in the others."""
        return (self.attention,) if self.attentions is None else self.attentions

    @property
    def attention_title(self) -> str:
        """A short name for tables."""
        return ", ".join(dict.fromkeys(mechanism.title for mechanism in self.mechanisms))

    @property
    def attention_slug(self) -> str:
        """A short name for folders and files."""
        return "-".join(dict.fromkeys(mechanism.slug for mechanism in self.mechanisms))

    def layers_of(self, number: int) -> range:
        """Return the indices of the layers that use the mechanism with this index."""
        return range(number, self.depth, len(self.mechanisms))

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = super().mistakes()
        if self.streams == "concatenate" and not self.reversible:
            found.append("streams: concatenate needs reversible: true, or there is only one stream")
        if self.attentions is None:
            return found
        if self.attention != StackConfig.model_fields["attention"].default:
            found.append(f"attention.kind: {self.attention.kind} has no effect with attentions; remove one of them")
        if not self.attentions:
            found.append("attentions is empty, needs at least one")
        elif len(self.attentions) > self.depth:
            found.append(f"attentions has {len(self.attentions)} mechanisms, must have at most depth {self.depth}")
        return found

    def mistakes_at(self, length: int, *, causal: bool, grid: bool) -> list[str]:
        """Return the mistakes with sequences of ``length`` tokens, which form a grid or a line."""
        found = self.attention_mistakes(length, causal=causal)
        positions = self.positions
        if isinstance(positions, AxialPositionsConfig) and math.prod(positions.shape) < length:
            rows, columns = positions.shape
            found.append(f"model.positions.shape {rows} x {columns} needs at least {length} positions, one per token")
        if isinstance(positions, LearnedSinusoidalPositionsConfig) and self.dim % (4 if grid else 2):
            found.append(
                f"model.dim {self.dim} must be divisible by {4 if grid else 2} with model.positions.kind: "
                "learned_sinusoidal"
            )
        return found

    def moving_chunks(self, purpose: str) -> list[str]:
        """Return why step-by-step decoding, needed to ``purpose``, is impossible: chunks depend on later tokens."""
        found = [leak for attention in self.mechanisms if (leak := attention.settings.leak)]
        return [
            f"model.attention.{setting} cannot {purpose}: its chunks depend on later tokens; use {instead}"
            for setting, instead in dict.fromkeys(found)
        ]

    def attention_mistakes(self, length: int, *, causal: bool) -> list[str]:
        """Return the mistakes in the attention of all layers."""
        found = []
        for number, attention in enumerate(self.mechanisms):
            key = "model.attention" if self.attentions is None else f"model.attentions.{number}"
            lines = self._attention_mistakes(attention, len(self.layers_of(number)), length, causal)
            found += [line.replace("model.attention", key) for line in lines]
        return found

    def _attention_mistakes(self, attention: AttentionConfig, depth: int, length: int, causal: bool) -> list[str]:
        """Return the mistakes of one mechanism, used in ``depth`` layers."""
        if causal not in attention.declared.directions:
            return [_lacks_direction(attention, causal)]
        head_dim = self.head_dim or self.dim // self.heads
        site = Site(self.heads, head_dim, causal, Places(length), seeds=tuple(range(depth)))
        return attention.settings.mistakes_at(site, key=_key)


def _key(name: str) -> str:
    """Return the key, for messages, of a setting of the model or of its attention."""
    return f"model.{name}" if name in StackConfig.model_fields else f"model.attention.{name}"


def _either(kinds: Iterable[str]) -> str:
    *most, last = sorted(kinds)
    return f"{', '.join(most)} or {last}" if most else last


_CROSS = _either(one.kind for one in SETTINGS if one.cross)


def _lacks_direction(attention: AttentionConfig, causal: bool) -> str:
    declared = attention.declared
    suitable = [one for one in SETTINGS if causal in one.directions and (one.steps or not causal)]
    instead = _either(declared.instead or [one.kind for one in suitable])
    key = f"model.attention.kind: {declared.kind} {declared.one_way}"
    return f"{key}, so it cannot be causal; use {instead}" if causal else f"{key}; use {instead} for both directions"


class LanguageModelConfig(StackConfig):
    """A stack of layers on embedded tokens."""

    tied: bool = False
    """use the same matrix to embed tokens and to map to logits"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = super().mistakes()
        if self.tied and self.streams == "concatenate":
            found.append("tied: true needs streams: mean, whose width is that of the embedding")
        return found


class EncoderDecoderConfig(_LayersConfig):
    """An encoder of the source, and a decoder of the target that attends to it."""

    encoder_depth: int = Field(1, ge=1)
    """number of encoder layers"""
    decoder_depth: int = Field(1, ge=1)
    """number of decoder layers"""
    attention: AnyOrNoAttention = None
    """shortcut for encoder_attention and, if it can be causal and decode step by step, decoder_attention"""
    encoder_attention: AttentionConfig = AttentionSchema.of(FullSettings())
    """the encoder's attention mechanism, chosen by kind"""
    decoder_attention: AttentionConfig = AttentionSchema.of(FullSettings())
    """the decoder's causal self-attention, chosen by kind"""
    cross_attention: AttentionConfig = Field(
        AttentionSchema.of(FullSettings()),
        description=f"the decoder's attention to the encoder's output, chosen by kind: {_CROSS}",
    )
    tied: bool = False
    """use the same matrix to embed the tokens of both sides and to map to logits; requires one joint vocabulary"""

    @model_validator(mode="before")
    @classmethod
    def _attention_of_both_sides(cls, values: Any) -> Any:
        """Use ``attention`` for the sides whose own setting is not given."""
        if not isinstance(values, dict) or values.get("attention") is None:
            return values
        try:
            both = _ATTENTION.validate_python(values["attention"])
        except ValidationError:  # reported once, by the validation of the field itself
            return values
        return dict.fromkeys(_sides(both), both) | values

    @property
    def attention_title(self) -> str:
        """A name for tables: encoder, decoder and cross-attention; a single name if all are the same."""
        titles = [mechanism.title for mechanism in self.mechanisms]
        return titles[0] if len(set(titles)) == 1 else ", ".join(titles)

    @property
    def attention_slug(self) -> str:
        """A name for folders and files: the mechanisms other than full attention, if any."""
        return "-".join(dict.fromkeys(mechanism.slug for mechanism in self.mechanisms if mechanism.kind != "full"))

    @property
    def mechanisms(self) -> tuple[AttentionConfig, ...]:
        """The attention of the encoder, the decoder's self-attention, and its cross-attention."""
        return self.encoder_attention, self.decoder_attention, self.cross_attention

    @property
    def encoder(self) -> StackConfig:
        """The encoder's stack."""
        return self._stack(self.encoder_depth, self.encoder_attention)

    @property
    def decoder(self) -> StackConfig:
        """The decoder's stack with its self-attention."""
        return self._stack(self.decoder_depth, self.decoder_attention)

    @property
    def across(self) -> StackConfig:
        """The decoder's stack with its cross-attention."""
        return self._stack(self.decoder_depth, self.cross_attention)

    def _stack(self, depth: int, attention: AttentionConfig) -> StackConfig:
        common = {name: getattr(self, name) for name in _LayersConfig.model_fields}
        return StackConfig(**common, depth=depth, attention=attention)

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = super().mistakes()
        if self.attention is not None:
            found += [
                f"attention.kind: {self.attention.kind} conflicts with {side}.kind: {getattr(self, side).kind}; remove "
                "attention, and set encoder_attention and decoder_attention"
                for side in _sides(self.attention)
                if getattr(self, side) != self.attention
            ]
        if not self.cross_attention.declared.cross:
            found.append(
                f"cross_attention.kind: {self.cross_attention.kind} cannot attend to another sequence; use {_CROSS}"
            )
        return found

    def mistakes_in_translation(self) -> list[str]:
        """Return why step-by-step decoding is impossible, or why translations would depend on the batch's padding."""
        found = _with_keys(self.decoder.moving_chunks("translate"), "decoder", "decoder")
        if line := self.encoder_attention.settings.sees_padding:
            found.append(f"model.encoder_attention.{line}")
        return found

    def mistakes_at(self, source_length: int, target_length: int) -> list[str]:
        """Return the mistakes with sources and targets of these lengths."""
        found = _with_keys(self.encoder.mistakes_at(source_length, causal=False, grid=False), "encoder", "encoder")
        found += _with_keys(self.decoder.mistakes_at(target_length, causal=True, grid=False), "decoder", "decoder")
        found += _with_keys(self.across.attention_mistakes(source_length, causal=False), "decoder", "cross")
        return list(dict.fromkeys(found))  # mistakes in the shared positions are found on both sides


def _sides(attention: AttentionConfig) -> list[str]:
    """Return the settings that EncoderDecoderConfig.attention replaces: a decoder must be causal and take steps."""
    declared = attention.declared
    return ["encoder_attention", *(["decoder_attention"] if True in declared.directions and declared.steps else [])]


def _with_keys(mistakes: list[str], stack: str, attention: str) -> list[str]:
    """Rename the keys in a stack's mistakes to those of EncoderDecoderConfig."""
    return [
        line.replace("model.attention", f"model.{attention}_attention").replace("model.depth", f"model.{stack}_depth")
        for line in mistakes
    ]
