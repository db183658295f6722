"""Importing is light, and Axolotl's own package is never touched."""

import subprocess
import sys
from pathlib import Path

import axolotl_cache

SOURCE = Path(axolotl_cache.__file__).parents[1]


def run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_response_hit_needs_neither_torch_nor_numpy_nor_pydantic():
    heavy = run(
        "import sys; from axolotl_cache import SmartInferenceCache as C; c = C(); k = c.generate_key('x'); "
        "c.set(k, {'a': [1]}); assert c.contains(k) and c.get(k) == {'a': [1]}; "
        "print({'torch', 'numpy', 'pydantic', 'transformers', 'yaml'} & set(sys.modules))"
    )
    assert heavy == "set()"


def test_the_name_that_axolotls_users_look_for():
    assert (
        run(
            "from axolotl.inference import SmartInferenceCache as C; import axolotl_cache as a; "
            "print(C is a.SmartInferenceCache)"
        )
        == "True"
    )


def test_the_main_distribution_owns_nothing_of_axolotls():
    ours = sorted(p.relative_to(SOURCE).as_posix() for p in (SOURCE / "axolotl").rglob("*.py"))
    assert ours == ["axolotl/inference/__init__.py"]
    assert not (SOURCE / "axolotl" / "__init__.py").exists()


def test_public_names_are_what_they_say():
    for name in axolotl_cache.__all__:
        assert getattr(axolotl_cache, name) is not None
