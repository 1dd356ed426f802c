"""One Ray session for all tests that need one: starting it costs seconds."""

import pytest


@pytest.fixture(scope="session")
def ray_session():
    from autopoly.execute.ray_pool import session

    with session():
        yield
