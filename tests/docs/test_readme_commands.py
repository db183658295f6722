"""The README's commands, run in a clone of what is committed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCK_LINE = re.compile(r"^    ([a-z].*?)(?:\s{2,}#.*)?$", re.MULTILINE)
PROSE = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
COMMANDS = tuple(dict.fromkeys(BLOCK_LINE.findall(PROSE)))
NOT_RUN = {
    "scripts/test": "it runs this very test",
    "axolotl-cache serve your_config.yaml": "it has a test of its own below",
}
QUESTION = '{"messages": [{"role": "user", "content": "When are you open?"}]}\n'


def in_an_environment(clone):
    """Give a clone the environment that this test runs in, as scripts/install would have made it."""
    folder = clone / ".venv"
    folder.mkdir()
    for name in ("bin", "lib", "lib64", "include", "pyvenv.cfg"):
        if (Path(sys.prefix) / name).exists():
            (folder / name).symlink_to(Path(sys.prefix) / name)
    stamp = "cat pyproject.toml standalone/pyproject.toml scripts/install | cksum"
    made = subprocess.run(stamp, shell=True, cwd=clone, capture_output=True, text=True, check=True)
    (folder / "installed").write_text(made.stdout, encoding="utf-8")


@pytest.fixture(scope="module")
def clone(tmp_path_factory, smollm2_folder):
    """A clone, with what a user would put beside the README's commands."""
    folder = tmp_path_factory.mktemp("clone") / "axolotl-cache"
    subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(folder)], check=True)
    in_an_environment(folder)
    (folder / "models").symlink_to(smollm2_folder.parent)
    config = (folder / "examples" / "smollm2" / "inference.yaml").read_text(encoding="utf-8")
    config = config.replace("- system_prompt.txt", '- "You are the help desk of a bank."')
    (folder / "your_config.yaml").write_text(config, encoding="utf-8")
    for name in ("questions.jsonl", "requests.jsonl", "your_requests.jsonl"):
        (folder / name).write_text(2 * QUESTION, encoding="utf-8")
    return folder


def environment(clone):
    """The package is the clone's, whatever is installed."""
    paths = [clone / "src", clone / "standalone" / "src"]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PATH": f"{clone / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "AXOLOTL_CACHE_HOME": str(clone.parent / "home"),
        "HF_HUB_OFFLINE": "1",
    }


def test_what_the_readme_shows_is_found():
    """Quick: were the pattern wrong, the slow test would run nothing."""
    assert {"scripts/demo", "scripts/test"} <= set(COMMANDS)
    assert sum(command.startswith("axolotl-cache") for command in COMMANDS) >= 6
    assert any("axolotl.cli.inference" in command for command in COMMANDS)
    assert set(NOT_RUN) <= set(COMMANDS)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("command", [each for each in COMMANDS if each not in NOT_RUN])
def test_a_command_of_the_readme_runs(command, clone):
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=clone,
        env=environment(clone),
        input="When are you open?\n",
        capture_output=True,
        text=True,
        check=False,
    )
    told = f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    # The doctor's status says whether it found something.
    assert done.returncode in ({0, 1} if " doctor " in command else {0}), told
    assert "Traceback" not in told
    if "answers.jsonl" in command:
        assert (clone / "answers.jsonl").read_text(encoding="utf-8").count("\n") == 2


@pytest.mark.slow
@pytest.mark.model
def test_the_server_of_the_readme_serves(clone):
    command = next(each for each in COMMANDS if each.startswith("axolotl-cache serve"))
    server = subprocess.Popen(
        ["bash", "-c", f"exec {command} --port 18713"], cwd=clone, env=environment(clone),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while server.poll() is None:
            try:
                with urlopen("http://127.0.0.1:18713/readyz", timeout=5) as reply:
                    assert reply.status == 200
                    return
            except (URLError, ConnectionError):
                time.sleep(0.5)
        pytest.fail(f"it ended: {server.stderr.read()[-3000:]}")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        server.stderr.close()
