"""
What C{pip install .} installs: the wheel's contents, and the plugin found by
C{twistd} in a fresh environment.
"""

from __future__ import annotations

import atexit
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import txmongokit

_ROOT = Path(__file__).resolve().parents[1]
_SOURCES = ("setup.py", "setup.cfg", "pyproject.toml", "README.rst", "LICENSE")
_SECONDS = 300


def _run(*command: str | Path, cwd: Path) -> str:
    """
    Run a command and return what it prints, errors included.

    @raise AssertionError: when it fails, with what it printed.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**kept, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


@dataclass(frozen=True)
class _Installation:
    """
    A wheel built from a clean copy of the sources, and an environment that it
    was installed into and that sees this one's other packages.
    """

    folder: Path
    wheel: Path
    python: Path


@cache
def _installation() -> _Installation:
    """
    Build and install, once for all tests (trial has no C{setUpClass}).
    """
    folder = Path(tempfile.mkdtemp(prefix="txmongokit-wheel-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source = folder / "source"
    source.mkdir(parents=True)
    for name in _SOURCES:
        shutil.copy(_ROOT / name, source / name)
    for name in ("txmongokit", "twisted", "tests"):
        shutil.copytree(_ROOT / name, source / name, ignore=shutil.ignore_patterns("*.pyc"))
    quick = ("--no-deps", "--no-build-isolation", "--quiet")
    wheels = folder / "wheels"
    _run(sys.executable, "-m", "pip", "wheel", *quick, "-w", wheels, source, cwd=folder)
    (wheel,) = wheels.glob("*.whl")

    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    _run(
        *(sys.executable, "-m", "pip", "--python", python, "install"),
        *("--no-deps", "--quiet", wheel),
        cwd=folder,
    )
    target = sysconfig.get_path("purelib", "venv", vars={"base": str(environment)})
    # Plain lines: the .pth files out there, an editable install's perhaps, are
    # not read.
    (Path(target) / "others.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return _Installation(folder, wheel, python)


class WheelTests(SynchronousTestCase):
    """
    The wheel, and what C{twistd} makes of it.
    """

    def setUp(self) -> None:
        """
        Have the wheel built and installed.
        """
        self.installation = _installation()

    def test_contents(self) -> None:
        """
        The wheel holds the whole package, its typing mark and the plugin, and
        nothing else.
        """
        names = set(zipfile.ZipFile(self.installation.wheel).namelist())
        ours = {
            str(path.relative_to(_ROOT))
            for path in (_ROOT / "txmongokit").rglob("*.py")
            if "__pycache__" not in path.parts
        }
        expected = ours | {"txmongokit/py.typed", "twisted/plugins/txmongokit_plugin.py"}
        self.assertEqual({name for name in names if ".dist-info/" not in name}, expected)
        self.assertTrue(any(name.endswith("LICENSE") for name in names))

    def test_metadata(self) -> None:
        """
        Version, licence and requirements are in the metadata, PyMongo without
        an upper limit.
        """
        archive = zipfile.ZipFile(self.installation.wheel)
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(path).decode())
        self.assertEqual(metadata["Version"], txmongokit.__version__)
        self.assertEqual(metadata["Requires-Python"], ">=3.11")
        self.assertIn("Apache-2.0", metadata.as_string())
        required = [text.replace(" ", "") for text in metadata.get_all("Requires-Dist") or ()]
        self.assertIn("pymongo>=4.17", required)
        self.assertIn("Twisted[tls]>=24.7", required)

    def test_plugin_is_found(self) -> None:
        """
        C{twistd --help} of the fresh environment lists C{mongosync} and
        C{mongosessions}, though the plugin was installed plainly and not from
        this tree; and the latter runs.
        """
        run = "from twisted.scripts.twistd import run; run()"
        listing = _run(self.installation.python, "-c", run, "--help", cwd=self.installation.folder)
        self.assertRegex(listing, r"mongosync +Replicate one MongoDB deployment into another\.")
        self.assertRegex(listing, r"mongosessions +Keep web sessions in MongoDB")
        command = (self.installation.python, "-c", run, "mongosessions", "--help")
        self.assertIn("--token-file=", _run(*command, cwd=self.installation.folder))

    def test_imports_from_the_wheel(self) -> None:
        """
        The environment's package is the wheel's, and importing it is light.
        """
        script = (
            "import sys, txmongokit\n"
            "print(txmongokit.__file__, txmongokit.__version__)\n"
            "print('twisted' in sys.modules, 'pymongo' in sys.modules)\n"
        )
        where, light = _run(
            self.installation.python, "-c", script, cwd=self.installation.folder
        ).splitlines()
        self.assertTrue(where.startswith(str(self.installation.folder)), where)
        self.assertTrue(where.endswith(f" {txmongokit.__version__}"))
        self.assertEqual(light, "False False")


class PublicNamesTests(SynchronousTestCase):
    """
    The names of the package itself.
    """

    def test_all_can_be_had(self) -> None:
        """
        Each listed name exists, and C{dir()} shows it.
        """
        for name in txmongokit.__all__:
            self.assertIsNotNone(getattr(txmongokit, name))
            self.assertIn(name, dir(txmongokit))

    def test_unknown_name(self) -> None:
        """
        Any other name is an attribute error that names it.
        """
        error = self.assertRaises(AttributeError, getattr, txmongokit, "NoSuchName")
        self.assertIn("NoSuchName", str(error))
