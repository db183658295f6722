"""Everything of a tenant, a user or a session, gone from every tier that a pipeline has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from axolotl_cache.erasure import ErasureReport, erased_in_all
from axolotl_cache.response.owners import erased_owner

if TYPE_CHECKING:
    from axolotl_cache.pipeline.pipeline import Pipeline

WITHOUT_OWNER: Final = (
    "keys and values of prompts, but for a user's sessions, know neither user nor session: they go when "
    "their time is up, or all of them now with keys_and_values=True (axolotl-cache erase --keys-and-values)"
)
OTHER_MODELS: Final = (
    "keys and values that were stored under a model or an adapter that is not loaded now: they go when their "
    "time is up, or all of them now with keys_and_values=True (axolotl-cache erase --keys-and-values)"
)


def erase_everywhere(
    pipeline: Pipeline,
    *,
    keys_and_values: bool,
    tenant: str | None,
    user: str | None,
    session: str | None,
) -> ErasureReport:
    """Do as `Pipeline.erase`."""
    erased_owner(tenant=tenant, user=user, session=session)
    steps: list[Callable[[], ErasureReport]] = []
    if pipeline.response is not None:
        steps.append(partial(pipeline.response.erase, tenant=tenant, user=user, session=session))
    if pipeline.semantic is not None:
        steps.append(pipeline.semantic.erased)
    if pipeline.session is not None:
        tag = str(erased_owner(tenant=tenant, user=user, session=session))
        steps.append(partial(pipeline.session.erase, pipeline.engine, tag=tag))
    if keys_and_values:
        steps.append(pipeline.engine.erase)
    elif tenant is None:
        steps.append(lambda: ErasureReport(left=(WITHOUT_OWNER,)))
    else:
        namespaces = _namespaces(pipeline, tenant)
        steps += [partial(pipeline.engine.erase, namespace=namespace) for namespace in namespaces]
        steps.append(lambda: ErasureReport(left=(OTHER_MODELS,) if pipeline.engine.has_lower_tiers else ()))
    return erased_in_all(steps)


def _namespaces(pipeline: Pipeline, tenant: str) -> list[str]:
    """Return the digests of a tenant's namespaces, one for each adapter that is loaded."""
    adapters = pipeline.adapters
    within = pipeline.namespace.for_tenant(tenant)
    found = {within.digest: None}
    if adapters is not None:
        names: list[str | None] = [None, *adapters.names]
        found |= {adapters.namespace_for(name, within).digest: None for name in names}
    return list(found)
