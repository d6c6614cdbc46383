"""Compiles the data of genai-prices into this project's own dated rows: `make prices`.

Only facts are taken over: who sells which model, under which names, since when and for how much. What no call of ours
is counted by (pages, characters) is left out, and named in the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import date
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genai_prices import types as theirs
from genai_prices.data import providers

TARGET = Path(__file__).parents[1] / "src" / "bursar" / "prices" / "data" / "vendors.json"

# The provider types here that are a vendor's own. The type `openai` is everybody's who speaks its format.
TYPES = {
    "anthropic": ["anthropic"], "aws": ["bedrock"], "azure": ["azure"], "cerebras": ["cerebras"], "cohere": ["cohere"],
    "deepseek": ["deepseek"], "google": ["gemini", "vertex"], "groq": ["groq"], "mistral": ["mistral"],
    "openrouter": ["openrouter"], "x-ai": ["xai"], "zai": ["zai"],
}  # fmt: skip
# What LiteLLM puts before a model's name to say who sells it.
PREFIXES = {
    "anthropic": ["anthropic"], "aws": ["bedrock"], "azure": ["azure"], "cerebras": ["cerebras"], "cohere": ["cohere"],
    "databricks": ["databricks"], "deepseek": ["deepseek"], "fireworks": ["fireworks_ai"],
    "google": ["gemini", "vertex_ai"], "groq": ["groq"], "minimax": ["minimax"], "mistral": ["mistral"],
    "moonshotai": ["moonshot"], "novita": ["novita"], "openai": ["openai"], "openrouter": ["openrouter"],
    "perplexity": ["perplexity"], "together": ["together_ai"], "voyageai": ["voyage"], "x-ai": ["xai"], "zai": ["zai"],
}  # fmt: skip
UNITS = {
    "input_mtok": "input", "output_mtok": "output", "cache_read_mtok": "cached", "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h", "input_audio_mtok": "audio_input", "cache_audio_read_mtok": "audio_cached",
    "input_image_mtok": "image_input", "cache_image_read_mtok": "image_cached", "input_video_mtok": "video_input",
    "output_reasoning_mtok": "reasoning", "output_audio_mtok": "audio_output", "output_image_mtok": "image_output",
    "output_video_mtok": "video_output", "web_searches_kcount": "web_search", "requests_kcount": "request",
    "audio_hours": "audio_hour",
}  # fmt: skip
# What selects a price of theirs, and the service tier it is the price of here.
SELECTORS = {"service_tier", "processing", "speed"}

left_out: set[str] = set()


def main() -> None:
    """Writes the file."""
    vendors, models = [], {}
    for provider in providers:
        about = {"id": provider.id, "types": TYPES.get(provider.id),
                 "prefixes": PREFIXES.get(provider.id), "address": provider.api_pattern,
                 "falls_back_to": provider.fallback_model_providers}  # fmt: skip
        vendors.append({name: value for name, value in about.items() if value})
        # One without a price stays: its names are not those of another.
        models[provider.id] = [_model(model) for model in provider.models]
    number = version("genai-prices")
    source = f"genai-prices {number} (MIT licence, Pydantic Services Inc.), compiled by `make prices`; US dollars"
    TARGET.write_text(_file(source, number, vendors, models), "utf-8")
    rows = sum(len(model["prices"]) for every in models.values() for model in every)
    print(f"{source}: {len(vendors)} vendors, {sum(map(len, models.values()))} models, {rows} prices")


def _file(source: str, number: str, vendors: list[Any], models: dict[str, list[Any]]) -> str:
    """JSON with a line for each vendor and each model, so that a refresh can be read as a difference."""

    def one(value: object) -> str:
        return json.dumps(value, ensure_ascii=False)

    def lines(values: Iterable[object], indent: str) -> str:
        return ",\n".join(f"{indent}{one(value)}" for value in values)

    by_vendor = ",\n".join(f"    {one(name)}: [\n{lines(every, '      ')}\n    ]" for name, every in models.items())
    return (
        f'{{\n  "source": {one(source)},\n  "version": {one(number)},\n  "left_out": {one(sorted(left_out))},\n'
        f'  "vendors": [\n{lines(vendors, "    ")}\n  ],\n  "models": {{\n{by_vendor}\n  }}\n}}\n'
    )


def _model(model: theirs.ModelInfo) -> dict[str, Any]:
    given = model.prices
    dated = given if isinstance(given, list) else [theirs.ConditionalPrice(prices=given)]
    prices = [found for one in dated if (found := _dated(one, model.price_variants or []))]
    return {"id": model.id, "match": _match(model.match), "prices": prices}


def _dated(one: theirs.ConditionalPrice, variants: list[theirs.PriceVariant]) -> dict[str, Any] | None:
    standard = _amounts(one.prices)
    if not standard:
        return None
    found = _tariff(standard)
    match one.constraint:
        case theirs.StartDateConstraint(start_date=day):
            found["valid_from"] = day.isoformat()
        case theirs.TimeOfDateConstraint(start_time=begins, end_time=ends):
            found["hours"] = f"{begins:%H:%M}-{ends:%H:%M}"
    if tiers := list(_tiers(standard, variants)):
        found["tiers"] = tiers
    return found


def _tiers(standard: dict[str, Any], variants: list[theirs.PriceVariant]) -> Iterator[dict[str, Any]]:
    for variant in variants:
        if len(variant.when) != 1 or not variant.when.keys() <= SELECTORS:
            left_out.update(f"price by {name}" for name in variant.when)
            continue
        (name,) = variant.when.values()
        own = _amounts(variant.prices)
        if name == "default" or not own:
            continue
        found: dict[str, Any] = {"tier": name}
        day = getattr(variant.constraint, "start_date", None)
        if isinstance(day, date):
            found["valid_from"] = day.isoformat()
        yield {**found, **_tariff({**standard, **own})}


def _amounts(prices: theirs.ModelPrice) -> dict[str, Any]:
    """Their amounts by our units."""
    found = {}
    for name, amount in vars(prices).items():
        if amount is None:
            continue
        if name in UNITS:
            found[UNITS[name]] = amount
        elif name != "input_audio_hours":  # it repeats the hours of sound
            left_out.add(name)
    return found


def _tariff(amounts: dict[str, Any]) -> dict[str, Any]:
    """Amounts, with those of long requests: every unit's, at every threshold that any of them has."""
    found: dict[str, Any] = {unit: _text(_at(amount, 0)) for unit, amount in amounts.items()}
    thresholds = {t.start for a in amounts.values() if isinstance(a, theirs.TieredPrices) for t in a.tiers}
    if thresholds:
        found["above"] = [
            {"tokens": start, **{unit: _text(_at(amount, start + 1)) for unit, amount in amounts.items()}}
            for start in sorted(thresholds)
        ]
    return found


def _at(amount: Decimal | theirs.TieredPrices, tokens: int) -> Decimal:
    if isinstance(amount, Decimal):
        return amount
    reached = [tier.price for tier in amount.tiers if tokens > tier.start]
    return reached[-1] if reached else amount.base


def _text(amount: Decimal) -> str:
    # Some of theirs went through floats: 0.18000000000000002. Ours are whole billionths.
    return f"{round(amount, 9).normalize():f}"


def _match(clause: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in _parts(clause):
        if isinstance(part, theirs.ClauseAnd):
            found.setdefault("all", []).append([_match(each) for each in part.and_])
            continue
        ((name, value),) = vars(part).items()
        found.setdefault(name, []).append(value if name == "regex" else value.lower())
    return found


def _parts(clause: Any) -> list[Any]:
    return [p for each in clause.or_ for p in _parts(each)] if isinstance(clause, theirs.ClauseOr) else [clause]


if __name__ == "__main__":
    main()
