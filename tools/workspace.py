"""The table of the packages and what they depend on.

It is read off the packages' own `pyproject.toml` files and written down nowhere else: nox, CI, the
import contracts, the documentation and the release all ask here.
"""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
SHARED = ("conftest.py", "pyproject.toml", "noxfile.py", "tools", ".github", ".ci")
"""What a change of concerns every package."""


@dataclass(frozen=True)
class Package:
    """One distribution.

    Attributes:
        name: The name of its folder, such as `ioloop`.
        distribution: The name it is installed by.
        version: Its version in the tree.
        siblings: Which packages of this table it needs, with the version specifier of each.
        test_requirements: What its tests need besides.
        coverage: The branch coverage, in per cent, that its own tests must reach.
    """

    name: str
    distribution: str
    version: str
    siblings: dict[str, str]
    test_requirements: tuple[str, ...]
    coverage: int

    @property
    def module(self) -> str:
        """What it is imported by."""
        return f"waterspout.{self.name}"

    @property
    def path(self) -> Path:
        """Its folder."""
        return ROOT / "packages" / self.name

    @property
    def tag(self) -> str:
        """The tag of its version in the tree."""
        return f"{self.name}-v{self.version}"


def packages() -> dict[str, Package]:
    """Give all packages by name, each after those it needs."""
    found = [_read(path.parent) for path in sorted((ROOT / "packages").glob("*/pyproject.toml"))]
    ordered: dict[str, Package] = {}
    while found:
        ready = [package for package in found if ordered.keys() >= package.siblings.keys()]
        if not ready:
            raise ValueError(f"packages need one another: {[package.name for package in found]}")
        ordered |= {package.name: package for package in ready}
        found = [package for package in found if package.name not in ordered]
    return ordered


def _read(folder: Path) -> Package:
    with (folder / "pyproject.toml").open("rb") as file:
        data = tomllib.load(file)
    project = data["project"]
    siblings = {}
    for requirement in project.get("dependencies", []):
        match = re.fullmatch(r"waterspout-(\w+)(.*)", requirement)
        if match is None:
            raise ValueError(f"{folder.name} depends on {requirement}, which is no sibling")
        siblings[match[1]] = match[2]
    return Package(
        name=folder.name,
        distribution=project["name"],
        version=project["version"],
        siblings=siblings,
        test_requirements=tuple(data["dependency-groups"]["test"]),
        coverage=data["tool"]["waterspout"]["branch-coverage"],
    )


def changed_packages(files: Iterable[str]) -> list[str]:
    """Give the packages that a change of files concerns: those changed and their dependents.

    Args:
        files: Paths from the root, with slashes.
    """
    table = packages()
    changed: set[str] = set()
    for file in files:
        parts = PurePosixPath(file).parts
        if parts[0] in SHARED:
            return list(table)
        if parts[0] == "packages" and len(parts) > 1:
            changed.add(parts[1])
    for package in table.values():  # dependents come after what they depend on
        if changed & package.siblings.keys():
            changed.add(package.name)
    return [name for name in table if name in changed]
