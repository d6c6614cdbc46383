"""Sound, images, moderations and ranks pass through to providers of OpenAI's format, and are metered by what they say."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import openai
import pytest
from openai import OpenAI

from bursar.types.errors import RequestError
from bursar.wire import forms
from support.server import ADMIN, Server
from support.upstream import Script, Seen, Upstream

SOUND = bytes(range(256)) * 400
TOKENS = {"input_tokens": 14, "output_tokens": 31, "total_tokens": 45}


@pytest.fixture
def server(make_server: Callable[..., Server], upstream: Upstream) -> Server:
    root = upstream.base_url.removesuffix("/v1")
    return make_server(
        provider="retries = 0",
        more=f'[[providers]]\nname = "claude"\ntype = "anthropic"\nbase_url = "{root}"\napi_key = "k"\n'
        f'[[providers]]\nname = "co"\ntype = "cohere"\nbase_url = "{root}"\napi_key = "k"\n',
    )


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=ADMIN, max_retries=0) as made:
        yield made


def _says(upstream: Upstream, body: Any, kind: str = "application/json", **more: Any) -> list[Seen]:
    seen: list[Seen] = []
    raw = body.decode("latin-1") if isinstance(body, bytes) else body if isinstance(body, str) else json.dumps(body)

    def answer(asked: Seen) -> Script:
        seen.append(asked)
        return Script(raw=raw, content_type=kind, **more)

    upstream.on_request = answer
    return seen


def _entry(server: Server, method: str) -> dict[str, Any]:
    (entry,) = server.settled()
    assert (entry["method_type"], entry["status"]) == (method, "completed")
    assert server.verify()[0]
    return entry


def _form(seen: Seen) -> tuple[dict[str, object], list[dict[str, object]]]:
    parts = forms.parts_of(seen.body, seen.headers["content-type"])
    return forms.fields_of(parts), forms.files_of(parts)


def test_speech_comes_byte_for_byte_as_it_is_made(client: OpenAI, server: Server, upstream: Upstream) -> None:
    seen = _says(upstream, SOUND, "audio/mpeg")
    with client.audio.speech.with_streaming_response.create(model="up/tts-1", voice="alloy", input="Good day.") as made:
        assert made.headers["content-type"] == "audio/mpeg"
        assert made.read() == SOUND
    assert seen[0].path == "/v1/audio/speech"
    assert seen[0].json == {"model": "tts-1", "voice": "alloy", "input": "Good day."}
    entry = _entry(server, "speech")
    assert (entry["prompt_tokens"], entry["usage_source"]) == (None, "none")


def test_speech_as_events_is_metered_by_the_last(client: OpenAI, server: Server, upstream: Upstream) -> None:
    events = 'data: {"type":"speech.audio.delta","audio":"AAAA"}\n\n'
    events += f"data: {json.dumps({'type': 'speech.audio.done', 'usage': TOKENS})}\n\n"
    _says(upstream, events, "Text/Event-Stream; charset=utf-8")
    made = client.audio.speech.create(model="up/tts", voice="alloy", input="Good day.", stream_format="sse")
    assert made.content.decode() == events
    entry = _entry(server, "speech")
    assert (entry["prompt_tokens"], entry["completion_tokens"], entry["cost"]) == (14, 31, None)


def test_events_without_their_last_are_cut_off(client: OpenAI, server: Server, upstream: Upstream) -> None:
    cut = [
        ('{"type":"speech.audio.delta","audio":"AAAA"}', lambda: client.audio.speech.create(
            model="up/tts", voice="alloy", input="x", stream_format="sse")),
        ('{"type":"transcript.text.delta","delta":"Hel"}', lambda: list(client.audio.transcriptions.create(
            model="up/w", file=("a.wav", b"x"), stream=True))),
        ('{"type":"image_generation.partial_image","b64_json":"A"}', lambda: list(client.images.generate(
            model="up/i", prompt="x", stream=True))),
    ]  # fmt: skip
    for frame, ask in cut:
        _says(upstream, f": ping\n\ndata: {frame}\n\n", "text/event-stream")
        with suppress(openai.APIError):
            ask()
    entries = server.settled()
    assert [(e["status"], e["error_kind"]) for e in entries] == [("failed", "truncated")] * 3


def test_every_image_of_a_stream_is_counted_and_passed(client: OpenAI, server: Server, upstream: Upstream) -> None:
    done = [{"type": "image_generation.completed", "b64_json": b, "usage": TOKENS} for b in ("AA", "BB")]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in done)
    _says(upstream, body, "text/event-stream")
    assert len(list(client.images.generate(model="up/i", prompt="x", n=2, stream=True))) == 2
    entry = _entry(server, "image_generation")
    assert (entry["images"], entry["prompt_tokens"]) == (2, 14)


def test_what_is_no_answer_is_a_failure_though_its_status_is_200(server: Server, upstream: Upstream) -> None:
    asked: dict[str, dict[str, Any]] = {
        "/v1/audio/speech": {"input": "x", "voice": "a"}, "/v1/images/generations": {"prompt": "x"},
        "/v1/moderations": {"input": "x"}, "/v1/embeddings": {"input": "x"}, "/v1/responses": {"input": "x"},
    }  # fmt: skip
    answers = (
        ("", "application/json"), ("{}", "application/json"), ('{"detail":"no such model"}', "application/json"),
        ('{"error":{"code":402,"message":"no money"}}', "application/json"), ("<html>login</html>", "text/html"),
        ("upstream unavailable", "text/plain"),
    )  # fmt: skip
    made: dict[str, tuple[str, str]] = {}
    for path, more in asked.items():
        for body, kind in answers:
            _says(upstream, body, kind)
            status, said, headers = server.exchange("POST", path, {"model": "up/m", **more})
            assert status in (402, 502), (path, body, said)
            made[headers["x-bursar-call-id"]] = path, body
    entries = server.settled()
    assert len(entries) == len(made)
    for entry in entries:
        path, body = made[entry["call_id"]]
        assert entry["status"] == "failed", (path, body)
        assert ("no money" in entry["error_message"]) is ("no money" in body), (path, body)
    assert server.verify()[0]


def test_a_client_that_leaves_in_the_middle_of_speech_ends_it_for_the_provider_too(
    server: Server, upstream: Upstream
) -> None:
    upstream.on_request = lambda _: Script(chunks=4, hang_after=2, content_type="audio/mpeg")
    asked = json.dumps({"model": "up/tts", "voice": "a", "input": "x", "stream": True})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/v1/audio/speech", asked, {"authorization": f"Bearer {ADMIN}"})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("content-type")) == (200, "audio/mpeg")
    assert answer.read(10)
    answer.close()
    connection.close()
    upstream.wait(lambda: upstream.seen[0].closed_at is not None)
    (entry,) = server.settled()
    assert (entry["status"], entry["usage_source"]) == ("cancelled", "none")


def test_speech_that_breaks_off_is_not_ended_as_if_it_were_whole(
    client: OpenAI, server: Server, upstream: Upstream
) -> None:
    def answer(_: Seen) -> Script:
        return Script(raw=SOUND.decode("latin-1"), content_type="audio/mpeg", cut_after=1)

    upstream.on_request = answer
    with pytest.raises(openai.APIError):
        client.audio.speech.create(model="up/tts-1", voice="alloy", input="Good day.")
    (entry,) = server.settled()
    assert (entry["status"], entry["error_kind"]) == ("failed", "truncated")


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        ({"usage": {"type": "duration", "seconds": 12.5}}, (None, None, 12500)),
        ({"duration": "3.14159", "language": "english"}, (None, None, 3142)),
        ({"usage": {"type": "tokens", **TOKENS, "input_token_details": {"audio_tokens": 14}}}, (14, 31, None)),
        ({}, (None, None, None)),
    ],
)
def test_a_transcription_is_metered_by_seconds_or_by_tokens(
    client: OpenAI, server: Server, upstream: Upstream, usage: dict[str, Any], told: tuple[int | None, ...]
) -> None:
    seen = _says(upstream, {"text": "Good day.", **usage})
    made = client.audio.transcriptions.create(model="up/whisper-1", file=("day.wav", SOUND), prompt="a greeting")
    assert made.text == "Good day."
    fields, files = _form(seen[0])
    assert (seen[0].path, fields) == (
        "/v1/audio/transcriptions",
        {"model": "whisper-1", "prompt": "a greeting"},
    )
    assert [(f["field"], f["filename"], f["bytes"]) for f in files] == [("file", "day.wav", len(SOUND))]
    entry = _entry(server, "transcription")
    assert (entry["prompt_tokens"], entry["completion_tokens"], entry["audio_ms"]) == told
    assert entry["usage_source"] == ("provider" if usage else "none")
    _, call = server.get(f"/api/calls/{entry['call_id']}")
    kept = json.dumps(call)
    assert "day.wav" in kept
    assert "a greeting" in kept
    assert files[0]["sha256"] in kept
    assert call["attempts"][0]["completion_text"] == "Good day."
    assert call["attempts"][0]["usage_details"] == ({"audio_input_tokens": 14} if told[0] else None)


def test_a_transcription_as_text_and_as_events(client: OpenAI, server: Server, upstream: Upstream) -> None:
    subtitles = "1\n00:00:00,000 --> 00:00:01,000\n Good day.\n\n"
    _says(upstream, subtitles, "text/plain; charset=utf-8")
    text: Any = client.audio.transcriptions.create(model="up/w", file=("a.wav", b"RIFF"), response_format="srt")
    assert text == subtitles
    events = [{"type": "transcript.text.delta", "delta": word} for word in ("Good ", "day.")]
    done = {"type": "transcript.text.done", "text": "Good day.", "usage": {"type": "tokens", **TOKENS}}
    _says(upstream, "".join(f"data: {json.dumps(e)}\n\n" for e in [*events, done]), "text/event-stream")
    stream = client.audio.transcriptions.create(model="up/gpt", file=("a.wav", b"RIFF"), stream=True)
    assert [event.type for event in stream][-1] == "transcript.text.done"
    entries = {e["served_model"] or e["model"]: e for e in server.settled()}
    assert {e["status"] for e in entries.values()} == {"completed"}
    assert (entries["gpt"]["prompt_tokens"], entries["gpt"]["completion_tokens"]) == (14, 31)
    for model, said in (("w", subtitles), ("gpt", "Good day.")):
        _, call = server.get(f"/api/calls/{entries[model]['call_id']}")
        assert call["attempts"][0]["completion_text"] == said


def test_images_are_counted_and_edits_take_files(client: OpenAI, server: Server, upstream: Upstream) -> None:
    image = {"b64_json": "AAAA"}
    _says(upstream, {"created": 1, "data": [image, image]})
    made = client.images.generate(model="up/dall-e-2", prompt="a day", n=2)
    assert len(made.data or []) == 2
    entry = _entry(server, "image_generation")
    assert (entry["images"], entry["prompt_tokens"], entry["usage_source"]) == (2, None, "provider")
    seen = _says(upstream, {"created": 1, "data": [image], "usage": {**TOKENS, "input_tokens_details": {}}})
    client.images.edit(model="up/gpt-image-1", image=[("a.png", b"a"), ("b.png", b"b")], prompt="brighter")
    fields, files = _form(seen[0])
    assert fields == {"model": "gpt-image-1", "prompt": "brighter"}
    assert [f["filename"] for f in files] == ["a.png", "b.png"]
    (edited,) = [e for e in server.settled() if e["method_type"] == "image_edit"]
    assert (edited["images"], edited["prompt_tokens"], edited["completion_tokens"]) == (1, 14, 31)


def test_moderations_and_ranks(client: OpenAI, server: Server, upstream: Upstream) -> None:
    _says(upstream, {"id": "m", "model": "omni", "results": [{"flagged": False}]})
    client.moderations.create(model="up/omni", input="Good day.")
    ranks = {
        "id": "r",
        "results": [{"index": 1, "relevance_score": 0.9}],
        "meta": {"billed_units": {"search_units": 1}},
    }
    seen = _says(upstream, ranks)
    asked = {"model": "co/rerank-v3.5", "query": "day", "documents": ["night", "day"]}
    status, body, _ = server.exchange("POST", "/v1/rerank", asked)
    assert (status, json.loads(body)) == (200, ranks)
    assert (seen[0].path, seen[0].json["model"]) == ("/v2/rerank", "rerank-v3.5")
    entries = {e["method_type"]: e for e in server.settled()}
    assert entries["moderation"]["usage_source"] == "none"
    assert (entries["rerank"]["search_units"], entries["rerank"]["usage_source"]) == (1, "provider")


def test_what_cannot_be_asked_is_refused_by_name_and_makes_no_entry(client: OpenAI, server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="'claude' takes no speech; it takes: chat"):
        client.audio.speech.create(model="claude/m", voice="alloy", input="x")
    with pytest.raises(openai.BadRequestError, match="'model' is missing"):
        client.audio.transcriptions.create(model="", file=("a.wav", b"x"))
    assert server.exchange("POST", "/v1/audio/transcriptions", {"model": "up/w"})[0] == 400
    head = {"content-type": "multipart/form-data; boundary=x"}
    for body in (
        b"",
        b"--x",
        b"--x\r\n\r\n",
        b"not a form",
        b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nup/w',
    ):
        status, said, _ = server.exchange("POST", "/v1/audio/transcriptions", body, headers=head)
        assert status == 400, said
        assert b"form" in said
    form = b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nup/w\r\n--x--\r\n'
    status, said, _ = server.exchange("POST", "/v1/chat/completions", form, headers=head)
    assert (status, b"send application/json" in said) == (400, True)
    assert server.entries() == []


def test_a_fault_of_the_provider_is_told_as_for_any_call(client: OpenAI, server: Server, upstream: Upstream) -> None:
    _says(upstream, {"error": {"message": "too long", "type": "invalid_request_error"}}, status=400)
    with pytest.raises(openai.BadRequestError, match="too long"):
        client.audio.transcriptions.create(model="up/w", file=("a.wav", b"x"))
    _says(upstream, "<html>busy</html>", "text/html")
    with pytest.raises(openai.APIError, match="something that is no answer"):
        client.audio.transcriptions.create(model="up/w", file=("a.wav", b"x"))
    assert [e["status"] for e in server.settled()] == ["failed", "failed"]


def test_a_form_s_stream_may_be_asked_for_in_any_way_of_saying_so(server: Server, upstream: Upstream) -> None:
    done = f"data: {json.dumps({'type': 'transcript.text.done', 'text': 'x', 'usage': TOKENS})}\n\n"
    for said in ("True", "1", "on", "false"):  # a provider may read more words than we do
        _says(upstream, done, "text/event-stream")
        body = (
            f'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nup/{said}\r\n--x\r\n'
            f'content-disposition: form-data; name="stream"\r\n\r\n{said}\r\n--x\r\n'
            "content-disposition: form-data; name=\"file\"; filename*=UTF-8''x.mp3\r\n\r\nabc\r\n--x--\r\n and more"
        )
        status, got, _ = server.exchange(
            "POST", "/v1/audio/transcriptions", f"before\r\n{body}".encode(),
            headers={"content-type": "multipart/form-data; boundary=x"},
        )  # fmt: skip
        assert (status, got.decode()) == (200, done)
    assert {e["prompt_tokens"] for e in server.settled()} == {14}


def test_a_form_is_read_as_it_is_written() -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nup/m\r\n'
        b'--b\r\nContent-Disposition: form-data; name="tags[]"\r\n\r\n1\r\n'
        b'--b\r\nContent-Disposition: form-data; name="tags[]"\r\n\r\n\xe2\x82\xac\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a \xc3\xa9.wav"\r\nContent-Type: audio/wav\r\n\r\n'
        b"\r\n--not-b\r\n\r\n--b--\r\n"
    )
    kind = "multipart/form-data; boundary=b"
    parts = forms.parts_of(body, kind)
    assert forms.fields_of(parts) == {"model": "up/m", "tags[]": ["1", "€"]}
    assert parts[-1].data == b"\r\n--not-b\r\n"
    assert (parts[-1].filename, parts[-1].content_type) == ("a é.wav", "audio/wav")
    assert forms.written(parts, b"b", b"up/m") == body
    assert forms.fields_of(forms.parts_of(forms.written(parts, b"b", b"other"), kind))["model"] == "other"
    with pytest.raises(RequestError, match="more than 200 parts"):
        forms.parts_of(b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 300, kind)
