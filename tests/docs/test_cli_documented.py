"""The page of the command line is what the commands say."""

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_is_up_to_date():
    # In a process of its own: click remembers, for each command, the help option of its first caller.
    made = subprocess.run(
        [sys.executable, DOCS / "make_cli_page.py"], capture_output=True, text=True, check=True
    )
    written = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert written == made.stdout, "run scripts/docs"
    for flag in (
        "--use-prefix-cache",
        "--enable-cache-optimization",
        "--cache-ttl",
        "--prompts-file",
        "--chat",
    ):
        assert flag in written
