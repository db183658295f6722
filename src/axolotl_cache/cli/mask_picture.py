"""The masks as a picture: what is drawn where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from axolotl_cache.cli.mask_sheet import Arrangement, Masks, arrange
from axolotl_cache.cli.picture import Line, Picture, Point, Shape, Text
from axolotl_cache.prefix.packing import Rest

LEAST_WIDTH: Final = 640
MARGIN: Final = 28
GAP: Final = 14
BETWEEN: Final = 48
LABELS_WIDTH: Final = 180
"""Beside the packed mask: what each prompt reuses and computes."""
HEADS_WIDTH: Final = 230
TOP: Final = 172
"""Where the masks start."""
LANE: Final = 8
"""Height of the row of blocks above the packed mask."""
TABLE_WIDTH: Final = 370
LINE: Final = 22
"""From one line of the table to the next."""
LEAST_LABEL: Final = 13
"""From one label to the next."""
LEAST_NAMED: Final = 60
"""Side of the least triangle that has room for a name."""
LEAST_GRID: Final = 6.0
"""From one line of the grid to the next: below, it would be a shade."""
MOST_PIXELS_A_TOKEN: Final = 16.0
STAIRS: Final = 2.0
"""Pixels a token from which the triangles have steps."""
NAME_LETTERS: Final = 12
NAMES_IN_A_TIP: Final = 12


def draw(masks: Masks, totals: Sequence[tuple[str, int, int]], width: int) -> Picture:
    """Return the picture.

    Args:
        masks: what is drawn.
        totals: lines of the table: what, before, after.
        width: of the picture, in pixels, at least `LEAST_WIDTH`; its height follows.
    """
    count = len(masks.names)
    places = arrange(
        masks,
        width=width - 2 * MARGIN - LABELS_WIDTH,
        height=0.7 * width,
        gap=GAP,
        between=BETWEEN,
        least_before=HEADS_WIDTH,
        max_scale=MOST_PIXELS_A_TOKEN,
    )
    left = MARGIN + max(places.before_width, HEADS_WIDTH) + BETWEEN
    table_height = LINE * (len(totals) + 1)
    bottom = TOP + max(places.before_height, places.after_height)
    # The packed mask is the smaller one: mostly there is room for the table below it.
    fits = (
        TOP + places.after_height + 2 * LINE + table_height <= bottom and width - MARGIN - left >= TABLE_WIDTH
    )
    table = (left, bottom - table_height) if fits else (MARGIN, bottom + 2 * LINE)
    height = (bottom if fits else table[1] + table_height) + MARGIN
    picture = Picture(width, height, f"Attention mask of {count} prompt{'s' * (count > 1)}, before and after")
    picture.rectangle("paper", 0, 0, width, height)
    _head(picture, masks)
    _before(picture, masks, places)
    _after(picture, masks, places, left)
    _table(picture, totals, *table)
    return picture


def _head(picture: Picture, masks: Masks) -> None:
    how = "A row is a token that is computed, a column is a key. Coloured: this token sees this key."
    picture.texts.append(Text(picture.title, (MARGIN, 44), "title", bold=True))
    picture.texts.append(Text(how, (MARGIN, 66), kind="muted"))
    block = masks.after.block_size
    entries = [
        ("computed", "computed"),
        ("reused", f"reused block ({block} tokens): seen, not computed again"),
        ("masked", "masked"),
    ]
    x = float(MARGIN)
    for kind, words in entries:
        picture.rectangle(kind, x, 80, 12, 12)
        picture.frame(x, 80, 12, 12)
        picture.texts.append(Text(words, (x + 19, 90)))
        x += 44 + 6.6 * len(words)


def _before(picture: Picture, masks: Masks, places: Arrangement) -> None:
    before, scale = masks.before, places.scale
    count = len(masks.names)
    shape = f"{count} mask{'s' * (count > 1)}, {before.rows:,} tokens, {len(before.blocks):,} blocks"
    picture.texts.append(Text("before: each alone", (MARGIN, TOP - 40), "head", bold=True))
    picture.texts.append(Text(shape, (MARGIN, TOP - 22), kind="muted"))
    has_names = min(len(rest.rows) for rest in before.rests) * scale >= LEAST_NAMED
    for rest in before.rests:
        x, y = places.place(rest.prompt)
        at, tokens = (MARGIN + x, TOP + y), len(rest.rows)
        size = tokens * scale
        name = masks.names[rest.prompt]
        picture.rectangle("masked", *at, size, size)
        _triangle(picture, at, tokens, scale, f"{name}: {tokens:,} tokens computed")
        starts = [n * scale for n in range(0, tokens, before.block_size)]
        _grid(picture, starts, starts, at, (size, size), scale * before.block_size)
        picture.frame(*at, size, size)
        if has_names:
            corner = (at[0] + size - 6, at[1] + 16)
            picture.texts.append(Text(_short(name), corner, "small", anchor="end"))


def _after(picture: Picture, masks: Masks, places: Arrangement, left: float) -> None:
    after, scale = masks.after, places.scale
    at, size = (left, float(TOP)), (places.after_width, places.after_height)
    shape = f"1 mask (1, 1, {after.rows:,}, {after.columns:,}), {len(after.blocks):,} blocks"
    picture.texts.append(Text("after: together", (left, TOP - 40), "head", bold=True))
    picture.texts.append(Text(shape, (left, TOP - 22), kind="muted"))
    _blocks(picture, masks, left, scale)
    picture.rectangle("masked", *at, *size)
    for columns, readers in _bands(after.rests):
        first, end = readers[0].rows.start, readers[-1].rows.stop
        x, y = left + columns.start * scale, TOP + first * scale
        tip = f"reused by {_listed([masks.names[rest.prompt] for rest in readers])}"
        picture.rectangle("reused", x, y, len(columns) * scale, (end - first) * scale, tip)
    for rest in after.rests:
        corner = (left + rest.columns.start * scale, TOP + rest.rows.start * scale)
        _triangle(picture, corner, len(rest.rows), scale, _account(masks, rest))
    rows = [rest.rows.start + n for rest in after.rests for n in range(0, len(rest.rows), after.block_size)]
    _grid(
        picture,
        [block.columns.start * scale for block in after.blocks],
        [row * scale for row in rows],
        at,
        size,
        scale * after.block_size,
    )
    picture.frame(*at, *size)
    _labels(picture, masks, scale, left + size[0] + 12)


def _blocks(picture: Picture, masks: Masks, left: float, scale: float) -> None:
    """Draw the blocks that are held, above their columns."""
    for block in masks.after.blocks:
        whose = "cached" if block.computed_by is None else f"computed by {masks.names[block.computed_by]}"
        readers = [masks.names[prompt] for prompt in block.reused_by]
        tip = f"{whose}, reused by {_listed(readers)}" if readers else whose
        wide = len(block.columns) * scale
        space = 1 if wide >= LEAST_GRID else 0
        x = left + block.columns.start * scale
        picture.rectangle("reused" if readers else "computed", x, TOP - LANE - 4, wide - space, LANE, tip)


def _bands(rests: Iterable[Rest]) -> Iterator[tuple[range, list[Rest]]]:
    """Yield columns that are reused, and the prompts below one another that do so."""
    bands: dict[range, list[Rest]] = {}
    for rest in rests:
        for columns in rest.reused:
            band = bands.get(columns)
            if band and band[-1].rows.stop == rest.rows.start:
                band.append(rest)
                continue
            if band:
                yield columns, band
            bands[columns] = [rest]
    yield from bands.items()


def _triangle(picture: Picture, corner: Point, tokens: int, scale: float, tip: str) -> None:
    """Draw what a prompt sees of its own rest; with steps, where they are large enough to be seen."""
    x, y = corner
    points = [corner]
    if scale >= STAIRS:
        for n in range(tokens):
            points += [(x + (n + 1) * scale, y + n * scale), (x + (n + 1) * scale, y + (n + 1) * scale)]
    else:
        points.append((x + tokens * scale, y + tokens * scale))
    points.append((x, y + tokens * scale))
    picture.shapes.append(Shape("computed", tuple(points), tip))


def _grid(
    picture: Picture, columns: Sequence[float], rows: Sequence[float], at: Point, size: Point, step: float
) -> None:
    if step < LEAST_GRID:
        return
    for x in columns[1:]:
        picture.lines.append(Line("grid", (at[0] + x, at[1]), (at[0] + x, at[1] + size[1])))
    for y in rows[1:]:
        picture.lines.append(Line("grid", (at[0], at[1] + y), (at[0] + size[0], at[1] + y)))


def _labels(picture: Picture, masks: Masks, scale: float, left: float) -> None:
    """Write beside each prompt's rows what it reuses; leave out those for which there is no room."""
    free_from = 0.0
    for rest in masks.after.rests:
        line = TOP + (rest.rows.start + rest.rows.stop) / 2 * scale + 4
        if line < free_from:
            continue
        free_from = line + LEAST_LABEL
        picture.texts.append(Text(_account(masks, rest), (left, line), "small", "muted"))


def _account(masks: Masks, rest: Rest) -> str:
    blocks, tokens = len(rest.reused_blocks), len(rest.rows)
    reused = f"{blocks} block{'s' * (blocks > 1)} + " if blocks else ""
    return f"{_short(masks.names[rest.prompt])}: {reused}{tokens:,} token{'s' * (tokens > 1)}"


def _short(name: str) -> str:
    return name if len(name) <= NAME_LETTERS else name[: NAME_LETTERS - 1] + "…"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMES_IN_A_TIP
    return ", ".join(names[:NAMES_IN_A_TIP]) + (f" and {more} more" if more > 0 else "")


def _table(picture: Picture, totals: Sequence[tuple[str, int, int]], left: float, top: float) -> None:
    before_at, after_at = left + TABLE_WIDTH - 95, left + TABLE_WIDTH
    for head, x in (("before", before_at), ("after", after_at)):
        picture.texts.append(Text(head, (x, top + 14), kind="muted", anchor="end"))
    for n, (what, before, after) in enumerate(totals, 1):
        y = top + LINE * n
        picture.lines.append(Line("grid", (left, y), (after_at, y)))
        picture.texts.append(Text(what, (left, y + 15)))
        picture.texts.append(Text(f"{before:,}", (before_at, y + 15), anchor="end"))
        picture.texts.append(Text(f"{after:,}", (after_at, y + 15), anchor="end", bold=True))
