"""Versions and tags.

A package's tag is `<package>-vX.Y.Z`, and its version stands in its `pyproject.toml` alone. The
kinds of its newsfragments decide what the next version is (Semantic Versioning; before 1.0.0 a
removal raises the minor version).

`python tools/release.py TAG` fails unless the tag and the version in the tree agree; it prints the
package's name, for the workflow that publishes it.
"""

import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from workspace import ROOT, Package, packages

KINDS = ("removal", "feature", "bugfix", "misc")


def git(*arguments: str) -> str:
    """Run git in the repository and give what it printed."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def changed_files(base: str) -> list[str] | None:
    """Give the files changed since a revision; `None` if it is not known here."""
    try:
        return git("diff", "--name-only", f"{base}...HEAD").splitlines()
    except subprocess.CalledProcessError:
        return None


def versions(name: str) -> list[tuple[int, ...]]:
    """Give the versions of a package that have tags, the oldest first."""
    tags = git("tag", "--list", f"{name}-v*").split()
    return sorted(_parse(tag.removeprefix(f"{name}-v")) for tag in tags)


def oldest_tag(name: str, specifier: str) -> str | None:
    """Give the tag of a package's oldest version that a specifier such as `>=0.1,<1` allows."""
    allowed = (version for version in versions(name) if _satisfies(version, specifier))
    oldest = next(allowed, None)
    return None if oldest is None else f"{name}-v{_format(oldest)}"


def export(tag: str, name: str, folder: Path) -> Path:
    """Write a package as it was at a tag below a folder, and give its path."""
    paths = [f"packages/{name}", "conftest.py"]
    archive = subprocess.run(
        ["git", "archive", tag, *paths], cwd=ROOT, check=True, capture_output=True
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder / "packages" / name


def next_version(package: Package, version: str | None = None) -> str:
    """Say what version a package is released as.

    Args:
        package: The package.
        version: The version, if somebody has decided. Else it is the one in the tree for a first
            release, and what the newsfragments ask for after that.

    Raises:
        ValueError: If it would not be a later version, or there is no news.
    """
    released = versions(package.name)
    if version is None:
        version = package.version if not released else _bumped(package)
    if released and _parse(version) <= released[-1]:
        raise ValueError(f"{package.name} {version} is not later than {_format(released[-1])}")
    return version


def set_version(package: Package, version: str) -> None:
    """Write a version into a package's `pyproject.toml`."""
    if git("status", "--porcelain"):
        raise ValueError("there are changes that are not committed")
    path = package.path / "pyproject.toml"
    text, count = re.subn(
        r'(?m)^version = ".*"$', f'version = "{version}"', path.read_text(), count=1
    )
    if count != 1:
        raise ValueError(f"{path} has no version")
    path.write_text(text)


def commit_and_tag(package: Package) -> str:
    """Commit the release of a package as it is in the tree, tag it, check it; give the tag."""
    git("add", "--all", f"packages/{package.name}")
    git("commit", "--message", f"{package.name}: release {package.version}")
    git("tag", "--annotate", package.tag, "--message", f"{package.distribution} {package.version}")
    check(package.tag)
    return package.tag


def check(tag: str) -> Package:
    """Give the package of a tag.

    Raises:
        ValueError: If there is none, or the version in the tree is another.
    """
    name, _, version = tag.rpartition("-v")
    package = packages().get(name)
    if package is None:
        raise ValueError(f"{tag} is the tag of no package")
    if package.version != version:
        raise ValueError(f"the tag is {tag}, but the version in the tree is {package.version}")
    return package


def _bumped(package: Package) -> str:
    found = {_kind(path.name) for path in (package.path / "newsfragments").glob("*.*.md")}
    kinds = [kind for kind in KINDS if kind in found]
    if not kinds:
        raise ValueError(f"{package.name} has no news to release")
    major, minor, patch = _parse(package.version)
    if kinds[0] == "removal" and major > 0:
        return f"{major + 1}.0.0"
    if kinds[0] in ("removal", "feature"):
        return f"{major}.{minor + 1}.0"
    return f"{major}.{minor}.{patch + 1}"


def _kind(name: str) -> str:
    """The kind of a newsfragment: the last of its parts that is one."""
    return next((part for part in reversed(name.split(".")) if part in KINDS), "")


def _parse(version: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"a version is X.Y.Z, not {version!r}")
    return tuple(map(int, version.split(".")))


def _format(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _satisfies(version: tuple[int, ...], specifier: str) -> bool:
    for clause in specifier.split(","):
        match = re.fullmatch(r"(>=|<)([\d.]+)", clause.strip())
        if match is None:
            raise ValueError(f"a sibling's range is made of >= and <, not {clause!r}")
        bound = tuple(map(int, match[2].split(".")))
        bound += (0,) * (3 - len(bound))
        if (version >= bound) != (match[1] == ">="):
            return False
    return True


if __name__ == "__main__":
    print(check(sys.argv[1]).name)
