"""The import contracts, as a configuration of import-linter made from the table of packages.

The contracts: a package imports none of its siblings but those it declares, and of these only the
one door, `waterspout.ioloop.scheduling` (with its inside); its `testing`, if it has one, also
`waterspout.ioloop.testing`; and that door imports nothing of the house behind it.
"""

from workspace import packages

DOOR = "waterspout.ioloop.scheduling"
KIT = "waterspout.ioloop.testing"


def configuration() -> str:
    """Give the text of an import-linter configuration."""
    table = packages()
    lines = [
        "[importlinter]",
        "root_packages =",
        *(f"    {package.module}" for package in table.values()),
    ]
    behind = ["waterspout.ioloop", *_behind_the_door()]
    for package in table.values():
        strangers = [other for other in table.values() if other.name not in package.siblings]
        forbidden = [
            module
            for other in strangers
            if other is not package
            for module in (other.module, f"{other.module}.**")
        ]
        lines += _contract(
            f"{package.module} imports siblings only through the door, if it declares them",
            [package.module, f"{package.module}.**"],
            forbidden + (behind if "ioloop" in package.siblings else []),
        )
        kit = package.path / "src/waterspout" / package.name / "testing"
        if "ioloop" in package.siblings and kit.exists():
            lines += ["ignore_imports =", f"    {package.module}.testing.** -> {KIT}"]
    lines += _contract(
        f"{DOOR} imports nothing behind it", [DOOR, f"{DOOR}.**"], _behind_the_door()
    )
    return "\n".join(lines) + "\n"


def _contract(name: str, sources: list[str], forbidden: list[str]) -> list[str]:
    return [
        "",
        f"[importlinter:contract:{name.partition(' ')[0]}]",
        f"name = {name}",
        "type = forbidden",
        "as_packages = False",
        "allow_indirect_imports = True",
        "source_modules =",
        *(f"    {module}" for module in sources),
        "forbidden_modules =",
        *(f"    {module}" for module in forbidden),
    ]


def _behind_the_door() -> list[str]:
    source = packages()["ioloop"].path / "src/waterspout/ioloop"
    names = [path.stem for path in sorted(source.glob("*.py")) if path.stem != "__init__"]
    names += [path.parent.name for path in sorted(source.glob("*/__init__.py"))]
    return [f"waterspout.ioloop.{name}" for name in names if name != "scheduling"]
