"""What clients ask in other shapes than a chat's, as a chat in OpenAI's names: plain data into plain data.

A field that cannot be said so is refused by its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from bursar.types.call import COMPLETIONS, MESSAGES
from bursar.wire.shapes import Tree
from bursar.wire.shapes.checked import check_messages
from bursar.wire.shapes.parts import cannot

_NO_SCHEMA: Tree = {"type": "object", "properties": {}}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
# Budgets of thinking, in tokens, up to which an effort stands for them.
_EFFORTS = ((2048, "low"), (8192, "medium"))
# Fields of messages that a chat has under the same name, and those that ask nothing of a model.
_SAME = ("model", "stream", "temperature", "top_p", "top_k")
_ASIDE = ("service_tier", "inference_geo", "cache_control")


def of_messages(asked: Tree) -> Tree:
    """A request of Anthropic's Messages as a chat. Raises RequestError with the field that a chat cannot say."""
    check_messages(asked)
    left = {name: value for name, value in asked.items() if value is not None and name not in _ASIDE}
    chat: Tree = {name: left.pop(name) for name in _SAME if name in left}
    messages: list[Tree] = []
    if system := left.pop("system", None):
        messages.append({"role": "system", "content": _system(system)})
    for n, message in enumerate(left.pop("messages", [])):
        messages += _turn(message, n)
    chat["messages"] = messages
    if (most := left.pop("max_tokens", None)) is not None:
        chat["max_completion_tokens"] = most
    if stop := left.pop("stop_sequences", None):
        chat["stop"] = stop
    user = left.pop("metadata", None)
    if isinstance(user, dict) and user.get("user_id"):
        chat["user"] = user["user_id"]
    _tools(left, chat)
    _effort(left, chat)
    for name in left:
        cannot(name, "a chat has nothing that says it")
    return chat


def _system(system: object) -> object:
    if not isinstance(system, list):
        return system
    return [_part(block, "system") for block in system]


def _turn(message: object, n: int) -> list[Tree]:
    """The messages of one turn: results of tools come first, each as a message of its own."""
    if not isinstance(message, dict):
        cannot(f"messages[{n}]", "it must be an object with a role")
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        cannot(f"messages[{n}].role", f"'{role}' is none of user, assistant, system")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        cannot(f"messages[{n}].content", "it must be a text or a list of blocks")
    results: list[Tree] = []
    parts: list[Tree] = []
    calls: list[Tree] = []
    for m, block in enumerate(content):
        place = f"messages[{n}].content[{m}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "tool_result":
            results.append(_result(block, place))
        elif kind == "tool_use":
            function = {"name": block.get("name"), "arguments": json.dumps(block.get("input", {}), ensure_ascii=False)}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind not in ("thinking", "redacted_thinking"):  # signed for one vendor; nobody else can read it
            parts.append(_part(block, place))
    if not parts and not calls:
        return results
    own: Tree = {"role": role, "content": _plain(parts) if parts else None}
    if calls:
        own["tool_calls"] = calls
    return [*results, own]


def _plain(parts: list[Tree]) -> object:
    """A single text as a text: not every server reads lists of parts."""
    only = parts[0] if len(parts) == 1 else None
    return only["text"] if isinstance(only, dict) and only.keys() == {"type", "text"} else parts


def _part(block: object, place: str) -> Tree:
    given = block if isinstance(block, dict) else {}
    source = given.get("source")
    source = source if isinstance(source, dict) else {}
    kind, way = given.get("type"), source.get("type")
    cited = given.get("citations")
    if isinstance(cited, dict) and cited.get("enabled") is True:
        cannot(f"{place}.citations", "a chat has nothing that says it")
    if given.get("context"):
        cannot(f"{place}.context", "a chat has nothing that says it")
    address = f"data:{source.get('media_type')};base64,{source.get('data')}" if way == "base64" else source.get("url")
    part: Tree
    if kind == "text":
        part = {"type": "text", "text": given.get("text", "")}
    elif kind == "image" and address:
        part = {"type": "image_url", "image_url": {"url": address}}
    elif kind == "document" and way == "text":
        part = {"type": "text", "text": source.get("data", "")}
    elif kind == "document" and way == "base64":
        part = {"type": "file", "file": {"filename": given.get("title") or "document.pdf", "file_data": address}}
    else:
        cannot(place, f"a chat has no part for a block of type '{kind}'" + (f" from a {way}" if way else ""))
    if "cache_control" in given:
        part["cache_control"] = given["cache_control"]
    return part


def _result(block: Tree, place: str) -> Tree:
    content = block.get("content", "")
    if isinstance(content, dict):
        cannot(f"{place}.content", "it must be a text or a list of blocks")
    if block.get("is_error") is True and isinstance(content, str):
        content = f"Error: {content}"  # a chat has no other place for it
    if isinstance(content, list):
        parts = [_part(inner, f"{place}.content[{n}]") for n, inner in enumerate(content)]
        if block.get("is_error") is True:
            parts.insert(0, {"type": "text", "text": "Error: "})
        content = _plain(parts) if parts else ""
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content}


def _tools(left: Tree, chat: Tree) -> None:
    tools = []
    for n, tool in enumerate(left.pop("tools", None) or []):
        if not isinstance(tool, dict) or tool.get("type", "custom") != "custom":
            cannot(f"tools[{n}]", "a tool that its vendor runs cannot be put to another provider")
        if tool.get("input_examples"):
            cannot(f"tools[{n}].input_examples", "a chat has nothing that says it")
        function = {"name": tool.get("name"), "parameters": tool.get("input_schema") or _NO_SCHEMA}
        if tool.get("strict") is True:
            function["strict"] = True
        if tool.get("description"):
            function["description"] = tool["description"]
        tools.append({"type": "function", "function": function})
    if tools:
        chat["tools"] = tools
    choice = left.pop("tool_choice", None)
    if not isinstance(choice, dict):
        return
    if choice.get("type") == "tool":
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif choice.get("type") in _CHOICES:
        chat["tool_choice"] = _CHOICES[choice["type"]]
    else:
        cannot("tool_choice", f"'{choice.get('type')}' is none of tool, {', '.join(_CHOICES)}")
    if choice.get("disable_parallel_tool_use") is True:
        chat["parallel_tool_calls"] = False


def _effort(left: Tree, chat: Tree) -> None:
    thinking, config = left.pop("thinking", None), left.pop("output_config", None)
    thinking, config = (given if isinstance(given, dict) else {} for given in (thinking, config))
    for name in config.keys() - {"effort", "format"}:
        cannot(f"output_config.{name}", "a chat has nothing that says it")
    if config.get("effort") is not None:
        chat["reasoning_effort"] = config["effort"]
    elif thinking.get("type") == "enabled":
        budget = thinking.get("budget_tokens")
        budget = budget if isinstance(budget, int) else 0
        chat["reasoning_effort"] = next((effort for most, effort in _EFFORTS if budget <= most), "high")
    format = config.get("format")
    if isinstance(format, dict):
        schema = {"name": "answer", "strict": True, "schema": format.get("schema")}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}


def of_completions(asked: Tree) -> Tree:
    """A completion of one prompt as a chat of one message. Raises RequestError."""
    chat = dict(asked)
    prompt = chat.pop("prompt", None)
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        cannot("prompt", "this provider takes chats only: give one text")
    for name, neutral in (("suffix", None), ("echo", False), ("best_of", 1), ("logprobs", None)):
        if chat.pop(name, None) not in (None, neutral):
            cannot(name, "this provider takes chats only")
    return {**chat, "messages": [{"role": "user", "content": prompt}]}


def without_cache_marks(chat: Tree) -> Tree:
    """A chat without what only marks places to cache at: not every server reads past it."""

    def bare(message: Tree) -> Tree:
        content = message.get("content")
        if not isinstance(content, list):
            return message
        parts = [{k: v for k, v in p.items() if k != "cache_control"} if isinstance(p, dict) else p for p in content]
        return {**message, "content": _plain(parts) if parts else parts}

    return {**chat, "messages": [bare(message) for message in chat["messages"]]}


TO_CHAT: dict[str, Callable[[Tree], Any]] = {MESSAGES: of_messages, COMPLETIONS: of_completions}
"""The kinds of call that can be put to a provider as a chat."""
