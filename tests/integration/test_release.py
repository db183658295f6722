"""What users would install: an sdist that builds the wheel, and the wheel in clean environments."""

import json
import re
import shutil
import subprocess
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORTS = {
    "server": "import axolotl_cache.server.app, axolotl_cache.server.run",
    "redis": "import axolotl_cache.stores.redis.tier",
    "encryption": "import axolotl_cache.stores.sealing",
    "tensors": "import axolotl_cache.response.tensors, safetensors, numpy",
}
BUILD = (
    "import sys, setuptools.build_meta as backend; "
    "print(getattr(backend, f'build_{sys.argv[1]}')(sys.argv[2]))"
)
USE = """
import sys
from axolotl.inference import SmartInferenceCache
import axolotl_cache
cache = SmartInferenceCache(10, 60, sys.argv[1])
cache.set(cache.generate_key("question"), "answer")
cache.close()
again = SmartInferenceCache(10, 60, sys.argv[1])
assert again.get(again.generate_key("question")) == "answer"
assert "torch" not in sys.modules
print(axolotl_cache.__version__)
"""


class Environment:
    """A clean virtual environment."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=True)
        self.bin = folder / "bin"

    def run(self, *arguments: object, cwd: Path | None = None) -> str:
        command = [str(self.bin / str(arguments[0])), *map(str, arguments[1:])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def pip(self, *arguments: object) -> str:
        return self.run("python", "-m", "pip", "--disable-pip-version-check", "install", "-q", *arguments)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist of what git knows or would know of this tree, and the wheel that is built of the sdist."""
    folder = tmp_path_factory.mktemp("release")
    tree = folder / "tree"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, tree / name)
    environment = Environment(folder / "build")
    environment.pip("setuptools>=77")
    sdist = environment.run("python", "-c", BUILD, "sdist", folder, cwd=tree).split()[-1]
    with tarfile.open(folder / sdist) as file:
        file.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    wheel = environment.run("python", "-c", BUILD, "wheel", folder, cwd=source).split()[-1]
    return folder / sdist, folder / wheel


@pytest.fixture
def clean(tmp_path):
    return Environment(tmp_path / "environment")


def test_the_wheel_holds_the_package_its_types_and_its_data_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        text = wheel.read(metadata).decode()
    assert "axolotl_cache/py.typed" in names
    tracked = {
        str(path.relative_to(REPOSITORY / "src"))
        for path in (REPOSITORY / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and "egg-info" not in str(path)
    }
    assert {name for name in names if ".dist-info/" not in name} == tracked
    assert "axolotl/__init__.py" not in names, "axolotl is a namespace package"
    assert not [name for name in names if name.startswith("axolotl/cli")], "that is Axolotl's own"
    assert f"Version: {PROJECT['version']}" in text
    assert "License-Expression: Apache-2.0" in text
    assert set(re.findall(r"^Provides-Extra: (.+)$", text, re.MULTILINE)) == set(
        PROJECT["optional-dependencies"]
    )


def test_the_sdist_holds_what_one_reads_first(built):
    with tarfile.open(built[0]) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    wanted = {"README.md", "README.zh-CN.md", "CHANGELOG.md", "LICENSE", "SECURITY.md", "CONTRIBUTING.md"}
    assert wanted <= names
    assert "pyproject.toml" in names


def test_the_bare_wheel_works_without_torch(built, clean, tmp_path):
    clean.pip(built[1])
    assert clean.run("python", "-c", USE, tmp_path / "answers").strip() == PROJECT["version"]
    assert "inference" in clean.run("axolotl-cache", "--help")
    assert "torch" not in clean.run("python", "-m", "pip", "list")


@pytest.mark.parametrize("extra", IMPORTS)
def test_an_extra_brings_what_its_modules_import(extra, built, clean):
    clean.pip(f"{built[1]}[{extra}]")
    clean.run("python", "-c", IMPORTS[extra])


def test_the_sdist_installs_too(built, clean, tmp_path):
    clean.pip(built[0])
    assert clean.run("python", "-c", USE, tmp_path / "answers").strip() == PROJECT["version"]


def test_the_engine_computes_where_the_wheel_alone_is_installed(built, clean, small_model_folder, tmp_path):
    clean.pip("torch==2.13.0")  # on a machine without GPU, the build for its processor where one is offered
    clean.pip(f"{built[1]}[engine]")
    config = tmp_path / "config.yaml"
    config.write_text(f"base_model: {small_model_folder}\n", encoding="utf-8")
    ask = ("axolotl-cache", "inference", config, "--prompt", "Hello?", "--max-new-tokens", "4", "--json")
    first, again = (
        json.loads(clean.run(*ask, "--temperature", "0", "--cache-truncated", cwd=tmp_path)) for _ in "12"
    )
    assert (first["served"], again["served"]) == ("miss", "hit-exact")
    assert first["text"] == again["text"]


def test_the_extra_for_axolotl_resolves(built, clean, tmp_path):
    """Its 200 packages are not installed here: `scripts/test --axolotl` works in a real one."""
    report = tmp_path / "report.json"
    clean.pip("--dry-run", "--report", report, f"{built[1]}[axolotl]")
    found = json.loads(report.read_text(encoding="utf-8"))["install"]
    assert {"axolotl", "axolotl-cache"} <= {each["metadata"]["name"] for each in found}
