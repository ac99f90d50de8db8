"""`pytest -m full` is resumable: what passed under the same sources is not run again."""

import hashlib
import os
from pathlib import Path

import pytest

import pyro_vae


def sources():
    root = Path(pyro_vae.__file__).parent
    parts = [path.read_bytes() for path in sorted(root.rglob("*.py"))]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def records(config):
    """The folder of what passed under these sources; None where pytest is to keep nothing."""
    cache = getattr(config, "cache", None)
    return None if cache is None else cache.mkdir(f"capture-{sources()}")


def pytest_collection_modifyitems(config, items):
    if config.getoption("-m") != "full":
        return
    config.full_records = folder = records(config)
    if folder is None:
        return
    passed = {line for path in folder.iterdir() for line in path.read_text().splitlines()}
    done = [item for item in items if item.nodeid in passed]
    if done:
        items[:] = [item for item in items if item.nodeid not in passed]
        config.hook.pytest_deselected(items=done)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    folder = getattr(item.config, "full_records", None)
    if folder is not None and report.when == "call" and report.passed:
        # workers that run side by side have a file each
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        with (folder / worker).open("a") as record:
            record.write(f"{item.nodeid}\n")
