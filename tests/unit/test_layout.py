"""What an early part that changes costs, and where to move it."""

import random

from axolotl_cache.layout import advise

STABLE = list(range(1000, 1400))


def prompt(date: int, question: int) -> list[int]:
    """A system prompt with a date after 20 tokens, and a question."""
    return [*STABLE[:20], 1, date, 2, *STABLE[20:], *range(question, question + 10)]


def test_says_how_many_tokens_an_early_date_costs_and_where_to_move_it():
    advice = advise([prompt(100 + day, 5000 + 20 * day) for day in range(4)])
    (part,) = advice.parts
    assert part.position_tokens == 21
    assert part.changing_tokens == 1
    assert part.prompts == 3
    assert part.lost_tokens == advice.lost_tokens == 3 * 381  # one token of the mark, and 380 stable ones
    assert part.move_behind_tokens == 403
    assert part.examples == ((101,), (102,), (103,))


def test_control_a_date_behind_what_is_stable_costs_nothing():
    advice = advise([[*STABLE, 1, 100 + day, 2, 5000 + day] for day in range(4)])
    assert advice.parts == ()
    assert advice.lost_tokens == 0


def test_prompts_of_two_kinds_are_told_apart():
    other = [7, *range(9000, 9400)]
    prompts = [prompt(1, 5000), [*other, 1], prompt(2, 6000), [*other, 2]]
    (part,) = advise(prompts).parts
    assert part.prompts == 1


def test_nothing_to_say_about_few_or_unlike_prompts():
    rng = random.Random(1)
    assert advise([]).parts == ()
    assert advise([STABLE]).parts == ()
    assert advise([[rng.randrange(10**6) for _ in range(200)] for _ in range(5)]).parts == ()


def test_the_growing_turns_of_a_conversation_lose_nothing():
    turns = [STABLE + list(range(5000, 5000 + 40 * n)) for n in range(1, 6)]
    assert advise(turns).lost_tokens == 0
