"""How long a server on this machine waits for its answers when it is told to end, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from ray import serve
from ray.exceptions import RayActorError

from deployments.server import ending
from deployments.server.ending import GRACE_S, let_answers_end


class Clock:
    """The time, and what happens when somebody looks at the applications at some point of it."""

    def __init__(self, gone_at: float, happens: Callable[[float], None]) -> None:
        self.now = 100.0
        self.deleted: list[tuple[str, bool]] = []
        self._gone_at = self.now + gone_at
        self._happens = happens

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def delete(self, name: str, _blocking: bool = True) -> None:
        self.deleted.append((name, _blocking))

    def status(self) -> SimpleNamespace:
        self._happens(self.now - 100.0)
        return SimpleNamespace(applications={} if self.now >= self._gone_at else {"ours": None, "other": None})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Clock]:
    def made(gone_at: float, happens: Callable[[float], None] = lambda _: None) -> Clock:
        found = Clock(gone_at, happens)
        monkeypatch.setattr(ending, "time", found)
        monkeypatch.setattr(serve, "delete", found.delete)
        monkeypatch.setattr(serve, "status", found.status)
        return found

    return made


@pytest.mark.parametrize(("gone_at", "waited"), [(0.0, 0.0), (7.0, 7.0), (3600.0, GRACE_S)])
def test_answers_have_as_long_as_they_need_and_no_longer_than_promised(
    clock: Callable[..., Clock], gone_at: float, waited: float
) -> None:
    found = clock(gone_at)
    let_answers_end("ours")
    assert found.deleted == [("ours", False)], "its proxies stay, and nobody is asked to wait for longer"
    assert found.now - 100.0 == pytest.approx(waited, abs=0.5)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RayActorError()], ids=["Ctrl-C again", "no controller"])
def test_the_wait_ends_where_it_is_of_no_use(clock: Callable[..., Clock], error: BaseException) -> None:
    def happens(after_s: float) -> None:
        if after_s >= 3.0:
            raise error

    found = clock(3600.0, happens)
    let_answers_end("ours")
    assert found.now - 100.0 == pytest.approx(3.0, abs=0.5)
