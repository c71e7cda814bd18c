"""The rules of the house: the namespace, the table of packages, and the releases."""

import importlib
import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import release as releasing  # noqa: E402
import workspace  # noqa: E402

TABLE = workspace.packages()


def test_the_namespace_belongs_to_nobody():
    import waterspout

    assert waterspout.__file__ is None
    assert not list(ROOT.glob("packages/*/src/waterspout/__init__.py"))
    for package in TABLE.values():
        files = {str(file) for file in importlib.metadata.files(package.distribution)}
        assert "waterspout/__init__.py" not in files
        assert f"waterspout/{package.name}/py.typed" in files


def test_every_package_is_whole():
    assert len(TABLE) == len(list((ROOT / "packages").iterdir()))
    for package in TABLE.values():
        for name in ("README.md", "LICENSE", "CHANGELOG.md", "newsfragments", "tests"):
            assert (package.path / name).exists(), f"{package.name} has no {name}"
        assert (package.path / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
        for name in TABLE:  # none is pinned
            assert "==" not in package.siblings.get(name, "")


@pytest.mark.parametrize("name", TABLE)
def test_a_package_exports_what_it_says(name):
    module = importlib.import_module(TABLE[name].module)
    assert set(module.__all__) <= set(vars(module))
    for public in module.__all__:
        thing = getattr(module, public)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__doc__, f"{name}.{public} has no docstring"


READMES = [ROOT / "README.md", *(package.path / "README.md" for package in TABLE.values())]


@pytest.mark.slow
@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_the_examples_of_a_readme_run(readme, tmp_path):
    examples = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    assert examples
    for example in examples:
        script = tmp_path / "example.py"
        script.write_text(example)
        done = subprocess.run(
            [sys.executable, "-W", "error", str(script)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], []),
        (["README.md", "docs/index.rst"], []),
        (["packages/locks/src/waterspout/locks/_lock.py"], ["locks"]),
        (["packages/ioloop/README.md"], list(TABLE)),
        (["conftest.py"], list(TABLE)),
        (["tools/release.py", "packages/locks/x"], list(TABLE)),
        (["packages/queues/x", "packages/locks/y"], ["locks", "queues"]),
    ],
)
def test_what_a_change_concerns(files, expected):
    assert sorted(workspace.changed_packages(files)) == sorted(expected)


def test_packages_that_need_one_another_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "ROOT", tmp_path)
    for name, needs in (("one", "two"), ("two", "one")):
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        (folder / "pyproject.toml").write_text(
            f'[project]\nname = "waterspout-{name}"\nversion = "0.1.0"\n'
            f'dependencies = ["waterspout-{needs}>=0.1"]\n[dependency-groups]\ntest = []\n'
            "[tool.waterspout]\nbranch-coverage = 100\n"
        )
    with pytest.raises(ValueError, match="need one another"):
        workspace.packages()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A small repository with one package."""
    folder = tmp_path / "packages" / "ioloop"
    (folder / "newsfragments").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "waterspout-ioloop"\nversion = "0.1.0"\n[dependency-groups]\ntest = []\n'
        "[tool.waterspout]\nbranch-coverage = 100\n"
    )
    (tmp_path / "conftest.py").write_text("")
    for module in (workspace, releasing):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "somebody@example.org")
    releasing.git("init", "--quiet", "--initial-branch=main")
    releasing.git("add", ".")
    releasing.git("commit", "--quiet", "--message", "begin")
    return folder


def add_news(folder, kind):
    (folder / "newsfragments" / f"{kind}.{kind}.md").write_text("News.")
    releasing.git("add", ".")
    releasing.git("commit", "--quiet", "--message", kind)


def test_releases(repository, tmp_path):
    def package():
        return workspace.packages()["ioloop"]

    assert releasing.oldest_tag("ioloop", ">=0.1,<1") is None
    assert releasing.next_version(package()) == "0.1.0"
    assert releasing.next_version(package(), "0.3.0") == "0.3.0"
    (repository / "changelog").write_text("first")
    assert releasing.commit_and_tag(package()) == "ioloop-v0.1.0"
    with pytest.raises(ValueError, match="has no news"):
        releasing.next_version(package())
    with pytest.raises(ValueError, match="not later than 0.1.0"):
        releasing.next_version(package(), "0.1.0")
    with pytest.raises(ValueError, match=r"X\.Y\.Z"):
        releasing.next_version(package(), "next")
    for kind, version in [("bugfix", "0.1.1"), ("feature", "0.2.0"), ("removal", "0.2.0")]:
        add_news(repository, kind)
        assert releasing.next_version(package()) == version
    releasing.set_version(package(), "1.0.0")
    with pytest.raises(ValueError, match="not committed"):
        releasing.set_version(package(), "1.0.1")
    assert releasing.commit_and_tag(package()) == "ioloop-v1.0.0"
    assert releasing.next_version(package()) == "2.0.0"
    assert releasing.versions("ioloop") == [(0, 1, 0), (1, 0, 0)]
    assert releasing.oldest_tag("ioloop", ">=0.1,<1") == "ioloop-v0.1.0"
    assert releasing.oldest_tag("ioloop", ">=0.2") == "ioloop-v1.0.0"
    old = releasing.export("ioloop-v0.1.0", "ioloop", tmp_path / "old")
    assert 'version = "0.1.0"' in (old / "pyproject.toml").read_text()
    with pytest.raises(ValueError, match="version in the tree is 1.0.0"):
        releasing.check("ioloop-v0.1.0")
    with pytest.raises(ValueError, match="tag of no package"):
        releasing.check("nothing-v1.0.0")
    with pytest.raises(ValueError, match="made of >= and <"):
        releasing.oldest_tag("ioloop", "==0.1")


def test_the_workflow_check_prints_the_package():
    package = TABLE["locks"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}

    def run(tag):
        script = str(ROOT / "tools" / "release.py")
        return subprocess.run(
            [sys.executable, script, tag], capture_output=True, text=True, env=environment
        )

    assert run(package.tag).stdout == "locks\n"
    assert run("locks-v9.9.9").returncode != 0


def test_nothing_but_the_table_lists_the_packages():
    for path in [ROOT / "noxfile.py", *(ROOT / ".github/workflows").glob("*.yml")]:
        text = path.read_text()
        found = [name for name in TABLE if f"waterspout-{name}" in text or f"/{name}/" in text]
        assert found == [], f"{path.name} names {found}"
