"""Write what depends on the repository's address, which stands in pyproject.toml and nowhere else.

usage: python -m tools.address            write it into README.md and CITATION.cff (`make notebooks` does, too)
       python -m tools.address --check    exit with 1 when a file has another address

The notebooks' badges and their first code cell are written by tools/notebooks.py, from here as well.
"""

import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from wsfp_helpers.common.errors import InputError, exit_on_bad_input
from wsfp_helpers.common.files import atomic_path

ROOT = Path(__file__).parents[1]
START = "notebooks/00_start_here.ipynb"
_BLOCK = re.compile(
    r"(<!-- address: (\w+), written by python -m tools.address -->\n).*?(<!-- end of address -->)", re.S
)
_CITATION = re.compile(r"^(repository-code|version): .*$", re.M)


@dataclass(frozen=True)
class Address:
    """Where the course lives: ``url`` of the repository on GitHub, and the ``version`` that its tag is named after."""

    url: str
    version: str

    @property
    def tag(self) -> str:
        """The tag that badges and the first cell of a notebook name."""
        return f"v{self.version}"

    @property
    def slug(self) -> str:
        """``OWNER/REPOSITORY``."""
        return urlsplit(self.url).path.strip("/")

    @property
    def name(self) -> str:
        """The folder that a clone makes."""
        return self.slug.split("/")[1]

    def colab(self, path: str) -> str:
        """Link that opens the notebook ``path`` of the repository in Colab."""
        return f"https://colab.research.google.com/github/{self.slug}/blob/{self.tag}/{path}"

    def binder(self, path: str) -> str:
        """Link that opens the notebook ``path`` in JupyterLab on mybinder.org."""
        return f"https://mybinder.org/v2/gh/{self.slug}/{self.tag}?urlpath={quote(f'lab/tree/{path}', safe='')}"

    def badges(self, path: str) -> str:
        """Markdown of both as badges, on one line."""
        return (
            f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({self.colab(path)}) "
            f"[![Open in Binder](https://mybinder.org/badge_logo.svg)]({self.binder(path)})"
        )

    def bootstrap(self) -> str:
        """The first code cell of every notebook: installs the course where it is not there, and replaces nothing."""
        return f"""\
# Run this cell first.  It does nothing where the course is installed; elsewhere, as on Colab, it installs it.
from importlib.util import find_spec
from pathlib import Path

if not find_spec("wsfp_helpers"):
    course = ".." if Path("../wsfp_helpers").is_dir() else "git+{self.url}@{self.tag}"
    %pip install -q {{course}}"""


def read(path: Path = ROOT / "pyproject.toml") -> Address:
    """The address in a pyproject file; raises :class:`InputError` when it is not that of a repository on GitHub."""
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    url = project["urls"]["Repository"]
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
        raise InputError(f"{path}: Repository is {url!r}; expected https://github.com/OWNER/NAME")
    return Address(url, project["version"])


def _blocks(address: Address) -> dict[str, str]:
    return {
        "badges": f"{address.badges(START)}\n",
        "clone": f"```sh\ngit clone {address.url} && cd {address.name}\nmake tutorial\n```\n",
    }


def generate(address: Address, root: Path = ROOT) -> dict[Path, str]:
    """Path and new text of the files that name the address."""
    blocks = _blocks(address)
    values = {"repository-code": address.url, "version": address.version}
    readme, citation = root / "README.md", root / "CITATION.cff"
    return {
        readme: _BLOCK.sub(lambda found: found[1] + blocks[found[2]] + found[3], readme.read_text(encoding="utf-8")),
        citation: _CITATION.sub(
            lambda found: f'{found[1]}: "{values[found[1]]}"', citation.read_text(encoding="utf-8")
        ),
    }


def differences(root: Path = ROOT) -> list[str]:
    """One sentence for each file that names another address than pyproject.toml."""
    texts = generate(read(root / "pyproject.toml"), root)
    return [
        f"{path.name} names another address or version than pyproject.toml"
        for path, text in texts.items()
        if path.read_text(encoding="utf-8") != text
    ]


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    with exit_on_bad_input():
        if arguments == ["--check"]:
            found = differences()
            print("\n".join([*found, "run `make notebooks`"]) if found else "every file names the same address")
            return bool(found)
        for path, text in generate(read()).items():
            with atomic_path(path) as part:
                part.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
