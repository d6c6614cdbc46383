"""The ledger against what the provider wrote down: one entry an attempt, matched one by one."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from support.upstream import Seen


def mismatches(seen: list[Seen], entries: list[dict[str, Any]]) -> list[str]:
    """What does not hold between the provider's record and the ledger; empty where all does.

    Every attempt the provider saw has exactly one entry; where the provider completed an answer and the
    entry says so too, id and usage are equal; an entry the provider never saw is not `completed`.
    """
    wrong = []
    by_request: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        by_request[entry["request_id"]].append(entry)
    seen_by_request: dict[str, list[Seen]] = defaultdict(list)
    for attempt in seen:
        seen_by_request[attempt.json["metadata"]["id"]].append(attempt)
    for request_id in seen_by_request.keys() | by_request.keys():
        wrong += _of_request(request_id, seen_by_request[request_id], by_request[request_id])
    keys = [(e["call_id"], e["attempt"]) for e in entries]
    if len(keys) != len(set(keys)):
        wrong.append("an attempt stands on the ledger twice")
    return wrong


def _of_request(request_id: str, seen: list[Seen], entries: list[dict[str, Any]]) -> list[str]:
    wrong = []
    if len(entries) < len(seen):
        wrong.append(f"{request_id}: the provider saw {len(seen)} attempts, the ledger has {len(entries)}")
    known = {s.id: s for s in seen}
    claimed = [e["provider_response_id"] for e in entries if e["provider_response_id"] is not None]
    if len(claimed) != len(set(claimed)):
        wrong.append(f"{request_id}: one answer of the provider stands on two entries")
    surplus = len(entries) - len(seen)
    unseen = [e for e in entries if e["status"] != "completed" and e["provider_response_id"] is None]
    if surplus > len(unseen):
        wrong.append(
            f"{request_id}: {surplus} entries more than the provider saw, and only {len(unseen)} without its id"
        )
    for entry in entries:
        wrong += _of_entry(request_id, entry, known.get(entry["provider_response_id"]))
    return wrong


def _of_entry(request_id: str, entry: dict[str, Any], seen: Seen | None) -> list[str]:
    if entry["status"] == "started":
        return [f"{request_id}: an entry is still open"]
    if entry["status"] == "interrupted" and entry["usage_source"] != "none":
        return [f"{request_id}: an interrupted entry claims usage"]
    if seen is None:
        return [f"{request_id}: completed without the provider"] if entry["status"] == "completed" else []
    if entry["status"] != "completed":
        return []
    if seen.usage is None or not seen.completed:
        return [f"{request_id}: completed, but the provider did not complete it"]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        if entry[name] != seen.usage[name]:
            return [f"{request_id}: {name} is {entry[name]} on the ledger and {seen.usage[name]} at the provider"]
    return []
