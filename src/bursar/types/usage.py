"""Token counts of one attempt, and how two reports of one attempt are laid over each other.

`None` means the provider did not say; zero means zero. Input includes cached tokens, output includes
reasoning tokens. Counts of one HTTP answer are replaced by later ones, never added.
"""

from __future__ import annotations

import msgspec

# What was read from a provider and by whom: on the entry as `usage_source`.
PROVIDER = "provider"
PROVIDER_PARTIAL = "provider_partial"
ESTIMATED = "estimated"
NONE = "none"


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts (integers ≥ 0, or `None` where the provider did not say).

    `total_tokens` is input + output where both are known, else the provider's own total;
    `provider_total_tokens` is what the provider sent as its total. `cost_nanos` is a cost the
    provider itself reported, in 10⁻⁹ of `cost_currency`. `audio_ms` is how long the sound was (in milliseconds),
    `images` how many were made, `search_units` how many searches were charged. `raw_json` is the
    provider's usage object as JSON.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    provider_total_tokens: int | None = None
    cost_nanos: int | None = None
    cost_currency: str | None = None
    raw_json: bytes | None = None
    audio_ms: int | None = None
    images: int | None = None
    search_units: int | None = None

    @property
    def raw(self) -> dict[str, object] | None:
        """The provider's usage object."""
        return msgspec.json.decode(self.raw_json) if self.raw_json is not None else None

    @property
    def total_tokens(self) -> int | None:
        """Input + output; the provider's own total where one of them is unknown; else `None`."""
        if self.input_tokens is not None and self.output_tokens is not None:
            return self.input_tokens + self.output_tokens
        return self.provider_total_tokens

    @property
    def is_empty(self) -> bool:
        """True where no count at all was reported."""
        return self.input_tokens is None and self.output_tokens is None and self.provider_total_tokens is None

    def over(self, earlier: Usage | None) -> Usage:
        """This report laid over an earlier one of the same attempt: the last non-null value wins."""
        if earlier is None:
            return self
        later = {f: v for f in self.__struct_fields__ if (v := getattr(self, f)) is not None}
        return msgspec.structs.replace(earlier, **later)
