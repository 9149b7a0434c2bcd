"""What is installed, and how a checkout sets itself up where `python -m venv` lacks ensurepip."""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
LEFT_OUT = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in the wheel that `pip install .` would install."""
    directory = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, directory / "source", ignore=LEFT_OUT)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", directory, directory / "source"],
        check=True,
        capture_output=True,
    )
    (built,) = directory.glob("zrep-*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


def test_only_our_two_packages_are_installed(wheel: list[str]) -> None:
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == {"zrep", "zrep_cli"}


def test_every_module_is_installed(wheel: list[str]) -> None:
    here = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("zrep/**/*.py")}
    here |= {"zrep_" + path.relative_to(ROOT).as_posix() for path in ROOT.glob("cli/*.py")}
    assert here <= set(wheel)


def test_the_types_and_the_quotes_are_installed(wheel: list[str]) -> None:
    assert {"zrep/py.typed", "zrep_cli/py.typed", "zrep_cli/examples/quotes.csv"} <= set(wheel)


def test_the_demo_finds_all_quotes() -> None:
    from cli.demo import read_quotes

    quotes = list(read_quotes())
    assert len({quote.key for quote in quotes}) == 560
    assert quotes[0] == (b"MSFT", b"2000-01-01", b"39.81")


@pytest.fixture
def venv() -> ModuleType:
    """The set-up program, as a module."""
    spec = importlib.util.spec_from_file_location("venv_setup", ROOT / ".ci" / "venv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pip_wheel() -> Path:
    """Any wheel of pip: the one that ensurepip brings."""
    ensurepip = pytest.importorskip("ensurepip")
    wheels = [
        *Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"),
        *Path("/usr/share").glob("python*/pip-*.whl"),
    ]
    return wheels[0] if wheels else pytest.skip("this Python keeps no wheel of pip to try with")


@pytest.fixture
def index(pip_wheel: Path, tmp_path: Path) -> Iterator[str]:
    """A package index that knows pip only."""
    directory = tmp_path / "index" / "pip"
    directory.mkdir(parents=True)
    shutil.copy(pip_wheel, directory)
    digest = hashlib.sha256(pip_wheel.read_bytes()).hexdigest()
    (directory / "index.html").write_text(f'<a href="{pip_wheel.name}#sha256={digest}">{pip_wheel.name}</a>')
    handler = partial(QuietHandler, directory=directory.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def without_ensurepip(venv: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make `python -m venv` do what it does without ensurepip: exit 1, and leave an environment without pip."""

    def runs(*command: object) -> bool:
        if "venv" in command:
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
            return False
        return bool(really_runs(*command))

    home, really_runs = tmp_path / ".venv", venv._runs
    monkeypatch.setattr(venv, "_runs", runs)
    monkeypatch.setattr(venv, "SYSTEM_WHEELS", (tmp_path / "wheels",))
    return home


def test_pip_comes_from_the_systems_wheel(
    without_ensurepip: Path, venv: ModuleType, pip_wheel: Path, tmp_path: Path
) -> None:
    (tmp_path / "wheels").mkdir()
    shutil.copy(pip_wheel, tmp_path / "wheels")
    assert_gets_pip(venv, without_ensurepip)


def test_pip_comes_from_the_index(
    without_ensurepip: Path, venv: ModuleType, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert_gets_pip(venv, without_ensurepip)


def assert_gets_pip(venv: ModuleType, home: Path) -> None:
    venv._create(home, home / "bin" / "python")
    subprocess.run([home / "bin" / "python", "-m", "pip", "--version"], check=True, capture_output=True)


def test_an_old_python_is_told_so(
    venv: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(venv.sys, "version_info", (3, 9, 2))
    assert venv.main() == 2
    assert "zrep needs Python 3.11 or newer" in capsys.readouterr().err
