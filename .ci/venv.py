"""Make a virtual environment that has pip, and install zrep into it: `venv.py .venv '.[dev]'`.

Decides where pip comes from. `python -m venv` needs ensurepip, which some systems package apart; it
then fails and leaves half an environment. So: pip from ensurepip, else a pip wheel that the system
keeps for its own use, else a pip wheel from the package index. Only the standard library is used.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

OLDEST = (3, 11)
SYSTEM_WHEELS = (Path("/usr/share/python-wheels"), Path("/usr/share/python3-wheels"))
LINK = re.compile(r'href="([^"]+)"')
PIP_WHEEL = re.compile(r"pip-(\d+(?:\.\d+)*)-py3-none-any\.whl$")


def main() -> int:
    if sys.version_info < OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        print(
            f"zrep needs Python 3.11 or newer and {sys.executable} is {found}: run make PYTHON=<a newer python3>",
            file=sys.stderr,
        )
        return 2
    home, requirement = Path(sys.argv[1]), sys.argv[2]
    python = home / "bin" / "python"
    try:
        if not _runs(python, "-m", "pip", "--version"):
            _create(home, python)
        print(f"setting up {home} …", file=sys.stderr)
        _run(python, "-m", "pip", "install", "--editable", requirement)
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, error.cmd))
        print(f"{error.stdout}\nset-up failed at `{command}`: its message is above", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"set-up failed: this Python has no ensurepip and pip could not be downloaded ({error}): "
            "install your system's python3-venv package, or set PIP_INDEX_URL",
            file=sys.stderr,
        )
        return 1
    return 0


def _create(home: Path, python: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    if _runs(sys.executable, "-m", "venv", home) and _runs(python, "-m", "pip", "--version"):
        return
    shutil.rmtree(home, ignore_errors=True)
    _run(sys.executable, "-m", "venv", "--without-pip", home)
    with tempfile.TemporaryDirectory() as directory:
        wheel = _system_wheel() or _downloaded_wheel(Path(directory))
        # A wheel is a zip that Python can import from: pip installs itself.
        _run(python, f"{wheel}/pip", "install", "--no-index", wheel)


def _system_wheel() -> Path | None:
    wheels = [wheel for directory in SYSTEM_WHEELS for wheel in directory.glob("pip-*.whl") if _version(wheel.name)]
    return max(wheels, key=lambda wheel: _version(wheel.name), default=None)


def _downloaded_wheel(directory: Path) -> Path:
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/pip/"
    with urllib.request.urlopen(index, timeout=30) as page:
        links = [urllib.parse.urljoin(index, link) for link in LINK.findall(page.read().decode())]
    by_version = {_version(urllib.parse.urlsplit(link).path): link for link in links}
    newest = max(by_version, default=())
    if not newest:
        raise OSError(f"{index} lists no pip wheel")
    url = urllib.parse.urlsplit(by_version[newest])
    with urllib.request.urlopen(url._replace(fragment="").geturl(), timeout=60) as answer:
        content = answer.read()
    algorithm, _, digest = url.fragment.partition("=")
    if digest and hashlib.new(algorithm, content).hexdigest() != digest:
        raise OSError(f"{by_version[newest]} does not have the digest that the index states")
    wheel = directory / Path(url.path).name
    wheel.write_bytes(content)
    return wheel


def _version(name: str) -> tuple[int, ...]:
    """Return the version of a final pip wheel, () for any other file."""
    match = PIP_WHEEL.search(name)
    return tuple(map(int, match[1].split("."))) if match else ()


def _run(*command: object) -> None:
    """Run a command quietly; its output is in the error, should it fail."""
    subprocess.run(list(map(str, command)), check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def _runs(*command: object) -> bool:
    try:
        _run(*command)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
