"""Gemini's generateContent: a chat's messages as contents of parts, and an answer's parts as events."""

from __future__ import annotations

import json
from typing import Any

from bursar.types.events import Event, Finish, ReasoningDelta, TextDelta, ToolCallDelta
from bursar.wire.shapes import Calls, Tree, made_id
from bursar.wire.shapes.parts import (
    Fields,
    arguments_of,
    called_before,
    cannot,
    chosen_name,
    data_url,
    dumped,
    file_of,
    image_of,
    name_of,
    parts_of,
    system_and_rest,
    text_of,
    turns_of,
)

_LEVEL = {"minimal": "minimal", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
# OpenAI's messages have no place for the signatures of thoughts, without which newer models refuse a call that is told
# them; this stands for "it has none" (https://ai.google.dev/gemini-api/docs/thought-signatures).
_UNSIGNED = "skip_thought_signature_validator"
_ROLES = {"user": "user", "assistant": "model"}
_MODE = {"auto": "AUTO", "none": "NONE", "required": "ANY"}


def write(chat: Tree) -> Tree:
    """The body of a request; the model is named in its address."""
    fields = Fields(chat)
    system, others = system_and_rest(fields.messages)

    def result(message: Tree, n: int) -> Tree:
        return _result(message, n, called_before(fields.messages, n))

    turns = turns_of(others, _parts, _call, result)
    out: Tree = {"contents": [{"role": _ROLES[role], "parts": parts} for role, parts in turns]}
    if instructions := [part for n, m in system for part in _parts(m, n)]:
        out["systemInstruction"] = {"parts": instructions}
    config: Tree = {}
    fields.move(
        config, temperature="temperature", topP="top_p", topK="top_k", candidateCount="n", seed="seed",
        presencePenalty="presence_penalty", frequencyPenalty="frequency_penalty",
    )  # fmt: skip
    if (most := fields.take("max_completion_tokens", "max_tokens")) is not None:
        config["maxOutputTokens"] = most
    if stop := fields.stop():
        config["stopSequences"] = stop
    _format(fields, config)
    given = fields.take("generationConfig")
    if config or given:
        out["generationConfig"] = {**config, **(given or {})}
    _tools(fields, out)
    return fields.finish(out)


def _call(call: Tree, n: int) -> Tree:
    return {"functionCall": {"name": name_of(call), "args": arguments_of(call, n)}, "thoughtSignature": _UNSIGNED}


def _result(message: Tree, n: int, name: str | None) -> Tree:
    if name is None:
        cannot(f"messages[{n}].tool_call_id", "no call before it has this id")
    text = text_of(message, n)
    try:
        result = json.loads(text)
    except (ValueError, RecursionError):
        result = text
    return {"functionResponse": {"name": name, "response": result if isinstance(result, dict) else {"result": result}}}


def _parts(message: Tree, n: int) -> list[Any]:
    out: list[Any] = []
    for part in parts_of(message, n):
        kind, place = part.get("type"), f"messages[{n}].content"
        if kind in ("text", "refusal"):
            out.append({"text": part.get("text", part.get("refusal"))})
        elif kind == "image_url":
            found = data_url(image_of(part))
            out.append(_inline(*found) if found else {"fileData": {"fileUri": image_of(part)}})
        elif kind == "input_audio":
            audio = part.get("input_audio")
            audio = audio if isinstance(audio, dict) else {}
            out.append(_inline(f"audio/{audio.get('format', 'wav')}", str(audio.get("data", ""))))
        elif kind == "file":
            media, data, _ = file_of(part, place)
            out.append(_inline(media, data))
        else:
            cannot(place, f"a part of type '{kind}' cannot be said to this provider")
    return out


def _inline(media: str, data: str) -> Tree:
    return {"inlineData": {"mimeType": media, "data": data}}


def _format(fields: Fields, config: Tree) -> None:
    kind, schema = fields.schema()
    if kind != "text":
        config["responseMimeType"] = "application/json"
    if schema is not None:
        config["responseJsonSchema"] = schema["schema"]
    effort = fields.take("reasoning_effort")
    if effort == "none":
        config["thinkingConfig"] = {"thinkingBudget": 0}
    elif effort is not None:
        if effort not in _LEVEL:
            cannot("reasoning_effort", f"'{effort}' is none of none, {', '.join(_LEVEL)}")
        config["thinkingConfig"] = {"thinkingLevel": _LEVEL[effort]}


def _tools(fields: Fields, out: Tree) -> None:
    declared = [
        {
            "name": f.get("name"),
            **({"description": f["description"]} if f.get("description") else {}),
            **({"parametersJsonSchema": f["parameters"]} if f.get("parameters") else {}),
        }
        for f in fields.functions()
    ]
    if declared:
        out["tools"] = [{"functionDeclarations": declared}]
    choice = fields.take("tool_choice")
    if not declared or choice is None:
        return
    if isinstance(choice, dict):
        chosen: Tree = {"mode": "ANY", "allowedFunctionNames": [chosen_name(choice)]}
    elif choice in _MODE:
        chosen = {"mode": _MODE[choice]}
    else:
        cannot("tool_choice", f"'{choice}' is none of {', '.join(_MODE)}")
    out["toolConfig"] = {"functionCallingConfig": chosen}


def said(value: Tree, _event: str | None, calls: Calls) -> list[Event]:
    """The events of an answer, or of one frame of a stream."""
    events: list[Event] = []
    candidates = value.get("candidates")
    for n, candidate in enumerate(candidates if isinstance(candidates, list) else []):
        if not isinstance(candidate, dict):
            continue
        index = candidate.get("index")
        choice = index if isinstance(index, int) else n
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        for part in parts if isinstance(parts, list) else []:
            if isinstance(part, dict):
                events += _part(part, choice, calls)
        if finish := candidate.get("finishReason"):
            events.append(Finish(str(finish), choice))
    feedback = value.get("promptFeedback")
    if not candidates and isinstance(feedback, dict) and feedback.get("blockReason"):
        events.append(Finish(str(feedback["blockReason"])))
    return events


def _part(part: Tree, choice: int, calls: Calls) -> list[Event]:
    call, text = part.get("functionCall"), part.get("text")
    if isinstance(call, dict):
        name, arguments, at = str(call.get("name")), dumped(call.get("args")), calls.next()
        return [ToolCallDelta(at, str(call.get("id") or made_id(name, arguments, at)), name, arguments, choice)]
    if isinstance(text, str) and text:
        return [ReasoningDelta(text, choice) if part.get("thought") is True else TextDelta(text, choice)]
    return []
