"""Makes a small database of orders, and says who may see which: the entity provider of orders.yaml.

python examples/orders/orders.py        make orders.sqlite3 beside this file, anew
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from axolotl_cache.session import SqlQuery, SqlRecords

DATABASE = Path(__file__).with_name("orders.sqlite3")


def Orders():
    """Return the provider: two queries, whose values the driver binds."""
    return SqlRecords(
        lambda: sqlite3.connect(f"{DATABASE.as_uri()}?mode=ro", uri=True),
        access={"order": SqlQuery("SELECT 1 FROM buyers WHERE id = ? AND buyer = ?", ("value", "principal"))},
        record={"order": SqlQuery("SELECT status, place, expected, items, paid FROM orders WHERE id = ?")},
        ttl_seconds=60,
    )


def make() -> None:
    DATABASE.unlink(missing_ok=True)
    with closing(sqlite3.connect(DATABASE)) as db, db:
        db.execute("CREATE TABLE orders (id TEXT PRIMARY KEY, status, place, expected, items, paid)")
        db.execute("CREATE TABLE buyers (id TEXT, buyer TEXT)")
        db.executemany(
            "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?)",
            [
                (
                    "67890",
                    "on its way, with Swift Parcel since the 3rd of June",
                    "sorting centre in Metz, on the 4th of June at 2:15",
                    "the 6th of June, between 8 and 12",
                    "a desk lamp with a green shade, six cups",
                    "48.90 EUR, by card",
                ),
                ("67891", "being packed", "our house", "the 10th of June", "an oak stool", "79.00 EUR"),
            ],
        )
        # A couple shares the first order; the second is somebody else's.
        buyers = [("67890", "ann"), ("67890", "ben"), ("67891", "eve")]
        db.executemany("INSERT INTO buyers VALUES (?, ?)", buyers)
    print(f"made {DATABASE}")


if __name__ == "__main__":
    make()
