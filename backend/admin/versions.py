"""The versions of one project as a tree, with what each learned and how it compared with its parent."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from model.registry import ModelRegistry, ModelVersion
from worker.ledger import Acceptance, read_acceptance


@dataclass(frozen=True, kw_only=True)
class VersionFacts:
    """One version."""

    name: str
    parent: str | None
    """None: the bundle, which every project starts with."""
    depth: int
    """In the tree; the bundle stands at 0."""
    serves: bool
    published: bool
    created_at: str | None
    decision: str
    corrections: int
    """It was trained on."""
    new: Mapping[str, Any]
    """Of candidate and parent on held-out captions written since the parent; `captions` is how many."""
    old: Mapping[str, Any]
    anchors: Mapping[str, Any]
    new_words: tuple[str, ...]
    edits: tuple[str, ...]
    """How the project words captions otherwise than the bundle."""
    accepted: int
    judged: int

    @property
    def accepted_rate(self) -> float | None:
        return self.accepted / self.judged if self.judged else None

    @property
    def can_serve(self) -> bool:
        return self.published and not self.serves


def version_tree(registry: ModelRegistry, redis: Redis, project_id: int) -> tuple[VersionFacts, ...]:
    """Return the bundle and all versions, each below its parent, the older child first."""
    serving, versions = registry.serving(project_id), registry.versions(project_id)
    acceptances = read_acceptance(redis, project_id, [registry.base_version, *(one.name for one in versions)])
    names = {registry.base_version, *(version.name for version in versions)}
    children: dict[str, list[ModelVersion]] = {name: [] for name in names}
    for version in versions:
        # A version of another bundle's time hangs on ours.
        children[version.parent if version.parent in names else registry.base_version].append(version)
    root = _facts(None, registry.base_version, serving, 0, acceptances[registry.base_version])
    return (root, *_below(registry.base_version, children, serving, 1, acceptances))


def _below(
    name: str,
    children: Mapping[str, Sequence[ModelVersion]],
    serving: str,
    depth: int,
    acceptances: Mapping[str, Acceptance],
) -> Iterator[VersionFacts]:
    # Versions that follow each other are a trunk: only an older child of the same parent is a branch.
    for number, version in enumerate(children[name], start=1):
        is_branch = number < len(children[name])
        yield _facts(version, version.name, serving, depth, acceptances[version.name])
        yield from _below(version.name, children, serving, depth + is_branch, acceptances)


def _facts(version: ModelVersion | None, name: str, serving: str, depth: int, acceptance: Acceptance) -> VersionFacts:
    metrics: Mapping[str, Any] = version.metrics if version else {}
    return VersionFacts(
        name=name,
        parent=version.parent if version else None,
        depth=depth,
        serves=name == serving,
        published=version.published if version else True,
        created_at=version.created_at if version else None,
        decision=version.decision if version else "the bundle that every project starts with",
        corrections=len(version.corrections) if version else 0,
        new=metrics.get("new", {}),
        old=metrics.get("old", {}),
        anchors=metrics.get("anchors", {}),
        new_words=tuple(metrics.get("new_words", ())),
        edits=tuple(metrics.get("systematic_edits", ())),
        accepted=acceptance.accepted,
        judged=acceptance.judged,
    )
