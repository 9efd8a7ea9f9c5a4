"""The exact check: equal where only the setting differs, never where the meaning could."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.messages import Ending
from actors.verifiers.check import Decision
from actors.verifiers.exact import ExactCheck, normalise

SAME = [
    ("So 3 * 4 = 12 apples.\n\n", "So 3 * 4 = 12 apples."),
    ("So 3 * 4  =\t12 apples.", " So 3 * 4 = 12 apples."),
    ("First.\n\n\nSecond.", "First.\nSecond."),
    ("**Total** cost: $5", "Total cost: $5"),
    ("**Total:** 5", "Total: 5"),
    ("* apples\n* pears", "- apples\n• pears"),
    ("1) Add the bags.", "1. Add the bags."),
    (r"We get \(x = 5\).", r"We get $x=5$."),
    (r"\[ \frac{1}{2} + x \]", r"$$\dfrac{1}{2}+x$$"),
    (r"$\left( a\,b \right)$", r"\(( a b )\)"),
    ("Ann’s “big” bag", 'Ann\'s "big" bag'),  # noqa: RUF001
    ("８ − 5 = 3", "8 - 5 = 3"),  # noqa: RUF001
    ("a\u00a0b", "a b"),
    ("Bags:\n* apples", "Bags:\n- apples"),
    ("**Bags:**\n* apples\n* pears", "**Bags:**\n- apples\n- pears"),
    ("We buy\n\n* apples\n\n* pears", "We buy\n\n- apples\n- pears"),
    (r"So (\(x = 5\)), **\(y + 1\)**.", r"So ($x=5$), **$y+1$**."),
    (r"So \(f'(x) = 2\).", r"So $f'(x)=2$."),
    ("```\na  b\n```\nSo  5.\n", "```\na  b\n```\n\nSo 5."),
]

DIFFERENT = [
    ("= 794", "= 694"),
    ("X = 5", "x = 5"),
    ("x² = 9", "x2 = 9"),
    ("5²", "52"),
    ("3½", "31/2"),
    ("H₂", "H2"),
    ("ϕ", "φ"),
    ("10\n- 5", "10\n5"),
    ("10\n- 5", "10\n* 5"),
    ("3*4*5", "345"),
    ("2**3**2", "232"),
    ("2 ** n ** 2", "2 n 2"),
    ("f(**options, **more)", "f(options, more)"),
    ("__init__", "init"),
    ("if a:\n    b()\n    c()", "if a:\n    b()\nc()"),
    ("    return x", "return x"),
    ("costs $5 and $6", "costs 5 and 6"),
    ("1. Add", "2. Add"),
    (r"$f(1, 234)$", r"$f(1,234)$"),
    ("(8 - 5) - 2", "8 - (5 - 2)"),
    (r"$2 3$", r"$23$"),
    ("n!", "n"),
    ("total = (price\n* count)", "total = (price\n- count)"),
    ("Total cost\n* price per item", "Total cost\n- price per item"),
    ("* count)", "- count)"),
    ("total = (price\n- tax\n* count)", "total = (price\n- tax\n- count)"),
    ("rm -r $DIR /$NAME", "rm -r $DIR/$NAME"),
    ("rm -r ${DIR} -${NAME}", "rm -r ${DIR}-${NAME}"),
    ("echo $x -$(y)", "echo $x-$(y)"),
    (r"grep '\(a *\)'", r"grep '\(a*\)'"),
    (r"grep x\(a *b\)", r"grep x\(a*b\)"),
    (r"grep -E \(a *\) b", r"grep -E \(a*\) b"),
    (r"find . \( -name a -o -name b \)", r"find . \(-name a-o-name b\)"),
    (r"echo \(x\)", "echo $x$"),
    ("```\ngrep \\(a * b\\) c\n```", "```\ngrep \\(a*b\\) c\n```"),
    ('```\nprint("a  b")\n```', '```\nprint("a b")\n```'),
    ("```\n* ab\n* cd\n```", "```\n- ab\n- cd\n```"),
    ("```\na\n\nb\n```", "```\na\nb\n```"),
    ("print('a  b')", "print('a b')"),
    ('print("a  b")\n```', 'print("a b")\n```'),
    ('    print("a  b")', '    print("a b")'),
    ("```\n“\n```", '```\n"\n```'),
]


@pytest.mark.parametrize(("one", "other"), SAME)
async def test_accepts_what_is_only_set_otherwise(make_request, one, other):
    assert (await ExactCheck().check(make_request(one, other))).decision is Decision.ACCEPT


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
async def test_is_unsure_of_what_may_mean_something_else(make_request, one, other):
    assert (await ExactCheck().check(make_request(one, other))).decision is Decision.UNSURE


async def test_rejects_where_only_one_ends_the_text(make_request):
    request = make_request("Done.", "Done.", draft_ending=Ending.END)
    assert (await ExactCheck().check(request)).decision is Decision.REJECT


async def test_the_cap_is_no_different_ending(make_request):
    request = make_request("Done.", "Done.", draft_ending=Ending.CAP)
    assert (await ExactCheck().check(request)).decision is Decision.ACCEPT


MARKED = st.text(st.sampled_from(list("ab12 \n*-.$\\()[]=^,²½")), max_size=40) | st.text(max_size=40)


@settings(deadline=None)  # the machine may be busy
@given(MARKED, MARKED)
async def test_reflexive_and_symmetric(make_request, one, other):
    check = ExactCheck()
    assert (await check.check(make_request(one, one))).decision is Decision.ACCEPT
    forth = await check.check(make_request(one, other))
    back = await check.check(make_request(other, one))
    assert forth.decision is back.decision


@settings(deadline=None)  # the machine may be busy
@given(MARKED)
def test_no_digit_is_lost(text):
    assert [c for c in normalise(text) if c.isascii() and c.isdigit()] == [
        c for c in normalise_widths(text) if c.isascii() and c.isdigit()
    ]


def normalise_widths(text: str) -> str:
    """Full-width digits as plain ones, the only digits that may change."""
    return "".join(chr(ord(c) - 0xFEE0) if "０" <= c <= "９" else c for c in text)  # noqa: RUF001


@pytest.mark.timeout(10)  # it takes less than one second
def test_no_text_takes_long(hostile_text):
    assert normalise(hostile_text) == normalise(hostile_text)
