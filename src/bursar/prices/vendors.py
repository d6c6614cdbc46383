"""The price data that comes with bursar: vendors, their models and dated rates, compiled by `make prices`.

Its file is read once; a vendor's models are looked at when one of them is asked for, and a model's rates when it is
found, for there are thousands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from importlib import resources

import msgspec

from bursar.prices.given import GivenDated, row_of
from bursar.prices.rates import PriceRow

_COMPACT_DATE = re.compile(r"-(20\d\d)(\d\d)(\d\d)(?!\d)")

_LITELLM = "litellm"


class Match(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The names a model goes by, in lower case: any of these; `all` are matches that hold together."""

    equals: list[str] = []
    starts_with: list[str] = []
    ends_with: list[str] = []
    contains: list[str] = []
    regex: list[str] = []
    all: list[list[Match]] = []

    def covers(self, name: str) -> bool:
        return (
            name in self.equals
            or any(map(name.startswith, self.starts_with))
            or any(map(name.endswith, self.ends_with))
            or any(part in name for part in self.contains)
            or any(re.search(pattern, name) for pattern in self.regex)
            or any(all(match.covers(name) for match in together) for together in self.all)
        )

    @property
    def is_exact(self) -> bool:
        return not (self.starts_with or self.ends_with or self.contains or self.regex or self.all)


class Model(msgspec.Struct, kw_only=True):
    """A model and its prices: of those that hold, the last counts."""

    id: str
    match: Match
    prices: msgspec.Raw


class VendorInfo(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Who sells: known by the provider types that are theirs, by how their addresses begin, and by the `prefixes` that
    LiteLLM has for them. Models they do not price themselves are priced by those they fall back to."""

    id: str
    types: list[str] = []
    prefixes: list[str] = []
    address: str | None = None
    falls_back_to: list[str] = []


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    source: str
    version: str
    left_out: list[str]
    vendors: list[VendorInfo]
    models: dict[str, msgspec.Raw]


class Vendor:
    """The models of one vendor."""

    def __init__(self, info: VendorInfo, models: msgspec.Raw, version: str) -> None:
        self.info = info
        self._raw = models
        self._version = version
        self._rows: dict[int, list[PriceRow]] = {}

    @cached_property
    def models(self) -> list[Model]:
        return msgspec.json.decode(self._raw, type=list[Model])

    @cached_property
    def _exact(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for n, model in enumerate(self.models):
            for name in model.match.equals:
                found.setdefault(name, n)
        return found

    @cached_property
    def _others(self) -> list[int]:
        return [n for n, model in enumerate(self.models) if not model.match.is_exact]

    def rows(self, name: str) -> Sequence[PriceRow]:
        """The prices of the first model that goes by this name (in lower case), the latest last."""
        at = self._exact.get(name)
        for n in self._others:
            if at is not None and n >= at:
                break
            if self.models[n].match.covers(name):
                at = n
                break
        if at is None:
            return ()
        if at not in self._rows:
            self._rows[at] = [self._row(self.models[at], given) for given in self.given(self.models[at])]
        return self._rows[at]

    @staticmethod
    def given(model: Model) -> list[GivenDated]:
        """A model's prices as they stand in the file."""
        return msgspec.json.decode(model.prices, type=list[GivenDated])

    def _row(self, model: Model, given: GivenDated) -> PriceRow:
        dated = f"@{given.valid_from}" if given.valid_from else ""
        dated += f"@{given.hours}" if given.hours else ""
        name = f"{self.info.id}/{model.id}{dated}#{self._version}"
        return row_of(given, id=name, model=model.id, currency="USD", place=name)


class Vendors:
    """All of them."""

    def __init__(self, data: bytes) -> None:
        file = msgspec.json.decode(data, type=_File)
        self.source = file.source
        self.by_id = {info.id: Vendor(info, file.models[info.id], file.version) for info in file.vendors}
        self._of_type = {kind: vendor for vendor in self.by_id.values() for kind in vendor.info.types}
        self._of_prefix = {prefix: vendor for vendor in self.by_id.values() for prefix in vendor.info.prefixes}
        self._of_place: dict[tuple[str, str], Vendor | None] = {}

    def of(self, provider_type: str, url: str) -> Vendor | None:
        """Who sells at an address: whose address it is, else whose the type is."""
        place = (provider_type, url)
        try:
            return self._of_place[place]
        except KeyError:
            pass
        own = self._of_type.get(provider_type)
        others = (v for v in self.by_id.values() if v is not own)
        for vendor in (own, *others) if own is not None else others:
            if vendor.info.address is not None and re.match(vendor.info.address, url):
                own = vendor
                break
        if len(self._of_place) > 4096:
            self._of_place.clear()
        self._of_place[place] = own
        return own

    def seller(self, provider_type: str, url: str, asked: str, vendor: str | None = None) -> tuple[Vendor | None, str]:
        """Who sells a model (its name in lower case) at an address, and what it is called there; `vendor` is who the
        provider's settings say."""
        if vendor is not None:
            return self.by_id.get(vendor), asked
        prefix, _, name = asked.partition("/")
        if provider_type == _LITELLM and prefix in self._of_prefix:
            return self._of_prefix[prefix], name
        return self.of(provider_type, url), asked

    def rows(self, vendor: Vendor, name: str) -> Sequence[PriceRow]:
        """The prices of a model, by its name in lower case, as this vendor sells it."""
        plain = _COMPACT_DATE.sub(r"-\1-\2-\3", name)
        for asked in dict.fromkeys((name, plain)):
            for one in (vendor, *(self.by_id[other] for other in vendor.info.falls_back_to)):
                if rows := one.rows(asked):
                    return rows
        return ()


def vendor_ids() -> list[str]:
    """Who there are."""
    return sorted(bundled().by_id)


def bundled() -> Vendors:
    """The vendors that come with bursar."""
    return Vendors((resources.files("bursar.prices") / "data" / "vendors.json").read_bytes())
