"""Schemas of the studies of time and memory in performance_studies.py."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from dl_proj.models.attention_settings import AttentionConfig, AttentionSchema
from dl_proj.models.settings import EncoderDecoderConfig, StackConfig
from dl_proj.settings.base import Strict
from dl_proj.settings.load import in_plain_words
from my_transformers.full_settings import FullSettings

Counts = tuple[Annotated[int, Field(ge=1)], ...]


def lists_mistakes(config: Strict, *names: str) -> list[str]:
    """Return the mistakes in lists of points: empty lists and duplicates."""
    found = []
    for name in names:
        points = getattr(config, name)
        if not points:
            found.append(f"{name} is empty, needs at least one")
        found += [f"{name}: {point} is given twice" for point in dict.fromkeys(points) if points.count(point) > 1]
    return found


class _Labelled(Strict):
    label: str = Field(min_length=1)
    """name of the curve"""
    max_length: int | None = Field(None, ge=1)
    """longer sequences are skipped; null: none are"""

    def at(self, lengths: Counts) -> Counts:
        """Return the lengths that are measured."""
        return tuple(length for length in lengths if self.max_length is None or length <= self.max_length)


class Variant(_Labelled):
    """An attention mechanism to measure."""

    attention: AttentionConfig
    """the mechanism, chosen by kind"""
    causal: bool = False
    """a token attends only to itself and earlier tokens"""

    def mistakes_at(self, length: int, *, dim: int, heads: int, depth: int = 1) -> list[str]:
        """Return the mistakes with sequences of ``length`` tokens in layers of these sizes."""
        stack = StackConfig(dim=dim, heads=heads, depth=depth, attention=self.attention)
        found = stack.mistakes_at(length, causal=self.causal, grid=False)
        return [f"variants: {self.label}: {line.replace('model.', '')}" for line in found]


class ModelVariant(_Labelled):
    """Attention mechanisms of a whole model."""

    encoder_attention: AttentionConfig = AttentionSchema.of(FullSettings())
    """attention of the encoder"""
    decoder_attention: AttentionConfig = AttentionSchema.of(FullSettings())
    """causal self-attention of the decoder, if any"""
    cross_attention: AttentionConfig = AttentionSchema.of(FullSettings())
    """cross-attention of the decoder, if any"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        return EncoderDecoderConfig.model_construct(cross_attention=self.cross_attention).mistakes()

    def model(self, config: "ModelStudyConfig", *, reversible: bool = False) -> EncoderDecoderConfig:
        """Return the encoder-decoder with the study's sizes; the encoder-only model uses its encoder."""
        own = self.model_dump(include={"encoder_attention", "decoder_attention", "cross_attention"})
        sizes = {"dim": config.dim, "heads": config.heads, "ffn_dim": 4 * config.dim}
        depths = {"encoder_depth": config.depth, "decoder_depth": config.depth}
        return EncoderDecoderConfig(**sizes, **depths, **own, reversible=reversible)

    def mistakes_at(self, length: int, config: "ModelStudyConfig") -> list[str]:
        """Return the mistakes with sequences of ``length`` tokens."""
        model = self.model(config)
        if "encoder_decoder" in config.architectures:
            found = model.mistakes_at(length, length)
        else:
            found = model.encoder.mistakes_at(length, causal=False, grid=False)
        found = [line.replace("model.attention", "encoder_attention").replace("model.", "") for line in found]
        return [f"variants: {self.label}: {line}" for line in found]


def _list_of(adapter: TypeAdapter[Any]) -> BeforeValidator:
    """Return a validator of a list of schemas, which a single flag passes as JSON; it reports a line per mistake."""

    def check(values: object) -> Any:
        try:
            return adapter.validate_python(values)
        except ValidationError as error:
            lines = [line for mistake in error.errors() for line in _lines(values, mistake)]
            raise ValueError("\n".join(lines)) from None

    return BeforeValidator(check)


def _lines(values: Any, mistake: ErrorDetails) -> list[str]:
    """Return the lines of one validation error in a list of schemas; a variant is named by its label, if it has one."""
    first, *rest = mistake["loc"] or ("",)
    entry = values[first] if isinstance(first, int) else {}
    name = entry.get("label", first) if isinstance(entry, dict) else first
    place = ".".join(str(step) for step in rest)
    kind = mistake["type"]
    message = str(mistake["ctx"]["error"]) if kind == "value_error" else in_plain_words(kind, mistake["msg"])
    return [": ".join(part for part in (str(name), place, line) if part) for line in message.splitlines()]


class CostConfig(Strict):
    """Sizes shared by the studies of time and memory."""

    lengths: Counts = (512, 1024, 2048, 4096)
    """costs: points of the curves, in tokens per sequence"""
    tokens: int = Field(16384, ge=1)
    """costs: tokens per batch; the batch size is this divided by the length"""
    dim: int = Field(256, ge=1)
    """costs: width of the activations"""
    heads: int = Field(4, ge=1)
    """costs: attention heads"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = lists_mistakes(self, "lengths")
        if self.dim % self.heads:
            found.append(f"dim {self.dim} must be divisible by heads {self.heads}")
        return found + [
            f"tokens {self.tokens} must be a multiple of length {length}"
            for length in self.lengths
            if self.tokens % length
        ]

    def variants_mistakes(self, variants: tuple[_Labelled, ...]) -> list[str]:
        """Return the mistakes in the variants: duplicate labels, and curves without points."""
        labels = [variant.label for variant in variants]
        found = [f"variants: {label} is given twice" for label in dict.fromkeys(labels) if labels.count(label) > 1]
        return found + [
            f"variants: {variant.label}: max_length {variant.max_length} skips all lengths {list(self.lengths)}"
            for variant in variants
            if self.lengths and not variant.at(self.lengths)
        ]


class TimedConfig(CostConfig):
    """Sizes, and the number of timed calls."""

    calls: int = Field(3, ge=1)
    """costs: timed calls after a warm-up call; the median is reported"""


class LengthConfig(TimedConfig):
    """Time and memory of a layer by length, at a constant number of tokens (Kitaev et al. 2020, figure 5)."""

    variants: Annotated[tuple[Any, ...], _list_of(TypeAdapter(tuple[Variant, ...]))] = ()
    """length: the curves, a list of {label, attention, causal, max_length}"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = super().mistakes() + self.variants_mistakes(self.variants)
        lines = [
            line
            for variant in ([] if found else self.variants)
            for length in variant.at(self.lengths)
            for line in variant.mistakes_at(length, dim=self.dim, heads=self.heads)
        ]
        return found + list(dict.fromkeys(lines))


class LinformerStudyConfig(TimedConfig):
    """Savings of a Linformer over full attention, by length and rank (Wang et al. 2020, table 3)."""

    ranks: Counts = (64, 128, 256)
    """linformer: projected lengths of keys and values; those above length / 2 are skipped"""
    depth: int = Field(2, ge=1)
    """linformer: number of layers, which share one projection"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = super().mistakes() + lists_mistakes(self, "ranks")
        longest = max(self.lengths, default=0)
        return found + [
            f"ranks: {rank} must be at most half of the longest sequence, {longest} tokens"
            for rank in self.ranks
            if longest and 2 * rank > longest
        ]


class DepthConfig(CostConfig):
    """Memory of a training step by the number of layers, of three kinds of stacks (Kitaev et al. 2020, section 3)."""

    lengths: Counts = (1024,)
    """depth: tokens per sequence; one panel each"""
    dim: int = Field(64, ge=1)
    """depth: width of the activations; small, so that the parameters' gradients are small too"""
    depths: Counts = (1, 2, 4, 8)
    """depth: points of the curves, in layers"""
    variants: Annotated[tuple[Any, ...], _list_of(TypeAdapter(tuple[Variant, ...]))] = ()
    """depth: variants with three curves each, a list of {label, attention, causal, max_length}"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = super().mistakes() + lists_mistakes(self, "depths") + self.variants_mistakes(self.variants)
        lines = [
            line
            for variant in ([] if found else self.variants)
            for length in variant.at(self.lengths)
            for depth in self.depths
            for line in variant.mistakes_at(length, dim=self.dim, heads=self.heads, depth=depth)
        ]
        return found + list(dict.fromkeys(lines))


class ModelStudyConfig(TimedConfig):
    """Time and memory of whole models by length, plain and reversible, in inference and in training."""

    architectures: tuple[Literal["encoder_only", "encoder_decoder"], ...] = ("encoder_only", "encoder_decoder")
    """model: one picture each; an encoder-decoder's source and target have the same length"""
    variants: Annotated[tuple[Any, ...], _list_of(TypeAdapter(tuple[ModelVariant, ...]))] = ()
    """model: variants with two curves each, a list of {label, encoder_attention, decoder_attention, cross_attention,
    max_length}"""
    depth: int = Field(2, ge=1)
    """model: number of layers of the encoder and of the decoder"""
    vocab_size: int = Field(32, ge=2)
    """model: number of symbols; small, because the map to logits is measured too"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = super().mistakes() + lists_mistakes(self, "architectures") + self.variants_mistakes(self.variants)
        lines = [
            line
            for variant in ([] if found else self.variants)
            for length in variant.at(self.lengths)
            for line in variant.mistakes_at(length, self)
        ]
        return found + list(dict.fromkeys(lines))
