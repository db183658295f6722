"""Installing and removing us leaves Axolotl whole, in either order: real pip, environments of their own."""

import base64
import csv
import hashlib
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.axolotl

REPOSITORY = Path(__file__).resolve().parents[2]


class Environment:
    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=True)
        self.python = folder / "bin" / "python"
        (self.site,) = folder.glob("lib/python*/site-packages")

    def pip(self, *arguments: str) -> None:
        done = subprocess.run(
            [self.python, "-m", "pip", "--disable-pip-version-check", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def install_axolotl(self) -> None:
        self.pip("install", "--no-deps", "axolotl==0.19.0")

    def install_ours(self, *how: str) -> None:
        self.pip("install", "--no-deps", *how, str(REPOSITORY))

    def damage(self) -> list[str]:
        """Return Axolotl's files that are missing or not what its RECORD says."""
        (record,) = self.site.glob("axolotl-0.19.0.dist-info/RECORD")
        rows = list(csv.reader(record.read_text(encoding="utf-8").splitlines()))
        assert len(rows) > 500
        return [name for name, digest, _ in rows if digest and not self._is_whole(name, digest)]

    def _is_whole(self, name: str, digest: str) -> bool:
        method, _, wanted = digest.partition("=")
        path = self.site / name
        if not path.is_file():
            return False
        found = hashlib.new(method, path.read_bytes()).digest()
        return base64.urlsafe_b64encode(found).rstrip(b"=").decode() == wanted

    def finds_both(self) -> bool:
        code = (
            "import importlib.util as u, axolotl; "
            "print(u.find_spec('axolotl.inference') is not None, u.find_spec('axolotl.train') is not None)"
        )
        done = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=False)
        return done.stdout.split() == ["True", "True"]


@pytest.mark.parametrize("how", [(), ("--editable",)], ids=["regular", "editable"])
@pytest.mark.parametrize("axolotl_first", [True, False], ids=["after", "before"])
def test_axolotl_stays_whole(tmp_path, how, axolotl_first):
    environment = Environment(tmp_path / "venv")
    if axolotl_first:
        environment.install_axolotl()
    environment.install_ours(*how)
    if not axolotl_first:
        environment.install_axolotl()
    assert environment.damage() == []
    assert environment.finds_both()
    environment.pip("uninstall", "--yes", "axolotl-cache")
    assert environment.damage() == []


def test_the_comparison_notices_damage(tmp_path):
    """The control: the module that the second distribution of ours brings is Axolotl's own."""
    environment = Environment(tmp_path / "venv")
    environment.install_axolotl()
    environment.pip("install", "--no-deps", str(REPOSITORY / "standalone"))
    assert environment.damage() == ["axolotl/cli/inference.py"]


def test_this_environments_axolotl_is_whole():
    """The one in which all other tests have run, with us beside it (editable)."""
    from importlib.metadata import files

    site = Path(next(f for f in files("axolotl") if str(f) == "axolotl/train.py").locate()).parents[1]
    environment = Environment.__new__(Environment)
    environment.site, environment.python = site, Path(sys.executable)
    assert environment.damage() == []
