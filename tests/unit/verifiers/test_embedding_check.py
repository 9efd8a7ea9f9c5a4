"""The embedding check's zones, and loading, without a model. The real model is in tests/real."""

from __future__ import annotations

import pytest

from actors.errors import ConfigError
from actors.messages import Ending
from actors.verifiers import embedding
from actors.verifiers.check import Decision
from actors.verifiers.embedding import EmbeddingCheck


class ScriptedEncoder:
    """Answers with one set cosine."""

    def __init__(self, cosine: float | None) -> None:
        self.cosine = cosine

    async def similarity(self, one: str, other: str) -> float | None:
        return self.cosine


@pytest.mark.parametrize(
    ("cosine", "decision"),
    [
        (0.90, Decision.ACCEPT),
        (0.8999, Decision.UNSURE),
        (0.60, Decision.UNSURE),
        (0.5999, Decision.REJECT),
        (-1.0, Decision.REJECT),
        (float("nan"), Decision.UNSURE),
        (None, Decision.UNSURE),
    ],
)
async def test_zones(make_request, cosine, decision):
    check = EmbeddingCheck(ScriptedEncoder(cosine), accept=0.9, reject=0.6)
    assert (await check.check(make_request("one", "other"))).decision is decision


async def test_other_endings_are_rejected_at_any_cosine(make_request):
    request = make_request("Done.", "Done.", target_ending=Ending.END)
    opinion = await EmbeddingCheck(ScriptedEncoder(1.0)).check(request)
    assert opinion.decision is Decision.REJECT
    assert opinion.reason == "the draft's step ends by boundary, the target's by end"


def test_wrong_thresholds_are_found_before_a_model_is_fetched(monkeypatch):
    monkeypatch.setattr(embedding, "load_encoder", lambda model: pytest.fail("fetched a model"))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        EmbeddingCheck.create(accept=1.5, reject=0.5)
