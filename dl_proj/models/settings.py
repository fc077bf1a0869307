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
    """sinusoidal: of the sines; embeddings of tokens start as small as this, and 1 would drown them"""


class AxialPositionsConfig(Strict):
    """A learned vector for each row and each column of a grid."""

    kind: Literal["axial"] = "axial"
    """positional encoding"""
    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    """axial: rows,columns; their product is the number of positions"""
    dims: Annotated[tuple[Width, Width] | None, BeforeValidator(null_is_none)] = None
    """axial: widths of the rows' and the columns' vectors, which add up to dim; null: halves"""


class LearnedSinusoidalPositionsConfig(Strict):
    """Sines and cosines of learned frequencies and amplitudes; of row and column where the tokens form a grid."""

    kind: Literal["learned_sinusoidal"] = "learned_sinusoidal"
    """positional encoding"""


class NoPositionsConfig(Strict):
    """No positional encoding: the attention knows positions, or nothing does."""

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
    """biases in the projections around attention"""
    head_dim: int | None = Field(None, ge=1)
    """width of a head; null: dim / heads"""
    ffn_dim: int = Field(512, ge=1)
    """hidden width of the feed-forward network"""
    ffn_chunk_size: int = Field(0, ge=0)
    """positions that the feed-forward network works on together; 0: all"""
    activation: Literal["gelu", "relu"] = "gelu"
    """of the feed-forward network"""
    dropout: float = Field(0.0, ge=0, lt=1)
    """on the embedding, in the feed-forward network and on each sublayer's output"""
    norm: Literal["pre", "post"] = "pre"
    """layer normalisation before or after each sublayer"""
    norm_epsilon: float = Field(1e-5, gt=0)
    """added to the variance in layer normalisation"""
    reversible: bool = False
    """reversible residual streams: activation memory that does not grow with depth"""
    positions: PositionsConfig = LearnedPositionsConfig()
    """the positional encoding, chosen by kind"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = []
        if self.head_dim is None and self.dim % self.heads:
            found.append(f"dim {self.dim} is not divisible by heads {self.heads}; change one, or set head_dim")
        if self.reversible and self.norm == "post":
            found.append("reversible: true needs norm: pre (norm: post cannot be inverted)")
        dims = getattr(self.positions, "dims", None)
        if dims is not None and sum(dims) != self.dim:
            found.append(f"positions.dims {dims[0]} + {dims[1]} must be dim {self.dim}")
        return found


class StackConfig(_LayersConfig):
    """A stack of encoder layers around any attention."""

    depth: int = Field(1, ge=1)
    """layers"""
    attention: AttentionConfig = AttentionSchema.of(LSHSettings())
    """the attention mechanism, chosen by kind"""
    attentions: Annotated[tuple[AttentionConfig, ...] | None, BeforeValidator(null_is_none)] = None
    """a list of mechanisms, one a layer, begun again when there are more layers, such as [{kind: local}, {kind: lsh}];
    null: attention in all layers"""
    streams: Literal["mean", "concatenate"] = "mean"
    """reversible: what is made of the two streams at the end: their mean, or both side by side, twice as wide"""

    @property
    def mechanisms(self) -> tuple[AttentionConfig, ...]:
        """The attention of the first layers, with which the others begin again."""
        return (self.attention,) if self.attentions is None else self.attentions

    @property
    def attention_title(self) -> str:
        """A short name for tables."""
        return ", ".join(dict.fromkeys(mechanism.title for mechanism in self.mechanisms))

    @property
    def attention_slug(self) -> str:
        """The same for folders and files."""
        return "-".join(dict.fromkeys(mechanism.slug for mechanism in self.mechanisms))

    def layers_of(self, number: int) -> range:
        """The numbers of the layers that have the mechanism of this number."""
        return range(number, self.depth, len(self.mechanisms))

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = super().mistakes()
        if self.streams == "concatenate" and not self.reversible:
            found.append("streams: concatenate needs reversible: true: there is one stream without it")
        if self.attentions is None:
            return found
        if self.attention != StackConfig.model_fields["attention"].default:
            found.append(f"attentions is given, so attention.kind: {self.attention.kind} has no effect; leave it out")
        if not self.attentions:
            found.append("attentions is empty, needs one at least")
        elif len(self.attentions) > self.depth:
            found.append(f"attentions has {len(self.attentions)} mechanisms, but there are {self.depth} layers (depth)")
        return found

    def mistakes_at(self, length: int, *, causal: bool, grid: bool) -> list[str]:
        """What does not fit sequences of ``length`` tokens, which are the places of a grid or of a line."""
        found = self.attention_mistakes(length, causal=causal)
        positions = self.positions
        if isinstance(positions, AxialPositionsConfig) and math.prod(positions.shape) < length:
            rows, columns = positions.shape
            found.append(f"model.positions.shape {rows} x {columns} has fewer positions than the {length} tokens")
        if isinstance(positions, LearnedSinusoidalPositionsConfig) and self.dim % (4 if grid else 2):
            found.append(
                f"model.dim {self.dim} is not divisible by {4 if grid else 2}, which model.positions.kind: "
                "learned_sinusoidal needs here"
            )
        return found

    def moving_chunks(self, purpose: str) -> list[str]:
        """Why there are no steps, which ``purpose`` needs: attention whose chunks later tokens move."""
        found = [leak for attention in self.mechanisms if (leak := attention.settings.leak)]
        return [
            f"model.attention.{setting} cannot {purpose}: later tokens move its chunks; use {instead}"
            for setting, instead in dict.fromkeys(found)
        ]

    def attention_mistakes(self, length: int, *, causal: bool) -> list[str]:
        """What of it is the attention's, in any layer."""
        found = []
        for number, attention in enumerate(self.mechanisms):
            key = "model.attention" if self.attentions is None else f"model.attentions.{number}"
            lines = self._attention_mistakes(attention, len(self.layers_of(number)), length, causal)
            found += [line.replace("model.attention", key) for line in lines]
        return found

    def _attention_mistakes(self, attention: AttentionConfig, depth: int, length: int, causal: bool) -> list[str]:
        """Of one mechanism, that ``depth`` layers have."""
        if causal not in attention.declared.directions:
            return [_lacks_direction(attention, causal)]
        head_dim = self.head_dim or self.dim // self.heads
        site = Site(self.heads, head_dim, causal, Places(length), seeds=tuple(range(depth)))
        return attention.settings.mistakes_at(site, key=_key)


def _key(name: str) -> str:
    """What a message calls a setting of the model, or of its attention."""
    return f"model.{name}" if name in StackConfig.model_fields else f"model.attention.{name}"


def _either(kinds: Iterable[str]) -> str:
    *most, last = sorted(kinds)
    return f"{', '.join(most)} or {last}" if most else last


_CROSS = _either(one.kind for one in SETTINGS if one.cross)


def _lacks_direction(attention: AttentionConfig, causal: bool) -> str:
    declared = attention.declared
    there = [one for one in SETTINGS if causal in one.directions and (one.steps or not causal)]
    instead = _either(declared.instead or [one.kind for one in there])
    key = f"model.attention.kind: {declared.kind} {declared.one_way}"
    return f"{key}, so it cannot be causal; use {instead}" if causal else f"{key}; use {instead} for both directions"


class LanguageModelConfig(StackConfig):
    """A stack between embedded tokens and logits."""

    tied: bool = False
    """one matrix embeds tokens and maps to logits"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = super().mistakes()
        if self.tied and self.streams == "concatenate":
            found.append("tied: true needs streams: mean, as wide as the embedding")
        return found


class EncoderDecoderConfig(_LayersConfig):
    """An encoder of the source and a decoder of the target, that attends to it."""

    encoder_depth: int = Field(1, ge=1)
    """layers of the encoder"""
    decoder_depth: int = Field(1, ge=1)
    """layers of the decoder"""
    attention: AnyOrNoAttention = None
    """encoder_attention and, if it can be causal and decode step by step, decoder_attention in one"""
    encoder_attention: AttentionConfig = AttentionSchema.of(FullSettings())
    """the encoder's attention mechanism, chosen by kind"""
    decoder_attention: AttentionConfig = AttentionSchema.of(FullSettings())
    """the decoder's causal self-attention, chosen by kind"""
    cross_attention: AttentionConfig = Field(
        AttentionSchema.of(FullSettings()),
        description=f"from the decoder to the encoder's output, chosen by kind: {_CROSS}",
    )
    tied: bool = False
    """one matrix embeds the tokens of both sides and maps to logits; both sides then have one vocabulary"""

    @model_validator(mode="before")
    @classmethod
    def _attention_of_both_sides(cls, values: Any) -> Any:
        """``attention`` stands for those of the two sides that are not given."""
        if not isinstance(values, dict) or values.get("attention") is None:
            return values
        try:
            both = _ATTENTION.validate_python(values["attention"])
        except ValidationError:  # of which the field itself complains, once
            return values
        return dict.fromkeys(_sides(both), both) | values

    @property
    def attention_title(self) -> str:
        """A short name for tables: the encoder's, the decoder's own and across, or what all of them are."""
        titles = [mechanism.title for mechanism in self.mechanisms]
        return titles[0] if len(set(titles)) == 1 else ", ".join(titles)

    @property
    def attention_slug(self) -> str:
        """For folders and files: the mechanisms other than full attention, if there are any."""
        return "-".join(dict.fromkeys(mechanism.slug for mechanism in self.mechanisms if mechanism.kind != "full"))

    @property
    def mechanisms(self) -> tuple[AttentionConfig, ...]:
        """The encoder's, the decoder's own and that across."""
        return self.encoder_attention, self.decoder_attention, self.cross_attention

    @property
    def encoder(self) -> StackConfig:
        """The encoder's stack."""
        return self._stack(self.encoder_depth, self.encoder_attention)

    @property
    def decoder(self) -> StackConfig:
        """The decoder's stack, but for the cross-attention."""
        return self._stack(self.decoder_depth, self.decoder_attention)

    @property
    def across(self) -> StackConfig:
        """The decoder's stack with its cross-attention for an attention."""
        return self._stack(self.decoder_depth, self.cross_attention)

    def _stack(self, depth: int, attention: AttentionConfig) -> StackConfig:
        common = {name: getattr(self, name) for name in _LayersConfig.model_fields}
        return StackConfig(**common, depth=depth, attention=attention)

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = super().mistakes()
        if self.attention is not None:
            found += [
                f"attention.kind: {self.attention.kind} and {side}.kind: {getattr(self, side).kind} are both given and "
                "differ; give encoder_attention and decoder_attention without attention"
                for side in _sides(self.attention)
                if getattr(self, side) != self.attention
            ]
        if not self.cross_attention.declared.cross:
            found.append(
                f"cross_attention.kind: {self.cross_attention.kind} cannot attend to another sequence; use {_CROSS}"
            )
        return found

    def mistakes_in_translation(self) -> list[str]:
        """Why a source is not translated alike in every batch, or not step by step: what fits equal lengths alone."""
        found = _with_keys(self.decoder.moving_chunks("translate"), "decoder", "decoder")
        if line := self.encoder_attention.settings.sees_padding:
            found.append(f"model.encoder_attention.{line}")
        return found

    def mistakes_at(self, source_length: int, target_length: int) -> list[str]:
        """What does not fit sources and targets of so many tokens."""
        found = _with_keys(self.encoder.mistakes_at(source_length, causal=False, grid=False), "encoder", "encoder")
        found += _with_keys(self.decoder.mistakes_at(target_length, causal=True, grid=False), "decoder", "decoder")
        found += _with_keys(self.across.attention_mistakes(source_length, causal=False), "decoder", "cross")
        return list(dict.fromkeys(found))  # both sides have the same positions, so some are found twice


def _sides(attention: AttentionConfig) -> list[str]:
    """What EncoderDecoderConfig.attention stands for: a decoder must be causal, and take steps."""
    declared = attention.declared
    return ["encoder_attention", *(["decoder_attention"] if True in declared.directions and declared.steps else [])]


def _with_keys(mistakes: list[str], stack: str, attention: str) -> list[str]:
    """A stack's mistakes with the keys that it has in an EncoderDecoderConfig."""
    return [
        line.replace("model.attention", f"model.{attention}_attention").replace("model.depth", f"model.{stack}_depth")
        for line in mistakes
    ]
