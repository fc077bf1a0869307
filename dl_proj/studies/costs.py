"""performance_studies.py: time and memory of layers, stacks and whole models."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dl_proj.models.attention_settings import AttentionConfig, AttentionSchema
from dl_proj.models.build import build_encoder_decoder, build_mechanisms, build_positions, build_stack
from dl_proj.models.settings import EncoderDecoderConfig, StackConfig
from dl_proj.studies.cost_settings import (
    DepthConfig,
    LengthConfig,
    LinformerStudyConfig,
    ModelStudyConfig,
    Variant,
)
from dl_proj.tables import Row
from my_custom_ai.utils.measure import allocated_peak, in_fresh_process, process_peak, seconds_of, spread
from my_transformers import MultiHeadAttention
from my_transformers.full_settings import FullSettings
from my_transformers.linformer.settings import LinformerSettings
from my_transformers.settings import Places

_MIB = 2**20
_FIRST_TOKENS = 64  # of a small first call, after which libraries are loaded


@dataclass(frozen=True)
class Case:
    """A module and its inputs, drawn once, outside all measurements.

    Args:
        module: called with the inputs, without a mask.
        inputs: (b, n) tokens or (b, n, dim) activations.
        gradient: the gradient of the output, (b, n, e).
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]
    gradient: Tensor

    def forward(self) -> None:
        """Run inference."""
        with torch.no_grad():
            self.module.eval()(*self.inputs)

    def train(self) -> None:
        """Run forward and backward, to the inputs and parameters; gradients are removed afterwards."""
        torch.autograd.backward(self.module.train()(*self.inputs), self.gradient)
        for tensor in (*self.module.parameters(), *self.inputs):
            tensor.grad = None

    def calls(self) -> dict[str, Callable[[], None]]:
        """Return the calls by mode."""
        return {"forward": self.forward, "train": self.train}

    def start(self) -> "Case":
        """Return a case with only the first tokens of the first sequence."""
        inputs = tuple(x[:1, :_FIRST_TOKENS].detach().requires_grad_(x.requires_grad) for x in self.inputs)
        return Case(self.module, inputs, self.gradient[:1, :_FIRST_TOKENS])


def _cost(call: Callable[[], None], calls: int, device: torch.device, *, warm_up: int = 1) -> dict[str, float]:
    """Measure the time of calls, and the allocator's peak in another call."""
    seconds = spread(seconds_of(call, device, calls=calls, warm_up=warm_up))
    names = {"median": "seconds", "min": "seconds_min", "max": "seconds_max"}
    allocated = allocated_peak(call, device) / _MIB
    return {names[key]: value for key, value in seconds.items()} | {"allocated_mib": allocated}


def by_length(config: LengthConfig, seed: int, device: torch.device) -> list[Row]:
    """Measure an attention layer by length; a row per variant, length and mode.

    On a CPU, each row is measured in its own process, whose growth is the memory that the call really took. On an
    accelerator, memory is what the allocator reports.
    """
    cases = [
        (variant, length, mode)
        for variant in config.variants
        for length in variant.at(config.lengths)
        for mode in ("forward", "train")
    ]
    rows = []
    for case in tqdm(cases, desc="length", unit="case"):
        given = (*case, config, seed, device)
        rows.append(in_fresh_process(layer_cost, *given) if device.type == "cpu" else layer_cost(*given))
    return rows


def layer_cost(variant: Variant, length: int, mode: str, config: LengthConfig, seed: int, device: torch.device) -> Row:
    """Measure one row; the growth of the process first, because later calls reuse memory of the first one."""
    case = _layer(variant, length, config, seed, device)
    case.start().calls()[mode]()
    call = case.calls()[mode]
    grown = process_peak(call)
    process = None if grown is None or device.type != "cpu" else grown / _MIB
    place = {"curve": variant.label, "length": length, "batch": config.tokens // length, "mode": mode}
    return place | _cost(call, config.calls, device, warm_up=0) | {"process_mib": process}


def _layer(variant: Variant, length: int, config: LengthConfig, seed: int, device: torch.device) -> Case:
    torch.manual_seed(seed)
    (mechanism,) = build_mechanisms(
        variant.attention,
        depth=1,
        heads=config.heads,
        head_dim=config.dim // config.heads,
        causal=variant.causal,
        places=Places(length),
        seed=seed,
    )
    layer = MultiHeadAttention(mechanism, dim=config.dim, heads=config.heads).to(device)
    return _of_activations(layer, config.tokens // length, length, config.dim, device)


def _of_activations(module: nn.Module, batch: int, length: int, dim: int, device: torch.device) -> Case:
    x, gradient = torch.randn(2, batch, length, dim).to(device)
    return Case(module, (x.requires_grad_(),), gradient)


def by_rank(config: LinformerStudyConfig, seed: int, device: torch.device) -> list[Row]:
    """Measure inference of a stack with full attention (rank None) and with Linformers; a row per length and rank.

    ``speed_up`` and ``memory_saving`` are full attention's cost divided by the Linformer's. For memory, the paper
    compares the largest batches that fit; here it is the allocator's peak at the same batch. Full attention uses
    kernels that never store the matrix of scores, so there is less to save than in the paper.
    """
    pairs = [(n, rank) for n in config.lengths for rank in (None, *config.ranks) if rank is None or 2 * rank <= n]
    rows: list[Row] = []
    full: dict[str, float] = {}
    for length, rank in tqdm(pairs, desc="linformer", unit="case"):
        settings = FullSettings() if rank is None else LinformerSettings(rank=(rank,), sharing="layerwise")
        attention = AttentionSchema.of(settings)
        cost = _cost(_stack(config, attention, config.depth, length, seed, device).forward, config.calls, device)
        full = full if rank else cost
        ratios = {
            "speed_up": full["seconds"] / cost["seconds"],
            "memory_saving": full["allocated_mib"] / cost["allocated_mib"],
        }
        rows.append({"length": length, "rank": rank, "batch": config.tokens // length} | cost | ratios)
    return rows


def _stack(
    config: LinformerStudyConfig | DepthConfig,
    attention: AttentionConfig,
    depth: int,
    length: int,
    seed: int,
    device: torch.device,
    *,
    causal: bool = False,
    **residuals: bool,
) -> Case:
    torch.manual_seed(seed)
    stack = StackConfig(
        dim=config.dim,
        heads=config.heads,
        ffn_dim=4 * config.dim,
        depth=depth,
        attention=attention,
        **residuals,
    )
    module = build_stack(stack, causal=causal, places=Places(length), seed=seed).to(device)
    return _of_activations(module, config.tokens // length, length, config.dim, device)


def by_depth(config: DepthConfig, seed: int, device: torch.device) -> list[Row]:
    """Measure the memory of forward and backward by the number of layers.

    There is a row per variant, kind of stack, length and depth: plain, recomputed (activation checkpointing: only the
    layers' inputs are kept) and reversible. ``allocated_mib`` is the allocator's peak above parameters and inputs. It
    includes the gradients of the parameters that exist at that instant: none in a plain stack, whose memory peaks when
    backward starts, but nearly all in a reversible one, whose backward returns them at its end. ``gradients_mib`` is
    their size.
    """
    cases = [
        (variant, kind, length, depth)
        for variant in config.variants
        for kind in (None, "recompute", "reversible")
        for length in variant.at(config.lengths)
        for depth in config.depths
    ]
    rows = []
    for variant, kind, length, depth in tqdm(cases, desc="depth", unit="case"):
        residuals = {} if kind is None else {kind: True}
        case = _stack(config, variant.attention, depth, length, seed, device, causal=variant.causal, **residuals)
        gradients = sum(p.numel() * p.element_size() for p in case.module.parameters())
        curve = f"{variant.label}, recomputed" if kind == "recompute" else _curve(variant.label, kind == "reversible")
        place = {"curve": curve, "length": length, "batch": config.tokens // length}
        memory = {"allocated_mib": allocated_peak(case.train, device) / _MIB, "gradients_mib": gradients / _MIB}
        rows.append(place | {"depth": depth} | memory)
    return rows


def _curve(label: str, reversible: bool) -> str:
    return f"{label}, reversible" if reversible else label


def of_models(config: ModelStudyConfig, seed: int, device: torch.device) -> list[Row]:
    """Measure whole models by length; a row per architecture, variant, kind of residuals, length and mode.

    Measured from tokens, which are drawn beforehand, to logits, without a loss.
    """
    cases = [
        (architecture, variant, reversible, length)
        for architecture in config.architectures
        for variant in config.variants
        for reversible in (False, True)
        for length in variant.at(config.lengths)
    ]
    rows = []
    for architecture, variant, reversible, length in tqdm(cases, desc="model", unit="case"):
        case = _model(architecture, variant.model(config, reversible=reversible), config, length, seed, device)
        place = {"architecture": architecture, "curve": _curve(variant.label, reversible), "length": length}
        for mode, call in case.calls().items():
            rows.append(place | {"batch": config.tokens // length, "mode": mode} | _cost(call, config.calls, device))
    return rows


def _model(
    architecture: str,
    model: EncoderDecoderConfig,
    config: ModelStudyConfig,
    length: int,
    seed: int,
    device: torch.device,
) -> Case:
    torch.manual_seed(seed)
    shape = (config.tokens // length, length)
    if architecture == "encoder_only":
        module, sides = _encoder(model, config.vocab_size, length, seed), 1
    else:
        sides = 2
        module = build_encoder_decoder(
            model,
            source_vocab_size=config.vocab_size,
            target_vocab_size=config.vocab_size,
            max_source_len=length,
            max_target_len=length,
            seed=seed,
        )
    tokens = torch.randint(config.vocab_size, (sides, *shape)).to(device)
    gradient = torch.randn(*shape, config.vocab_size).to(device)
    return Case(module.to(device), tuple(tokens), gradient)


def _encoder(model: EncoderDecoderConfig, vocab_size: int, length: int, seed: int) -> nn.Module:
    """Build the encoder alone, with a map to logits."""
    return nn.Sequential(
        nn.Embedding(vocab_size, model.dim),
        build_positions(model.positions, dim=model.dim, places=Places(length)),
        build_stack(model.encoder, causal=False, places=Places(length), seed=seed),
        nn.Linear(model.dim, vocab_size),
    )
