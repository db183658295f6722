"""Real servers on free loopback ports, in this process."""

import threading
from contextlib import ExitStack, contextmanager

import openai
import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.clock import wall_clock
from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.loader import load_model
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.observe import Observer
from axolotl_cache.pipeline import Pipeline
from axolotl_cache.pipeline.session import SessionStep
from axolotl_cache.request import CacheControl
from axolotl_cache.server.app import App
from axolotl_cache.server.asked import Rules
from axolotl_cache.server.doors import Doors
from axolotl_cache.server.engine_backend import EngineBackend
from axolotl_cache.server.limits import Limits
from axolotl_cache.server.run import address_of, listen, make_server
from axolotl_cache.server.service import Service
from axolotl_cache.server.watching import operator_routes
from axolotl_cache.session import Sessions


@contextmanager
def serve_app(app, grace_seconds=5):
    """Serve an application; give its URL."""
    listening = listen("127.0.0.1", 0)
    server = make_server(app, grace_seconds=grace_seconds, stopping=lambda: None)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    url = address_of(listening)
    thread.start()
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="package")
def running():
    """Serve an application within a `with` block; it gives the URL."""
    return serve_app


@pytest.fixture(scope="package")
def loaded(small_model_folder, tmp_path_factory):
    axolotl = {"base_model": str(small_model_folder), "chat_template": "tokenizer_default"}
    return load_model(axolotl, config_path=tmp_path_factory.mktemp("config") / "c.yaml")


@pytest.fixture(scope="package")
def memo(tmp_path_factory):
    return tmp_path_factory.mktemp("exactness")


class Counting(Observer):
    """Counts how often it is told of a request."""

    answered = not_answered = 0

    def finished(self, request, answer, call):
        self.answered += 1
        super().finished(request, answer, call)

    def failed(self, failure, call, **what):
        self.not_answered += 1
        super().failed(failure, call, **what)


class Served:
    """A server over the small model, and what is behind it."""

    def __init__(self, url, pipeline, service):
        self.url = url
        self.pipeline = pipeline
        self.service = service

    def client(self, key="none", **options):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **options)


@pytest.fixture(scope="package")
def serve_model(loaded, memo):
    """Start servers; all end together."""
    with ExitStack() as stack:

        def start(limits=None, keys=None, **rules):
            limits = limits or Limits()
            engine = Engine(
                loaded.model,
                device=loaded.device,
                context_length_tokens=loaded.context_length_tokens,
                end_tokens=loaded.end_tokens,
                max_cache_bytes=10**8,
                memo=memo,
            )
            renderer = PromptRenderer(loaded.tokenizer, loaded.chat_template)
            pipeline = Pipeline(
                engine,
                renderer,
                loaded.namespace,
                SmartInferenceCache(),
                session=SessionStep(renderer, Sessions(1800.0, wall_clock)),
            )
            stack.callback(pipeline.close)
            stack.enter_context(engine.in_background())
            # The small model's answers have no end of their own.
            rules = {"control": CacheControl(truncated=True)} | rules
            backend = EngineBackend(pipeline, Rules("small", **rules), most_running=limits.most_running)
            observer = Counting(model="small")
            service = Service(backend, limits, Doors(keys), observer)
            return Served(
                stack.enter_context(serve_app(App(service, operator_routes(service, pipeline)))),
                pipeline,
                service,
            )

        yield start


@pytest.fixture(scope="package")
def served(serve_model):
    return serve_model()


@pytest.fixture
def client(served):
    with served.client() as client:
        yield client
