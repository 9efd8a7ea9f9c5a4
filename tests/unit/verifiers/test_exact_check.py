"""The exact check: equal where only the setting differs, never where the meaning could."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.messages import Ending, Piece, Prefix
from actors.verifier import StepVerifier
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
    ("```f(a)``` is called.\nSo  5.", "```f(a)``` is called.\nSo 5."),
    ("Use `a` here.\n\n* apples\n* pears", "Use `a` here.\n\n- apples\n- pears"),
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
    ("if a:\n b()\n c()", "if a:\n b()\nc()"),
    ("print('a\tb')", "print('a    b')"),
    ("print('a\tb')", "print('a b')"),
    (r"Run \(a $x * b\) now", r"Run \(a $x*b\) now"),
    (r"So \[a$ * b\]", r"So \[a$*b\]"),
    (r"Run `grep \(a *b\) f` now", r"Run `grep \(a*b\) f` now"),
    ("```grep \\(a * b\\) c```", "```grep \\(a*b\\) c```"),
    ("Take `(price`\n* count of\n* pears", "Take `(price`\n- count of\n- pears"),
]

CODE = [
    ("*   *", "* *"),
    (r"grep \(a *b\) f", r"grep \(a*b\) f"),
    ("a  b\n```\n", "a b\n```\n"),
    ("* ab\n* cd", "- ab\n- cd"),
    ("“", '"'),
]
"""Equal in a text, and other programs in a block of code."""

OPEN = ["Run this:\n```bash\n", "```\na\n```\n\nThen:\n~~~\nb\n", "Call ```f(a)``` so:\n```\n"]
CLOSED = ["", "Run this:\n```bash\nls\n```\n", "Call ```f(a)``` so:\n"]


@pytest.mark.parametrize(("one", "other"), SAME)
async def test_accepts_what_is_only_set_otherwise(make_request, one, other):
    assert (await ExactCheck().check(make_request(one, other))).decision is Decision.ACCEPT


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
async def test_is_unsure_of_what_may_mean_something_else(make_request, one, other):
    assert (await ExactCheck().check(make_request(one, other))).decision is Decision.UNSURE


@pytest.mark.parametrize(("one", "other"), CODE)
async def test_lines_are_code_until_the_fence_that_was_opened_before_them_closes(make_request, one, other):
    verifier = StepVerifier({"v": [ExactCheck()]})  # which remembers verdicts, those for another text before them too
    for accepted, texts in ((True, CLOSED), (False, OPEN)):
        for text in texts:
            for request in (
                make_request(one, other, verifier="v", context=text),
                make_request(one, other, verifier="v", question=text),
                replace(make_request(one, other, verifier="v"), prefix=Prefix((1,), (Piece(text + "a\n", (2,), "v"),))),
            ):
                assert (await verifier.judge(request)).accepted == (accepted and "```" not in one)


async def test_behind_the_fence_that_closes_a_step_is_a_text_again(make_request):
    code = "a  b\n```\nSo  5.\n```\nc  d"
    for other, decision in (
        ("a  b\n```\nSo 5.\n```\nc  d", Decision.ACCEPT),
        ("a b\n```\nSo  5.\n```\nc  d", Decision.UNSURE),
        ("a  b\n```\nSo  5.\n```\nc d", Decision.UNSURE),
    ):
        assert (await ExactCheck().check(make_request(code, other, context=OPEN[0]))).decision is decision


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
