"""The pytest plugin in suites of users: the marker works, and suites without it do not change."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

MODES = pytest.mark.parametrize("mode", ["auto", "strict"])

HOUR = """
    import asyncio, pytest
    from resilient.testing import now

    {module}

    {test}
    async def test_hour():
        await asyncio.sleep(3600)
        assert now() == 3600
"""


def run(pytester: pytest.Pytester, mode: str, code: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(code)
    configure(pytester, mode)
    return pytester.runpytest_inprocess(*options)


def configure(pytester: pytest.Pytester, mode: str = "auto") -> None:
    pytester.makeini(f"""
        [pytest]
        addopts = --strict-markers -p no:cacheprovider
        asyncio_mode = {mode}
        asyncio_default_fixture_loop_scope = function
        filterwarnings = error
    """)


@MODES
@pytest.mark.parametrize(
    "where", [{"module": "", "test": "@pytest.mark.virtual_time"}, {"module": "pytestmark = pytest.mark.virtual_time"}]
)
def test_marked_coroutine_runs_in_virtual_time(pytester: pytest.Pytester, mode: str, where: dict[str, str]) -> None:
    """On the test or on its module, in either mode of pytest-asyncio."""
    run(pytester, mode, HOUR.format(**{"test": "", **where})).assert_outcomes(passed=1)


@MODES
def test_marked_class_fixtures_and_parameters(pytester: pytest.Pytester, mode: str) -> None:
    """Fixtures run on the test's own loop."""
    code = """
        import asyncio, pytest, pytest_asyncio
        from resilient.testing import now

        @pytest_asyncio.fixture
        async def begun():
            await asyncio.sleep(100)
            yield now()
            await asyncio.sleep(1000)

        @pytest.mark.virtual_time
        class TestTime:
            @pytest.mark.parametrize("seconds", [1, 2])
            async def test_time(self, begun, seconds):
                await asyncio.sleep(seconds)
                assert (begun, now()) == (100, 100 + seconds)

            @staticmethod
            async def test_static():
                await asyncio.sleep(3600)

            def test_plain(self):
                pass
    """
    run(pytester, mode, code).assert_outcomes(passed=4)


@MODES
def test_marked_hypothesis_test_runs_in_virtual_time(pytester: pytest.Pytester, mode: str) -> None:
    """Each example of a marked Hypothesis test runs in virtual time."""
    code = """
        import asyncio, pytest
        from hypothesis import given, settings, strategies
        from resilient.testing import now

        @pytest.mark.virtual_time
        @given(strategies.integers(100, 1000))
        @settings(max_examples=20, database=None, deadline=None)
        async def test_time(seconds):
            begin = now()
            await asyncio.sleep(seconds)
            assert now() - begin == seconds
    """
    run(pytester, mode, code).assert_outcomes(passed=1)


@MODES
@pytest.mark.parametrize("scope", ["function", "module"])
def test_marked_hypothesis_examples_begin_anew(pytester: pytest.Pytester, mode: str, scope: str) -> None:
    """At 0, on a loop on which nothing of the examples before goes on; alone and in a class, whatever the fixtures."""
    code = """
        import asyncio, pytest, pytest_asyncio
        from hypothesis import HealthCheck, given, settings, strategies
        from resilient.testing import now

        pytestmark = [pytest.mark.asyncio(loop_scope="SCOPE"), pytest.mark.virtual_time]
        quick = settings(
            max_examples=20, database=None, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
        )

        @pytest_asyncio.fixture(loop_scope="SCOPE")
        async def name():
            await asyncio.sleep(100)
            return "Ada"

        async def example(seconds):
            assert (now(), len(asyncio.all_tasks())) == (0, 1)
            asyncio.create_task(asyncio.sleep(5000))
            await asyncio.sleep(seconds)
            assert now() == seconds

        @given(strategies.integers(100, 1000))
        @quick
        async def test_alone(seconds):
            await example(seconds)

        class TestClass:
            @pytest.mark.parametrize("more", [1, 2])
            @given(seconds=strategies.integers(100, 1000))
            @quick
            async def test_method(self, name, more, seconds):
                assert name == "Ada"
                await example(seconds + more)
    """
    run(pytester, mode, code.replace("SCOPE", scope)).assert_outcomes(passed=3)


def test_failing_hypothesis_example_is_shrunk(pytester: pytest.Pytester) -> None:
    """The example fails again when Hypothesis repeats it, so it finds the smallest one."""
    code = """
        import asyncio, pytest
        from hypothesis import given, settings, strategies
        from resilient.testing import now

        @pytest.mark.virtual_time
        @given(strategies.integers(0, 1000))
        @settings(database=None, deadline=None)
        async def test_time(seconds):
            await asyncio.sleep(seconds)
            assert now() < 500
    """
    result = run(pytester, "auto", code)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*seconds=500,*"])


HIDDEN = """
    import asyncio, pytest
    from hypothesis import given, settings, strategies
    from resilient import Fallback, Pipeline, Retry

    guarded = Pipeline(Fallback("cached"), Retry(attempts=3, wait=10))

    @guarded
    async def get_price():
        reader, _ = await asyncio.open_connection("127.0.0.1", 80)
        return await reader.read()

    async def forget():
        asyncio.get_running_loop().forgotten = asyncio.create_task(get_price())

    pytestmark = pytest.mark.virtual_time

    async def test_handled():
        assert await get_price() == "cached"

    async def test_forgotten():
        await forget()

    @given(strategies.integers())
    @settings(max_examples=5, database=None)
    async def test_example(number):
        assert await get_price() == "cached"
"""


@MODES
def test_real_io_fails_the_test_whatever_handles_it(pytester: pytest.Pytester, mode: str) -> None:
    """The failure of the test names the line that asked for a socket."""
    result = run(pytester, mode, HIDDEN)
    result.assert_outcomes(failed=3)
    lines = (
        "E * VirtualTimeError: virtual time has no sockets (create_connection), which is used in get_price (*.py:9)*"
    )
    result.stdout.fnmatch_lines([lines.replace("E * ", "E *")] * 3)


def test_limit_of_the_marker_ends_the_test(pytester: pytest.Pytester) -> None:
    """The closest one counts; tests that share a loop may have one each."""
    code = """
        import asyncio, pytest
        from hypothesis import given, settings, strategies

        pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.virtual_time(limit=60)]

        async def beat():
            while True:
                await asyncio.sleep(7)

        async def test_beat():
            task = asyncio.create_task(beat())
            await asyncio.Event().wait()

        @pytest.mark.virtual_time(limit=90)
        async def test_poll():
            await beat()

        async def test_short():
            await asyncio.sleep(59)

        @given(strategies.integers(100, 200))
        @settings(max_examples=5, database=None)
        async def test_example(seconds):
            await asyncio.sleep(seconds)
    """
    result = run(pytester, "auto", code)
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(["E *Deadlock: this has not ended within 60 s*", "E *Deadlock: *within 90 s*"])


@pytest.mark.parametrize("given", ["60", "limt=60", "60, limit=60"])
def test_marker_with_other_arguments_is_refused(pytester: pytest.Pytester, given: str) -> None:
    """The message says which argument the marker takes, and which it got."""
    result = run(pytester, "auto", HOUR.format(module="", test=f"@pytest.mark.virtual_time({given})"))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*virtual_time takes limit=, in seconds, and nothing else, got {given}"])


@pytest.mark.parametrize("marked_first", [True, False])
def test_other_tests_of_the_suite_run_in_real_time(pytester: pytest.Pytester, marked_first: bool) -> None:
    """Before and after marked ones; under their own names."""
    marked = """
        @pytest.mark.virtual_time
        async def test_marked():
            assert type(asyncio.get_running_loop()) is VirtualLoop
    """
    other = """
        async def test_other():
            assert isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop)
    """
    head = """
        import asyncio, pytest
        from resilient.testing import VirtualLoop
    """
    tests = [marked, other] if marked_first else [other, marked]
    result = run(pytester, "auto", "".join([head, *tests]), "-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*::test_other PASSED*"])


def test_loops_that_the_suite_chose_are_kept(pytester: pytest.Pytester) -> None:
    """Tests without the marker keep the loops that the suite has chosen."""
    pytester.makeconftest("""
        import uvloop

        def pytest_asyncio_loop_factories(config, item):
            return {"uvloop": uvloop.new_event_loop}
    """)
    code = """
        import asyncio, pytest
        from resilient.testing import VirtualLoop

        @pytest.mark.virtual_time
        async def test_marked():
            assert type(asyncio.get_running_loop()) is VirtualLoop

        async def test_other():
            assert "uvloop" in type(asyncio.get_running_loop()).__module__
    """
    run(pytester, "auto", code).assert_outcomes(passed=2)


def test_loop_of_a_whole_module_is_shared_by_its_marked_tests(pytester: pytest.Pytester) -> None:
    """Marked tests of a module share a loop if pytest-asyncio's `loop_scope` says so; its time goes on."""
    code = """
        import asyncio, pytest
        from resilient.testing import now

        pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.virtual_time]

        async def test_first():
            await asyncio.sleep(10)

        async def test_second():
            assert now() == 10
    """
    run(pytester, "strict", code).assert_outcomes(passed=2)


def test_marked_plain_function_is_refused(pytester: pytest.Pytester) -> None:
    """A marked plain function, which would run in real time, is refused with a message that says what to do."""
    code = """
        import pytest

        @pytest.mark.virtual_time
        def test_plain():
            pass
    """
    result = run(pytester, "auto", code)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*test_plain is a plain def, and virtual time is for coroutines*resilient.testing.run*"]
    )


def test_missing_pytest_asyncio_is_told(pytester: pytest.Pytester) -> None:
    """The test does not pass in silence. (An older one is missed in the same way: it does not know our hook.)"""
    pytester.makepyfile(HOUR.format(module="", test="@pytest.mark.virtual_time"))
    result = pytester.runpytest_inprocess("-p", "no:asyncio", "-p", "no:anyio")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*virtual_time needs pytest-asyncio 1.5 or later*"])


def test_marker_is_listed(pytester: pytest.Pytester) -> None:
    """`pytest --markers` lists the marker."""
    configure(pytester)
    result = pytester.runpytest_inprocess("--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.virtual_time: run the coroutine test on an event loop in virtual time*"])


def test_suite_without_marked_tests_does_not_import_resilient(pytester: pytest.Pytester) -> None:
    """Every pytest run in the environment loads the plugin; it must cost them nothing."""
    pytester.makepyfile("""
        import sys

        async def test_async(request):
            assert "resilient_pytest" in sys.modules
            assert [name for name in sys.modules if name.partition(".")[0] in ("resilient", "tenacity")] == []
            assert request.config.hook.pytest_asyncio_loop_factories.get_hookimpls() == []
    """)
    configure(pytester)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_anyio_has_virtual_time_by_its_backend(pytester: pytest.Pytester) -> None:
    """For suites that use its plugin rather than pytest-asyncio."""
    code = """
        import asyncio, pytest
        from resilient.testing import VirtualLoop, now

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def anyio_backend():
            return "asyncio", {"loop_factory": VirtualLoop}

        async def test_hour():
            await asyncio.sleep(3600)
            assert now() == 3600
    """
    run(pytester, "strict", code).assert_outcomes(passed=1)


def test_testing_needs_no_pytest() -> None:
    """`resilient.testing` works without pytest; only the plugin needs it."""
    code = "import sys; sys.modules['pytest'] = None; import resilient.testing; print('fine')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "fine\n"
