"""Everything that is done with the house: `nox -l` lists it.

The packages come from `tools/workspace.py`; nothing here names one.
"""

import json
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "tools"))

import contracts as contract_rules  # noqa: E402
import release as releasing  # noqa: E402
from workspace import Package, changed_packages, packages  # noqa: E402

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["tests", "integration"]
os.environ["UV_PYTHON_DOWNLOADS"] = "never"
os.environ["PYTHONSAFEPATH"] = "1"  # tests see what is installed, not what lies around

TABLE = packages()
GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")
SPIDER = ROOT / "examples" / "spider"
CLUSTER = ROOT / "examples" / "cluster"

_built: dict[str, tuple[Path, Path]] = {}

each_package = nox.parametrize("package", [nox.param(name, id=name) for name in TABLE])


def _group(name: str) -> list[str]:
    return nox.project.dependency_groups(GROUPS, name)


def _build(session: nox.Session, package: Package) -> tuple[Path, Path]:
    """Build a package's sdist, and its wheel from that, once a run; give both paths."""
    if package.name not in _built:
        _built[package.name] = _build_folder(session, package.path)
    return _built[package.name]


def _build_folder(session: nox.Session, folder: Path) -> tuple[Path, Path]:
    target = Path(tempfile.mkdtemp(prefix="build-", dir=session.cache_dir))
    session.run("uv", "build", "--quiet", "--out-dir", str(target), str(folder), silent=True)
    [sdist], [wheel] = target.glob("*.tar.gz"), target.glob("*.whl")
    return sdist, wheel


def _wheels(session: nox.Session, names: "list[str] | None" = None) -> list[str]:
    """Wheels of packages, and of the siblings that they declare."""
    wanted = set(TABLE if names is None else names)
    for name in list(wanted):
        wanted |= TABLE[name].siblings.keys()
    return [str(_build(session, TABLE[name])[1]) for name in TABLE if name in wanted]


def _pytest(
    session: nox.Session,
    *arguments: str,
    python: tuple[str, ...] = ("pytest",),
    env: "dict[str, str] | None" = None,
) -> None:
    """Run tests from an empty directory, so that only what is installed can be imported."""
    with session.chdir(tempfile.mkdtemp(dir=session.create_tmp())):
        session.run(
            *python,
            f"--config-file={ROOT / 'pyproject.toml'}",
            f"--rootdir={ROOT}",
            "-p",
            "no:cacheprovider",
            "-q",
            *arguments,
            *session.posargs,
            env=env,
        )


@nox.session
@each_package
def tests(session: nox.Session, package: str) -> None:
    """A package's tests, with its wheel and what it declares, and nothing else."""
    session.install(*_wheels(session, [package]), *TABLE[package].test_requirements)
    _pytest(session, str(TABLE[package].path / "tests"))


@nox.session
@each_package
def min_deps(session: nox.Session, package: str) -> None:
    """A package's tests with the oldest siblings that it allows, where these are not the tree's."""
    chosen = TABLE[package]
    if not any(releasing.versions(name) for name in chosen.siblings):
        session.skip("no sibling was ever released: this would be the session `tests`")
    wheels = [str(_build(session, chosen)[1])]
    for name, specifier in chosen.siblings.items():
        tag = releasing.oldest_tag(name, specifier)
        if tag is None and releasing.versions(name):
            session.error(f"{name} has tags, but none that {package} allows ({specifier})")
        if tag is None:
            session.log(f"no tag of {name} satisfies {specifier!r}: it is built from the tree")
            wheels += _wheels(session, [name])
        else:
            session.log(f"{name} is built from {tag}")
            with tempfile.TemporaryDirectory(dir=session.create_tmp()) as folder:
                old = releasing.export(tag, name, Path(folder))
                wheels.append(str(_build_folder(session, old)[1]))
    session.install(*wheels, *chosen.test_requirements)
    _pytest(session, str(chosen.path / "tests"))


@nox.session
def integration(session: nox.Session) -> None:
    """What crosses packages, with all their wheels: the examples, and the rules of the house."""
    examples = str(SPIDER), f"{CLUSTER}[dask]"
    groups = *_group("integration"), *_group("contracts")
    session.install(*_wheels(session), *examples, *groups)
    # pytest-asyncio is here for one test, which has a pytest of its own.
    tests = ROOT / "tests", SPIDER / "tests", CLUSTER / "tests"
    _pytest(session, "-p", "no:asyncio", *map(str, tests))


@nox.session
@each_package
def variants(session: nox.Session, package: str) -> None:
    """A package's quick tests in Python's development mode, and with tasks that start eagerly."""
    session.install(*_wheels(session, [package]), *TABLE[package].test_requirements)
    tests = [str(TABLE[package].path / "tests"), "-m", "not slow and not proof"]
    _pytest(session, *tests, python=("python", "-X", "dev", "-m", "pytest"))
    version = session.run(
        "python", "-c", "import sys; print(sys.version_info >= (3, 12))", silent=True
    )
    if version and version.strip() == "True":
        _pytest(session, *tests, env={"WATERSPOUT_TASKS": "eager"})


@nox.session
@each_package
def coverage(session: nox.Session, package: str) -> None:
    """Branch coverage of a package by its own tests; its `pyproject.toml` says what it must be.

    Without the proofs, which go the same ways again and again.
    """
    chosen = TABLE[package]
    session.install(*_wheels(session, [package]), *chosen.test_requirements, *_group("coverage"))
    data = Path(session.create_tmp()).resolve() / "coverage"
    env = {"COVERAGE_FILE": str(data), "COVERAGE_RCFILE": str(ROOT / "pyproject.toml")}
    _pytest(
        session,
        *(str(chosen.path / "tests"), "-m", "not proof"),
        python=("coverage", "run", "-m", "pytest"),
        env=env,
    )
    session.run("coverage", "combine", "--quiet", str(data.parent), env=env, success_codes=[0, 1])
    include = f"*/waterspout/{package}/*"
    least = f"--fail-under={chosen.coverage}"
    session.run("coverage", "report", f"--include={include}", least, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and the workflows."""
    session.install(*_group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    workflows = sorted(map(str, (ROOT / ".github/workflows").glob("*.yml")))
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    session.run("zizmor", "--offline", "--quiet", "--persona=pedantic", *workflows)


@nox.session
def types(session: nox.Session) -> None:
    """Types: mypy and pyright on the sources, and the completeness of what is installed."""
    examples = str(SPIDER), str(CLUSTER)
    session.install(*_wheels(session), *examples, *_group("types"), "nox", "sphinx", "pytest")
    sources = [str(package.path / "src") for package in TABLE.values()]
    sources += [str(example / "src") for example in (SPIDER, CLUSTER)]
    path = os.pathsep.join(sources)
    modules = [package.module for package in TABLE.values()]
    modules += ["waterspout_spider", "waterspout_cluster"]
    named = [part for module in modules for part in ("-p", module)]
    session.run("mypy", *named, env={"MYPYPATH": path})
    session.run("mypy", *map(str, sorted((ROOT / "tools").glob("*.py"))), env={"MYPYPATH": "tools"})
    # Or what a source imports of its own package would be the installed one's, another class.
    session.run("pyright", *sources, env={"PYTHONPATH": path})
    for package in TABLE.values():
        session.run("pyright", "--ignoreexternal", "--verifytypes", package.module)


@nox.session
def contracts(session: nox.Session) -> None:
    """Who may import whom. (That a breach is noticed is one of the integration tests.)"""
    session.install(*_wheels(session), *_group("contracts"))
    config = Path(session.create_tmp()).resolve() / "importlinter.ini"
    config.write_text(contract_rules.configuration())
    session.run("lint-imports", "--no-cache", "--config", str(config))


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, into `docs/_build/html`; warnings are errors, and its examples run."""
    _build_docs(session)
    session.run("sphinx-build", "-W", "-q", "-b", "doctest", "docs", "docs/_build/doctest")


def _build_docs(session: nox.Session) -> Path:
    session.install(*_wheels(session), *_group("docs"))
    html = ROOT / "docs" / "_build" / "html"
    session.run("sphinx-build", "-W", "-q", "--keep-going", "-b", "html", "docs", str(html))
    return html


@nox.session
def build(session: nox.Session) -> None:
    """All sdists and wheels, into `dist/`, checked."""
    session.install(*_group("build"))
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir()
    for package in TABLE.values():
        for path in _build(session, package):
            shutil.copy(path, dist)
        with tarfile.open(_build(session, package)[0]) as sdist:
            _compare_tests(session, package, sdist)
    session.run("twine", "check", "--strict", *map(str, sorted(dist.iterdir())))


def _compare_tests(session: nox.Session, package: Package, sdist: tarfile.TarFile) -> None:
    """The tests in an sdist are those of the repository, to the byte."""
    top = f"{package.distribution.replace('-', '_')}-{package.version}/"
    tests = sorted((package.path / "tests").rglob("*.py"))
    expected = {path.relative_to(package.path).as_posix(): path.read_bytes() for path in tests}
    expected["conftest.py"] = (ROOT / "conftest.py").read_bytes()
    found = {}
    for member in sdist.getmembers():
        name = member.name.removeprefix(top)
        file = sdist.extractfile(member)
        if file is not None and (name.startswith("tests/") or name == "conftest.py"):
            found[name] = file.read()
    if found != expected:
        session.error(f"{package.name}: the sdist's tests are not the repository's")


@nox.session
def demo(session: nox.Session) -> None:
    """Build the documentation, serve it on this machine, and crawl it for broken links.

    With arguments, they are the spider's: `nox -s demo -- --url https://example.org/`.
    """
    session.install(*_wheels(session), str(SPIDER))
    if session.posargs:
        session.run("waterspout-spider", *session.posargs)
    else:
        html = _build_docs(session)
        session.run("waterspout-spider", "--serve", str(html))


@nox.session
def bench(session: nox.Session) -> None:
    """Speed and memory beside the peers': `-- WORD ...` for some cases, `--rounds N`."""
    session.install(*_wheels(session), *_group("bench"))
    session.run("python", "benchmarks", *session.posargs, env={"PYTHONSAFEPATH": ""})


@nox.session(venv_backend="none")
def changed(session: nox.Session) -> None:
    """The packages that the changes since a revision concern, as JSON: `-- REVISION`."""
    [base] = session.posargs or ["main"]
    files = releasing.changed_files(base)
    names = list(TABLE) if files is None else changed_packages(files)
    print(json.dumps(names))
    if output := os.environ.get("GITHUB_OUTPUT"):
        with Path(output).open("a") as file:
            file.write(f"packages={json.dumps(names)}\n")


@nox.session
def news(session: nox.Session) -> None:
    """Every changed package tells its users of it: `-- REVISION`."""
    session.install(*_group("news"))
    [base] = session.posargs or ["main"]
    files = releasing.changed_files(base) or []
    for name, package in TABLE.items():
        if any(file.startswith(f"packages/{name}/src/") for file in files):
            session.run("towncrier", "check", "--dir", str(package.path), "--compare-with", base)


@nox.session
@each_package
def release(session: nox.Session, package: str) -> None:
    """Commit and tag a package's next version: `-- VERSION`, or what its news ask for."""
    session.install(*_group("news"))
    version = releasing.next_version(TABLE[package], *session.posargs)
    releasing.set_version(TABLE[package], version)
    session.run(
        "towncrier", "build", "--yes", "--dir", str(TABLE[package].path), "--version", version
    )
    session.log(f"tagged {releasing.commit_and_tag(packages()[package])}; push it to publish")
