"""Settings for every test: property tests are the same on every machine, however slow it is."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import tempfile

from hypothesis import HealthCheck, settings

# Several processes of tests, each with a thread per core, would stand in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What libraries have in memory when tests begin stays to the end. To look at all of it for garbage,
# as each run of a sweep does, took a quarter of the tests' time.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


# A shell that starts us in the background lets us ignore Ctrl-C, and what we start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Ray notes the last cluster of a machine in here, and `auto` would join that of another process of
# tests. Short, for sockets lie in it, whose paths may have about a hundred characters.
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray-")
atexit.register(shutil.rmtree, os.environ["RAY_TMPDIR"], ignore_errors=True)

settings.register_profile(
    "ladle",
    # The first torch call of a process is slow, and what is shown must not depend on luck.
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("ladle")
