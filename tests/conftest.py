"""Shared by all tests: where real data and models lie, if anywhere; one thread, so that bits do not depend on the machine."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# a first call imports, and other processes share the machine: how long one example takes says nothing
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

os.environ.setdefault("OMP_NUM_THREADS", "1")

SLOW = ("test_sweep.py", "test_real_models.py", "test_fetch.py")  # few tests that take minutes


def pytest_collection_modifyitems(items):
    """Slow files first: several workers (`make test`) then end together."""
    items.sort(key=lambda item: item.path.name not in SLOW)


def _folder(variable: str) -> Path:
    place = os.environ.get(variable)
    if not place or not Path(place).is_dir():
        pytest.skip(f"{variable} does not name a folder")
    return Path(place)


@pytest.fixture(scope="session")
def real_data() -> Path:
    return _folder("PIPELINE_DATA")


@pytest.fixture(scope="session")
def real_models() -> Path:
    return _folder("PIPELINE_MODELS")
