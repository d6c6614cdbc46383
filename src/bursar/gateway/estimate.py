"""What a cut-off answer probably used: from the bytes a token had in this ledger's own answers of that model.

Without enough of them there is no estimate: a number nobody measured is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bursar.ledger.ledger import Ended
from bursar.types.call import CHAT_COMPLETION, STREAM_COMPLETION
from bursar.types.usage import ESTIMATED, NONE, PROVIDER, PROVIDER_PARTIAL, Usage

MIN_OBSERVATIONS = 20
_ESTIMATED = frozenset({CHAT_COMPLETION, STREAM_COMPLETION})
_MOST = 2


class _Seen(msgspec.Struct):
    """What attempts had in all, and how many they were."""

    observations: int = 0
    input_bytes: int = 0
    input_tokens: int = 0
    output_bytes: int = 0
    output_tokens: int = 0


class Estimator:
    """Bytes a token, by (provider, model); learns from completed attempts."""

    def __init__(self, seen: Mapping[tuple[str, str], tuple[int, int, int, int, int]] | None = None) -> None:
        """`seen`: (observations, request bytes, input tokens, output bytes, output tokens) to begin with."""
        self._seen = {key: _Seen(*sums) for key, sums in (seen or {}).items()}

    def observe(self, ended: Sequence[Ended]) -> None:
        """Adds attempts that completed, and whose usage their provider reported whole. Where many end in one turn of
        the loop, some of them say enough."""
        for opened, settled in ended[:_MOST]:
            read, written = settled.prompt_tokens, settled.completion_tokens
            if settled.status != "completed" or settled.usage_source != PROVIDER or read is None or written is None:
                continue
            if opened.method_type not in _ESTIMATED:
                continue
            key = (opened.provider, opened.model)
            seen = self._seen.get(key)
            if seen is None:
                seen = self._seen[key] = _Seen()
            seen.observations += 1
            seen.input_bytes += opened.request_bytes
            seen.input_tokens += read
            seen.output_bytes += settled.output_bytes
            seen.output_tokens += written

    def of_cut_off(
        self,
        provider: str,
        model: str,
        *,
        reported: Usage | None,
        is_final: bool,
        is_early: bool,
        request_bytes: int,
        output_bytes: int,
    ) -> tuple[Usage | None, str]:
        """The usage of an attempt that ended early, and its source.

        What the provider reported is kept; only what it did not say is estimated. `is_final` says that its
        report came with or after the end of the answer, `is_early` that it came before all content: what it says of the
        output then is no count of it.
        """
        if reported is not None and is_early and output_bytes and not is_final:
            reported = msgspec.structs.replace(reported, output_tokens=None, reasoning_tokens=None)
        if reported is not None and reported.input_tokens is not None and reported.output_tokens is not None:
            return reported, PROVIDER if is_final else PROVIDER_PARTIAL
        seen = self._seen.get((provider, model))
        if output_bytes == 0 or seen is None or seen.observations < MIN_OBSERVATIONS:
            return (reported, PROVIDER_PARTIAL) if reported is not None and not reported.is_empty else (None, NONE)
        estimate = Usage(
            input_tokens=_scaled(request_bytes, seen.input_tokens, seen.input_bytes),
            output_tokens=_scaled(output_bytes, seen.output_tokens, seen.output_bytes),
        )
        if estimate.input_tokens is None or estimate.output_tokens is None:
            return reported, PROVIDER_PARTIAL if reported is not None else NONE
        return (reported or Usage()).over(estimate), ESTIMATED


def _scaled(size: int, tokens: int, bytes_seen: int) -> int | None:
    return (size * tokens + bytes_seen // 2) // bytes_seen if bytes_seen else None
