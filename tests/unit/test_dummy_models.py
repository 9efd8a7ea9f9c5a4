"""Models without weights, and the profile for one GPU that is made of them."""

from __future__ import annotations

import pytest
from transformers import AutoConfig, AutoTokenizer

from actors.dummy_models import SHAPES
from actors.engines.tokenizer import ModelTokenizer
from actors.errors import WeightsError
from actors.messages import Message, Prompt
from actors.models import is_cached, resolve, source_of
from deployments.config import load_profile
from deployments.coordinator.coordinator import settle
from deployments.generation import GenerationRequest
from deployments.simulation.hardware import GPUS, MODELS


def test_a_dummy_model_is_a_configuration_and_a_tokenizer_of_its_size(tmp_path) -> None:
    assert not is_cached("dummy:tiny", cache=tmp_path)
    folder = resolve("dummy:tiny", cache=tmp_path)
    assert is_cached("dummy:tiny", cache=tmp_path)
    assert not list(folder.glob("*.safetensors"))
    config = AutoConfig.from_pretrained(folder)
    assert (config.model_type, config.num_hidden_layers, config.vocab_size) == ("qwen2", 2, 1024)
    tokenizer = ModelTokenizer(AutoTokenizer.from_pretrained(folder), config.vocab_size)
    assert len(AutoTokenizer.from_pretrained(folder)) == config.vocab_size
    assert len(tokenizer.encode_prompt(Prompt(messages=(Message("user", "Hé?"),)))) == len("user: Hé?\nassistant: ") + 1


def test_what_cannot_be_is_named() -> None:
    assert source_of("dummy:tiny") == ("dummy", "tiny")
    with pytest.raises(WeightsError, match="there are: r1-distill-qwen"):
        resolve("dummy:no-such")
    with pytest.raises(WeightsError, match="no weights to convert"):
        resolve("int8:dummy:tiny")


def test_shapes_have_the_sizes_that_are_published() -> None:
    """Weights by the shape are those of the estimates, within what a count of parameters is rounded by."""
    for size in ("1.5b", "7b", "14b", "32b"):
        shape = SHAPES[f"r1-distill-qwen-{size}"]
        heads = 2 * shape.hidden_size**2
        heads += 2 * shape.hidden_size * (shape.hidden_size // shape.num_attention_heads * shape.num_key_value_heads)
        layer = heads + 3 * shape.hidden_size * shape.intermediate_size
        total = layer * shape.num_hidden_layers + 2 * shape.vocab_size * shape.hidden_size
        assert total == pytest.approx(MODELS[f"r1-distill-{size}"].parameters, rel=0.03)


def test_the_pair_of_the_profile_has_one_vocabulary(tmp_path) -> None:
    """Else each draft step would be encoded anew from its text, a token for each byte."""
    config = load_profile("gpu-one")
    assert config.draft is not None
    fingerprints = set()
    for model in (config.target.model, config.draft.model):
        folder = resolve(model, cache=tmp_path)
        size = AutoConfig.from_pretrained(folder).vocab_size
        fingerprints.add(ModelTokenizer(AutoTokenizer.from_pretrained(folder), size).fingerprint)
    assert len(fingerprints) == 1


def test_the_profile_for_one_gpu_fits_it_and_replays_acceptance() -> None:
    config = load_profile("gpu-one")
    assert config.draft is not None
    writers = (config.target, config.draft)
    shares = [writer.engine.options["gpu_memory_utilization"] for writer in writers]
    assert sum(shares) <= 0.9
    for writer, share in zip(writers, shares, strict=True):
        name = writer.model.removeprefix("dummy:r1-distill-qwen-")
        assert MODELS[f"r1-distill-{name}"].weight_bytes * 1.2 < share * GPUS["h100"].memory
    assert sum(writer.placement.num_gpus or 0 for writer in writers) == pytest.approx(1.0)
    requests, prompt, written = 32, 700, 1500  # docs/one-gpu.md; a prompt has a token for each of its characters
    window = config.speculation.max_lookahead + 1
    steps = window * config.speculation.step.max_tokens
    model, memory = MODELS["r1-distill-14b"], GPUS["h100"].memory
    cached = (shares[0] * memory - 1.1 * model.weight_bytes) / model.kv_bytes  # a window's sequences share their prefix
    assert config.target.engine.options["max_num_seqs"] >= requests * window
    assert requests * (prompt + written + steps) < cached
    plan = settle(config, GenerationRequest("r", Prompt(text="?")))
    assert (plan.mode, plan.verifier, plan.token_speculation) == ("lookahead", "replayed", "none")
