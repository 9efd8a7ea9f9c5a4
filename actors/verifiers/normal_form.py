"""Unicode's normal forms in a time that grows with a text's length.

Promises: `normal_form` is `unicodedata.normalize`, except that a run of more than 64 characters beyond ASCII is
normalised in pieces. `unicodedata` sorts the marks on one letter, in a time that grows with the square of their number:
20,000 of them would hold up everybody who waits for the same verifier.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

# Between a piece's end and an ASCII character nothing is ever composed or sorted.
_PIECE = re.compile(r"[\x00-\x7f]*[^\x00-\x7f]{0,64}")


def normal_form(form: Literal["NFC", "NFKC"], text: str) -> str:
    """`text` in one of Unicode's normal forms (UAX 15)."""
    return "".join(unicodedata.normalize(form, piece) for piece in _PIECE.findall(text))
