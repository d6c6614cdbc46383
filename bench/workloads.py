"""What is asked of every gateway."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.load import Job


@dataclass(frozen=True)
class Workload:
    """One kind of call from so many connections at a time. `most` bounds the calls of one piece; `pieces` is how many
    the limit, bursar and Portkey's gateway get in a round, `own_pieces` how many bursar gets at least, for the gaps of
    its loop."""

    name: str
    model: str
    connections: int
    path: str = "/chat/completions"
    stream: bool = False
    prompt_bytes: int = 0
    own_prompt: bool = False
    own_session: bool = False
    most: int = 6000
    pieces: int = 1
    own_pieces: int = 1

    def job(self, *, port: int, base: str, model: str, headers: dict[str, str], calls: int, round: int) -> Job:
        return Job(
            port=port,
            path=base + self.path,
            model=model,
            calls=calls,
            connections=self.connections,
            stream=self.stream,
            prompt_bytes=self.prompt_bytes,
            own_prompt=self.own_prompt,
            own_session=self.own_session,
            headers=headers,
            round=round,
        )


CHAT = Workload("chat", "chat", 64, pieces=3)
LONG = Workload("chat, 30 KB prompt", "chat", 64, prompt_bytes=30_000, most=3000, pieces=3)
OWN = Workload("chat, 30 KB of its own", "chat", 64, prompt_bytes=30_000, own_prompt=True, most=3000)
SESSION = Workload("chat, a session of its own", "chat", 64, own_session=True)
STREAM = Workload("stream of 32", "stream-chat", 64, stream=True, most=3000, pieces=3)
PACED = Workload("stream of 32, 5 ms apart", "stream-chat-5ms", 200, stream=True, most=2000)
EMBEDDINGS = Workload("embeddings", "embed", 64, path="/embeddings")

_ALL = (
    CHAT,
    LONG,
    OWN,
    SESSION,
    STREAM,
    PACED,
    EMBEDDINGS,
    Workload("chat, 10 at a time", "chat", 10),
    Workload("chat, 30 KB prompt, 10 at a time", "chat", 10, prompt_bytes=30_000, most=3000),
    Workload("stream of 32, 10 at a time", "stream-chat", 10, stream=True, most=3000),
    Workload("embeddings, 10 at a time", "embed", 10, path="/embeddings"),
)
ALL = tuple(replace(workload, own_pieces=3) for workload in _ALL)
QUICK = tuple(replace(workload, pieces=1) for workload in (CHAT, LONG, STREAM))
