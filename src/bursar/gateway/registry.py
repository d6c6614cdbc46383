"""Providers, routes and bindings as a call sees them: one snapshot, never changed, from which a call's targets are
read. What is a workspace's own comes before what is everyone's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from bursar.gateway.provider import Parameters, Provider, Target
from bursar.types.errors import BindingError, UnknownModelError
from bursar.wire.encode import Way

REMEMBERED = 1024
REMEMBERED_CHARS = 200

AUTO = "auto"
"""The model of calls that leave the choice to bindings."""

ACTION, SKILL, WORKSPACE, DEFAULT = "action", "skill", "workspace", "default"
SCOPES = (ACTION, SKILL, WORKSPACE, DEFAULT)
"""What a binding may be of, in the order they are looked at."""


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A provider as it is listed: `make` makes it ready when it is first called. `workspace` None is everyone's;
    `model` is the one it serves where only it is named."""

    key: str
    name: str
    workspace: str | None
    models: tuple[str, ...] | None
    model: str | None
    active: bool
    make: Callable[[], Provider]


class Step(msgspec.Struct, frozen=True):
    """One target of a route, by name. Those with weights that stand together share the calls."""

    target: str
    weight: float | None = None


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """An alias, and its targets in order of fallback. `workspace` None is everyone's."""

    name: str
    workspace: str | None
    steps: tuple[Step, ...]


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """What serves an action, a skill, a workspace, or whatever nothing else is said of. `workspace` None holds for
    all; `model` None is the provider's own; `provider` may be a route's name, without a model."""

    scope: str
    reference: str
    workspace: str | None
    provider: str
    model: str | None
    parameters: Parameters

    @property
    def shown(self) -> str:
        return f"{self.scope} '{self.reference}'" if self.scope != DEFAULT else "default"


class Ways(msgspec.Struct, frozen=True):
    """The targets of a plan with their ways; `shields` is true where an answer of one may have to be read on when
    nobody waits for it."""

    pairs: list[tuple[Target, Way]]
    shields: bool


class Plan(msgspec.Struct, frozen=True, eq=False):
    """Where a call may go, in order; `weights` of None keep their place. `ways` are remembered with it, by kind of
    call."""

    targets: list[Target]
    weights: tuple[float | None, ...]
    is_route: bool
    ways: dict[tuple[str, bool], Ways]


class _Shelf:
    """What one workspace has of its own, or, for None, what is everyone's."""

    def __init__(self) -> None:
        self.offers: dict[str, Offer] = {}
        self.routes: dict[str, Route] = {}


class Registry:
    """All there is to choose from."""

    def __init__(self, offers: Iterable[Offer], routes: Iterable[Route] = (), bindings: Iterable[Binding] = ()) -> None:
        self._shelves: dict[str | None, _Shelf] = {None: _Shelf()}
        for offer in offers:
            self._shelves.setdefault(offer.workspace, _Shelf()).offers[offer.name] = offer
        for route in routes:
            self._shelves.setdefault(route.workspace, _Shelf()).routes[route.name] = route
        self._bindings = {(b.scope, b.reference, b.workspace): b for b in bindings}
        # Workspaces for which something else holds than for the others.
        self._own = {name for name in self._shelves if name is not None}
        self._own |= {b.workspace for b in self._bindings.values() if b.workspace is not None}
        self._own |= {b.reference for b in self._bindings.values() if b.scope == WORKSPACE}
        self._plans: dict[tuple[str | None, str, str | None, str | None], Plan] = {}
        self._made: dict[str, Provider] = {}

    def resolve(self, model: str, workspace: str, action: str | None = None, skill: str | None = None) -> Plan:
        """Where a call of this workspace goes.

        A model's name is a route, `provider/model`, a provider's name where it has a model of its own, or bare where
        only one active provider offers it. `auto` goes by the bindings of the action, the skill and the workspace.
        Raises UnknownModelError that says what was looked for and what there is, BindingError.
        """
        owner = workspace if workspace in self._own else None
        key = (owner, model, action, skill)
        try:
            return self._plans[key]
        except KeyError:
            pass
        plan = self._bound(owner, action, skill) if model == AUTO else self._named(owner, model)
        if any(len(part) > REMEMBERED_CHARS for part in key if part is not None):
            return plan
        if len(self._plans) >= REMEMBERED:
            self._plans.clear()
        self._plans[key] = plan
        return plan

    def models(self, workspace: str) -> list[tuple[str, str]]:
        """What can be asked for by name: (name, owner). Routes first, then bare names that only one provider offers,
        then every model under its provider's name."""
        owner = workspace if workspace in self._own else None
        routes = {name: "bursar" for shelf in self._seen_by(owner) for name in shelf.routes}
        offers = self._offers(owner)
        offered = [(m, o.name) for o in offers if o.active for m in o.models or ((o.model,) if o.model else ())]
        owners: dict[str, set[str]] = {}
        for model, name in offered:
            owners.setdefault(model, set()).add(name)
        return [
            *routes.items(),
            *((m, name) for m, name in offered if len(owners[m]) == 1 and m not in routes),
            *((f"{name}/{m}", name) for m, name in offered),
        ]

    def made(self) -> Iterator[Provider]:
        """The providers that were made ready."""
        yield from self._made.values()

    def offers(self) -> Iterator[Offer]:
        """Every provider, whosever it is."""
        for shelf in self._shelves.values():
            yield from shelf.offers.values()

    def routes(self) -> Iterator[Route]:
        """Every route, whosever it is."""
        for shelf in self._shelves.values():
            yield from shelf.routes.values()

    def provider(self, offer: Offer) -> Provider:
        """The provider made ready. Raises ConfigError."""
        found = self._made.get(offer.key)
        if found is None:
            found = self._made[offer.key] = offer.make()
        return found

    def _seen_by(self, owner: str | None) -> list[_Shelf]:
        own = [self._shelves[owner]] if owner is not None and owner in self._shelves else []
        return [*own, self._shelves[None]]

    def _offers(self, owner: str | None) -> list[Offer]:
        """The providers a workspace sees; its own hide others of their name."""
        seen: dict[str, Offer] = {}
        for shelf in reversed(self._seen_by(owner)):
            seen |= shelf.offers
        return list(seen.values())

    def _offer(self, owner: str | None, name: str) -> Offer | None:
        return next((s.offers[name] for s in self._seen_by(owner) if name in s.offers), None)

    def _route(self, owner: str | None, name: str) -> Route | None:
        return next((s.routes[name] for s in self._seen_by(owner) if name in s.routes), None)

    def _named(self, owner: str | None, model: str, reason: str | None = None, given: Parameters | None = None) -> Plan:
        route = self._route(owner, model)
        parameters = given or Parameters()
        if route is None:
            return Plan([self._target(owner, model, reason, parameters)], (None,), False, {})
        why = f"{reason}, route {model}" if reason else f"route {model}"
        idle = [step.target for step in route.steps if not self._is_active(owner, step.target)]
        if len(idle) == len(route.steps):
            raise UnknownModelError(f"the route '{model}' has no active provider: {', '.join(idle)}", field="model")
        if idle:
            why = f"{why}; not active: {', '.join(idle)}"
        steps = [step for step in route.steps if step.target not in idle]
        try:
            targets = [self._target(owner, step.target, why, parameters) for step in steps]
        except UnknownModelError as e:
            raise UnknownModelError(f"the route '{model}': {e.message}", field="model") from None
        return Plan(targets, tuple(step.weight for step in steps), True, {})

    def _is_active(self, owner: str | None, target: str) -> bool:
        """Whether a route's target is, as far as it names its provider."""
        offer = self._offer(owner, target.partition("/")[0])
        return offer is None or offer.active

    def _bound(self, owner: str | None, action: str | None, skill: str | None) -> Plan:
        """By the first binding there is: of the action, the skill, the workspace, or the default."""
        asked = ((ACTION, action), (SKILL, skill), (WORKSPACE, owner), (DEFAULT, ""))
        for scope, reference in asked:
            for workspace in (owner, None):
                if reference is not None and (found := self._bindings.get((scope, reference, workspace))) is not None:
                    return self._of_binding(owner, found)
        looked = ", ".join(f"{scope} '{name}'" for scope, name in asked if name)
        raise UnknownModelError(
            f"nothing is bound to {looked or 'this call'}, and there is no default: name a model, or make a binding",
            field="model",
        )

    def _of_binding(self, owner: str | None, binding: Binding) -> Plan:
        what = f"the binding of {binding.shown}" if binding.scope != DEFAULT else "the default binding"
        name = binding.provider
        if binding.model is None and self._route(owner, name) is not None:
            return self._named(owner, name, binding.shown, binding.parameters)
        offer = self._offer(owner, name)
        if offer is None:
            raise BindingError(f"{what} names the provider '{name}', and there is none of that name", field="model")
        if not offer.active:
            raise BindingError(f"{what} names the provider '{name}', which is not active", field="model")
        model = binding.model or offer.model
        if model is None:
            raise BindingError(f"{what} names no model, and the provider '{name}' has none of its own", field="model")
        try:
            target = self._of_offer(offer, model, binding.shown, binding.parameters)
        except UnknownModelError as e:
            raise BindingError(f"{what}: {e.message}", field="model") from None
        return Plan([target], (None,), False, {})

    def _target(self, owner: str | None, name: str, reason: str | None, parameters: Parameters) -> Target:
        prefix, _, rest = name.partition("/")
        offer = self._offer(owner, prefix)
        if offer is not None and offer.active and (rest or offer.model):
            return self._of_offer(offer, rest or offer.model or "", reason or "named", parameters)
        if offer is not None and not offer.active and rest:
            raise UnknownModelError(f"the provider '{prefix}' is not active", field="model")
        return self._of_bare_name(owner, name, reason, parameters)

    def _of_offer(self, offer: Offer, model: str, reason: str, parameters: Parameters) -> Target:
        if offer.models is not None and model not in offer.models and model != offer.model:
            raise UnknownModelError(
                f"the provider '{offer.name}' does not offer '{model}'; it offers: {', '.join(offer.models)}",
                field="model",
            )
        return Target(provider=self.provider(offer), model=model, reason=reason, parameters=parameters)

    def _of_bare_name(self, owner: str | None, name: str, reason: str | None, parameters: Parameters) -> Target:
        offers = [o for o in self._offers(owner) if o.active]
        offering = [o for o in offers if name == o.model or (o.models is not None and name in o.models)]
        if not offering:
            offering = [o for o in offers if o.models is None]
        if len(offering) == 1:
            return self._of_offer(offering[0], name, reason or "only provider", parameters)
        if offering:
            names = ", ".join(f"{o.name}/{name}" for o in offering[:20])
            raise UnknownModelError(
                f"several providers may offer '{name}': say which, as one of {names}", field="model"
            )
        known = ", ".join(n for n, _ in self.models(owner or "")[:20]) or "none"
        raise UnknownModelError(
            f"no active provider and no route offers '{name}'; known models: {known}", field="model"
        )
