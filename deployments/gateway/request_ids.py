"""Which request ids of clients may be used.

Promises: imports nothing, since the HTTP proxy's process needs it, too.
"""

HEADER = "x-request-id"
MAX_ID_LENGTH = 128
UNUSABLE = "unusable\tid"
"""What stands for an id that cannot be used. Neither can this one, for its tab, which a header may hold."""


def is_usable(request_id: str, longest: int = MAX_ID_LENGTH) -> bool:
    """Whether a client's request id may be logged, echoed and looked up."""
    return 1 <= len(request_id) <= longest and request_id.isascii() and request_id.isprintable()
