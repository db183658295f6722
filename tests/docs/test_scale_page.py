"""docs/design/scale.md: its tables are what benchmarks/scale.py computes, by the formulas that it names."""

from __future__ import annotations

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/design/scale.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def scale():
    spec = spec_from_file_location("scale_model", ROOT / "benchmarks/scale.py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def tables():
    """The two tables, each a list of rows of numbers."""
    found = re.findall(r"\|[-|: ]+\|\n((?:\|.*\|\n)+)", PAGE)
    return [[[float(n) for n in re.findall(r"[\d.]+", line)] for line in text.splitlines()] for text in found]


def test_the_tables_are_what_the_program_computes(scale):
    by_nodes, by_block = tables()
    inputs = scale.Inputs()
    assert by_nodes == [
        [
            row["nodes"],
            round(100 * row["random"], 1),
            round(100 * row["prefix"], 1),
            round(row["random_bytes_per_second"] / 1e9, 1),
            round(row["prefix_bytes_per_second"] / 1e9, 1),
        ]
        for row in scale.rows(inputs)
    ]
    assert by_block == [
        [
            row["block"],
            round(row["bytes"] / 1e6, 1),
            round(1e3 * row["load_seconds"], 2),
            round(1e3 * row["compute_seconds"], 2),
            round(row["load_over_compute"], 2),
            round(100 * row["covered"], 1),
        ]
        for row in scale.blocks(inputs, 1)
    ]


def test_what_the_page_concludes_follows(scale):
    inputs = scale.Inputs()
    assert scale.most_nodes(inputs) + 1 == int(re.search(r"when (\d+) nodes load at once", PAGE)[1])
    told = re.search(r"full at (\d+) nodes sent at random, at (\d+) sent by prefix", PAGE)
    for kind, count in zip(("random", "prefix"), map(int, told.groups()), strict=True):
        (row,) = scale.rows(inputs, (count,))
        assert row[f"{kind}_bytes_per_second"] == pytest.approx(inputs.server, rel=0.05)


@pytest.mark.parametrize("skew", [0.0, 0.6, 0.9, 1.0, 1.3])
@pytest.mark.parametrize("held", [1, 40, 122, 20_000])
def test_the_share_of_hot_prefixes_is_the_sum_that_the_page_names(scale, skew, held):
    weights = [i**-skew for i in range(1, 20_001)]
    found = scale.hot_share(scale.Inputs(skew=skew), held)
    assert found == pytest.approx(sum(weights[:held]) / sum(weights), rel=1e-3)
