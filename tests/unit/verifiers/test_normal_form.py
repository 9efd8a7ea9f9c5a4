"""Normal forms: Unicode's own, and soon there."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.verifiers.normal_form import normal_form

MARKED = st.text(st.sampled_from(list("a= \u0301\u0316\u0338\u00e9\u304b\u3099\u1100\u1161\u00b2\u2460")), max_size=60)


@given(MARKED | st.text(max_size=60))
def test_is_unicodes_own(text):
    assert normal_form("NFC", text) == unicodedata.normalize("NFC", text)
    assert normal_form("NFKC", text) == unicodedata.normalize("NFKC", text)


@pytest.mark.timeout(10)  # it takes a few milliseconds
def test_many_marks_on_one_letter_take_no_time():
    assert len(normal_form("NFC", "e" + "\u0301\u0316" * 100_000)) <= 200_001
