"""What an engine costs on a GPU that is not here: a roofline from published figures of chips and models. Pure.

Promises: everything made here is an estimate and says so. A pass takes the longer of reading the weights (bytes over
memory bandwidth) and computing (2 operations a parameter and token over the chip's peak), at efficiencies that are
assumed, plus a fixed time for scheduling and, with several GPUs, the exchange after each half of a layer. Sources: the
vendors' data sheets (dense bf16, without sparsity) and the models' ``config.json``. Prices are assumptions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from deployments.simulation.costs import EngineCost

BANDWIDTH_SHARE, COMPUTE_SHARE = 0.8, 0.5
"""What of the peaks an engine reaches: assumed, of the size that is commonly reported."""
PASS_OVERHEAD_S, LAYER_OVERHEAD_S = 1e-3, 1e-5
"""Scheduling and sampling of a pass, and launching a layer: assumed."""
EXCHANGE_S = 1e-5
"""One all-reduce within a node, without its bytes: assumed. Two a layer."""
SLOW_EXCHANGE_S, NODE_LINK = 4e-5, 5e10
"""The same between nodes, and the bytes a second there (a 400 Gb/s link)."""
MEMORY_SHARE = 0.9
"""What vLLM takes of the memory."""
CALL_S = 2e-3
"""A call over Serve's gRPC transport."""
MOST_SEQUENCES = 1024
"""In one engine's batch, as a planned profile configures it."""
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One chip. `memory` in bytes, `bandwidth` and `link` (one way) in bytes a second, `operations` in a second."""

    name: str
    memory: float
    bandwidth: float
    operations: float
    link: float
    usd_per_hour: float


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands around a model's reasoning. `by_template`: its chat template writes the opening one, else the model
    does."""

    open: str
    close: str
    by_template: bool

    @property
    def answer_prefix(self) -> str:
        """What an answer without reasoning begins with: an empty one, closed."""
        return f"{self.close}\n\n" if self.by_template else f"{self.open}\n\n{self.close}\n\n"


R1 = Marks("<think>", "</think>", by_template=True)
QWEN3 = Marks("<think>", "</think>", by_template=False)


SMALL, LARGE, LLAMA = 151_936, 152_064, 128_256
"""Vocabulary sizes: Qwen's small and large models have the same tokens, and other numbers of rows that none needs."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """One model in bf16. `parameters` counts all of them; `kv_bytes` is what a token takes in the cache."""

    name: str
    parameters: float
    num_layers: int
    hidden: int
    num_heads: int
    kv_heads: int
    head_size: int
    hub: str
    vocab_size: int
    """Rows of its output matrix: those that no token of the tokenizer needs are counted."""
    marks: Marks | None = None
    """None: it writes no reasoning apart."""
    max_context: int = 131_072
    """Tokens of a whole request, as its ``config.json`` has them."""

    @property
    def weight_bytes(self) -> float:
        """All weights."""
        return 2.0 * self.parameters

    @property
    def kv_bytes(self) -> float:
        """Keys and values of a token, in all layers."""
        return 4.0 * self.num_layers * self.kv_heads * self.head_size


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("l40s", 48e9, 0.864e12, 362e12, 3.2e10, 1.0),
        Gpu("a100", 80e9, 2.04e12, 312e12, 3e11, 1.6),
        Gpu("h100", 80e9, 3.35e12, 989e12, 4.5e11, 2.5),
        Gpu("h200", 141e9, 4.8e12, 989e12, 4.5e11, 3.2),
        Gpu("b200", 180e9, 8.0e12, 2250e12, 9e11, 5.5),
    )
}
MODELS: dict[str, ModelShape] = {
    model.name: model
    for model in (
        ModelShape("qwen2.5-0.5b", 0.49e9, 24, 896, 14, 2, 64, "Qwen/Qwen2.5-0.5B-Instruct", SMALL, None, 32_768),
        ModelShape("qwen2.5-7b", 7.6e9, 28, 3584, 28, 4, 128, "Qwen/Qwen2.5-7B-Instruct", LARGE, None, 32_768),
        ModelShape("qwen2.5-32b", 32.8e9, 64, 5120, 40, 8, 128, "Qwen/Qwen2.5-32B-Instruct", LARGE, None, 32_768),
        ModelShape("qwen2.5-72b", 72.7e9, 80, 8192, 64, 8, 128, "Qwen/Qwen2.5-72B-Instruct", LARGE, None, 32_768),
        ModelShape(
            "r1-distill-1.5b", 1.78e9, 28, 1536, 12, 2, 128, "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", SMALL, R1
        ),
        ModelShape("r1-distill-7b", 7.6e9, 28, 3584, 28, 4, 128, "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", LARGE, R1),
        ModelShape(
            "r1-distill-14b", 14.8e9, 48, 5120, 40, 8, 128, "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", LARGE, R1
        ),
        ModelShape(
            "r1-distill-32b", 32.8e9, 64, 5120, 40, 8, 128, "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", LARGE, R1
        ),
        ModelShape(
            "r1-distill-70b", 70.6e9, 80, 8192, 64, 8, 128, "deepseek-ai/DeepSeek-R1-Distill-Llama-70B", LLAMA, R1
        ),
        ModelShape("qwen3-0.6b", 0.6e9, 28, 1024, 16, 8, 128, "Qwen/Qwen3-0.6B", SMALL, QWEN3, 40_960),
        ModelShape("qwen3-1.7b", 1.7e9, 28, 2048, 16, 8, 128, "Qwen/Qwen3-1.7B", SMALL, QWEN3, 40_960),
        ModelShape("qwen3-8b", 8.2e9, 36, 4096, 32, 8, 128, "Qwen/Qwen3-8B", SMALL, QWEN3, 40_960),
        ModelShape("qwen3-14b", 14.8e9, 40, 5120, 40, 8, 128, "Qwen/Qwen3-14B", SMALL, QWEN3, 40_960),
        ModelShape("qwen3-32b", 32.8e9, 64, 5120, 64, 8, 128, "Qwen/Qwen3-32B", SMALL, QWEN3, 40_960),
    )
}


def is_split_by(model: ModelShape, num_gpus: int) -> bool:
    """Whether so many GPUs get equal numbers of attention heads: vLLM refuses others."""
    return model.num_heads % num_gpus == 0


def max_requests(model: ModelShape, gpu: Gpu, num_gpus: int, context: int, drafter: ModelShape | None = None) -> int:
    """Requests of `context` tokens whose cache fits beside the weights, those of a `drafter` in the same engine too; 0
    where the weights alone do not. The sequences of one request's window share their prefix, so they count once."""
    models = [model] if drafter is None else [model, drafter]
    free = gpu.memory * MEMORY_SHARE * num_gpus - sum(one.weight_bytes for one in models) * 1.03
    return max(int(free / (sum(one.kv_bytes for one in models) * context)), 0)


def estimated_cost(
    model: ModelShape,
    gpu: Gpu,
    num_gpus: int,
    *,
    context: int = 4096,
    num_proposed: int = 0,
    tokens_per_pass: float = 1.0,
    gpus_per_node: int = 8,
    pass_overhead_s: float = PASS_OVERHEAD_S,
) -> EngineCost:
    """An engine over `num_gpus` GPUs in tensor parallel whose sequences have `context` tokens at most. With
    `num_proposed` tokens a pass of its own token-level speculation, of which `tokens_per_pass` come out; each takes
    `pass_overhead_s` for scheduling and sampling.

    ValueError where the weights do not fit, and where the GPUs cannot share the attention heads (vLLM copies those of
    keys and values, where they are fewer than GPUs).
    """
    if not is_split_by(model, num_gpus):
        raise ValueError(f"{num_gpus} GPUs cannot share the {model.num_heads} attention heads of {model.name}")
    if max_requests(model, gpu, num_gpus, context) < 1:
        raise ValueError(f"{model.name} does not fit into {num_gpus} x {gpu.name}")
    bandwidth = gpu.bandwidth * BANDWIDTH_SHARE * num_gpus
    operations = gpu.operations * COMPUTE_SHARE * num_gpus

    def seconds(num_tokens: float) -> float:
        work = max(model.weight_bytes / bandwidth, 2.0 * model.parameters * num_tokens / operations)
        return work + pass_overhead_s + model.num_layers * LAYER_OVERHEAD_S + exchange(num_tokens)

    def exchange(num_tokens: float) -> float:
        if num_gpus == 1:
            return 0.0
        within = num_gpus <= gpus_per_node
        latency, link = (EXCHANGE_S, gpu.link) if within else (SLOW_EXCHANGE_S, NODE_LINK)
        return 2.0 * model.num_layers * (latency + 4.0 * num_tokens * model.hidden / link)

    points = tuple((n, seconds(n * (1 + num_proposed)) / tokens_per_pass) for n in BATCHES)
    return EngineCost(
        points,
        context_s=model.kv_bytes / bandwidth / tokens_per_pass,
        call_s=CALL_S,
        prefill_token_s=2.0 * model.parameters / operations,
        max_num_seqs=MOST_SEQUENCES,
    )


def scaled(cost: EngineCost, tokens_per_pass: float) -> EngineCost:
    """`cost` where a pass gives every sequence so many tokens."""
    points = tuple((size, seconds / tokens_per_pass) for size, seconds in cost.pass_s)
    return replace(cost, pass_s=points, context_s=cost.context_s / tokens_per_pass)
