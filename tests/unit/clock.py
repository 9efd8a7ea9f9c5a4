"""The virtual clock of the simulator, for tests."""

from deployments.simulation.virtual_loop import THREAD_S, Result, VirtualClockLoop, run_virtually

__all__ = ["THREAD_S", "Result", "VirtualClockLoop", "run_virtually"]
