"""`axolotl-cache doctor URL` and a real server, with keys and without."""

import json

import pytest
from click.testing import CliRunner

from axolotl_cache.adjustments import Change
from axolotl_cache.cli.main import main
from axolotl_cache.server.keys import KeyRing, Tenant


def doctor(*arguments):
    return CliRunner().invoke(main, ["doctor", *arguments], env={"AXOLOTL_CACHE_API_KEY": ""})


def ask(served, text, **more):
    messages = [{"role": "user", "content": text}]
    with served.client() as client:
        return client.chat.completions.create(model="small", messages=messages, max_tokens=2, **more)


def test_a_healthy_server(serve_model):
    served = serve_model()
    ask(served, "Where is my order?", temperature=0)
    ask(served, "Where is my order?", temperature=0)
    told = doctor(served.url)
    assert told.exit_code == 0, told.output
    assert "2 requests in the last hour, 1 of them hits of some tier" in told.output
    assert "prefixes in memory" in told.output
    assert "nothing found" in told.output


def test_a_server_whose_requests_are_sampled_without_a_seed(serve_model):
    served = serve_model()
    for n in range(25):
        ask(served, f"Question {n}", temperature=1.0)
    told = doctor(served.url, "--json")
    assert told.exit_code == 1
    (finding,) = json.loads(told.output)["findings"]
    assert finding["cause"] == "sampling-without-seed"
    assert "25 of 25 requests" in finding["evidence"][0]


def test_what_the_caches_did_to_their_bounds_is_told(serve_model):
    served = serve_model()
    noted = served.pipeline.engine.adjustments
    noted.note(Change.SHRINK, "prefix cache", 2_000, 1_000, "little memory was free")
    told = doctor(served.url)
    assert "prefix cache, shrink: from 2,000 to 1,000 bytes, as little memory was free" in told.output


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("op", 0, "nothing found"),
        ("ann", 2, "status 403; give an operator's key with --api-key"),
        ("stranger", 2, "status 401; give an operator's key with --api-key"),
        ("", 2, "status 401; give an operator's key with --api-key"),
    ],
)
def test_where_there_are_keys_an_operator_s_is_needed(serve_model, name, code, says):
    ring = KeyRing({}, {})
    keys = {"ann": ring.add(Tenant("ann")), "op": ring.add(Tenant("op", role="operator"))}
    served = serve_model(keys=ring)
    told = doctor(served.url, *(["--api-key", keys.get(name, "axc-nobodys")] if name else []))
    assert (told.exit_code, says in told.output) == (code, True), told.output
    assert not any(key in told.output for key in keys.values())
