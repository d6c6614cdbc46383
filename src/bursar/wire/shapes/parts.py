"""What writers of requests share: a chat's fields taken one by one, and the parts of its messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from bursar.types.errors import RequestError
from bursar.wire.ingress import PARAMETERS
from bursar.wire.shapes import Tree, made_id
from bursar.wire.shapes.checked import check_chat

# What these say where they say no more than their absence would.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "logprobs": (False,), "top_logprobs": (0,),
    "logit_bias": ({},), "parallel_tool_calls": (True,), "service_tier": ("auto", "default"), "modalities": (["text"],),
    "tool_choice": ("auto",), "stop": ([],),
}  # fmt: skip
# What is about the way back to the client, or only OpenAI's to make use of: it asks nothing of the model.
_ASIDE = frozenset({"stream_options", "prompt_cache_key", "safety_identifier", "user", "store", "metadata"})


class Fields:
    """The fields of a chat, each taken once. At the end what is left is passed on where it is none of OpenAI's, and
    refused by name where it is."""

    def __init__(self, chat: Tree) -> None:
        check_chat(chat)
        self._left = {name: value for name, value in chat.items() if value is not None}
        self.model = str(self._left.pop("model", ""))
        self.stream = self._left.pop("stream", False) is True
        self.messages = [_message(m, n) for n, m in enumerate(self._left.pop("messages", []))]

    def take(self, *names: str) -> Any:
        """The first of these that is there; all of them are taken."""
        found = [self._left.pop(name, None) for name in names]
        return next((value for value in found if value is not None), None)

    def move(self, out: Tree, **names: str) -> None:
        """Puts fields into `out` by the provider's names: `theirs="ours"`."""
        for theirs, ours in names.items():
            if (value := self.take(ours)) is not None:
                out[theirs] = value

    def stop(self) -> list[str]:
        """The texts at which the model shall stop."""
        given = self.take("stop") or []
        return [given] if isinstance(given, str) else list(given)

    def functions(self) -> list[Tree]:
        """The functions among the tools. Raises RequestError for tools of another kind."""
        found = []
        for n, tool in enumerate(self.take("tools") or []):
            function = tool.get("function")
            if not isinstance(function, dict):
                cannot(f"tools[{n}]", "only tools of type 'function' can be said to this provider")
            found.append(function)
        return found

    def schema(self) -> tuple[str, Tree | None]:
        """The response format's type, and the JSON schema it names."""
        given = self.take("response_format") or {}
        kind = str(given.get("type", "text")) if isinstance(given, dict) else "text"
        if kind != "json_schema":
            return kind, None
        schema = given.get("json_schema")
        if not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
            cannot("response_format", "'json_schema' needs a 'schema'")
        return kind, schema

    def only_schema(self) -> Tree | None:
        """The JSON schema of the response format, where JSON without one cannot be asked for. Raises RequestError."""
        kind, schema = self.schema()
        if kind not in ("text", "json_schema"):
            cannot("response_format", f"'{kind}' has no counterpart here; give a JSON schema")
        return schema

    def finish(self, out: Tree) -> Tree:
        """`out` with what is left. Raises RequestError for a field of OpenAI's that this provider has no word for."""
        for name, value in self._left.items():
            if name not in PARAMETERS:
                ours = out.get(name)
                out[name] = {**ours, **value} if isinstance(ours, dict) and isinstance(value, dict) else value
            elif name not in _ASIDE and value not in _NEUTRAL.get(name, ()):
                cannot(name, "this provider has nothing that says it")
        return out


class Embedding:
    """The fields of a request for vectors, in OpenAI's names: its texts, and what else it says, each taken once."""

    def __init__(self, asked: Tree) -> None:
        self._left = {name: value for name, value in asked.items() if value is not None}
        self.model = str(self._left.pop("model", ""))
        given = self._left.pop("input", None)
        self.texts = [given] if isinstance(given, str) else given if isinstance(given, list) else []
        if not self.texts or not all(isinstance(text, str) for text in self.texts):
            cannot("input", "this provider takes texts, not tokens")

    def take(self, name: str) -> Any:
        """A field, None where it is not there."""
        return self._left.pop(name, None)

    def rest(self) -> Tree:
        """What is none of OpenAI's, for the provider to judge."""
        self._left.pop("user", None)
        self._left.pop("encoding_format", None)  # numbers come, and are written as the client wants them
        return self._left


def cannot(field: str, why: str) -> NoReturn:
    """Refuses a field."""
    raise RequestError(f"'{field}' cannot be translated: {why}", field=field)


def _message(message: Tree, n: int) -> Tree:
    """A message by today's names: one call of a function is a list of calls, a refusal what was said."""
    if message.get("audio") is not None:
        cannot(f"messages[{n}].audio", "this provider has nothing that says it")
    called = message.get("function_call")
    if called is not None and not message.get("tool_calls"):
        arguments = str(called.get("arguments") or "")
        id = made_id(str(called.get("name", "")), arguments, n)
        message = {**message, "tool_calls": [{"id": id, "type": "function", "function": called}]}
    if message.get("content") is None and message.get("refusal"):
        message = {**message, "content": message["refusal"]}
    return message


def chosen_name(choice: Tree) -> str:
    """The function a tool choice names. Raises RequestError for a choice of another kind."""
    name = name_of(choice)
    if not name:
        cannot("tool_choice", f"a choice of type '{choice.get('type')}' cannot be said to this provider")
    return name


def parts_of(message: Tree, at: int) -> Iterator[Tree]:
    """The parts of a message's content; a text is one part."""
    content = message.get("content")
    if isinstance(content, str):
        if content:
            yield {"type": "text", "text": content}
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, str):
                yield {"type": "text", "text": part}
            else:
                yield part


def text_of(message: Tree, at: int) -> str:
    """A message's text. Raises RequestError where it has parts that are none."""
    texts = []
    for part in parts_of(message, at):
        if part.get("type") not in ("text", "refusal"):
            cannot(f"messages[{at}].content", f"a part of type '{part.get('type')}' stands where only text can")
        texts.append(str(part.get("text", part.get("refusal", ""))))
    return "".join(texts)


def arguments_of(call: Tree, at: int) -> Tree:
    """A tool call's arguments, read. Raises RequestError where they are no JSON object."""
    function = call.get("function")
    given = function.get("arguments") if isinstance(function, dict) else None
    if isinstance(given, dict):
        return given
    try:
        read = json.loads(given or "{}")
    except (ValueError, RecursionError, TypeError):
        read = None
    if not isinstance(read, dict):
        cannot(f"messages[{at}].tool_calls", "the arguments of a call are no JSON object")
    return read


def name_of(call: Tree) -> str:
    """The function a tool call calls."""
    function = call.get("function")
    return str(function.get("name", "")) if isinstance(function, dict) else ""


def called_before(messages: list[Tree], n: int) -> str | None:
    """The name of the function whose result message `n` is, for formats in which a result names its function: ids may
    repeat from turn to turn, so the nearest call before it counts."""
    wanted = messages[n].get("tool_call_id")
    for message in reversed(messages[:n]):
        for call in message.get("tool_calls") or []:
            if call.get("id") == wanted:
                return name_of(call)
    return None


def data_url(url: str) -> tuple[str, str] | None:
    """Media type and base64 of a `data:` address; None for any other."""
    if not url.startswith("data:"):
        return None
    head, _, data = url[5:].partition(",")
    return (head.removesuffix(";base64") or "application/octet-stream"), data


def image_of(part: Tree) -> str:
    """The address of a part of type `image_url`."""
    given = part.get("image_url")
    return str(given.get("url", "")) if isinstance(given, dict) else str(given or "")


def file_of(part: Tree, place: str) -> tuple[str, str, str | None]:
    """Media type, base64 and name of a part of type `file`."""
    given = part.get("file")
    given = given if isinstance(given, dict) else {}
    found = data_url(str(given.get("file_data", "")))
    if found is None:
        cannot(place, "a file must come with its data, as a data: address")
    name = given.get("filename")
    return (*found, name if isinstance(name, str) else None)


def system_and_rest(messages: list[Tree]) -> tuple[list[tuple[int, Tree]], list[tuple[int, Tree]]]:
    """The messages that instruct, and the others, each with its place."""
    numbered = list(enumerate(messages))
    system = [(n, m) for n, m in numbered if m.get("role") in ("system", "developer")]
    return system, [(n, m) for n, m in numbered if m.get("role") not in ("system", "developer")]


def refuse_role(message: Tree, at: int) -> NoReturn:
    """Refuses a message by its role."""
    role = message.get("role")
    cannot(f"messages[{at}].role", f"'{role}' is none of system, developer, user, assistant, tool")


def turns_of(
    messages: list[tuple[int, Tree]],
    content: Callable[[Tree, int], list[Any]],
    call: Callable[[Tree, int], Tree],
    result: Callable[[Tree, int], Tree],
) -> list[tuple[str, list[Any]]]:
    """Messages as turns that alternate, each (`user` or `assistant`, its blocks): results of tools are the user's, what
    follows under one role is one turn, and one that says nothing is none. The functions write the blocks of a message,
    of a call and of a result."""
    turns: list[tuple[str, list[Any]]] = []
    for n, message in messages:
        role = str(message.get("role"))
        if role == "tool":
            role, blocks = "user", [result(message, n)]
        elif role in ("user", "assistant"):
            blocks = content(message, n) + [call(made, n) for made in message.get("tool_calls") or []]
        else:
            refuse_role(message, n)
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        elif blocks:
            turns.append((role, blocks))
    return turns


def dumped(value: object) -> str:
    """Arguments as the JSON text that OpenAI's clients read."""
    return value if isinstance(value, str) else json.dumps({} if value is None else value, ensure_ascii=False)
