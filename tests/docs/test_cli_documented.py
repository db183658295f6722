"""The page of the command line is what the commands say."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_cli_page", DOCS / "make_cli_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert written == module.page(), "run scripts/docs"
    for flag in (
        "--use-prefix-cache",
        "--enable-cache-optimization",
        "--cache-ttl",
        "--prompts-file",
        "--chat",
    ):
        assert flag in written
