"""Fixtures for every test, and runs in which a skipped test counts as a failed one."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

NO_SKIPS, ALLOW_SKIP = "--no-skips", "--allow-skip"
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(NO_SKIPS, action="store_true", help="a test that is skipped has failed")
    parser.addoption(
        ALLOW_SKIP, action="append", default=[], metavar="TEXT", help="but not where its reason holds this"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    expected_to_fail = hasattr(report, "wasxfail")  # which pytest reports as skipped, too
    if report.skipped and not expected_to_fail and item.config.getoption(NO_SKIPS):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(text in reason for text in item.config.getoption(ALLOW_SKIP)):
            report.outcome, report.longrepr = "failed", f"{reason} (no test may be skipped in this run)"
    return report


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real weights, photographs and paintings beside the checkout; the test is skipped where they are missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache folder of this session, also for the processes that tests start; the real one stays as it is."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            patch.setenv(variable, str(folder))
        yield folder
