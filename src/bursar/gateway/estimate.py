"""What a cut-off answer probably used: from the bytes a token had in this ledger's own answers of that model.

Without enough of them there is no estimate: a number nobody measured is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bursar.types.usage import ESTIMATED, NONE, PROVIDER, PROVIDER_PARTIAL, Usage

MIN_OBSERVATIONS = 20
_AT_ONCE = 256


class _Seen:
    __slots__ = ("input_bytes", "input_tokens", "observations", "output_bytes", "output_tokens")

    def __init__(self, observations: int, ib: int, it: int, ob: int, ot: int) -> None:
        self.observations = observations
        self.input_bytes, self.input_tokens = ib, it
        self.output_bytes, self.output_tokens = ob, ot

    def add(self, request_bytes: int, input_tokens: int, output_bytes: int, output_tokens: int) -> None:
        self.observations += 1
        self.input_bytes += request_bytes
        self.input_tokens += input_tokens
        self.output_bytes += output_bytes
        self.output_tokens += output_tokens


class Estimator:
    """Bytes a token, by (provider, model); learns from each completed attempt."""

    def __init__(self, seen: Mapping[tuple[str, str], tuple[int, int, int, int, int]] | None = None) -> None:
        """`seen`: (observations, request bytes, input tokens, output bytes, output tokens) to begin with."""
        self._fresh: list[tuple[str, str, int, int, int, int]] = []
        self._seen = {key: _Seen(*sums) for key, sums in (seen or {}).items()}

    def learn(self, provider: str, model: str, request_bytes: int, output_bytes: int, usage: Usage) -> None:
        """Adds a completed attempt whose usage the provider reported whole."""
        if usage.input_tokens is None or usage.output_tokens is None:
            return
        fresh = self._fresh
        fresh.append((provider, model, request_bytes, usage.input_tokens, output_bytes, usage.output_tokens))
        if len(fresh) >= _AT_ONCE:
            self._add_up()

    def _add_up(self) -> None:
        """Most attempts are never asked about: they are added up together."""
        fresh, self._fresh = self._fresh, []
        for provider, model, *sums in fresh:
            seen = self._seen.setdefault((provider, model), _Seen(0, 0, 0, 0, 0))
            seen.add(*sums)

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
        self._add_up()
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
