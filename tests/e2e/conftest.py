"""One Ray session for all tests that need one: starting it costs seconds."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def ray_session():
    from autopoly.execute.ray_pool import session

    with session():
        import inscribed
        import ray

        # Ray's processes do not have the folder of the tests on their path.
        ray.cloudpickle.register_pickle_by_value(inscribed)
        yield
