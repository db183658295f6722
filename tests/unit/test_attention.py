"""Attention over pages: every token sees its own request up to itself, and the company changes no bit."""

import math
import random
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from axolotl_cache.engine import attention
from axolotl_cache.engine.attention import Plan, paged_attention, supports_pages
from axolotl_cache.engine.forward import Chunk, Forward
from axolotl_cache.engine.plan import GRID, invariant
from axolotl_cache.engine.pool import SCRAP, KVLayout, KVPool, LayerGroup, read_layout
from axolotl_cache.engine.spans import SEGMENT_TOKENS, Rows

CPU = torch.device("cpu")
BLOCK = 32
DTYPES = [torch.float32, torch.bfloat16]


class Layer:
    """One attention layer, and requests whose queries, keys and values are noise.

    Args:
        dtype: of all numbers.
        lengths: tokens of each request.
        heads: of the queries.
        kv_heads: of keys and values.
    """

    def __init__(self, dtype, lengths, *, heads=6, kv_heads=2, key_dim=16, value_dim=24, seed=0) -> None:
        self.config = SimpleNamespace(_attn_implementation="sdpa")
        layout = KVLayout((LayerGroup((0,), kv_heads, key_dim, value_dim),), dtype, CPU)
        self.pool = KVPool(layout, BLOCK)
        noise = torch.Generator().manual_seed(seed)

        def rows(count, length, dim):
            return torch.randn(count, length, dim, generator=noise).to(dtype)

        self.queries = [rows(heads, n, key_dim) for n in lengths]
        self.keys = [rows(kv_heads, n, key_dim) for n in lengths]
        self.values = [rows(kv_heads, n, value_dim) for n in lengths]
        self.pages = [self.pool.allocate(-(-n // BLOCK)) for n in lengths]

    def call(self, spans, *, window=None, padding=0, plan=None, **more):
        """Compute some tokens of some requests in one call: (request, start, stop) each, in this order."""
        parts = [Rows(self.pages[n], start, stop) for n, start, stop in spans]
        real = sum(stop - start for _, start, stop in spans)
        plan = plan or Plan(self.pool, parts, real + padding)
        plan.layer = 0

        def together(tensors):
            rows = torch.cat([tensors[n][:, start:stop] for n, start, stop in spans], dim=1)
            return torch.nn.functional.pad(rows, (0, 0, 0, padding)).unsqueeze(0)

        query, key, value = (together(t) for t in (self.queries, self.keys, self.values))
        with paged_attention(self.config, plan):
            plan.write(key, value)
            out, _ = attention._attend(None, query, key, value, None, sliding_window=window, **more)
        assert out.shape == (1, real + padding, query.shape[1], value.shape[-1])
        return list(out[0, :real].split([stop - start for _, start, stop in spans]))

    def expected(self, number, window=None):
        """One request's results, (tokens, heads, value_dim), by the definition, in float64."""
        query, key, value = (t[number].double() for t in (self.queries, self.keys, self.values))
        group = query.shape[0] // key.shape[0]
        key, value = key.repeat_interleave(group, 0), value.repeat_interleave(group, 0)
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
        at = torch.arange(query.shape[1])
        hidden = at[None, :] > at[:, None]
        if window is not None:
            hidden |= at[None, :] <= at[:, None] - window
        return (scores.masked_fill(hidden, -math.inf).softmax(-1) @ value).transpose(0, 1)


def near(found, expected):
    tolerance = 2e-2 if found.dtype == torch.bfloat16 else 1e-5
    return torch.allclose(found.double(), expected, rtol=tolerance, atol=tolerance)


def same_bits(one, other):
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


@pytest.mark.parametrize("window", [None, 40, 200])
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (4, 4), (5, 1)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_token_sees_its_own_request_up_to_itself(dtype, heads, kv_heads, window):
    lengths = [900, 1, 33, 128, 257, 45]
    layer = Layer(dtype, lengths, heads=heads, kv_heads=kv_heads)
    found = layer.call([(n, 0, length) for n, length in enumerate(lengths)], window=window, padding=3)
    for n, rows in enumerate(found):
        assert near(rows, layer.expected(n, window)), lengths[n]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_comparison_notices_a_key_that_is_not_ones_own(dtype):
    """The control."""
    layer = Layer(dtype, [60, 60])
    (rows,) = layer.call([(0, 0, 60)])
    assert near(rows, layer.expected(0))
    layer.keys[0][:, 20] += 3
    assert not near(rows, layer.expected(0))


@pytest.mark.parametrize("window", [None, 40, 300])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_bits_do_not_depend_on_cuts_nor_on_company(dtype, window, seed):
    rng = random.Random(seed)
    lengths = [rng.randint(1, 1200) for _ in range(5)]
    alone, together = Layer(dtype, lengths, seed=seed), Layer(dtype, lengths, seed=seed)
    expected = [alone.call([(n, 0, length)], window=window)[0] for n, length in enumerate(lengths)]
    found: list[list[torch.Tensor]] = [[] for _ in lengths]
    starts = [0] * len(lengths)
    while starts != lengths:
        waiting = [n for n, length in enumerate(lengths) if starts[n] < length]
        spans = []
        for n in rng.sample(waiting, rng.randint(1, len(waiting))):
            stop = min(starts[n] + rng.choice([1, 1, 2, 3, 5, 17, 128, 200]), lengths[n])
            spans.append((n, starts[n], stop))
            starts[n] = stop
        results = together.call(spans, window=window, padding=rng.randint(0, 3))
        for (n, _, _), rows in zip(spans, results, strict=True):
            found[n].append(rows)
    for rows, whole in zip(found, expected, strict=True):
        assert same_bits(torch.cat(rows), whole)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_do_not_depend_on_where_the_pages_lie(dtype):
    lengths = [400, 90]
    in_a_row, scattered = Layer(dtype, lengths), Layer(dtype, lengths)
    scattered.pool.release(page for pages in scattered.pages for page in pages)
    many = scattered.pool.allocate(60)
    random.Random(1).shuffle(many)
    scattered.pages = [many[:13], many[13:16]]
    for spans in ([(0, 0, 400)], [(1, 0, 70)], [(1, 70, 71)], [(1, 71, 90)]):
        (one,), (other,) = in_a_row.call(spans), scattered.call(spans)
        assert same_bits(one, other)
    plans = [Plan(layer.pool, [Rows(layer.pages[0], 320, 384)], 64) for layer in (in_a_row, scattered)]
    ways = [{tiles.in_a_row is None for view in plan.views() for tiles in view.tiles} for plan in plans]
    assert ways == [{False}, {True}]  # both ways were tried


def test_a_call_writes_its_own_places_and_padding_none_that_are_read():
    layer = Layer(torch.float32, [50, 70])
    layer.call([(0, 0, 50)])
    before = [layer.pool.read(page) for page in layer.pages[0]]
    layer.call([(1, 0, 33)], padding=7)
    for page, tensors in zip(layer.pages[0], before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(layer.pool.read(page), tensors, strict=True))
    keys, values = layer.pool.tensors(0)
    mine = keys[:, [page.index for page in layer.pages[1]]].flatten(1, 2)
    assert torch.equal(mine[:, :33], layer.keys[1][:, :33])
    assert not mine[:, 33:].any()
    assert not values[:, layer.pages[1][2].index].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 300])
def test_long_calls_are_attended_to_in_slices_with_the_same_bits(dtype, window, monkeypatch):
    lengths = [1300, 600, 40]
    spans = [(0, 900, 1300), (1, 599, 600), (2, 0, 40)]
    at_once, in_slices = Layer(dtype, lengths), Layer(dtype, lengths)
    results = []
    for layer, most in ((at_once, 8192), (in_slices, 100)):
        monkeypatch.setattr(attention, "_MOST_SPANS", most)
        layer.call([(n, 0, length) for n, length in enumerate(lengths)], window=window)
        results.append(layer.call(spans, window=window, padding=2))
        plan = Plan(layer.pool, [Rows(layer.pages[0], 900, 1300)], 400)
        assert (len(plan.views(window)) > 1) == (most == 100)
        room = [view.merge(2, 3, 24).room[0] for view in plan.views(window)]
        assert max(room) <= (most + 4 * 8) * 6  # results held, rows filled up to a multiple of 4
    assert all(same_bits(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("poison", [math.inf, math.nan])
def test_paddings_broken_numbers_reach_nobody(poison):
    lengths = [20, 270]
    layer = Layer(torch.float32, lengths)
    before = layer.call([(0, 0, 20), (1, 0, 270)], padding=2)
    plan = Plan(layer.pool, [Rows(layer.pages[0], 0, 20)], 23)
    plan.layer = 0
    keys, values = (torch.full((1, 2, 23, dim), poison) for dim in (16, 24))
    keys[0, :, :20], values[0, :, :20] = layer.keys[0], layer.values[0]
    plan.write(keys, values)
    after = layer.call([(0, 0, 20), (1, 0, 270)], padding=2)
    assert all(same_bits(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("poison", [math.inf, math.nan])
def test_one_requests_broken_numbers_reach_no_other(poison):
    lengths = [200, 33, 90]
    right, wrong = Layer(torch.float32, lengths), Layer(torch.float32, lengths)
    wrong.values[0][:, 7] = poison
    wrong.keys[0][:, 9] = poison
    spans = [(n, 0, length) for n, length in enumerate(lengths)]
    for number in (1, 2):
        assert same_bits(right.call(spans)[number], wrong.call(spans)[number])
    one, other = right.call([(2, 89, 90), (0, 199, 200)]), wrong.call([(2, 89, 90), (0, 199, 200)])
    assert same_bits(one[0], other[0])
    assert not same_bits(one[1], other[1])  # the control: it reaches its own


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_requests_behind_the_same_pages_attend_to_them_together_and_get_the_same_bits(dtype):
    lengths = [2 * SEGMENT_TOKENS + 40 + 7 * n for n in range(9)]
    apart, together = Layer(dtype, lengths), Layer(dtype, lengths)
    shared = 2 * SEGMENT_TOKENS // BLOCK
    for tensors in (apart.keys, apart.values, together.keys, together.values):
        for n in range(1, len(lengths)):
            tensors[n][:, : 2 * SEGMENT_TOKENS] = tensors[0][:, : 2 * SEGMENT_TOKENS]
    for layer in (apart, together):
        layer.call([(n, 0, length) for n, length in enumerate(lengths)])
    for n in range(1, len(lengths)):
        together.pages[n][:shared] = together.pages[0][:shared]
    for spans in (
        [(n, length - 1, length) for n, length in enumerate(lengths)],
        [(n, length - 1 - n % 4 * 9, length) for n, length in enumerate(lengths)],
        [(n, 2 * SEGMENT_TOKENS, length) for n, length in enumerate(lengths)],
    ):
        one, other = apart.call(spans), together.call(spans)
        assert all(same_bits(a, b) for a, b in zip(one, other, strict=True))
        parts = [Rows(together.pages[n], start, stop) for n, start, stop in spans]
        (view,) = Plan(together.pool, parts, sum(p.stop - p.start for p in parts)).views()
        whole = [batch for batch in view.tiles if not batch.masked]
        assert sum(len(batch.places) for batch in whole) == 2  # each of both segments is read once


def test_pieces_of_many_requests_are_few_batches():
    layer = Layer(torch.float32, [600] * 20)
    rows = [Rows(pages, 560, 561 + n % 5) for n, pages in enumerate(layer.pages)]
    plan = Plan(layer.pool, rows, sum(row.stop - row.start for row in rows))
    # over whole segments, and over the rest
    assert [len(view.tiles) for view in plan.views()] == [2]
    assert plan.real_rows == plan.rows


@pytest.mark.parametrize("name", ["softcap", "s_aux", "sinks", "position_bias"])
def test_what_would_change_the_result_is_refused(name):
    layer = Layer(torch.float32, [40])
    with pytest.raises(ValueError, match=name):
        layer.call([(0, 0, 40)], **{name: torch.ones(1)})


def test_a_mask_of_the_models_own_is_refused():
    layer = Layer(torch.float32, [40])
    plan = Plan(layer.pool, [Rows(layer.pages[0], 0, 40)], 40)
    tensors = [t[0].unsqueeze(0) for t in (layer.queries, layer.keys, layer.values)]
    with paged_attention(layer.config, plan), pytest.raises(ValueError, match="mask of its own"):
        attention._attend(None, *tensors, torch.zeros(1))


def test_attending_to_other_keys_than_those_written_is_refused():
    layer = Layer(torch.float32, [40])
    plan = Plan(layer.pool, [Rows(layer.pages[0], 0, 40)], 40)
    plan.layer = 0
    query, key, value = (t[0].unsqueeze(0) for t in (layer.queries, layer.keys, layer.values))
    with paged_attention(layer.config, plan):
        plan.write(key, value)
        with pytest.raises(ValueError, match="in a way of its own"):
            plan.write(key, value)
        with pytest.raises(ValueError, match="other keys and values"):
            attention._attend(None, query, key.clone(), value, None)
        attention._attend(None, query, key, value, None)
        plan.check_attended()


def test_the_model_is_left_as_it_was_also_after_an_error(tiny_model):
    before = tiny_model.config._attn_implementation
    plan = Plan(Layer(torch.float32, [5]).pool, [], 0)
    with paged_attention(tiny_model.config, plan):
        assert tiny_model.config._attn_implementation != before
    with pytest.raises(ZeroDivisionError), paged_attention(tiny_model.config, plan):
        1 / 0  # noqa: B018
    assert tiny_model.config._attn_implementation == before
    with pytest.raises(LookupError):
        attention._PLAN.get()


def test_only_plain_attention_is_replaced(tiny_model):
    assert supports_pages(tiny_model.config)
    eager = LlamaConfig(**SHAPE)
    eager._attn_implementation = "eager"
    assert not supports_pages(eager)


# Whole models


SHAPE = {
    "vocab_size": 120,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
MODELS = {
    "full": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "window": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=50)),
}


@pytest.fixture(scope="module", params=MODELS)
def forward(request):
    torch.manual_seed(1)
    model = MODELS[request.param]().eval()
    return Forward(model, KVPool(read_layout(model, CPU), BLOCK), 1024)


def prompts():
    noise = torch.Generator().manual_seed(3)
    return [torch.randint(120, (n,), generator=noise).tolist() for n in (400, 3, 129, 77)]


@pytest.fixture
def theirs(forward):
    with torch.inference_mode():
        return [forward.model(torch.tensor([tokens])).logits[0] for tokens in prompts()]


@pytest.mark.parametrize("multiple", [1, 4, 16])
def test_several_prompts_in_one_call_are_transformers_own_one_by_one(forward, theirs, multiple):
    chunks = [Chunk(forward.pool.allocate(-(-len(t) // BLOCK)), 0, t) for t in prompts()]
    ours = forward.run(chunks, invariant(multiple))
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other[-1:], atol=1e-4)
    for chunk in chunks:
        forward.pool.release(chunk.pages)


def test_behind_what_is_there_already_and_without_logits_that_nobody_wants(forward, theirs):
    sets = [forward.pool.allocate(-(-len(t) // BLOCK)) for t in prompts()]
    cuts = [300, 1, 128, 76]
    first = [Chunk(p, 0, t[:c], wanted=0) for p, t, c in zip(sets, prompts(), cuts, strict=True)]
    assert [logits.shape for logits in forward.run(first, invariant(4))] == [(0, 120)] * 4
    wanted = [100, 0, 1, 0]
    rest = [Chunk(p, c, t[c:], wanted=n) for n, p, t, c in zip(wanted, sets, prompts(), cuts, strict=True)]
    ours = forward.run(rest, invariant(4))
    assert [len(logits) for logits in ours] == wanted
    for mine, other, n in zip(ours, theirs, wanted, strict=True):
        assert torch.allclose(mine, other[len(other) - n :], atol=1e-4)
    for pages in sets:
        forward.pool.release(pages)
    assert forward.pool.used_pages == 0


def test_on_the_grid_it_is_the_same_attention(forward, theirs):
    tokens = prompts()[0]
    pages = forward.pool.allocate(-(-len(tokens) // BLOCK))
    for start in range(0, 400, 128):
        (ours,) = forward.run([Chunk(pages, start, tokens[start : start + 128])], GRID)
    assert torch.allclose(ours, theirs[0][-1:], atol=1e-4)
    forward.pool.release(pages)


def test_padding_leaves_the_pages_of_others_alone(forward):
    mine = forward.pool.allocate(4)
    marks = [[torch.full_like(t, 7.0) for t in forward.pool.read(page)] for page in mine]
    for page, tensors in zip(mine, marks, strict=True):
        forward.pool.fill(page, tensors)
    pages = forward.pool.allocate(1)
    forward.run([Chunk(pages, 0, [5, 6, 7])], invariant(16))
    for page in mine:
        assert all((tensor == 7.0).all() for tensor in forward.pool.read(page))
    assert SCRAP not in {page.index for page in [*mine, *pages]}
    assert all(not tensor[:, :, 3:].any() for tensor in forward.pool.read(pages[0]))
    forward.pool.release([*mine, *pages])
