"""A step costs as much at the end of a long text as at its beginning."""

from __future__ import annotations

from actors.messages import MERGED_TOKENS, Piece, Prefix
from deployments.bench.long_text import measure


def test_the_last_steps_of_a_text_cost_what_the_first_ones_do() -> None:
    (row,) = measure(150, ["lookahead"])
    assert row["num_steps"] == 150
    assert row["ratio"] < 2.0  # 1.2 where nothing else runs; a cost that grows with the text is 5 and more


def test_a_long_prefix_is_not_copied_with_every_step() -> None:
    step = Piece("word " * 50, tuple(range(50)), "v")
    prefix = Prefix((1, 2))
    for _ in range(100):
        prefix = prefix.extended(step)
    assert all(len(piece.token_ids) < MERGED_TOKENS + 50 for piece in prefix.pieces)
    assert len(prefix.pieces) == 5
    longer = prefix.extended(step)
    assert all(a is b for a, b in zip(longer.pieces[:4], prefix.pieces[:4], strict=True))
    assert tuple(i for piece in longer.pieces for i in piece.token_ids) == tuple(range(50)) * 101
    assert "".join(piece.text for piece in longer.pieces) == step.text * 101
