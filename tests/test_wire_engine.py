"""What is read from answers: text, tool calls, finish, usage, errors, as the provider said them and no more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.types.errors import ConfigError, UnsupportedLlmProviderError
from bursar.types.events import TextDelta
from bursar.types.usage import Usage
from bursar.wire import spec as specs
from bursar.wire.assemble import Assembly
from bursar.wire.engine import Decoder, Frame
from bursar.wire.readers import Readers
from bursar.wire.usage import as_count, as_nanos
from bursar.wire.values import read_error

OPENAI = Readers(specs.build("openai").operations["chat"])


def _read(body: bytes, *, stream: bool = True, readers: Readers = OPENAI) -> tuple[Assembly, Decoder, list[Frame]]:
    decoder, assembly = Decoder(readers, stream=stream), Assembly()
    frames = decoder.feed(body) + decoder.close()
    for frame in frames:
        assembly.take(frame.events)
    return assembly, decoder, frames


def _sse(*frames: Any) -> bytes:
    return b"".join(b"data: " + (f if isinstance(f, bytes) else json.dumps(f).encode()) + b"\n\n" for f in frames)


def _chunk(content: str | None = None, *, finish: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {"content": content} if content is not None else {}
    return {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def _usage(prompt: int | None, completion: int | None, **more: Any) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": completion, **more}}


def test_usage_missing_is_null_and_an_explicit_zero_is_zero() -> None:
    assert _read(_sse(_chunk("hi"), _chunk(finish="stop"), b"[DONE]"))[0].usage is None
    for nothing in ({"usage": None}, {"usage": {}}):
        assert _read(_sse(_chunk("hi", **nothing), b"[DONE]"))[0].usage is None
    usage = _read(_sse(_chunk("hi"), {"choices": [], **_usage(0, 0)}, b"[DONE]"))[0].usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (0, 0, 0)
    assert usage.cached_tokens is None


def test_cumulative_usage_on_every_chunk_is_not_summed() -> None:
    body = _sse(
        *(_chunk("w", **_usage(10, n, total_tokens=10 + n)) for n in range(1, 6)), _chunk(finish="stop"), b"[DONE]"
    )
    usage = _read(body)[0].usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (10, 5, 15)


def test_usage_on_the_finish_chunk_and_again_alone_counts_once() -> None:
    body = _sse(_chunk("w"), _chunk(finish="stop", **_usage(10, 5)), {"choices": [], **_usage(10, 5)}, b"[DONE]")
    usage = _read(body)[0].usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (10, 5)


def test_usage_after_the_finish_reason_in_a_chunk_without_choices_is_read() -> None:
    assembly, decoder, frames = _read(
        _sse(_chunk("w"), _chunk(finish="stop"), {"choices": [], **_usage(3, 4)}, b"[DONE]")
    )
    assert assembly.usage is not None
    assert assembly.usage.total_tokens == 7
    assert decoder.finished
    assert [f.usage_only for f in frames] == [False, False, True, False]


def test_a_later_report_replaces_field_by_field_and_null_replaces_nothing() -> None:
    body = _sse(
        _chunk("w", **_usage(10, 1, prompt_tokens_details={"cached_tokens": 4})), _chunk(**_usage(None, 9)), b"[DONE]"
    )
    usage = _read(body)[0].usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (10, 9, 4)


def test_a_provider_that_reports_only_a_total_has_no_input_and_no_output() -> None:
    usage = _read(_sse(_chunk("w", usage={"total_tokens": 12}), b"[DONE]"))[0].usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (None, None, 12)


@pytest.mark.parametrize(
    ("given", "count"),
    [(5, 5), ("7", 7), (" 8 ", 8), (3.0, 3), (0, 0), ("0", 0)]
    + [
        (x, None)
        for x in (None, True, False, -1, "-1", 2.5, "x", "", [], {}, 2**70, 1e300, float("nan"), float("inf"), "٣")
    ],
)
def test_what_is_a_count_and_what_is_none(given: Any, count: int | None) -> None:
    assert as_count(given) == count


@pytest.mark.parametrize(
    ("given", "nanos"),
    [(0.00015, 150_000), ("1.5", 1_500_000_000), (2, 2_000_000_000), (0, 0), (1e-9, 1)]
    + [(x, None) for x in (None, True, -1, "x", float("nan"), float("inf"), [], 1e300)],
)
def test_what_is_an_amount_and_what_is_none(given: Any, nanos: int | None) -> None:
    assert as_nanos(given) == nanos


@given(
    st.dictionaries(
        st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"]),
        st.recursive(st.none() | st.integers() | st.floats() | st.text(max_size=3), st.lists),
    )
)
def test_no_usage_object_makes_reading_fail_or_gives_a_negative(usage: dict[str, Any]) -> None:
    found = _read(_sse({"choices": [], "usage": usage}))[0].usage
    assert found is None or all(v is None or v >= 0 for v in (found.input_tokens, found.output_tokens))


def test_tool_calls_in_pieces_are_put_together_by_index() -> None:
    def piece(index: int, **function: Any) -> dict[str, Any]:
        id = function.pop("id", None)
        call = {"index": index, "function": function, **({"id": id, "type": "function"} if id else {})}
        return {"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}

    body = _sse(
        piece(0, id="a", name="weather", arguments=""), piece(1, id="b", name="time", arguments='{"z'),
        piece(0, arguments='{"city": '), piece(1, arguments='one": 1}'), piece(0, arguments='"Oslo"}'),
        _chunk(finish="tool_calls"), b"[DONE]",
    )  # fmt: skip
    assembly = _read(body)[0]
    assert [(c.id, c.name, c.arguments) for c in assembly.tool_calls] == [
        ("a", "weather", '{"city": "Oslo"}'),
        ("b", "time", '{"zone": 1}'),
    ]
    assert assembly.finish_reason == "tool_calls"


def test_several_answers_are_kept_apart() -> None:
    def of(index: int, text: str) -> dict[str, Any]:
        return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": None}]}

    assembly = _read(_sse(of(0, "a"), of(1, "x"), of(0, "b"), of(1, "y"), b"[DONE]"))[0]
    assert assembly.text == "ab"
    whole = assembly.as_completion(id="i", model="m", created=0)
    assert [c["message"]["content"] for c in whole["choices"]] == ["ab", "xy"]  # type: ignore[attr-defined]


def test_several_answers_in_one_frame_are_all_read_and_all_have_to_finish() -> None:
    def frame(*answers: tuple[int, str, str | None]) -> dict[str, Any]:
        return {"choices": [{"index": n, "delta": {"content": t}, "finish_reason": f} for n, t, f in answers]}

    assembly, decoder, _ = _read(_sse(frame((0, "a", None), (1, "x", None)), frame((0, "b", "stop"), (1, "y", None))))
    whole = assembly.as_completion(id="i", model="m", created=0)
    assert [c["message"]["content"] for c in whole["choices"]] == ["ab", "xy"]  # type: ignore[attr-defined]
    assert not decoder.finished, "the second answer was cut off"
    plain = {
        "choices": [{"index": n, "message": {"content": t}, "finish_reason": "stop"} for n, t in ((0, "a"), (1, "x"))]
    }
    assembly, decoder, _ = _read(json.dumps(plain).encode())
    whole = assembly.as_completion(id="i", model="m", created=0)
    assert [c["message"]["content"] for c in whole["choices"]] == ["a", "x"]  # type: ignore[attr-defined]


def test_the_assembled_object_keeps_what_frames_say_beside_the_answer() -> None:
    assembly, decoder, _ = _read(_sse(_chunk("a", created=7, service_tier="flex"), _chunk(finish="stop"), b"[DONE]"))
    whole = assembly.as_completion(id="i", model="m", created=0, extras=decoder.extras)
    assert (whole["created"], whole["service_tier"]) == (7, "flex")


def test_what_many_frames_say_beside_the_answer_is_the_last_of_each_and_is_not_all_kept() -> None:
    frames = [_chunk(f"{n}", n=n, **({"once": 1} if n == 3 else {})) for n in range(100)]
    for frame in frames:
        frame["choices"][0]["delta"]["reasoning_content"] = "x"
    _, decoder, _ = _read(_sse(*frames, b"[DONE]"))
    assert (decoder.extras["n"], decoder.extras["once"]) == (99, 1)
    assert decoder.extras["n"] == 99
    readers = Readers(specs.build("openai").operations["chat"])
    assert readers.stream.typed is not None
    readers.stream.typed.tells_all = False  # what it says has to be looked for
    decoder = Decoder(readers, stream=True)
    decoder.feed(_sse(*frames))
    assert decoder._beside is not None
    assert len(decoder._beside.asides) < 20
    assert (decoder.extras["n"], decoder.extras["once"]) == (99, 1)


def test_an_error_inside_a_good_answer_is_an_error() -> None:
    for error in ({"message": "no", "code": 429}, "no"):
        assembly = _read(_sse({"error": error}))[0]
        assert assembly.error is not None
        assert assembly.error.message == "no"
    assert _read(b'{"error": {"message": "no"}}', stream=False)[0].error is not None


def test_a_stream_that_does_not_say_that_it_ended_is_not_finished() -> None:
    assert not _read(_sse(_chunk("w")))[1].finished
    assert _read(_sse(_chunk("w"), b"[DONE]"))[1].finished
    assert _read(_sse(_chunk("w", finish="stop")))[1].finished


def test_nothing_is_read_behind_the_end() -> None:
    assembly, _, _ = _read(_sse(_chunk("a"), b"[DONE]", _chunk("b")))
    assert assembly.text == "a"


def test_nothing_is_read_behind_the_end_in_frames_that_come_alone() -> None:
    decoder, said = Decoder(OPENAI, stream=True), []
    for frame in (_chunk("a"), _chunk("b"), _chunk("c"), b"[DONE]", _chunk("d")):
        said.append([e for f in decoder.feed(_sse(frame)) for e in f.events if isinstance(e, TextDelta)])
    assert said == [[TextDelta("a")], [TextDelta("b")], [TextDelta("c")], [], []]


@pytest.mark.parametrize("lead", [b"", b"\n\n \n"])
def test_a_stream_answered_with_plain_json_is_read_as_json(lead: bytes) -> None:
    body = json.dumps({"id": "1", "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], **_usage(1, 2)})
    assembly, decoder, _ = _read(lead + body.encode())
    assert (assembly.text, assembly.finish_reason, decoder.is_whole) == ("hi", "stop", True)
    assert assembly.usage is not None


def test_plain_json_asked_for_and_a_stream_given_is_read_as_a_stream() -> None:
    assembly, decoder, _ = _read(_sse(_chunk("hi"), _chunk(finish="stop"), b"[DONE]"), stream=False)
    assert (assembly.text, decoder.is_whole, decoder.finished) == ("hi", False, True)


def test_frames_that_are_no_json_are_passed_over() -> None:
    assembly, _, frames = _read(_sse(b": OPENROUTER PROCESSING", b"null", b"12", b'"x"', _chunk("a"), b"[DONE]"))
    assert assembly.text == "a"
    assert [f.is_silent for f in frames] == [True, True, True, True, False, False]


def test_lone_surrogates_and_nan_do_not_lose_a_frame() -> None:
    body = b'data: {"choices": [{"index": 0, "delta": {"content": "a\\ud83d"}, "finish_reason": null}], "x": NaN}\n\n'
    body += b'data: {"choices": [{"index": 0, "delta": {"content": "\\ude00b"}, "finish_reason": "stop"}]}\n\n'
    assembly = _read(body)[0]
    whole = assembly.as_completion(id="i", model="m", created=0)
    from bursar.wire.assemble import encode_json

    assert json.loads(encode_json(whole))["choices"][0]["message"]["content"] == "a😀b"


def test_deep_nesting_is_no_crash() -> None:
    assert _read(b"data: " + b"[" * 100_000 + b"\n\n")[0].text is None
    assert read_error(OPENAI, b'{"error":' * 50_000) is None


def test_a_list_of_parts_is_read_as_its_text() -> None:
    body = {
        "choices": [
            {
                "message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                "finish_reason": "stop",
            }
        ]
    }
    assert _read(json.dumps(body).encode(), stream=False)[0].text == "ab"


def test_a_custom_provider_is_read_by_its_paths() -> None:
    readers = Readers(
        specs.build(
            "custom",
            request={"modelField": "engine", "additionalBodyFields": {"safe": True}},
            response={
                "messagePath": "output.parts[0].said",
                "streamMessagePath": "piece",
                "streamFinishPath": "why",
                "streamFraming": "ndjson",
                "usageTokensPath": "spent.all",
                "usagePath": "spent",
            },
        ).operations["chat"]
    )
    plain = b'{"output": {"parts": [{"said": "hi"}]}, "spent": {"all": "12"}}'
    assembly, _, _ = _read(plain, stream=False, readers=readers)
    assert assembly.text == "hi"
    assert assembly.usage == Usage(provider_total_tokens=12, raw_json=b'{"all":"12"}')
    lines = b'{"piece": "a"}\n{"piece": "b", "why": "stop", "spent": {"all": 3}}\n'
    assembly, decoder, _ = _read(lines, readers=readers)
    assert (assembly.text, decoder.finished) == ("ab", True)
    assert assembly.usage is not None
    assert assembly.usage.total_tokens == 3


def test_settings_that_are_wrong_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"provider.*unknown key 'mesagePath'.*messagePath"):
        specs.build("custom", response={"mesagePath": "a"})
    with pytest.raises(ConfigError, match=r"'a\[' is not a path"):
        specs.build("custom", response={"messagePath": "a["})
    with pytest.raises(ConfigError, match="framing 'xml'"):
        specs.build("custom", response={"streamFraming": "xml"})
    with pytest.raises(
        UnsupportedLlmProviderError, match=r"'gpt' is not supported; supported are: .*custom, deepseek, demo"
    ):
        specs.build("gpt")


_VALUES = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
_NAMES = st.sampled_from(["created", "service_tier", "citations", "x y", "ü", "a.b"]) | st.text(max_size=2)


@given(st.lists(st.dictionaries(_NAMES, _VALUES, max_size=4), min_size=1, max_size=6), st.integers(1, 80))
def test_what_frames_say_beside_the_answer_is_the_last_of_each_whatever_they_name(
    said: list[dict[str, Any]], cut: int
) -> None:
    read = {"choices", "usage", "id", "model", "object", "error", "obfuscation"}
    said = [{name: value for name, value in one.items() if name not in read} for one in said]
    frames = [_chunk(f"{n}", **one) for n, one in enumerate(said)]
    for frame in frames:
        frame["choices"][0]["delta"]["reasoning_content"] = "x"
    body = _sse(*frames, b"[DONE]")
    decoder = Decoder(OPENAI, stream=True)
    for at in range(0, len(body), cut):
        decoder.feed(body[at : at + cut])
    expected: dict[str, Any] = {}
    for one in said:
        expected |= {name: value for name, value in one.items() if value is not None}
    assert decoder.extras == expected


def test_fields_without_end_are_kept_though_no_type_holds_them() -> None:
    readers = Readers(specs.build("openai").operations["chat"])
    for n in range(200):
        _, decoder, _ = _read(_sse(_chunk("a", **{f"x{n}": n}), _chunk(finish="stop"), b"[DONE]"), readers=readers)
        assert decoder.extras == {f"x{n}": n}
    assert readers.stream.typed is not None
    assert readers.stream.typed.beside == []
