"""How the tests are spread over the workers."""

import os
from pathlib import Path

import pytest

# A worker has a processor: TensorFlow's threads, which wait by spinning, would take those of the others.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long end-to-end tests first, so that they do not come last alone; one folder on one worker,
    so that what its tests share is made once."""
    items.sort(key=lambda item: not {"e2e", "docs"} & {*Path(item.path).parts})
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(Path(item.path).parent)))
