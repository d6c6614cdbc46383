"""The finer counts of a usage object, by their names here."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.wire import spec as specs
from bursar.wire.quirks import of_usage
from bursar.wire.usage import UsageReader, details_of

Tree = dict[str, Any]


@pytest.mark.parametrize(
    ("kind", "raw", "told"),
    [
        ("anthropic", {"cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 0},
                       "server_tool_use": {"web_search_requests": 2}, "service_tier": "priority"},
         {"cache_write_5m_tokens": 5, "cache_write_1h_tokens": 0, "web_searches": 2, "service_tier": "priority"}),
        ("openai", {"prompt_tokens": 3, "prompt_tokens_details": {"audio_tokens": 1, "cached_tokens": 2},
                    "completion_tokens_details": {"rejected_prediction_tokens": 4}},
         {"audio_input_tokens": 1, "rejected_prediction_tokens": 4}),
        ("openai", {"type": "tokens", "input_token_details": {"text_tokens": 0, "audio_tokens": 14}},
         {"text_input_tokens": 0, "audio_input_tokens": 14}),
        ("cohere", {"billed_units": {"input_tokens": 2.0, "output_tokens": 4.0}}, {"billed_input_tokens": 2.0, "billed_output_tokens": 4.0}),
        ("gigachat", {"prompt_tokens": 14, "completion_tokens": 8, "precached_prompt_tokens": 37},
         {"billed_input_tokens": 14, "billed_output_tokens": 8}),
        ("vertex", {"toolUsePromptTokenCount": 9, "trafficType": "ON_DEMAND"}, {"tool_use_input_tokens": 9, "traffic_type": "ON_DEMAND"}),
        ("openai", None, {}),
        ("openai", {"prompt_tokens_details": None}, {}),
        ("gone", {"prompt_tokens": 1}, {}),
    ],
)  # fmt: skip
def test_finer_counts_are_read_where_they_are(kind: str, raw: Tree | None, told: Tree) -> None:
    assert details_of(kind, raw) == told


def test_every_type_s_names_are_one_vocabulary() -> None:
    names = {
        name
        for kind in specs.known_types()
        for operation in specs.build(kind).operations.values()
        for name in operation.usage.details
    }
    for name in names - {"service_tier", "inference_geo", "traffic_type", "speed"}:
        assert name.endswith(("_tokens", "web_searches", "web_fetches", "search_units")), name


@pytest.mark.parametrize("odd", ["x", {}, None, True, float("inf"), float("nan"), 1e300, -1])
@pytest.mark.parametrize("beside", [True, False])
def test_an_odd_cost_breaks_nothing(odd: Any, *, beside: bool) -> None:
    fee, taken = (0.01, odd) if beside else (odd, 0.01)
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "cost": fee, "is_byok": True,
             "cost_details": {"upstream_inference_cost": taken}}  # fmt: skip
    spec = specs.build("openrouter").operations["chat"]
    found = UsageReader(spec.usage, of_usage(spec.quirks)).read({"usage": usage})
    assert found is not None
    assert (found.input_tokens, found.output_tokens) == (3, 2)
