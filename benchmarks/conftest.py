"""Options, what each benchmark runs over, and what goes into the JSON and the summary of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import summary
from benchmarks.commit import commit
from benchmarks.measure import Measure, Result
from benchmarks.models import DTYPES, Library, Subject, default_folder, distinct_widths
from benchmarks.random_checkpoints import SIZES
from gpt2fast import _core
from gpt2fast.bench import machine
from gpt2fast.bench.roofline import RoofMeter
from gpt2fast.threads import available_cpus

ROOFS = pytest.StashKey[RoofMeter]()
RESULTS = pytest.StashKey[list[Result]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gpt2fast")
    listed = "comma-separated; default: "
    group.addoption("--sizes", default="gpt2", help=listed + "gpt2")
    group.addoption("--dtypes", default=",".join(DTYPES), help=listed + "all")
    group.addoption("--targets", help=listed + "all but scalar for kernels, else the best one")
    group.addoption("--threads", help=listed + "1 and 2, as far as there are CPUs")
    group.addoption("--model-cache", type=Path, help="default: benchmarks/ in gpt2fast's cache")
    group.addoption("--rounds", type=int, default=5, help="rounds of each benchmark")
    group.addoption("--round-seconds", type=float, default=0.25, help="length of a round")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kernel: runs on every target, once per distinct width")
    config.stash[ROOFS] = RoofMeter()
    config.stash[RESULTS] = []
    chosen(config, "sizes", list(SIZES))
    chosen(config, "dtypes", DTYPES)
    targets(config, kernel=False)
    thread_counts(config)
    for name in ("rounds", "round_seconds"):
        if not config.getoption(name) > 0:
            raise pytest.UsageError(f"--{name.replace('_', '-')} must be above 0")


def chosen(config: pytest.Config, option: str, allowed: Sequence[str]) -> list[str]:
    """Return what a comma-separated option names, each once."""
    names = list(dict.fromkeys(str(config.getoption(option)).split(",")))
    for name in names:
        if name not in allowed:
            raise pytest.UsageError(f"--{option}: {name!r} is not one of {', '.join(allowed)}")
    return names


def targets(config: pytest.Config, *, kernel: bool) -> list[str]:
    supported = _core.supported()
    if config.getoption("targets"):
        names = chosen(config, "targets", list(supported))
        for name in names:
            if supported[name]:
                raise pytest.UsageError(f"--targets: {name}: {supported[name]}")
        return names
    if not kernel:
        return [_core.target()]
    return [name for name, missing in supported.items() if not missing and name != "scalar"]


def thread_counts(config: pytest.Config) -> list[int]:
    cpus = available_cpus()
    given = config.getoption("threads")
    if not given:
        return list(range(1, min(cpus, 2) + 1))
    allowed = [str(n) for n in range(1, cpus + 1)]
    return [int(n) for n in chosen(config, "threads", allowed)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    kernel = metafunc.definition.get_closest_marker("kernel") is not None
    sizes = chosen(config, "sizes", list(SIZES))
    values: dict[str, Sequence[object]] = {
        "size": distinct_widths(sizes) if kernel else sizes,
        "dtype": chosen(config, "dtypes", DTYPES),
        "target": targets(config, kernel=kernel),
        "threads": thread_counts(config),
    }
    for name, found in values.items():  # from the outermost loop to the innermost
        if name in metafunc.fixturenames:
            ids = [f"{n}t" for n in found] if name == "threads" else None
            metafunc.parametrize(name, found, indirect=name == "target", ids=ids)


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the target that is forced meanwhile."""
    name: str = request.param
    _core.force_target(name)
    yield name
    ran = _core.target()
    _core.force_target(None)
    assert ran == name, f"{name} was forced, {ran} ran"


@pytest.fixture(scope="session")
def library(request: pytest.FixtureRequest) -> Library:
    """The models to measure."""
    return Library(request.config.getoption("--model-cache") or default_folder())


@pytest.fixture
def subject(library: Library, size: str, dtype: str) -> Subject:
    """The model of this size and dtype."""
    return library.subject(size, dtype)


@pytest.fixture
def measure(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Measure:
    """Times a call: `measure(call, work, threads=...)`."""
    config = request.config
    return Measure(
        benchmark,
        config.stash[ROOFS],
        config.stash[RESULTS],
        rounds=config.getoption("--rounds"),
        round_seconds=config.getoption("--round-seconds"),
    )


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    machine_info["gpt2fast"] = machine.facts() | {"threads": thread_counts(config)}


def pytest_benchmark_update_commit_info(commit_info: dict[str, Any]) -> None:
    commit_info.update(commit())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    results = config.stash[RESULTS]
    if results:
        terminalreporter.section("shares of the roof")
        for line in summary.lines(results, config.stash[ROOFS], machine.facts()):
            terminalreporter.line(line)
