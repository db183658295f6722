"""The order scenario: people ask a shop about their orders, in English and Chinese. Nothing runs a model."""

from __future__ import annotations

from typing import Any

from talks import Talk

SYSTEM = """You are the help desk of Lantern & Reed, a shop for lamps, cups and furniture, in its app.

How you answer
- In one to three short sentences, in the customer's language: the answer first, then the next step.
- Only from the facts below and from the records that follow them. If they don't cover a question, say so.
- Never ask for a password or a full card number, and never promise a refund.

Delivery
- Parcels take 2 to 4 working days, furniture 7 to 10. Orders above 60 euros are delivered free of charge.
- Tracking begins when the parcel leaves our house, and is brought up to date three times a day.
- The address can be changed until the parcel is with the carrier, under Orders > Change address.
- Nobody at home: the carrier tries once more on the next working day, then leaves it at a shop nearby.

Returns
- 30 days for everything but food and what was made to measure. The label is under Orders > Send back.
- Money is back within 5 working days of the parcel's arrival, in the way in which it was paid.
- What arrives broken is replaced: send a picture within 7 days, under Orders > Report a problem.

Payment
- Card, bank transfer and gift card. A card is charged when the parcel leaves, and not before.
- Invoices are under Orders > Invoice. A business can have its VAT number added before the order is sent.

Hours
- Chat: every day from 8 to 22. Phone: Monday to Friday from 9 to 18."""

_PLACES = ("Lyon", "Ghent", "Turin", "Porto", "Bern", "Graz")
_GOODS = ("desk lamp with a green shade", "set of six cups", "folding chair", "paper lantern", "oak stool")


def orders(count: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Return records of orders, by (kind, value)."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for n in range(count):
        value = str(67890 + 137 * n)
        place = _PLACES[n % len(_PLACES)]
        found["order", value] = {
            "placed": f"2024-06-{1 + n % 20:02d}, in the app, paid by card",
            "items": [
                {"name": _GOODS[n % 5], "count": 1, "price": f"{19 + n % 7}.90 EUR"},
                {"name": _GOODS[(n + 2) % 5], "count": 2, "price": f"{9 + n % 5}.50 EUR"},
            ],
            "address": f"{12 + n} Mill Lane, {place}",
            "carrier": "Swift Parcel",
            "status": "on its way",
            "expected": f"2024-06-{6 + n % 20:02d}, between 8 and 12",
            "tracking": [
                {"at": f"2024-06-{3 + n % 20:02d} 07:40", "place": "our house", "what": "handed over"},
                {"at": f"2024-06-{4 + n % 20:02d} 02:15", "place": "Metz", "what": "sorted"},
                {"at": f"2024-06-{5 + n % 20:02d} 06:05", "place": place, "what": "at the depot"},
            ],
            "can still change address": False,
        }
    return found


_QUESTIONS = (
    ("Where is order #{}?", "And when will it arrive?", "What did I pay for that order?"),
    ("What is the delivery status of order {}?", "Can it still go to another address?", "Who delivers it?"),
    ("订单{}到哪里了？", "它什么时候能送到？", "那个订单里有什么？"),
    ("Hello! I am waiting for order {}, has it left?", "When will it be here?", "And if I am not at home?"),
)


def talks(records: dict[tuple[str, str], dict[str, Any]], askers: int) -> list[Talk]:
    """Return conversations: of each order, `askers` people who may see it ask in their own words."""
    found: list[Talk] = []
    for order, (_, value) in enumerate(records):
        for asker in range(askers):
            questions = _QUESTIONS[(order + asker) % len(_QUESTIONS)]
            name = f"order-{value}-{asker}"
            found.append(Talk(name, SYSTEM, tuple(each.format(value) for each in questions), ()))
    return found
