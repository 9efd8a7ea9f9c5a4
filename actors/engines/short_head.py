"""Models with a short output matrix (`actors.short_head`) in vLLM.

Promises: a model of any family that `actors.short_head` shortens runs as vLLM's own class of that family does, with
minus infinity as the logit of every token that is not kept; nothing else in vLLM is changed.

How it gets in: vLLM loads the entry points `vllm.general_plugins` in each of its processes, and `register` there names
the classes, which are made when one of them is asked for.
"""

from __future__ import annotations

from typing import Any

from actors.short_head import FAMILIES, PREFIX


def register() -> None:
    """Tell vLLM's registry the names of the short architectures."""
    from vllm import ModelRegistry

    for family in FAMILIES:
        if PREFIX + family not in ModelRegistry.get_supported_archs():
            ModelRegistry.register_model(PREFIX + family, f"{__name__}:{PREFIX}{family}")


def __getattr__(name: str) -> Any:
    """The class of a short architecture, over vLLM's class of its family."""
    family = name.removeprefix(PREFIX)
    if family == name or family not in FAMILIES:
        raise AttributeError(name)
    made = _over(family)
    globals()[name] = made
    return made


def _over(family: str) -> type:
    from vllm import ModelRegistry
    from vllm.model_executor.layers.logits_processor import LogitsProcessor
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.model_executor.models.utils import maybe_prefix

    base: Any = ModelRegistry.models[family].load_model_cls()

    class ShortHead(base):  # type: ignore[misc]
        """`base`, whose output matrix holds the first and the last tokens only."""

        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            config = vllm_config.model_config.hf_config
            self.num_first, self.num_last = config.short_head["first"], config.short_head["last"]
            self.num_tokens = config.vocab_size
            num_kept = self.num_first + self.num_last
            self.lm_head = ParallelLMHead(
                num_kept,
                config.hidden_size,
                quant_config=vllm_config.quant_config,
                prefix=maybe_prefix(prefix, "lm_head"),
            )
            self.logits_processor = LogitsProcessor(num_kept)

        def compute_logits(self, *args: Any, **options: Any) -> Any:
            """Logits of all tokens, for as many positions as `base` gives."""
            found = super().compute_logits(*args, **options)
            if found is None:  # another rank has them
                return None
            logits = found.new_full((*found.shape[:-1], self.num_tokens), float("-inf"))
            logits[..., : self.num_first] = found[..., : self.num_first]
            if self.num_last:
                logits[..., self.num_tokens - self.num_last :] = found[..., self.num_first :]
            return logits

    ShortHead.__name__ = ShortHead.__qualname__ = PREFIX + family
    return ShortHead
