"""Our pytest plugin beside those of anyio and pytest-asyncio."""

import pytest

pytest.importorskip("anyio")
pytest.importorskip("pytest_asyncio")


@pytest.mark.slow
def test_the_tests_of_others_are_left_alone(pytester):
    pytester.makeini(
        "[pytest]\naddopts = -p no:cacheprovider\nasyncio_default_fixture_loop_scope = function\n"
    )
    pytester.makepyfile(
        """
        import asyncio, pytest
        from waterspout.ioloop.testing import SimulatedLoop

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_anyio():
            assert not isinstance(asyncio.get_running_loop(), SimulatedLoop)
            asyncio.create_task(asyncio.sleep(10))

        @pytest.mark.waterspout
        async def test_ours():
            assert isinstance(asyncio.get_running_loop(), SimulatedLoop)

        @pytest.mark.asyncio
        async def test_asyncio():
            assert not isinstance(asyncio.get_running_loop(), SimulatedLoop)
            asyncio.create_task(asyncio.sleep(10))
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=3)
