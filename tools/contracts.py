"""The import contracts, as a configuration of import-linter made from the table of packages.

The contracts: a package imports none of its siblings but those it declares, and of these only the
one door, `waterspout.ioloop.scheduling` (with its inside); and that door imports nothing of the
house behind it.
"""

from workspace import packages

DOOR = "waterspout.ioloop.scheduling"


def configuration() -> str:
    """Give the text of an `.importlinter` file."""
    table = packages()
    lines = [
        "[importlinter]",
        "root_packages =",
        *(f"    {package.module}" for package in table.values()),
        "include_external_packages = False",
    ]
    for package in table.values():
        others = [other for other in table.values() if other.name != package.name]
        lines += [
            "",
            f"[importlinter:contract:{package.name}]",
            f"name = {package.module} imports no sibling but through the door it declares",
            "type = forbidden",
            "allow_indirect_imports = True",
            "source_modules =",
            f"    {package.module}",
            "forbidden_modules =",
        ]
        for other in others:
            if other.name not in package.siblings:
                lines.append(f"    {other.module}")
        lines += _inside(package.siblings)
    lines += [
        "",
        "[importlinter:contract:door]",
        f"name = {DOOR} imports nothing behind it",
        "type = forbidden",
        "source_modules =",
        f"    {DOOR}",
        "forbidden_modules =",
        *(f"    {module}" for module in _behind_the_door()),
    ]
    return "\n".join(lines) + "\n"


def _inside(siblings: dict[str, str]) -> list[str]:
    """What lies behind the door, for those who may come as far as that."""
    return [f"    {module}" for module in _behind_the_door()] if "ioloop" in siblings else []


def _behind_the_door() -> list[str]:
    source = packages()["ioloop"].path / "src/waterspout/ioloop"
    names = [path.stem for path in sorted(source.glob("*.py")) if path.stem != "__init__"]
    names += [path.parent.name for path in sorted(source.glob("*/__init__.py"))]
    return [f"waterspout.ioloop.{name}" for name in names if name != "scheduling"]
