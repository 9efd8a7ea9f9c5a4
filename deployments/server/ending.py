"""The end of a server on this machine, before Ray Serve is told to end.

Promises: answers under way go on to their end, for `GRACE_S` at most, and no others begin; another Ctrl-C or SIGTERM
ends that wait; where nothing is under way it takes as long as the replicas take to leave.

Serve's own `shutdown` ends its proxies first, and with them every stream; what it waits for then is heard by nobody.
"""

from __future__ import annotations

import contextlib
import time

GRACE_S = 30.0
"""How long answers under way have."""
POLL_S = 0.2


def let_answers_end(app_name: str, within_s: float = GRACE_S) -> None:
    """Takes the application out of Serve, whose proxies stay, and returns when its replicas have left, or are to."""
    from ray import serve
    from ray.exceptions import RayError

    end = time.monotonic() + within_s
    # A controller that is gone leaves nobody to wait for.
    with contextlib.suppress(KeyboardInterrupt, RayError):
        serve.delete(app_name, _blocking=False)
        while time.monotonic() < end and app_name in serve.status().applications:
            time.sleep(POLL_S)
