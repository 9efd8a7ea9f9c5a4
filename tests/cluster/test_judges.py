"""Clients that others wrote, against the whole server: LangChain, vLLM's load client, lm-eval. All on this machine.

The official `openai` client asks in `test_cluster.py` and in the gateway's own tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import Served
from tests.cluster.test_cluster import MODEL, truth

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

QUESTIONS = ["How many apples?", "How many hats?", "How many drums?"]
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "LANGSMITH_TRACING": "false"}


def run(module: str, arguments: list[str], folder: Path) -> None:
    """A judge that is a program, in a process of its own."""
    environment = os.environ | OFFLINE | {"HF_HOME": str(folder / "hf")}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_langchain_invokes_and_streams(served: Served) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports'
        langchain = pytest.importorskip("langchain_openai")
    exact = {"speculation": {"mode": "lookahead", "fidelity": "exact", "controller": False}}
    model = langchain.ChatOpenAI(
        base_url=f"{served.url}/v1", api_key="none", model=MODEL, temperature=0, max_retries=0, extra_body=exact
    )
    answer = model.invoke(QUESTIONS[0])
    assert answer.text == truth(QUESTIONS[0], served)
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata["output_tokens"] > 0
    chunks = list(model.stream(QUESTIONS[1], stream_usage=True))
    assert "".join(chunk.text for chunk in chunks) == truth(QUESTIONS[1], served)
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) > 0
    assert [one.text for one in model.batch(QUESTIONS)] == [truth(question, served) for question in QUESTIONS]


def test_vllms_load_client_counts_no_failure(served: Served, tmp_path: Path) -> None:
    """Without ``--model``, so it asks for the models first."""
    pytest.importorskip("vllm")
    lines = [json.dumps({"prompt": question, "output_tokens": 60}) for question in QUESTIONS * 2]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    arguments = ["--backend", "openai-chat", "--base-url", served.url, "--endpoint", "/v1/chat/completions"]
    arguments += ["--dataset-name", "custom", "--dataset-path", str(tmp_path / "questions.jsonl")]
    arguments += ["--custom-output-len", "-1", "--skip-tokenizer-init", "--skip-chat-template", "--num-prompts", "6"]
    arguments += ["--max-concurrency", "3", "--extra-body", '{"speculation": {"mode": "lookahead"}}']
    arguments += ["--save-result", "--save-detailed", "--result-dir", str(tmp_path), "--result-filename", "result.json"]
    run("deployments.bench.vllm_client", arguments, tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result["failed"]) == (6, 0)
    assert not any(result["errors"])


def test_lm_eval_grades_a_local_task(served: Served, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    answers = [truth(question, served).split()[-1].rstrip(".") for question in QUESTIONS]
    pairs = zip(QUESTIONS, answers, strict=True)
    lines = [json.dumps({"question": question, "answer": answer}) for question, answer in pairs]
    (tmp_path / "sums.jsonl").write_text("\n".join(lines))
    last = {"function": "regex", "regex_pattern": r"The answer is (\d+)", "group_select": -1}
    task = {
        "task": "made_up_sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "sums.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["###"], "max_gen_toks": 400, "temperature": 0.0},
        "filter_list": [{"name": "last", "filter": [last, {"function": "take_first"}]}],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(task))
    server = f"model={MODEL},base_url={served.url}/v1/chat/completions,num_concurrent=2,max_retries=1"
    arguments = ["--model", "local-chat-completions", "--model_args", server + ",tokenized_requests=False"]
    arguments += ["--tasks", "made_up_sums", "--include_path", str(tmp_path), "--apply_chat_template"]
    run("lm_eval", [*arguments, "--output_path", str(tmp_path / "out")], tmp_path)
    result = json.loads(next((tmp_path / "out").rglob("results_*.json")).read_text())
    assert result["results"]["made_up_sums"]["exact_match,last"] == 1.0
