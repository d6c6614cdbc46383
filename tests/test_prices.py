"""Money: exact, rounded once, and unknown where nobody can say."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.gateway.costing import priced
from bursar.prices.cost import nanos_of, reported
from bursar.prices.given import GivenCurrencyRate, GivenPrice, check_currency_rate, check_price
from bursar.prices.rates import PriceRow, Rates, Tariff
from bursar.prices.table import Place, Prices, own_price
from bursar.prices.vendors import Vendor, bundled
from bursar.types.errors import ConfigError
from bursar.types.usage import Usage
from bursar.wire import spec as specs
from bursar.wire.paths import getter
from bursar.wire.readers import Readers

PRICES = Prices(vendors=bundled())
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
counts = st.integers(0, 10**9)
rates = st.integers(0, 10**12)

Tree = dict[str, Any]


def _us(when: datetime) -> int:
    return int(when.timestamp()) * 1_000_000


def _row(kind: str, model: str, when: datetime = NOW, url: str = "", prices: Prices = PRICES) -> PriceRow | None:
    url = url or ("https://api.openai.com/v1/chat/completions" if kind == "openai" else "")
    return prices.find(Place("default", kind, kind, url), model, model, _us(when))


def _cost(kind: str, model: str, usage: Usage, when: datetime = NOW) -> int | None:
    row = _row(kind, model, when)
    return nanos_of(usage, row.tariff) if row is not None else None


def _answered(
    kind: str, operation: str, model: str, answer: Tree, when: datetime = NOW
) -> tuple[int | None, str | None]:
    """What an answer costs, read as on the way of a call, and the price it is by."""
    readers = Readers(specs.build(kind).operations[operation])
    usage = readers.answer.usage.read(answer)
    assert usage is not None
    if (told := reported(usage)) is not None:
        return told.nanos, None
    row = _row(kind, model, when)
    tier = readers.spec.usage.tier
    found = (
        priced(row, readers, usage, _us(when), lambda: getter(tier)(answer) if tier is not None else None)
        if row
        else None
    )
    return (None, None) if found is None else (found.nanos, found.price)


def chat(prompt: int, completion: int, **more: Any) -> Tree:
    """A usage object as OpenAI's chat has it; `cached`, `written`, `reasoning`, `audio_in`, `audio_out`, `tier`."""
    usage: Tree = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": more.get("cached", 0), "audio_tokens": more.get("audio_in", 0)},
        "completion_tokens_details": {
            "reasoning_tokens": more.get("reasoning", 0),
            "audio_tokens": more.get("audio_out", 0),
        },
    }
    if "written" in more:
        usage["prompt_tokens_details"]["cache_write_tokens"] = more["written"]
    return {"usage": usage, **({"service_tier": more["tier"]} if "tier" in more else {})}


def claude(plain: int, output: int, **more: Any) -> Tree:
    """As Anthropic has it: reads and writes beside the input."""
    usage: Tree = {"input_tokens": plain, "output_tokens": output, **more}
    return {"usage": usage}


def gemini(prompt: int, output: int, **more: Any) -> Tree:
    return {"usageMetadata": {"promptTokenCount": prompt, "candidatesTokenCount": output, **more}}


def responses(given: int, output: int, cached: int = 0, tier: str | None = None) -> Tree:
    return {
        "usage": {"input_tokens": given, "output_tokens": output, "input_tokens_details": {"cached_tokens": cached}},
        "service_tier": tier,
    }


def converse(plain: int, output: int, **more: Any) -> Tree:
    return {"usage": {"inputTokens": plain, "outputTokens": output, **more}}


# A dollar a million tokens is 1,000 nanodollars a token; each line says what is paid for, and at how many of those.
BY_HAND: list[tuple[str, str, str, Tree, int | None]] = [
    # OpenAI's chat
    ("openai", "chat", "gpt-4o", chat(1000, 500), 1000 * 2_500 + 500 * 10_000),
    ("openai", "chat", "gpt-4o", chat(1000, 100, cached=800), 200 * 2_500 + 800 * 1_250 + 100 * 10_000),
    ("openai", "chat", "gpt-4o", chat(1000, 100, cached=1000), 1000 * 1_250 + 100 * 10_000),
    ("openai", "chat", "gpt-4o", chat(0, 0), 0),
    ("openai", "chat", "gpt-4o", chat(10, 1, cached=11), None),
    ("openai", "chat", "gpt-4o-2024-11-20", chat(1000, 0), 1000 * 2_500),
    ("openai", "chat", "gpt-4o-20241120", chat(1000, 0), 1000 * 2_500),
    ("openai", "chat", "GPT-4o", chat(1000, 0), 1000 * 2_500),
    ("openai", "chat", "gpt-4o-2024-05-13", chat(1000, 10), 1000 * 5_000 + 10 * 15_000),
    ("openai", "chat", "gpt-4o-mini", chat(1, 1), 150 + 600),
    ("openai", "chat", "gpt-4o-mini", chat(7, 0, cached=3), 4 * 150 + 3 * 75),
    ("openai", "chat", "o3", chat(1000, 900, reasoning=800), 1000 * 2_000 + 900 * 8_000),
    ("openai", "chat", "o3-pro", chat(100, 0, cached=60), 100 * 20_000),  # no rate for cached: they cost as input does
    # its tiers: what the answer says, not what was asked for
    ("openai", "chat", "gpt-4o", chat(1000, 500, tier="default"), 1000 * 2_500 + 500 * 10_000),
    ("openai", "chat", "gpt-4o", chat(1000, 500, tier="priority"), 1000 * 4_250 + 500 * 17_000),
    ("openai", "chat", "gpt-4o", chat(1000, 500, cached=400, tier="priority"), 600 * 4_250 + 400 * 2_125 + 500 * 17_000),
    ("openai", "chat", "gpt-4o", chat(1000, 500, tier="scale"), None),
    ("openai", "chat", "gpt-5", chat(1000, 500, tier="flex"), 1000 * 625 + 500 * 5_000),
    ("openai", "chat", "gpt-5", chat(1000, 500, cached=1000, tier="flex"), 62_500 + 500 * 5_000),
    ("openai", "chat", "gpt-5", chat(1000, 500, tier="priority"), 1000 * 2_500 + 500 * 20_000),
    ("openai", "chat", "gpt-5", chat(1000, 500, tier="batch"), 1000 * 625 + 500 * 5_000),
    # its long context and cache writes
    ("openai", "chat", "gpt-5.6-sol", chat(1000, 10, cached=300, written=100), 600 * 4_000 + 300 * 400 + 100 * 5_000 + 10 * 20_000),
    ("openai", "chat", "gpt-5.6-sol", chat(272_000, 0), 272_000 * 4_000),
    ("openai", "chat", "gpt-5.6-sol", chat(272_001, 1), 272_001 * 8_000 + 30_000),
    ("openai", "chat", "gpt-5.6-sol", chat(300_000, 1, cached=200_000), 100_000 * 8_000 + 200_000 * 800 + 30_000),
    # its other kinds of call
    ("openai", "responses", "gpt-5", responses(1000, 200, 400), 600 * 1_250 + 400 * 125 + 200 * 10_000),
    ("openai", "responses", "gpt-5", responses(1000, 200, 0, "flex"), 1000 * 625 + 200 * 5_000),
    ("openai", "embeddings", "text-embedding-3-small", {"usage": {"prompt_tokens": 8, "total_tokens": 8}}, 8 * 20),
    ("openai", "transcriptions", "whisper-1", {"usage": {"type": "duration", "seconds": 9}}, 9 * 360_000_000 // 3600),
    ("openai", "transcriptions", "gpt-4o-transcribe",
     {"usage": {"input_tokens": 14, "output_tokens": 45, "input_token_details": {"text_tokens": 4, "audio_tokens": 10}}},
     4 * 2_500 + 10 * 6_000 + 45 * 10_000),
    ("openai", "images", "gpt-image-1",
     {"data": [{}], "usage": {"input_tokens": 60, "output_tokens": 272, "input_tokens_details": {"text_tokens": 10, "image_tokens": 50}}},
     10 * 5_000 + 50 * 10_000 + 272 * 40_000),
    ("openai", "chat", "gpt-realtime", chat(100, 60, audio_in=80, audio_out=50), 20 * 4_000 + 80 * 32_000 + 10 * 16_000 + 50 * 64_000),
    # Anthropic: reads and writes beside the input, writes by how long they hold
    ("anthropic", "chat", "claude-sonnet-4-5", claude(1000, 500), 1000 * 3_000 + 500 * 15_000),
    ("anthropic", "chat", "claude-sonnet-4-5", claude(100, 50, cache_read_input_tokens=900), 100 * 3_000 + 900 * 300 + 50 * 15_000),
    ("anthropic", "chat", "claude-sonnet-4-5", claude(100, 50, cache_creation_input_tokens=2000), 100 * 3_000 + 2000 * 3_750 + 50 * 15_000),
    ("anthropic", "chat", "claude-sonnet-4-5",
     claude(100, 50, cache_creation_input_tokens=2000, cache_creation={"ephemeral_5m_input_tokens": 2000, "ephemeral_1h_input_tokens": 0}),
     100 * 3_000 + 2000 * 3_750 + 50 * 15_000),
    ("anthropic", "chat", "claude-sonnet-4-5",
     claude(100, 50, cache_creation_input_tokens=2000, cache_creation={"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 1500}),
     100 * 3_000 + 500 * 3_750 + 1500 * 6_000 + 50 * 15_000),
    ("anthropic", "chat", "claude-sonnet-4-5",
     claude(100, 50, cache_creation_input_tokens=10, cache_creation={"ephemeral_1h_input_tokens": 11}), None),
    ("anthropic", "chat", "claude-sonnet-4-5-20250929", claude(200_001, 1), 200_001 * 6_000 + 22_500),
    # the threshold is about all input, cached or not
    ("anthropic", "chat", "claude-sonnet-4-5", claude(1, 1, cache_read_input_tokens=200_000), 6_000 + 200_000 * 600 + 22_500),
    ("anthropic", "chat", "claude-sonnet-4-5", claude(0, 0, cache_read_input_tokens=200_000), 200_000 * 300),
    ("anthropic", "chat", "claude-haiku-4-5", claude(10, 3, server_tool_use={"web_search_requests": 2}), 10 * 1_000 + 3 * 5_000 + 2 * 10_000_000),
    ("anthropic", "chat", "claude-haiku-4-5", claude(10, 3, service_tier="standard"), 10 * 1_000 + 3 * 5_000),
    ("anthropic", "chat", "claude-haiku-4-5", claude(10, 3, service_tier="batch"), 10 * 500 + 3 * 2_500),
    ("anthropic", "chat", "claude-haiku-4-5", claude(10, 3, service_tier="priority"), None),
    ("anthropic", "chat", "claude-opus-4-6", claude(300_000, 1), 300_000 * 5_000 + 25_000),
    # Gemini and Vertex: thoughts beside the output, tool use beside the prompt, sound at its own rate
    ("gemini", "chat", "gemini-2.5-flash", gemini(1000, 100), 1000 * 300 + 100 * 2_500),
    ("gemini", "chat", "gemini-2.5-flash", gemini(1000, 100, thoughtsTokenCount=400), 1000 * 300 + 500 * 2_500),
    ("gemini", "chat", "gemini-2.5-flash", gemini(1000, 100, toolUsePromptTokenCount=50), 1050 * 300 + 100 * 2_500),
    ("gemini", "chat", "gemini-2.5-flash", gemini(1000, 100, cachedContentTokenCount=600), 400 * 300 + 600 * 30 + 100 * 2_500),
    ("gemini", "chat", "gemini-2.5-flash",
     gemini(1000, 100, promptTokensDetails=[{"modality": "TEXT", "tokenCount": 200}, {"modality": "AUDIO", "tokenCount": 800}]),
     200 * 300 + 800 * 1_000 + 100 * 2_500),
    ("gemini", "chat", "gemini-2.5-flash",
     gemini(1000, 100, cachedContentTokenCount=500, promptTokensDetails=[{"modality": "TEXT", "tokenCount": 200}, {"modality": "AUDIO", "tokenCount": 800}],
            cacheTokensDetails=[{"modality": "TEXT", "tokenCount": 100}, {"modality": "AUDIO", "tokenCount": 400}]),
     100 * 300 + 400 * 1_000 + 100 * 30 + 400 * 100 + 100 * 2_500),
    ("gemini", "chat", "gemini-2.5-pro", gemini(200_000, 1000), 200_000 * 1_250 + 1000 * 10_000),
    ("gemini", "chat", "gemini-2.5-pro", gemini(200_001, 1000, cachedContentTokenCount=1), 200_000 * 2_500 + 250 + 1000 * 15_000),
    ("vertex", "chat", "gemini-2.5-flash", gemini(1000, 100, trafficType="ON_DEMAND"), 1000 * 300 + 100 * 2_500),
    ("vertex", "chat", "gemini-2.5-flash", gemini(1000, 100, trafficType="PROVISIONED_THROUGHPUT"), None),
    # Bedrock: reads and writes beside the input, the rest of a partial split holds five minutes
    ("bedrock", "chat", "anthropic.claude-sonnet-4-5-20250929-v1:0", converse(100, 10), 100 * 3_300 + 10 * 16_500),
    ("bedrock", "chat", "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
     converse(100, 10, cacheReadInputTokens=1000, cacheWriteInputTokens=500, cacheDetails=[{"ttl": "1h", "inputTokens": 200}]),
     100 * 3_300 + 1000 * 330 + 300 * 4_125 + 200 * 6_600 + 10 * 16_500),
    ("bedrock", "chat", "global.anthropic.claude-sonnet-4-5-20250929-v1:0", converse(100, 10), 100 * 3_000 + 10 * 15_000),
    ("bedrock", "chat", "amazon.nova-pro-v1:0", converse(100, 10, cacheReadInputTokens=50), 100 * 800 + 50 * 200 + 10 * 3_200),
    # others
    ("azure", "chat", "gpt-4o", chat(1000, 500), 1000 * 2_500 + 500 * 10_000),
    ("mistral", "chat", "mistral-large-2512", chat(1000, 500, cached=200), 800 * 500 + 200 * 50 + 500 * 1_500),
    ("groq", "chat", "llama-3.3-70b-versatile", chat(1000, 500), 1000 * 590 + 500 * 790),
    ("groq", "chat", "openai/gpt-oss-120b", chat(1000, 500, cached=1000), 1000 * 75 + 500 * 600),
    ("deepseek", "chat", "deepseek-v4-pro",
     {"usage": {"prompt_tokens": 100, "completion_tokens": 10, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36}},
     36 * 660 + 64 * 22 + 10 * 1_980),
    ("cerebras", "chat", "gpt-oss-120b", chat(1000, 500), 1000 * 350 + 500 * 750),
    ("zai", "chat", "glm-4.6", chat(1000, 500, cached=400), 600 * 600 + 400 * 110 + 500 * 2_200),
    # Cohere bills other counts than it puts in
    ("cohere", "chat", "command-r-08-2024",
     {"usage": {"billed_units": {"input_tokens": 5.0, "output_tokens": 7.0}, "tokens": {"input_tokens": 210.0, "output_tokens": 9.0}}},
     5 * 150 + 7 * 600),
    # xAI and OpenRouter say what they charged: 10⁻¹⁰ dollars, and dollars
    ("xai", "chat", "grok-4.3", {**chat(1000, 10), "usage": {**chat(1000, 10)["usage"], "cost_in_usd_ticks": 37_756_000}}, 3_775_600),
    ("xai", "chat", "grok-4.3", chat(1000, 10), 1000 * 1_250 + 10 * 2_500),
    # at 200,000 already, as xAI has it
    ("xai", "chat", "grok-4.3", chat(200_000, 0), 200_000 * 2_500),
    ("xai", "chat", "grok-4.3", chat(199_999, 0), 199_999 * 1_250),
    # thoughts stand beside the output here
    ("xai", "chat", "grok-4.3",
     {"usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 150, "completion_tokens_details": {"reasoning_tokens": 40}}},
     100 * 1_250 + 50 * 2_500),
    ("openrouter", "chat", "anything/at-all", {"usage": {**chat(10, 10)["usage"], "cost": 0.00014}}, 140_000),
    ("openrouter", "chat", "openai/gpt-4o", {"usage": {**chat(10, 10)["usage"], "cost": 0}}, 0),
    # AITunnel in roubles, though a model of that name has a price in dollars elsewhere
    ("aitunnel", "chat", "gpt-4o", {"usage": {**chat(10, 10)["usage"], "cost_rub": 0.0173}}, 17_300_000),
    # images that are made are dearer than text; those that are looked at too
    ("openai", "images", "gpt-image-1.5",
     {"data": [{}], "usage": {"input_tokens": 50, "output_tokens": 4160, "output_tokens_details": {"image_tokens": 4160, "text_tokens": 0}}},
     50 * 5_000 + 4160 * 32_000),
    # a tier that has no price, of a model that has no tiers
    ("openai", "chat", "gpt-4.5-preview", chat(10, 10, tier="priority"), None),
    ("groq", "chat", "llama-3.3-70b-versatile", chat(10, 10, tier="on_demand"), 10 * 590 + 10 * 790),
    ("bedrock", "chat", "amazon.nova-pro-v1:0", {**converse(10, 10), "serviceTier": {"type": "default"}}, 10 * 800 + 10 * 3_200),
    ("bedrock", "chat", "amazon.nova-pro-v1:0", {**converse(10, 10), "serviceTier": {"type": "priority"}}, None),
    # LiteLLM's own names
    ("litellm", "chat", "anthropic/claude-sonnet-4-5",
     {"usage": {"prompt_tokens": 2100, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 0, "cache_creation_tokens": 2000,
                "cache_creation_token_details": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 1500}}}},
     100 * 3_000 + 500 * 3_750 + 1500 * 6_000 + 50 * 15_000),
    # nobody's
    ("openai", "chat", "gpt-nobody-knows", chat(1, 1), None),
    ("gigachat", "chat", "GigaChat-2-Max", {"usage": {"prompt_tokens": 14, "completion_tokens": 8, "precached_prompt_tokens": 37}}, None),
    ("yandexgpt", "chat", "yandexgpt/latest", {"result": {"usage": {"inputTextTokens": "20", "completionTokens": "4", "totalTokens": "24"}}}, None),
    ("vllm", "chat", "gpt-4o", chat(1, 1), None),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "operation", "model", "answer", "nanos"), BY_HAND)
def test_costs_worked_out_by_hand(kind: str, operation: str, model: str, answer: Tree, nanos: int | None) -> None:
    assert _answered(kind, operation, model, answer)[0] == nanos


def test_there_are_enough_of_them() -> None:
    assert len(BY_HAND) >= 60
    assert len({kind for kind, *_ in BY_HAND}) >= 15


def test_the_price_says_which_it_was() -> None:
    assert _answered("openai", "chat", "gpt-4o", chat(1, 1))[1] == "openai/gpt-4o#0.2.3"
    assert _answered("openai", "chat", "gpt-4o", chat(1, 1, tier="priority"))[1] == "openai/gpt-4o#0.2.3 priority"
    assert _answered("openai", "chat", "gpt-5.6-sol", chat(1, 1))[1] == "openai/gpt-5.6-sol@2026-08-21#0.2.3"


def test_the_same_usage_costs_what_it_did_before_a_price_changed_and_what_it_does_after() -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=0)
    assert _cost("openai", "o3", usage, datetime(2025, 6, 9, 23, 59, 59, tzinfo=UTC)) == 10_000_000_000
    assert _cost("openai", "o3", usage, datetime(2025, 6, 10, tzinfo=UTC)) == 2_000_000_000


def test_some_prices_are_of_some_hours() -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=0)
    for hour, minute, dollars in ((0, 59, "0.66"), (1, 0, "1.32"), (3, 59, "1.32"), (4, 0, "0.66"), (9, 0, "1.32")):
        when = datetime(2026, 11, 20, hour, minute, tzinfo=UTC)
        assert _cost("deepseek", "deepseek-v4-pro", usage, when) == Decimal(dollars) * 10**9


def test_an_address_tells_who_sells() -> None:
    for kind, url, name in (
        ("custom", "https://api.groq.com/openai/v1/chat/completions", "groq/llama-3.3-70b-versatile#0.2.3"),
        ("openai", "https://api.groq.com/openai/v1/chat/completions", "groq/llama-3.3-70b-versatile#0.2.3"),
        (
            "custom",
            "https://openrouter.ai/api/v1/chat/completions",
            "openrouter/meta-llama/llama-3.3-70b-instruct#0.2.3",
        ),
        ("custom", "https://llm.example.com/v1/chat/completions", None),
        ("openai", "http://127.0.0.1:8000/v1/chat/completions", None),
        ("anthropic", "https://llm.example.com/v1/messages", None),
    ):
        model = "meta-llama/llama-3.3-70b-instruct" if "openrouter" in url else "llama-3.3-70b-versatile"
        row = _row(kind, model, url=url)
        assert (row.id.split("@")[0] + "#0.2.3" if row and "@" in row.id else row and row.id) == name


def test_a_cost_the_provider_reports_wins() -> None:
    charged = reported(Usage(input_tokens=5, output_tokens=5, cost_nanos=42, cost_currency="RUB"))
    assert charged is not None
    assert (charged.nanos, charged.currency, charged.source, charged.price) == (42, "RUB", "provider", None)
    assert reported(Usage(input_tokens=5, output_tokens=5)) is None


def test_a_total_alone_has_a_cost_only_where_input_and_output_cost_the_same() -> None:
    total = Usage(provider_total_tokens=1000)
    assert _cost("openai", "gpt-4o", total) is None
    flat = Tariff(rates=Rates(input=2_000_000_000, output=2_000_000_000))
    assert nanos_of(total, flat) == 2_000_000
    assert nanos_of(Usage(input_tokens=None, output_tokens=1), flat) is None
    assert nanos_of(total, Tariff(rates=Rates(input=2, output=2), above=((5, Rates(input=3, output=3)),))) is None


@given(counts, counts, counts, counts, rates, rates, rates, rates)
def test_integer_costs_are_the_exact_ones_rounded_once(
    plain: int, cached: int, written: int, output: int, ri: int, rc: int, rw: int, ro: int
) -> None:
    usage = Usage(
        input_tokens=plain + cached + written, output_tokens=output, cached_tokens=cached, cache_write_tokens=written
    )
    nanos = nanos_of(usage, Tariff(rates=Rates(input=ri, cached=rc, cache_write=rw, output=ro)))
    exact = Fraction(plain * ri + cached * rc + written * rw + output * ro, 1_000_000)
    assert nanos is not None
    assert abs(nanos - exact) <= Fraction(1, 2)
    # what is asked in more detail, and is nothing, changes nothing
    finely = Tariff(rates=Rates(input=ri, cached=rc, cache_write=rw, output=ro, finer={"audio_input": 1, "request": 0}))
    assert nanos_of(usage, finely, {"audio_input_tokens": 0}) == nanos


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "audio_input_tokens",
                "image_input_tokens",
                "cache_write_1h_tokens",
                "audio_cached_tokens",
                "audio_output_tokens",
                "web_searches",
            ]
        ),
        counts,
    ),
    counts,
    counts,
    counts,
)
def test_counts_of_any_kind_cost_something_or_nobody_knows_what(
    more: dict[str, int], given_: int, cached: int, output: int
) -> None:
    row = check_price(
        GivenPrice(
            model="m",
            input=Decimal(1),
            output=Decimal(2),
            cached=Decimal("0.1"),
            cache_write_1h=Decimal(2),
            audio_input=Decimal(3),
            audio_cached=Decimal("0.3"),
            audio_output=Decimal(5),
            web_search=Decimal(10),
        ),
        "m",
    )
    usage = Usage(input_tokens=given_, output_tokens=output, cached_tokens=cached)
    nanos = nanos_of(usage, row.tariff, more)
    audio, audio_cached = more.get("audio_input_tokens", 0), more.get("audio_cached_tokens", 0)
    fits = (
        audio_cached <= min(audio, cached)
        and more.get("cache_write_1h_tokens", 0) == 0
        and audio + cached - audio_cached <= given_
        and more.get("audio_output_tokens", 0) <= output
    )
    assert (nanos is not None) == fits
    if nanos is not None:
        least = (given_ * 100 + output * 2_000) // 1
        assert least <= nanos + 1


class TestGiven:
    """Prices that somebody gives."""

    def _prices(self, *given: GivenPrice, rates: tuple[GivenCurrencyRate, ...] = ()) -> Prices:
        return Prices([own_price(g, f"own{n}") for n, g in enumerate(given)], rates, bundled())

    def test_what_fits_more_closely_counts(self) -> None:
        def price(amount: int, model: str = "gpt-4o", **where: str) -> GivenPrice:
            return GivenPrice(model=model, input=Decimal(amount), output=Decimal(amount), **where)

        prices = self._prices(
            price(1, "gpt-*"),
            price(2),
            price(3, provider_type="openai"),
            price(4, provider="main"),
            price(5, workspace="lab"),
            price(6, "gpt-4*"),
        )
        for place, model, amount in (
            (Place("a", "other", "azure", ""), "gpt-4o", 2),
            (Place("a", "other", "openai", ""), "gpt-4o", 3),
            (Place("a", "main", "openai", ""), "GPT-4o", 4),
            (Place("lab", "main", "openai", ""), "gpt-4o", 5),
            (Place("a", "other", "openai", ""), "gpt-4o-mini", 6),
            (Place("a", "other", "openai", ""), "gpt-5", 1),
        ):
            row = prices.find(place, model, model, _us(NOW))
            assert row is not None
            assert row.tariff.rates.input == amount * 10**9, (place, model)
        row = prices.find(Place("a", "other", "anthropic", ""), "claude-haiku-4-5", "claude-haiku-4-5", _us(NOW))
        assert row is not None
        assert row.id.startswith("anthropic/")

    def test_one_for_the_asked_model_comes_before_the_vendor_s_for_the_served(self) -> None:
        prices = self._prices(GivenPrice(model="gpt-4o", input=Decimal(1), output=Decimal(1)))
        row = prices.find(Place("a", "p", "openai", ""), "gpt-4o-2024-08-06", "gpt-4o", _us(NOW))
        assert row is not None
        assert row.id == "own0"

    def test_the_latest_that_holds_counts_and_of_one_day_the_last(self) -> None:
        def since(day: date | None, amount: int) -> GivenPrice:
            return GivenPrice(model="m", input=Decimal(amount), output=Decimal(amount), valid_from=day, currency="RUB")

        prices = self._prices(
            since(date(2026, 2, 1), 3), since(None, 1), since(date(2026, 1, 1), 2), since(date(2026, 2, 1), 4)
        )
        for day, amount in ((date(2025, 12, 31), 1), (date(2026, 1, 1), 2), (date(2026, 2, 1), 4)):
            row = prices.find(
                Place("a", "p", "custom", ""), "m", "m", _us(datetime(day.year, day.month, day.day, tzinfo=UTC))
            )
            assert row is not None
            assert (row.tariff.rates.input, row.currency) == (amount * 10**9, "RUB")
        later = self._prices(since(date(2026, 2, 1), 3))
        assert later.find(Place("a", "p", "custom", ""), "m", "m", _us(datetime(2026, 1, 31, tzinfo=UTC))) is None

    def test_a_tier_leaves_out_what_is_as_in_its_price(self) -> None:
        from bursar.prices.given import GivenAbove, GivenTier

        row = check_price(
            GivenPrice(
                model="m",
                input=Decimal(2),
                output=Decimal(8),
                cached=Decimal(1),
                above=[GivenAbove(tokens=100, input=Decimal(4))],
                tiers=[GivenTier(tier="batch", input=Decimal(1))],
            ),
            "m",
        )
        long = Usage(input_tokens=101, output_tokens=1)
        assert nanos_of(long, row.tariff) == 101 * 4_000 + 8_000
        batch = row.of_tier("batch", date(2026, 1, 1))
        assert batch is not None
        assert nanos_of(long, batch) == 101 * 1_000 + 8_000
        assert row.of_tier("flex", date(2026, 1, 1)) is None

    def test_a_rouble_is_what_it_is_on_its_day(self) -> None:
        rates = (
            GivenCurrencyRate(currency="RUB", usd=Decimal("0.0125"), valid_from=date(2026, 11, 1)),
            GivenCurrencyRate(currency="RUB", usd=Decimal("0.01"), valid_from=date(2026, 10, 1)),
        )
        prices = self._prices(rates=rates)
        november, october = _us(NOW), _us(datetime(2026, 10, 31, 23, tzinfo=UTC))
        assert prices.in_usd(1_000_000_000, "RUB", november) == (12_500_000, "0.0125@2026-11-01")
        assert prices.in_usd(1_000_000_000, "RUB", october) == (10_000_000, "0.01@2026-10-01")
        assert prices.in_usd(1_000_000_000, "RUB", _us(datetime(2026, 9, 30, tzinfo=UTC))) == (None, None)
        assert prices.in_usd(1_000_000_000, "EUR", november) == (None, None)
        assert prices.in_usd(7, "USD", november) == (7, None)
        assert prices.in_usd(40, "RUB", november) == (1, "0.0125@2026-11-01")  # half a nanodollar is one

    def test_a_whole_name_comes_before_a_beginning_whichever_of_the_two_names_it_is(self) -> None:
        def price(model: str, amount: int, **where: str) -> GivenPrice:
            return GivenPrice(model=model, input=Decimal(amount), output=Decimal(amount), currency="RUB", **where)

        for gave, amount in (
            ((price("GigaChat*", 65), price("GigaChat-2-Max", 650)), 650),
            ((price("*", 99), price("GigaChat-2-Max", 2, provider="p")), 2),
            ((price("GigaChat-2*", 9), price("GigaChat-2-Max", 3, workspace="a")), 3),
            ((price("GigaChat-2-Max:2.0.30.01", 7), price("GigaChat-2-Max", 650)), 7),
            ((price("GigaChat*", 65),), 65),
        ):
            row = self._prices(*gave).find(
                Place("a", "p", "gigachat", ""), "GigaChat-2-Max:2.0.30.01", "GigaChat-2-Max", _us(NOW)
            )
            assert row is not None
            assert row.tariff.rates.input == amount * 10**9

    def test_the_latest_tariff_of_a_tier_that_holds_counts(self) -> None:
        from bursar.prices.given import GivenTier

        tiers = [
            GivenTier(tier="Batch", input=Decimal(5)),
            GivenTier(tier="batch", valid_from=date(2026, 11, 1), input=Decimal(7)),
        ]
        row = check_price(GivenPrice(model="m", input=Decimal(10), output=Decimal(10), tiers=tiers), "m")
        for day, amount in ((date(2026, 10, 31), 5), (date(2026, 11, 1), 7)):
            tariff = row.of_tier("batch", day)
            assert tariff is not None
            assert tariff.rates.input == amount * 10**9

    def test_at_other_hours_what_is_below_counts(self) -> None:
        night = GivenPrice(model="gpt-4o", input=Decimal(1), output=Decimal(1), hours="22:00-08:00")
        prices = self._prices(night)
        for hour, name in ((23, "own0"), (7, "own0"), (8, "openai/gpt-4o#0.2.3"), (12, "openai/gpt-4o#0.2.3")):
            row = _row("openai", "gpt-4o", datetime(2026, 11, 20, hour, tzinfo=UTC), prices=prices)
            assert row is not None
            assert row.id == name, hour

    def test_what_is_not_paid_by_tokens_is_paid_without_them(self) -> None:
        def nanos(usage: Usage, **amounts: Decimal) -> int | None:
            return nanos_of(usage, check_price(GivenPrice(model="m", **amounts), "m").tariff, {})

        assert nanos(Usage(search_units=3), search_unit=Decimal(2)) == 6_000_000
        assert nanos(Usage(images=2), image=Decimal("0.04")) == 80_000_000
        assert nanos(Usage(audio_ms=1800_000), audio_hour=Decimal("0.36")) == 180_000_000
        assert nanos(Usage(search_units=3), request=Decimal(2)) == 2_000_000
        assert nanos(Usage(input_tokens=5, output_tokens=5), request=Decimal(2)) is None
        assert nanos(Usage(input_tokens=5), input=Decimal(1), output=Decimal(0)) == 5_000
        assert nanos(Usage(input_tokens=5), input=Decimal(1), output=Decimal(1)) is None

    def test_searches_without_a_rate_make_the_cost_unknown(self) -> None:
        readers = Readers(specs.build("anthropic").operations["chat"])
        usage = readers.answer.usage.read(claude(10, 3, server_tool_use={"web_search_requests": 5}))
        assert usage is not None
        for more, known in (({}, False), ({"web_search": Decimal(10)}, True)):
            row = check_price(GivenPrice(model="m", input=Decimal(1), output=Decimal(1), **more), "m")
            assert (priced(row, readers, usage, _us(NOW), lambda: None) is not None) == known

    def test_a_price_of_the_file_that_was_changed_is_another(self) -> None:
        from bursar.prices.table import file_id

        one, other = (file_id(GivenPrice(model="m", input=Decimal(n), output=Decimal(1))) for n in (1, 2))
        shop = file_id(GivenPrice(model="m", workspace="shop", input=Decimal(1), output=Decimal(1)))
        assert len({one, other, shop}) == 3
        assert one.startswith("file:any/m#")

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"model": ""}, "model"), ({"model": "a*b"}, "model"), ({"model": "m", "provider": "p", "provider_type": "t"}, "provider_type"),
            ({"model": "m", "currency": "rub"}, "currency"), ({"model": "m", "input": Decimal(-1)}, "input"), ({"model": "m", "input": None}, "input"),
            ({"model": "m", "output": Decimal("0.0000000001")}, "output"), ({"model": "m", "cached": Decimal("NaN")}, "cached"),
            ({"model": "m", "hours": "25:00-26:00"}, "hours"), ({"model": "m", "hours": "08:00-08:00"}, "hours"), ({"model": " m"}, "model"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_named(self, given: Tree, field: str) -> None:
        with pytest.raises(ConfigError) as refused:
            check_price(GivenPrice(**{"input": Decimal(1), **given}), "price")
        assert refused.value.field == field

    @pytest.mark.parametrize(
        ("given", "field"),
        [({"currency": "USD"}, "currency"), ({"currency": "R"}, "currency"), ({"usd": Decimal(0)}, "usd"), ({"usd": Decimal("1e-13")}, "usd"),
         ({"usd": Decimal("Infinity")}, "usd")],
    )  # fmt: skip
    def test_so_is_what_is_wrong_with_a_currency(self, given: Tree, field: str) -> None:
        with pytest.raises(ConfigError) as refused:
            check_currency_rate(GivenCurrencyRate(**{"currency": "RUB", "usd": Decimal(1), **given}), "rate")
        assert refused.value.field == field


def test_every_price_that_comes_along_can_be_read() -> None:
    read = 0
    for vendor in bundled().by_id.values():
        for model in vendor.models:
            for given_ in Vendor.given(model):
                vendor._row(model, given_)
                read += 1
    assert read > 2000


def test_what_can_have_a_rate_can_be_given_everywhere() -> None:
    from bursar.http.price_rows import RatesGiven
    from bursar.prices.given import GivenRates
    from bursar.prices.rates import UNITS

    assert set(UNITS) == set(GivenRates.__struct_fields__) == set(RatesGiven.model_fields)
