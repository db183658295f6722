"""`axolotl-cache mask`: its report, its drawings, and that they show the mask and nothing else."""

import io
import json
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from axolotl_cache.cli import mask as command
from axolotl_cache.cli import mask_sheet
from axolotl_cache.cli.main import main
from axolotl_cache.cli.mask_picture import LEAST_WIDTH, draw
from axolotl_cache.cli.mask_sheet import Masks, draw_on_terminal
from axolotl_cache.cli.picture import to_svg
from axolotl_cache.engine import places
from axolotl_cache.prefix.packing import apart, pack

REPOSITORY = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"
SYSTEM = "You help the customers of a bank. " * 12
SMALL = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 5, 6, 7, 8, 1, 1], [1, 2, 3, 4, 3, 2, 3], [7, 7, 7]]


@pytest.fixture(scope="module")
def tokenizer_folder(smollm2_folder, tmp_path_factory):
    """A folder with a tokenizer and its template, and no model."""
    folder = tmp_path_factory.mktemp("tokenizer-only")
    for file in smollm2_folder.iterdir():
        if file.name.startswith(("tokenizer", "special_tokens", "vocab", "merges", "chat_template")):
            shutil.copy(file, folder)
    assert not list(folder.glob("*.safetensors"))
    return folder


@pytest.fixture
def config(tokenizer_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {
        "base_model": str(tokenizer_folder),
        "chat_template": "tokenizer_default",
        "model_config": {"prefix_length": 64, "system_prompts": [SYSTEM]},
    }
    Path("your_config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return "your_config.yaml"


@pytest.fixture(scope="module")
def count(smollm2_folder):
    """Return the token ids of a question behind the system prompt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)

    def tokens(text, system=SYSTEM):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tokenizer(rendered, add_special_tokens=False)["input_ids"]

    return tokens


def run(*arguments, code=0):
    result = CliRunner().invoke(main, ["mask", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result


def row(report, what):
    """Return (before, after) of a line of the table."""
    line = next(line for line in report.splitlines() if line.startswith(what))
    return tuple(int(n.replace(",", "")) for n in re.findall(r"[\d,]+", line.removeprefix(what))[:2])


def test_the_table_counts_what_is_computed_in_whole_blocks(config, count):
    report = run(config, "--prompt", "Where is my card?", "--prompt", "What is the fee?").stdout
    one, other = count("Where is my card?"), count("What is the fee?")
    same = next(n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    shared = same // 32 * 32
    assert shared >= 64
    rest = len(other) - shared
    assert row(report, "tokens computed") == (len(one) + len(other), len(one) + rest)
    triangles = [n * (n + 1) // 2 for n in (len(one), len(other), rest)]
    assert row(report, "cells (a token that sees a key)") == (
        triangles[0] + triangles[1],
        triangles[0] + rest * shared + triangles[2],
    )
    assert row(report, "blocks reused") == (0, shared // 32)
    assert row(report, "blocks held") == (
        -(-len(one) // 32) - (-len(other) // 32),
        -(-len(one) // 32) - (-rest // 32),
    )
    assert f"{shared // 32} from 1" in report


def test_without_a_terminal_it_is_plain_text_with_a_legend(config):
    report = run(config).stdout
    assert "\x1b" not in report
    assert "# computed" in report
    assert "= reused block" in report
    assert re.search(r"^#+ +#+", report, re.MULTILINE)
    assert re.search(r"==+#*", report)
    assert max(map(len, report.splitlines())) <= command.PLAIN_WIDTH
    assert len(re.findall(r"from 1$", report, re.MULTILINE)) == 3, "4 samples"


def test_prompts_that_share_nothing_have_nothing_in_red(config):
    Path("own.jsonl").write_text('{"prompt": "Once upon a time"}\n{"prompt": "Two ships went by"}\n')
    report = run(config, "--prompts-file", "own.jsonl", "-o", "mask.svg").stdout
    assert row(report, "blocks reused") == (0, 0)
    root = ET.parse("mask.svg").getroot()
    reused = [p for p in root.iter(f"{SVG}path") if p.get("class") == "reused"]
    assert len(reused) == 1, "the legend's"


def test_what_is_pinned_or_was_computed_before_is_reused_from_the_cache(config, count):
    question = "Where is my card?"
    tokens = len(count(question))
    pinned = run(config, "--prompt", question, "--pinned").stdout
    assert "2 from the cache" in pinned
    assert row(pinned, "tokens computed") == (tokens, tokens - 64)
    Path("before.jsonl").write_text(json.dumps(question))
    known = run(config, "--prompt", question, "--cached-file", "before.jsonl").stdout
    assert row(known, "tokens computed") == (tokens, (tokens - 1) % 32 + 1)
    assert row(run(config, "--prompt", question, "--system", "").stdout, "tokens computed")[0] < tokens


def test_a_picture_is_written_and_the_table_still_printed(config):
    svg = run(config, "-o", "mask.svg", "--width", "700")
    assert "written: mask.svg" in svg.stderr
    assert "tokens computed" in svg.stdout
    assert "# computed" not in svg.stdout
    text = Path("mask.svg").read_text(encoding="utf-8")
    assert "prefers-color-scheme:dark" in text
    assert ET.fromstring(text).get("width") == "700"
    run(config, "-o", "mask.PNG", "--width", "700")
    header = Path("mask.PNG").read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert int.from_bytes(header[16:20], "big") == 700


def test_a_name_from_a_file_is_text_and_no_markup(config):
    Path("own.jsonl").write_text('{"id": "<b>&\\"", "user": "Hello?"}\n{"id": "$x^2$", "user": "Hello!"}\n')
    run(config, "--prompts-file", "own.jsonl", "-o", "mask.svg")
    texts = {t.text for t in ET.parse("mask.svg").getroot().iter(f"{SVG}text")}
    assert '<b>&"' in texts
    run(config, "--prompts-file", "own.jsonl", "-o", "mask.png")


def test_without_matplotlib_a_png_says_what_to_install(config, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run(config, "-o", "mask.png", code=2)
    assert "pip install 'axolotl-cache[pictures]'" in result.stderr
    assert not Path("mask.png").exists()
    run(config, "-o", "mask.svg")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "mask.pdf"], "end it in .svg or .png"),
        (["-o", "missing/mask.svg"], "can't be written"),
        (["-o", "missing/mask.png"], "can't be written"),
        (["-o", "mask.svg", "--width", "100"], f"at least {LEAST_WIDTH} pixels"),
        (["--prompt", "a", "--prompts-file", "none.jsonl"], "give one of them"),
        (["--prompts-file", "none.jsonl"], "none.jsonl"),
        (["--prompts-file", "empty.jsonl"], "holds no requests"),
        (["--prompts-file", "nothing.jsonl"], "request 2: the prompt is empty"),
    ],
)
def test_what_can_not_be_drawn_is_said(config, arguments, said):
    Path("empty.jsonl").write_text("\n")
    Path("nothing.jsonl").write_text('"Hello?"\n{"prompt": ""}\n')
    assert said in run(config, *arguments, code=2).stderr


def test_many_prompts_are_counted_and_the_first_are_drawn(config):
    Path("many.jsonl").write_text("".join(json.dumps(f"Question {n}?") + "\n" for n in range(70)))
    result = run(config, "--prompts-file", "many.jsonl")
    assert "the first 64 of 70" in result.stderr
    assert "... and 50 more" in result.stdout
    assert row(result.stdout, "blocks reused")[1] >= 69 * 2
    assert "70" not in run(config, "--prompts-file", "many.jsonl", "--limit", "3").stdout


def test_the_picture_in_the_documentation_is_what_the_command_draws(smollm2_folder, monkeypatch, tmp_path):
    monkeypatch.chdir(REPOSITORY)
    page = (REPOSITORY / "docs" / "mask.md").read_text(encoding="utf-8")
    words = re.search(r"^ +axolotl-cache mask (.*?) -o docs/images/mask.svg$", page, re.MULTILINE)[1].split()
    run(*words, "-o", str(tmp_path / "mask.svg"))
    drawn = (tmp_path / "mask.svg").read_text(encoding="utf-8")
    kept = (REPOSITORY / "docs" / "images" / "mask.svg").read_text(encoding="utf-8")
    assert drawn == kept, "draw it again with the command in docs/mask.md"


def test_the_tokenizer_is_found_where_the_model_would_have_it(config, tokenizer_folder, monkeypatch):
    expected_table = run(config, "--prompt", "Hello?").stdout
    content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))

    def table_of(**changes):
        Path("other.yaml").write_text(yaml.safe_dump(content | changes), encoding="utf-8")
        return run("other.yaml", "--prompt", "Hello?").stdout

    Path("empty").mkdir()
    beside = {"tokenizer_config": str(tokenizer_folder), "base_model": "./empty"}
    assert table_of(**beside) == expected_table
    converted = []
    monkeypatch.setattr(
        places, "converted_copy", lambda file, **_: converted.append(file.name) or tokenizer_folder
    )
    Path("model.gguf").touch()
    assert table_of(base_model="./model.gguf") == expected_table
    shutil.copy("model.gguf", "empty")
    assert table_of(base_model="./empty") == expected_table
    assert converted == ["model.gguf"] * 2


@pytest.mark.parametrize(
    ("base_model", "said"), [(None, "base_model is missing"), ("./nowhere", "there is no ./nowhere")]
)
def test_a_tokenizer_that_is_not_there_is_said(config, base_model, said):
    Path(config).write_text(yaml.safe_dump({"base_model": base_model} if base_model else {"bf16": True}))
    assert said in run(config, "--prompt", "Hello?", code=2).stderr


# The drawings themselves, which need no model


def masks(prompts=SMALL, cached=()):
    names = tuple("abcdefgh"[: len(prompts)])
    return Masks(names, apart(prompts, block_size=4), pack(prompts, block_size=4, cached=cached))


def expected(packing):
    """Return the packed mask as a list of rows: `#` computed here, `=` reused, space masked."""
    rows = []
    for r, cells in enumerate(packing.dense()):
        rest = next(rest for rest in packing.rests if r in rest.rows)
        rows.append(
            "".join(
                " " if not cell else "#" if column in rest.columns else "="
                for column, cell in enumerate(cells)
            )
        )
    return rows


def inside(point, polygon):
    """Return whether a point lies in a polygon: it crosses an odd number of sides on its way to the right."""
    x, y = point
    crossed = False
    for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
            crossed = not crossed
    return crossed


def read_back(svg, rows, columns):
    """Return what an SVG shows in the middle of each cell of the packed mask, which is found by its frame."""
    shapes = []
    for path in ET.fromstring(svg).iter(f"{SVG}path"):
        if path.get("class") in ("masked", "computed", "reused"):
            numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.get("d"))]
            shapes.append((path.get("class"), list(zip(numbers[::2], numbers[1::2], strict=True))))
    # The last of the backgrounds is the packed mask's.
    frame = [points for kind, points in shapes if kind == "masked"][-1]
    (left, top), (right, bottom) = frame[0], frame[2]
    signs = {"masked": " ", "computed": "#", "reused": "="}
    found = []
    for r in range(rows):
        line = ""
        for c in range(columns):
            at = left + (right - left) * (c + 0.5) / columns, top + (bottom - top) * (r + 0.5) / rows
            line += signs[[kind for kind, points in shapes if inside(at, points)][-1]]
        found.append(line)
    return found


@pytest.mark.parametrize("cached", [(), ([1, 2, 3, 4, 0],)], ids=["cold", "cached"])
def test_every_cell_of_the_svg_is_the_masks(cached):
    drawn = masks(cached=cached)
    svg = to_svg(draw(drawn, command.totals(drawn), 900))
    assert read_back(svg, drawn.after.rows, drawn.after.columns) == expected(drawn.after)


def test_a_wrong_cell_in_the_svg_would_be_seen():
    drawn, other = masks(), masks([[*SMALL[0][:5], 0, *SMALL[0][6:]], *SMALL[1:]])
    svg = to_svg(draw(other, command.totals(other), 900))
    assert read_back(svg, other.after.rows, other.after.columns) != expected(drawn.after)


def test_every_cell_of_a_terminal_drawing_at_full_size_is_the_masks():
    after = masks(cached=[[1, 2, 3, 4, 0]]).after
    lines = mask_sheet._pixels(after.rests, scale=1.0, units_high=1)
    assert ["".join(mask_sheet.PLAIN[cell] for cell in line) for line in lines] == expected(after)


def test_two_lines_of_cells_are_one_of_half_blocks():
    upper = ["reused", "reused", "reused", None, "computed", None]
    lower = ["reused", "computed", None, "computed", "computed", None]
    (line,) = mask_sheet._half_blocks([upper, lower])
    assert line == (
        "\x1b[38;5;160m█\x1b[0m\x1b[38;5;160;48;5;33m▀\x1b[0m\x1b[38;5;160m▀\x1b[0m\x1b[38;5;33m▄█\x1b[0m"
    )
    assert list(mask_sheet._half_blocks([upper])) == list(mask_sheet._half_blocks([upper, [None] * 6]))


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("environment", "encoding", "coloured"),
    [
        ({}, "utf-8", True),
        ({"NO_COLOR": "1"}, "utf-8", False),
        ({"NO_COLOR": ""}, "utf-8", True),
        ({"TERM": "dumb"}, "utf-8", False),
        ({}, "ascii", False),
    ],
)
def test_a_terminal_gets_colours_unless_it_or_its_user_does_not_want_them(
    environment, encoding, coloured, monkeypatch
):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Terminal, "encoding", encoding)
    monkeypatch.setattr(sys, "stdout", Terminal())
    text = command._drawing(masks(), 80)
    assert ("\x1b[38;5;160m" in text) == coloured
    assert ("█" in text) == coloured
    assert ("= reused" in text) != coloured


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("colour", [False, True])
def test_a_drawing_keeps_to_its_width(width, colour):
    many = [[1] * 40 + [n] * (n + 1) for n in range(30)]
    names = tuple(map(str, range(30)))
    for prompts in (SMALL, many):
        drawn = Masks(names[: len(prompts)], apart(prompts, block_size=4), pack(prompts, block_size=4))
        text = re.sub(r"\x1b\[[\d;]*m", "", draw_on_terminal(drawn, width=width, max_lines=40, colour=colour))
        lines = text.splitlines()[:-2]
        assert max(map(len, lines)) <= width
        assert len(lines) <= 42
