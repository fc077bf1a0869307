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
    """What is wrong with lists of points: none, or one twice."""
    found = []
    for name in names:
        points = getattr(config, name)
        if not points:
            found.append(f"{name} is empty, needs one at least")
        found += [f"{name}: {point} is there twice" for point in dict.fromkeys(points) if points.count(point) > 1]
    return found


class _Labelled(Strict):
    label: str = Field(min_length=1)
    """name of the curve"""
    max_length: int | None = Field(None, ge=1)
    """longer sequences are left out; null: none"""

    def at(self, lengths: Counts) -> Counts:
        """Those of the lengths that are measured."""
        return tuple(length for length in lengths if self.max_length is None or length <= self.max_length)


class Variant(_Labelled):
    """An attention mechanism to measure."""

    attention: AttentionConfig
    """the mechanism, chosen by kind"""
    causal: bool = False
    """a token attends only to itself and earlier tokens"""

    def mistakes_at(self, length: int, *, dim: int, heads: int, depth: int = 1) -> list[str]:
        """What does not fit sequences of ``length`` tokens in layers of these sizes."""
        stack = StackConfig(dim=dim, heads=heads, depth=depth, attention=self.attention)
        found = stack.mistakes_at(length, causal=self.causal, grid=False)
        return [f"variants: {self.label}: {line.replace('model.', '')}" for line in found]


class ModelVariant(_Labelled):
    """Attention mechanisms of a whole model."""

    encoder_attention: AttentionConfig = AttentionSchema.of(FullSettings())
    """of the encoder"""
    decoder_attention: AttentionConfig = AttentionSchema.of(FullSettings())
    """of the decoder's own tokens, causal; where there is a decoder"""
    cross_attention: AttentionConfig = AttentionSchema.of(FullSettings())
    """from the decoder to the encoder; where there is a decoder"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        return EncoderDecoderConfig.model_construct(cross_attention=self.cross_attention).mistakes()

    def model(self, config: "ModelStudyConfig", *, reversible: bool = False) -> EncoderDecoderConfig:
        """The encoder-decoder of the study's sizes; its encoder is the encoder-only model's."""
        own = self.model_dump(include={"encoder_attention", "decoder_attention", "cross_attention"})
        sizes = {"dim": config.dim, "heads": config.heads, "ffn_dim": 4 * config.dim}
        depths = {"encoder_depth": config.depth, "decoder_depth": config.depth}
        return EncoderDecoderConfig(**sizes, **depths, **own, reversible=reversible)

    def mistakes_at(self, length: int, config: "ModelStudyConfig") -> list[str]:
        """What does not fit sequences of ``length`` tokens."""
        model = self.model(config)
        if "encoder_decoder" in config.architectures:
            found = model.mistakes_at(length, length)
        else:
            found = model.encoder.mistakes_at(length, causal=False, grid=False)
        found = [line.replace("model.attention", "encoder_attention").replace("model.", "") for line in found]
        return [f"variants: {self.label}: {line}" for line in found]


def _list_of(adapter: TypeAdapter[Any]) -> BeforeValidator:
    """Checks a list of schemas, which has one flag, that takes JSON; says what is wrong a line each."""

    def check(values: object) -> Any:
        try:
            return adapter.validate_python(values)
        except ValidationError as error:
            lines = [line for mistake in error.errors() for line in _lines(values, mistake)]
            raise ValueError("\n".join(lines)) from None

    return BeforeValidator(check)


def _lines(values: Any, mistake: ErrorDetails) -> list[str]:
    """A mistake in a list of schemas, or all that a rule found; a variant is named by its label, if it has one."""
    first, *rest = mistake["loc"] or ("",)
    entry = values[first] if isinstance(first, int) else {}
    name = entry.get("label", first) if isinstance(entry, dict) else first
    place = ".".join(str(step) for step in rest)
    kind = mistake["type"]
    message = str(mistake["ctx"]["error"]) if kind == "value_error" else in_plain_words(kind, mistake["msg"])
    return [": ".join(part for part in (str(name), place, line) if part) for line in message.splitlines()]


class CostConfig(Strict):
    """Sizes that studies of time and memory share."""

    lengths: Counts = (512, 1024, 2048, 4096)
    """costs: points of the curves, tokens a sequence"""
    tokens: int = Field(16384, ge=1)
    """costs: in all sequences of a batch; the batch is this / length"""
    dim: int = Field(256, ge=1)
    """costs: width of the activations"""
    heads: int = Field(4, ge=1)
    """costs: attention heads"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = lists_mistakes(self, "lengths")
        if self.dim % self.heads:
            found.append(f"dim {self.dim} is not divisible by heads {self.heads}")
        return found + [
            f"tokens {self.tokens} is not a multiple of length {length}"
            for length in self.lengths
            if self.tokens % length
        ]

    def variants_mistakes(self, variants: tuple[_Labelled, ...]) -> list[str]:
        """Labels that are there twice, and curves without a point."""
        labels = [variant.label for variant in variants]
        found = [f"variants: {label} is there twice" for label in dict.fromkeys(labels) if labels.count(label) > 1]
        return found + [
            f"variants: {variant.label}: max_length {variant.max_length} leaves out all lengths {list(self.lengths)}"
            for variant in variants
            if self.lengths and not variant.at(self.lengths)
        ]


class TimedConfig(CostConfig):
    """Sizes, and how often to call."""

    calls: int = Field(3, ge=1)
    """costs: timed calls, after one that is not; the median counts"""


class LengthConfig(TimedConfig):
    """Time and memory of an attention layer by length, at the same number of tokens (Kitaev et al. 2020, figure 5)."""

    variants: Annotated[tuple[Any, ...], _list_of(TypeAdapter(tuple[Variant, ...]))] = ()
    """length: curves, a list of {label, attention, causal, max_length}"""

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
    """What a Linformer saves against full attention, by length and rank (Wang et al. 2020, table 3)."""

    ranks: Counts = (64, 128, 256)
    """linformer: tokens that keys and values are projected to; those above length / 2 are left out"""
    depth: int = Field(2, ge=1)
    """linformer: layers, which share one projection"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = super().mistakes() + lists_mistakes(self, "ranks")
        longest = max(self.lengths, default=0)
        return found + [
            f"ranks: {rank} is more than half of the longest sequence, {longest} tokens"
            for rank in self.ranks
            if longest and 2 * rank > longest
        ]


class DepthConfig(CostConfig):
    """Memory of a step of training by the number of layers, plain and reversible (Kitaev et al. 2020, section 3)."""

    lengths: Counts = (1024,)
    """depth: tokens a sequence; a picture each"""
    dim: int = Field(64, ge=1)
    """depth: width of the activations; small, so that the parameters' gradients are"""
    depths: Counts = (1, 2, 4, 8)
    """depth: points of the curves, layers"""
    variants: Annotated[tuple[Any, ...], _list_of(TypeAdapter(tuple[Variant, ...]))] = ()
    """depth: two curves each, a list of {label, attention, causal, max_length}"""

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
    """model: pictures; an encoder-decoder's source and target are equally long"""
    variants: Annotated[tuple[Any, ...], _list_of(TypeAdapter(tuple[ModelVariant, ...]))] = ()
    """model: two curves each, a list of {label, encoder_attention, decoder_attention, cross_attention, max_length}"""
    depth: int = Field(2, ge=1)
    """model: layers, of the encoder and of the decoder"""
    vocab_size: int = Field(32, ge=2)
    """model: symbols; few, so that the map to logits, which is measured too, costs little"""

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
