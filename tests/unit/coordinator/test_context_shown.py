"""What a verifier is shown of the words before a step."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Piece
from deployments.coordinator.window import tail_text


@given(st.lists(st.text("ab\n", max_size=30), max_size=8), st.integers(2, 60))
def test_the_end_of_the_text_and_enough_of_it(texts, max_chars):
    text = "".join(texts)
    shown = tail_text(tuple(Piece(part, (), "v") for part in texts), max_chars)
    assert text.endswith(shown)
    assert shown == text if len(text) <= max_chars else max_chars // 2 <= len(shown) <= max_chars


def test_its_beginning_moves_in_jumps_so_that_prompts_begin_alike():
    beginnings = {length - len(tail_text((Piece("x" * length, (), "v"),), 40)) for length in range(200)}
    assert beginnings == {0, 20, 40, 60, 80, 100, 120, 140, 160}
