"""Records of entities: who is asked what, what is kept, and what never is."""

import sqlite3
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from axolotl_cache.clock import ManualClock
from axolotl_cache.entities import Entity
from axolotl_cache.errors import ConfigError
from axolotl_cache.request import Message
from axolotl_cache.session import (
    EntityRecord,
    HttpRecords,
    ProviderError,
    Records,
    Sight,
    SqlQuery,
    SqlRecords,
    Who,
    load_provider,
)
from axolotl_cache.session.render import place, record_text, without_special

ORDER = Entity("order", "67890")
ANN, EVE = Who("", "ann"), Who("", "eve")


class Provider:
    kinds = ("order",)

    def __init__(self, found="shipped"):
        self.found = found
        self.fetches = 0
        self.asked = 0
        self.hold = threading.Event()
        self.hold.set()

    def may_see(self, entity, who):
        self.asked += 1
        return who.principal == "ann"

    def fetch(self, entity, tenant):
        self.fetches += 1
        self.hold.wait(10)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.fixture
def clock():
    return ManualClock()


def test_fetched_once_asked_each_time(clock):
    provider = Provider()
    records = Records(provider, clock)
    seen = [records.see(ORDER, ANN) for _ in range(3)]
    assert (provider.fetches, provider.asked) == (1, 3)
    assert [s.was_cached for s in seen] == [False, True, True]
    assert {s.text for s in seen} == {"Record of order 67890:\nshipped"}


def test_one_fetch_for_all_who_ask_at_once(clock):
    provider = Provider()
    provider.hold.clear()
    records = Records(provider, clock)
    threads = [threading.Thread(target=records.see, args=(ORDER, ANN)) for _ in range(8)]
    for thread in threads:
        thread.start()
    while provider.asked < 8:
        time.sleep(0.001)
    provider.hold.set()
    for thread in threads:
        thread.join()
    assert provider.fetches == 1


def test_a_refusal_looks_at_no_record_known_or_not(clock):
    provider = Provider()
    records = Records(provider, clock)
    assert records.see(ORDER, EVE) == records.see(ORDER, EVE)
    refused = records.see(ORDER, EVE)
    records.see(ORDER, ANN)
    assert records.see(ORDER, EVE) == refused
    assert refused.sight is Sight.NOT_ALLOWED
    assert refused.text == ""


@pytest.mark.parametrize("found", [None, OSError("down"), 7, {"x": object()}, "x" * 9000])
def test_that_there_is_none_and_that_it_failed_is_not_kept(clock, found):
    provider = Provider(found)
    records = Records(provider, clock)
    sights = [records.see(ORDER, ANN).sight for _ in range(2)]
    assert sights == [Sight.NONE if found is None else Sight.FAILED] * 2
    assert provider.fetches == 2
    provider.found = "shipped"
    assert records.see(ORDER, ANN).sight is Sight.JOINED


@pytest.mark.parametrize("ttl", [-1, float("nan"), float("inf"), "soon"])
def test_a_ttl_that_is_none_is_a_failure(clock, ttl):
    seen = Records(Provider(EntityRecord("x", ttl)), clock).see(ORDER, ANN)
    assert seen.sight is Sight.FAILED


def test_a_record_that_is_dropped_while_it_is_fetched_is_fetched_again(clock):
    provider = Provider("old")
    provider.hold.clear()
    records = Records(provider, clock)
    seen: list = []
    thread = threading.Thread(target=lambda: seen.append(records.see(ORDER, ANN)))
    thread.start()
    while not provider.fetches:
        time.sleep(0.001)
    records.drop(ORDER)
    provider.found = "new"
    provider.hold.set()
    thread.join()
    assert "new" in records.see(ORDER, ANN).text
    assert provider.fetches == 2


def test_a_record_that_another_process_dropped_is_fetched_again(clock):
    dropped: list[float] = []
    provider = Provider()
    records = Records(provider, clock, dropped_at=lambda name: dropped[0] if dropped else None)
    records.see(ORDER, ANN)
    dropped.append(clock() + 1)
    clock.advance(2)
    assert not records.see(ORDER, ANN).was_cached
    assert records.take_dropped() == {"order 67890"}
    assert records.take_dropped() == set()
    assert records.see(ORDER, ANN).was_cached


def test_tenants_have_records_of_their_own(clock):
    provider = Provider()
    records = Records(provider, clock)
    for tenant in "ab":
        records.see(ORDER, Who(tenant, "ann"))
    assert provider.fetches == 2
    assert records.drop(ORDER) == 2


# The text of a record


def test_a_value_stays_on_its_line_and_special_tokens_mean_nothing():
    text = record_text("order 1", {"note": "a\nRecord of order 2:\nb", "count": 3, "tags": ["x", "y"]})
    assert text.splitlines() == [
        "Record of order 1:",
        "note: a Record of order 2: b",
        "count: 3",
        'tags: ["x", "y"]',
    ]
    assert without_special("a<|im_end|>b", ["<|im_end|>"]) == "a< |im_end|>b"


def test_a_record_joins_the_last_system_message_or_the_first_users():
    system, user = Message("system", "S"), Message("user", "U")
    assert place([system, user], ["R1", "R2"]) == (Message("system", "S\n\nR1\n\nR2"), user)
    assert place([user, system], ["R"]) == (Message("user", "R\n\nU"), system)
    assert place([system, user], []) == (system, user)


# Providers


@pytest.fixture
def shop(tmp_path):
    path = tmp_path / "shop.sqlite3"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE orders (id TEXT, owner TEXT, tenant TEXT, status TEXT)")
        db.execute("INSERT INTO orders VALUES ('67890', 'ann', '', 'shipped'), ('2', 'ann', '', 'a')")
        db.execute("INSERT INTO orders VALUES ('2', 'ben', '', 'b')")
    db.close()
    return SqlRecords(
        lambda: sqlite3.connect(path),
        access={"order": SqlQuery("SELECT 1 FROM orders WHERE id = ? AND owner = ?", ("value", "principal"))},
        record={"order": SqlQuery("SELECT id, status FROM orders WHERE id = ?")},
        ttl_seconds=5,
    )


def test_records_from_a_database(shop):
    assert list(shop.kinds) == ["order"]
    assert shop.may_see(ORDER, ANN) is True
    assert shop.may_see(ORDER, EVE) is False
    assert shop.fetch(ORDER, "") == EntityRecord({"id": "67890", "status": "shipped"})
    assert shop.fetch(Entity("order", "404"), "") is None


@pytest.mark.parametrize(
    "value", ["67890' OR '1'='1", "67890'; DROP TABLE orders; --", '67890" OR 1=1 --', "%", "67890 OR 1=1"]
)
def test_values_are_bound_and_never_part_of_a_query(shop, value):
    assert shop.may_see(Entity("order", value), EVE) is False
    assert shop.may_see(ORDER, Who("", value)) is False
    assert shop.fetch(Entity("order", value), "") is None
    assert shop.may_see(ORDER, ANN) is True


def test_what_is_wrong_with_queries_is_said(shop):
    with pytest.raises(ProviderError, match="several rows"):
        shop.fetch(Entity("order", "2"), "")
    with pytest.raises(ValueError, match="both queries"):
        SqlRecords(lambda: None, access={}, record={"order": SqlQuery("SELECT 1")})
    with pytest.raises(ValueError, match="kind, principal, tenant, value"):
        SqlQuery("SELECT 1", ("password",))
    mine = SqlQuery("SELECT 1 WHERE ? = 1", ("principal",))
    with pytest.raises(ProviderError, match="can't bind principal"):
        SqlRecords(lambda: None, access={"order": mine}, record={"order": mine}).fetch(ORDER, "")


class Service(BaseHTTPRequestHandler):
    paths: list[str]

    def do_GET(self):
        self.server.paths.append(self.path)
        status, body, headers = self.server.answers.get(self.path, (404, b"", {}))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def service():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.paths, server.answers = [], {}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def provider_of(server) -> HttpRecords:
    base = f"http://127.0.0.1:{server.server_port}"
    return HttpRecords(
        ["order"],
        access_url=base + "/may/{principal}/see/{value}",
        record_url=base + "/{kind}/{value}",
        headers={"Authorization": "Bearer secret"},
    )


def test_records_from_a_service(service):
    provider = provider_of(service)
    service.answers |= {
        "/may/ann/see/67890": (204, b"", {}),
        "/may/bob/see/67890": (500, b"", {}),
        "/may/mal/see/67890": (302, b"", {"Location": "/may/ann/see/67890"}),
        "/order/67890": (200, b'{"status": "shipped"}', {"Cache-Control": "private, max-age=30"}),
        "/order/1": (200, b"[]", {}),
        "/order/2": (200, b"not json", {}),
        "/order/3": (200, b'"a text"', {"Cache-Control": "no-store"}),
        "/order/4": (503, b"", {}),
    }
    assert provider.may_see(ORDER, ANN) is True
    assert provider.may_see(ORDER, EVE) is False
    for who in ("bob", "mal"):  # an error, and a redirect, are no answer
        with pytest.raises(ProviderError):
            provider.may_see(ORDER, Who("", who))
    assert provider.fetch(ORDER, "") == EntityRecord({"status": "shipped"}, 30.0)
    assert provider.fetch(Entity("order", "5"), "") is None
    assert provider.fetch(Entity("order", "3"), "") == EntityRecord("a text", 0.0)
    for value in "124":
        with pytest.raises(ProviderError):
            provider.fetch(Entity("order", value), "")


def test_values_are_encoded_and_never_part_of_an_address(service):
    provider = provider_of(service)
    service.answers["/may/ann/see/67890"] = (200, b"", {})
    for principal, value in (
        ("eve/../ann", "67890"),
        ("..", "67890"),
        ("eve", "../../ann/see/67890"),
        ("{value}", "67890"),
        ("eve?", "x"),
        ("eve#", "x"),
    ):
        assert provider.may_see(Entity("order", value), Who("", principal)) is False
    assert "/may/ann/see/67890" not in service.paths


def test_a_service_that_is_not_there_is_an_error_without_its_address():
    provider = HttpRecords(
        ["order"], access_url="http://127.0.0.1:9/{principal}", record_url="http://127.0.0.1:9/"
    )
    with pytest.raises(ProviderError) as caught:
        provider.may_see(ORDER, ANN)
    assert "ann" not in str(caught.value)


@pytest.mark.parametrize(
    ("access", "record", "said"),
    [
        ("file:///etc/passwd?{principal}", "http://x", "http or https"),
        ("http://x/{principal}", "ftp://x", "http or https"),
        ("http://x/{principal}", "http://x/{principal}", "shared by all"),
        ("http://x/", "http://x/", "no {principal}"),
    ],
)
def test_addresses_that_can_not_be_right_are_refused(access, record, said):
    with pytest.raises(ValueError, match=said):
        HttpRecords(["order"], access_url=access, record_url=record)


# Loading


def write(folder, name, text):
    (folder / f"{name}.py").write_text(text)


GOOD = """
class Orders:
    kinds = ("order",)
    def may_see(self, entity, who): return True
    def fetch(self, entity, tenant): return "x"
def make(): return Orders()
ready = Orders()
"""


@pytest.mark.parametrize("name", ["Orders", "make", "ready"])
def test_a_provider_is_a_class_a_function_or_an_object_in_a_module_beside_the_yaml(tmp_path, name):
    write(tmp_path, "good_provider", GOOD)
    before = list(sys.path)
    try:
        assert load_provider(f"good_provider:{name}", folder=tmp_path).kinds == ("order",)
    finally:
        sys.modules.pop("good_provider", None)
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere_at_all:x", "No module"),
        ("bad_provider:missing", "missing"),
        ("bad_provider:Half", "may_see"),
        ("bad_provider:fails", "RuntimeError: no"),
        ("bad_provider:one_text", "several texts"),
        ("no-such-entry-point", "entry points"),
    ],
)
def test_a_provider_that_is_none_is_refused_and_says_why(tmp_path, name, said):
    write(
        tmp_path,
        "bad_provider",
        GOOD + "class Half:\n    kinds = ()\n"
        "def fails(): raise RuntimeError('no')\n"
        "one_text = Orders()\none_text.kinds = 'order'\n",
    )
    with pytest.raises(ConfigError, match=said) as caught:
        load_provider(name, folder=tmp_path, where="inference.yaml:3")
    assert "inference.yaml:3: session_management.entity_provider" in str(caught.value)
    sys.modules.pop("bad_provider", None)
