"""Configuration of Sphinx. The packages come from `tools/workspace.py`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from workspace import packages  # noqa: E402

project = "Waterspout"
copyright = "The Waterspout developers"
author = "The Waterspout developers"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "Waterspout"
nitpicky = False
smartquotes = False
default_role = "code"

# Python's own documentation describes their members, in a style that is not ours.
FOREIGN_BASES = (
    "object",
    "AbstractEventLoop",
    "BaseEventLoop",
    "BaseException",
    "BaseSelectorEventLoop",
    "Executor",
    "_UnixSelectorEventLoop",
)

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {
    "members": True,
    "inherited-members": ",".join(FOREIGN_BASES),
    "exclude-members": "",
}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

doctest_global_setup = "import asyncio"

API_PAGE = """\
{title}
{line}

Version {version}; install it as ``{distribution}``. {needs}

.. automodule:: {module}
"""

DOOR_PAGE = """
The scheduling interface
------------------------

.. automodule:: waterspout.ioloop.scheduling
"""

TESTING_PAGE = """
Testing
-------

.. automodule:: {module}.testing
"""


def write_api_pages() -> None:
    """Write a page for each package of the table; they are not kept in the repository."""
    folder = Path(__file__).parent / "api"
    folder.mkdir(exist_ok=True)
    for package in packages().values():
        needs = [packages()[name].distribution for name in package.siblings]
        text = API_PAGE.format(
            title=package.module,
            line="=" * len(package.module),
            version=package.version,
            distribution=package.distribution,
            needs=f"It needs ``{needs[0]}``." if needs else "It needs nothing else.",
            module=package.module,
        )
        if package.name == "ioloop":
            text += DOOR_PAGE
        if (package.path / "src/waterspout" / package.name / "testing").exists():
            text += TESTING_PAGE.format(module=package.module)
        (folder / f"{package.name}.rst").write_text(text)


write_api_pages()
