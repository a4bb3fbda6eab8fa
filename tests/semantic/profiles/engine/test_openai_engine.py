"""The engine for OpenAI-compatible servers, against a server that does what the test says."""

from __future__ import annotations

import asyncio
import builtins
import email.utils
import gzip
import json
import logging
import math
import time

import pytest
from fault_server import Action, FaultServer, error_body, profile_of
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from small_run import SCHEMA, key_of, prompt, run, settings_for

from recbole_choir.errors import ConfigError, ProfileError
from recbole_choir.semantic.profiles import asking, openai_engine
from recbole_choir.semantic.profiles.openai_engine import OpenAIGenerator
from recbole_choir.semantic.profiles.store import ProfileStore
from recbole_choir.semantic.profiles.types import (
    AskAgain,
    Failure,
    KeyMaker,
    PromptRejected,
    Reply,
    Transient,
)

pytest.importorskip("openai")

KEY = "sk-s3cret-4711-abcdef"


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(asking, "_FIRST_WAIT", 0.01)


def ask(settings, *asked, seed=0):
    """Complete prompts one after the other; an exception takes the place of a reply."""

    async def main():
        generator = OpenAIGenerator(settings)
        results = []
        try:
            for p in asked:
                try:
                    results.append(await generator.complete(p, seed))
                except Exception as error:
                    results.append(error)
        finally:
            await generator.close()
        return results

    return asyncio.run(main())


def one(server, action, **changes):
    server.choose = lambda request: action
    return ask(settings_for(server.url, **changes), prompt("u1"))[0]


def status(code, message="no", headers=None, kind=None):
    return Action("status", status=code, headers=headers or {}, body=error_body(message, kind))


class TestRequests:
    def test_what_is_sent(self, server):
        settings = settings_for(
            server.url, model="qwen", seed=3, top_p=0.9, extra_body={"min_p": 0.1}, temperature=0.2
        )
        (reply,) = ask(settings, prompt("u1"), seed=3)
        assert reply == Reply(profile_of("u1"), "stop", 20, 10)
        (request,) = server.log
        assert request.body == {
            "model": "qwen",
            "messages": [
                {"role": "system", "content": "be short"},
                {"role": "user", "content": "about u1"},
            ],
            "max_tokens": 50,
            "temperature": 0.2,
            "seed": 3,
            "top_p": 0.9,
            "min_p": 0.1,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "profile", "strict": True, "schema": SCHEMA},
            },
        }

    def test_a_later_try_is_warmer(self, server):
        settings = settings_for(server.url, temperature=0.0, retry_temperature=0.7, seed=3)
        ask(settings, prompt("u1"), seed=3)
        ask(settings, prompt("u1"), seed=4)
        sent = [(r.body["seed"], r.body["temperature"]) for r in server.log]
        assert sent == [(3, 0.0), (4, 0.7)]

    def test_names_of_fields_and_no_schema(self, server):
        settings = settings_for(server.url, max_tokens_field="max_completion_tokens")
        ask(settings, prompt("u1", schema=None))
        assert server.log[0].body["max_completion_tokens"] == 50
        assert not {"max_tokens", "response_format"} & set(server.log[0].body)

    def test_what_enters_the_key(self):
        def key(**changes):
            return key_of("u1", settings_for("http://localhost:1/v1", **changes))

        same = {
            "base_url": "http://elsewhere:2/v1",
            "concurrency": 3,
            "retries": 0,
            "requests_per_minute": 5,
            "max_requests": 7,
            "patience": 9.0,
            "read_timeout": 1.0,
            "max_failed_share": 0.5,
        }
        for name, value in same.items():
            assert key(**{name: value}) == key(), name
        other = {
            "model": "n",
            "temperature": 0.1,
            "retry_temperature": 0.1,
            "seed": 1,
            "top_p": 0.5,
            "extra_body": {"a": 1},
            "structured_output": "none",
        }
        for name, value in other.items():
            assert key(**{name: value}) != key(), name


class TestStructuredOutput:
    def test_a_server_that_knows_less_is_asked_in_other_ways_once_per_run(
        self, server, tmp_path, caplog
    ):
        def choose(request):
            kind = request.body.get("response_format", {}).get("type")
            return status(400, "unknown response_format") if kind == "json_schema" else Action()

        server.choose = choose
        outcome = run(server.url, tmp_path / "p", 30, concurrency=4)
        assert outcome.done == 30
        refused = [r for r in server.log if r.body["response_format"]["type"] == "json_schema"]
        assert len(refused) <= 4  # those in flight at the start
        last = server.log[-1].body["response_format"]
        assert last == {"type": "json_object", "schema": SCHEMA}
        lines = [r.message for r in caplog.records if "structured output" in r.message]
        assert lines == [
            "server of 'm': refuses structured output by json_schema, takes json_object"
        ]

    @pytest.mark.parametrize(
        ("code", "message"),
        [(422, "no"), (500, "1 validation error: {'loc': ('body', 'response_format', 'type')}")],
    )
    def test_down_to_words_alone(self, server, code, message):
        def choose(request):
            return status(code, message) if "response_format" in request.body else Action()

        server.choose = choose
        results = ask(settings_for(server.url), *[prompt("u1")] * 3)
        assert [type(r) for r in results] == [AskAgain, AskAgain, Reply]

    def test_a_bad_first_prompt_does_not_cost_the_others_their_schema(self, server):
        def choose(request):
            return status(400, "context is too long") if request.user == "u0" else Action()

        server.choose = choose
        results = ask(settings_for(server.url), *[prompt("u0")] * 3, prompt("u1"), prompt("u0"))
        kinds = [AskAgain, AskAgain, PromptRejected, Reply, PromptRejected]
        assert [type(r) for r in results] == kinds
        assert server.log[3].body["response_format"]["type"] == "json_schema"
        assert "context is too long" in str(results[4])

    def test_a_fixed_way_is_not_left(self, server):
        server.choose = lambda request: status(400)
        (result,) = ask(settings_for(server.url, structured_output="json_object"), prompt("u1"))
        assert isinstance(result, PromptRejected)
        assert server.log[0].body["response_format"]["type"] == "json_object"


class TestReplies:
    def test_cut_refused_and_empty(self, server):
        cut = Action("text", text='{"iden', finish_reason="length")
        assert one(server, cut) == Reply('{"iden', "length", 20, 10)
        assert one(server, Action("text", text="")).text == ""
        body = {"choices": [{"message": {"content": None, "refusal": "I cannot"}}]}
        refusal = Action("status", body=json.dumps(body).encode())
        assert one(server, refusal) == Reply("I cannot", "refusal", 0, 0)
        body = {"choices": [{"message": {"content": "x"}, "finish_reason": "content_filter"}]}
        held = Action("status", body=json.dumps(body).encode())
        assert one(server, held).finish_reason == "content_filter"

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"{}",
            b"null",
            b'"text"',
            b"\xff\xfe",
            b'{"error": "overloaded"}',
            b'{"choices": null}',
            b'{"choices": []}',
            b'{"choices": [{"message": {"content": [1]}}]}',
        ],
    )
    def test_what_is_no_completion_is_the_servers_fault(self, server, body):
        result = one(server, Action("status", body=body))
        assert isinstance(result, Transient)
        assert "not a chat completion" in result.detail
        assert result.maybe_billed

    @pytest.mark.parametrize(
        "usage",
        [
            1e30,
            [1],
            "much",
            {"prompt_tokens": 1e30, "completion_tokens": 3},
            {"prompt_tokens": -1, "completion_tokens": 3},
            {"prompt_tokens": {"a": 1}},
            {"prompt_tokens": True, "completion_tokens": 1},
            {"prompt_tokens": "20"},
            {"completion_tokens": math.nan},
        ],
    )
    def test_a_paid_answer_is_kept_whatever_its_count_says(self, server, usage):
        body = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}
        assert one(server, Action("status", body=json.dumps(body).encode())) == Reply(
            "x", "stop", 0, 0
        )

    def test_brackets_in_brackets_are_no_completion(self, server):
        result = one(server, Action("status", body=b"[" * 200_000))
        assert isinstance(result, Transient)
        assert "not a chat completion: '[[[" in result.detail
        result = one(server, Action("status", status=500, body=b'{"error":' * 100_000))
        assert isinstance(result, Transient)

    def test_an_endless_finish_reason_is_cut(self, server):
        body = {"choices": [{"message": {"content": "x"}, "finish_reason": "s" * 100_000}]}
        assert (
            len(one(server, Action("status", body=json.dumps(body).encode())).finish_reason) < 400
        )

    @pytest.mark.parametrize("kind", ["cut", "garbage"])
    def test_half_a_reply_or_a_page_of_a_proxy(self, server, kind):
        assert isinstance(one(server, Action(kind)), Transient)


class TestFaults:
    @pytest.fixture(params=["aiohttp", "httpx"], autouse=True)
    def _transport(self, request, monkeypatch):
        if request.param == "aiohttp":
            pytest.importorskip("aiohttp")
            return
        imported = builtins.__import__

        def without_aiohttp(name, *args, **kwargs):
            if name == "aiohttp" and args and args[0].get("__name__") == openai_engine.__name__:
                raise ImportError(name)
            return imported(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without_aiohttp)

    @pytest.mark.parametrize("kind", ["reset", "truncate", "close"])
    def test_lost_in_the_middle(self, server, kind):
        result = one(server, Action(kind))
        assert isinstance(result, Transient)
        assert (result.blames_prompt, result.sent, result.maybe_billed) == (True, True, True)

    def test_a_server_that_hangs_or_drips_is_left(self, server):
        start = time.monotonic()
        hang = one(server, Action("hang"), read_timeout=0.2)
        drip = one(server, Action("drip"), read_timeout=0.5, request_timeout=0.6)
        assert time.monotonic() - start < 5
        assert isinstance(hang, Transient)
        assert isinstance(drip, Transient)
        assert "0.6 s (profile.request_timeout)" in drip.detail
        assert hang.sent
        assert hang.maybe_billed
        assert drip.maybe_billed

    def test_the_transport_is_the_one_meant(self, server, request):
        generator = OpenAIGenerator(settings_for(server.url))
        names = {kind.__name__.lower() for kind in type(generator._client._client).__mro__}
        wanted = "aiohttp" in request.node.callspec.params["_transport"]
        assert any("aiohttp" in name for name in names) == wanted

    def test_a_reply_is_read_up_to_a_limit(self, server):
        big = one(server, Action("status", body=b" " * (60 << 20)))
        assert isinstance(big, Transient)
        assert "a reply of more than 8 MiB" in big.detail
        bomb = gzip.compress(b" " * (60 << 20))
        assert len(bomb) < 100_000
        packed = Action("status", body=bomb, headers={"Content-Encoding": "gzip"})
        result = one(server, packed)
        assert isinstance(result, Transient)
        assert "a reply of more than 8 MiB" in result.detail
        twice = Action("status", body=bomb, headers={"Content-Encoding": "gzip, gzip"})
        assert "compressed more than once" in one(server, twice).detail

    def test_a_redirect_is_not_followed(self, server):
        with FaultServer() as other:
            target = other.url + "/chat/completions"
            for code in (301, 302, 307, 308):
                result = one(server, status(code, headers={"Location": target}))
                assert isinstance(result, ConfigError)
                assert f"the server redirects (status {code}) to 127.0.0.1" in str(result)
            assert other.log == []

    @settings_of_hypothesis(max_examples=60, deadline=None)
    @given(
        body=st.binary(max_size=400)
        | st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["choices", "message", "content", "usage", "finish_reason", "error"]
                    ),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
        code=st.sampled_from([200, 200, 200, 204, 206, 302, 400, 404, 429, 500, 503, 599]),
        headers=st.dictionaries(
            st.sampled_from(["Retry-After", "retry-after-ms", "Content-Encoding", "Location"]),
            st.sampled_from(
                ["", "0", "-1", "nan", "inf", "1e30", "gzip", "br", "x", "http://a b/"]
            ),
            max_size=2,
        ),
    )
    def test_whatever_a_server_sends_is_a_reply_or_a_named_error(self, body, code, headers):
        with FaultServer() as server:
            result = one(server, Action("status", status=code, body=body, headers=headers))
        assert isinstance(
            result, Reply | Transient | AskAgain | PromptRejected | ConfigError | ProfileError
        )
        if isinstance(result, Exception):
            assert "\n" not in str(result)
        if isinstance(result, Transient) and result.retry_after is not None:
            assert 0 <= result.retry_after < math.inf
        if isinstance(result, Reply):
            assert 0 <= result.prompt_tokens < 2**31

    def test_nobody_there(self):
        with FaultServer() as gone:
            url = gone.url
        (result,) = ask(settings_for(url), prompt("u1"))
        assert isinstance(result, Transient)
        assert (result.blames_prompt, result.sent, result.maybe_billed) == (False, False, False)
        assert "no connection" in result.detail

    def test_limits_say_how_long_to_wait(self, server):
        date = email.utils.formatdate(time.time() + 30, usegmt=True)
        for headers, low, high in [
            ({"Retry-After": "7"}, 7, 7),
            ({"Retry-After": "0.25"}, 0.25, 0.25),
            ({"retry-after-ms": "1500", "Retry-After": "9"}, 1.5, 1.5),
            ({"Retry-After": date}, 27, 31),
            ({"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, 0, 0),
        ]:
            result = one(server, status(429, headers=headers))
            assert low <= result.retry_after <= high, headers
            assert not result.blames_prompt
        assert one(server, status(429)).retry_after is None
        assert one(server, status(429, headers={"Retry-After": "soon"})).retry_after is None

    @pytest.mark.parametrize(("code", "blames"), [(500, True), (503, False), (502, False)])
    def test_server_errors(self, server, code, blames):
        result = one(server, status(code, "out of\nmemory"))
        assert isinstance(result, Transient)
        assert (result.blames_prompt, result.maybe_billed) == (blames, False)
        assert result.detail == f"status {code}: out of memory"

    def test_what_cannot_be_mended_by_waiting_stops_the_run(self, server):
        result = one(server, status(401, "bad key"))
        assert isinstance(result, ConfigError)
        assert "the key in $OPENAI_API_KEY (it is not set)" in str(result)
        assert isinstance(one(server, status(403)), ConfigError)
        result = one(server, status(404, "model 'm' not found"))
        assert isinstance(result, ConfigError)
        assert "model 'm'" in str(result)
        quota = one(server, status(429, "pay", kind="insufficient_quota"))
        assert isinstance(quota, ProfileError)
        assert len(server.log) == 4  # the client itself repeats nothing


class TestWholeRuns:
    def test_a_wrong_key_stops_at_once_and_says_so(self, server, tmp_path):
        server.choose = lambda request: status(401, "invalid")
        with pytest.raises(ConfigError, match="refuses the key"):
            run(server.url, tmp_path / "p", 200, concurrency=2)
        assert len(server.log) <= 2

    def test_a_wrong_schema_is_recorded(self, server, tmp_path):
        server.choose = lambda r: Action("wrong") if r.user == "u2" else Action()
        outcome = run(server.url, tmp_path / "p", 5, retries=1)
        assert (outcome.done, outcome.requests) == (4, 6)
        settings = settings_for(server.url)
        with ProfileStore(tmp_path / "p") as store:
            (failure,) = store.get([key_of("u2", settings)]).values()
        assert isinstance(failure, Failure)
        assert failure.reason == "schema"
        assert [r.body["seed"] for r in server.log if r.user == "u2"] == [0, 1]

    def test_the_concurrency_is_reached_and_kept(self, server, tmp_path):
        server.choose = lambda request: Action(delay=0.02)
        run(server.url, tmp_path / "p", 60, concurrency=12)
        assert server.most_open == 12

    def test_a_server_that_comes_back(self, tmp_path):
        down = time.monotonic()
        with FaultServer() as server:
            server.choose = lambda r: (
                status(503, "loading model") if time.monotonic() < down + 1.0 else Action()
            )
            assert run(server.url, tmp_path / "p", 20).done == 20


class TestKey:
    def test_it_goes_into_the_header_and_nowhere_else(
        self, server, tmp_path, monkeypatch, caplog, capfd
    ):
        monkeypatch.setenv("MY_KEY", KEY)
        for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "asyncio"):
            monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
        caplog.set_level(logging.DEBUG)

        def choose(request):
            if request.user == "u3":
                return status(400, f"bad request, key {KEY}")
            if request.user == "u4" and request.nth == 0:
                return status(500, f"crash with {KEY}")
            if request.user == "u5" and request.nth == 0:
                return Action("reset")
            return Action()

        server.choose = choose
        outcome = run(server.url, tmp_path / "p", 8, api_key_env="MY_KEY", concurrency=1)
        assert outcome.done == 7
        assert {r.headers["authorization"] for r in server.log} == {f"Bearer {KEY}"}
        texts = [str(outcome), caplog.text, *capfd.readouterr()]
        server.choose = lambda request: status(401, f"Incorrect API key provided: {KEY}")
        with pytest.raises(ConfigError) as error:
            run(server.url, tmp_path / "p", 9, api_key_env="MY_KEY")
        seen: BaseException | None = error.value
        while seen is not None:
            texts += [repr(seen), str(vars(seen))]
            seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
        texts += [caplog.text, *capfd.readouterr()]
        assert "(it is set)" in str(error.value)
        assert [t for t in texts if KEY in t] == []
        files = list((tmp_path).iterdir())
        assert files
        assert [f for f in files if KEY.encode() in f.read_bytes()] == []
        settings = settings_for(server.url, api_key_env="MY_KEY")
        generator = OpenAIGenerator(settings)
        source = KeyMaker(generator.model_id, generator.parameters).source
        assert KEY not in settings.model_dump_json() + source + repr(settings)

    @pytest.mark.parametrize("key", [KEY, 'sk-"quoted"-4711', "sk-with/slash-4711"])
    def test_a_key_that_the_server_echoes_is_cut_out(self, server, tmp_path, monkeypatch, key):
        monkeypatch.setenv("MY_KEY", key)
        as_text = one(server, Action("text", text=f"your key is {key}"), api_key_env="MY_KEY")
        assert as_text.text == "your key is ***"
        for body in (f"page with {key}", json.dumps({"a": key}).replace("/", "\\/")):
            result = one(server, Action("status", body=body.encode()), api_key_env="MY_KEY")
            assert "***" in result.detail
            assert key not in result.detail
        refusal = json.dumps({"choices": [{"message": {"content": None, "refusal": key}}]})
        body = Action("status", body=refusal.encode())
        assert one(server, body, api_key_env="MY_KEY").text == "***"

    def test_a_cloud_needs_one(self, monkeypatch):
        with pytest.raises(ConfigError, match=r"expected a key in \$OPENAI_API_KEY"):
            OpenAIGenerator(settings_for(None))

    def test_one_that_is_no_header_is_refused_without_showing_it(self, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", KEY + "\nx")
        with pytest.raises(ConfigError) as error:
            OpenAIGenerator(settings_for("http://localhost:1/v1"))
        assert KEY not in str(error.value)

    def test_a_key_in_clear_over_a_network_is_warned_of(self, monkeypatch, caplog):
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        OpenAIGenerator(settings_for("http://localhost:1/v1"))
        assert caplog.text == ""
        OpenAIGenerator(settings_for("http://gpu.example:1/v1"))
        assert "goes to gpu.example unencrypted" in caplog.text
        assert KEY not in caplog.text

    def test_a_key_in_the_address_is_refused_and_not_repeated(self):
        from recbole_choir.settings.recipe import load_recipe

        for url in (f"http://u:{KEY}@host/v1", f"http://host/v1?key={KEY}", f"{KEY}"):
            with pytest.raises(ConfigError) as error:
                load_recipe({"profile": {"engine": "openai", "base_url": url}})
            assert "profile.base_url: expected an address" in str(error.value)
            assert KEY not in str(error.value)
