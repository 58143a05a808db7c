"""The lowest versions that pyproject.toml claims to work with, as constraints for pip: what is required to use the
package, with each of its extras that add to it."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

EXTRAS = ("cli", "demo", "lab", "httpx2", "trio", "otel", "prometheus")

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)>=(?P<version>[\w.]+)")


def lowest(pyproject: str) -> dict[str, str]:
    """The lowest version of each package.

    Raises `ValueError` for a requirement that names none, or another one than before.
    """
    project = tomllib.loads(pyproject)["project"]
    requirements = [
        *project["dependencies"],
        *(each for extra in EXTRAS for each in project["optional-dependencies"][extra]),
    ]
    versions: dict[str, str] = {}
    for requirement in requirements:
        if requirement.startswith(project["name"]):
            continue  # another extra
        found = _REQUIREMENT.fullmatch(requirement)
        if found is None or versions.setdefault(found["name"], found["version"]) != found["version"]:
            raise ValueError(f"one lowest version is due, as in 'httpx>=0.27', got {requirement!r}")
    return versions


if __name__ == "__main__":
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    sys.stdout.writelines(f"{name}=={version}\n" for name, version in lowest(text).items())
