"""The versions of one project as a tree, with what each learned and how it compared with its parent."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.captioning.services import CaptioningServices
from model.errors import ModelVersionError
from model.registry import ModelRegistry, ModelVersion
from worker.feedback.totals import Acceptance, read_acceptance

VERSIONS_SHOWN = 50


@dataclass(frozen=True, kw_only=True)
class VersionRecord:
    """One version."""

    name: str
    parent: str | None
    """None: the bundle, which every project starts with."""
    depth: int
    """In the tree; the bundle stands at 0."""
    serves: bool
    published: bool
    fits: bool
    """It is made for the encoder that serves."""
    created_at: str | None
    decision: str
    corrections: int
    """It was trained on."""
    new: Mapping[str, Any]
    """Of candidate and parent on held-out captions written since the parent; `captions` is how many.

    Of old versions some of it is not known.
    """
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
        return self.published and self.fits and not self.serves


def version_tree(services: CaptioningServices, project_id: int) -> tuple[VersionRecord, ...]:
    """Return the bundle and all versions, each below its parent, the older child first."""
    registry, fits = services.captioners.registry, services.captioners.fits
    serving, versions = _serving(registry, project_id), known_versions(registry, project_id)
    acceptances = read_acceptance(services.redis, project_id, [registry.base_version, *(one.name for one in versions)])
    root = _facts(None, registry.base_version, serving, 0, acceptances[registry.base_version], fits=True)
    below = (
        _facts(version, version.name, serving, depth, acceptances[version.name], fits=fits(version))
        for version, depth in _below(registry.base_version, versions)
    )
    return (root, *below)


def known_versions(registry: ModelRegistry, project_id: int) -> list[ModelVersion]:
    """Return the project's versions, oldest first; of one with a damaged record what is damaged, as its decision."""
    found = [_record(registry, project_id, name) for name in registry.names(project_id)]
    return sorted((one for one in found if one is not None), key=lambda version: (version.created_at, version.name))


def newest_versions(tree: Sequence[VersionRecord]) -> tuple[VersionRecord, ...]:
    """Return of a tree the newest VERSIONS_SHOWN, and always the bundle and the version that serves."""
    by_age = sorted(tree, key=lambda version: version.created_at or "")
    newest = {version.name for version in by_age[-VERSIONS_SHOWN:]}
    return tuple(one for one in tree if one.name in newest or one.serves or one.parent is None)


def gained_words(tree: Sequence[VersionRecord]) -> tuple[str, ...]:
    """Return the words that the version that serves knows beside the bundle's, in the order they were learned."""
    versions = {version.name: version for version in tree}
    one = next((version for version in tree if version.serves), None)
    words: tuple[str, ...] = ()
    while one is not None:
        words = one.new_words + words
        one = versions.get(one.parent or "")
    return tuple(dict.fromkeys(words))


def _serving(registry: ModelRegistry, project_id: int) -> str | None:
    try:
        return registry.serving(project_id)
    except ModelVersionError:  # the project's verdict says so
        return None


def _record(registry: ModelRegistry, project_id: int, name: str) -> ModelVersion | None:
    try:
        return registry.find(project_id, name)
    except ModelVersionError as problem:
        return ModelVersion(
            name=name,
            project_id=project_id,
            parent=registry.base_version,
            bundle="",
            encoder="",
            created_at="",
            published=False,
            decision=str(problem),
            metrics={},
            corrections=(),
        )


def _below(root: str, versions: Sequence[ModelVersion]) -> Iterator[tuple[ModelVersion, int]]:
    """Yield each version below its parent, and its depth; nothing recurses, as a trunk has hundreds of versions."""
    children: dict[str, list[ModelVersion]] = {name: [] for name in (root, *(version.name for version in versions))}
    for version in versions:
        # A version of another bundle's time hangs on ours.
        children[version.parent if version.parent in children else root].append(version)
    to_come = _last_first(children[root], 1)
    while to_come:
        version, depth, is_branch = to_come.pop()
        yield version, depth
        to_come += _last_first(children[version.name], depth + is_branch)


def _last_first(siblings: Sequence[ModelVersion], depth: int) -> list[tuple[ModelVersion, int, bool]]:
    """Return each with its depth, and whether it is a branch: all but the youngest, with which the trunk goes on."""
    return [(version, depth, version is not siblings[-1]) for version in reversed(siblings)]


def _facts(
    version: ModelVersion | None, name: str, serving: str | None, depth: int, acceptance: Acceptance, *, fits: bool
) -> VersionRecord:
    metrics: Mapping[str, Any] = version.metrics if version else {}
    return VersionRecord(
        name=name,
        parent=version.parent if version else None,
        depth=depth,
        serves=name == serving,
        published=version.published if version else True,
        fits=fits,
        created_at=version.created_at if version else None,
        decision=version.decision if version else "the bundle that every project starts with",
        corrections=len(version.corrections) if version else 0,
        new=metrics.get("new") or {},
        old=metrics.get("old") or {},
        anchors=metrics.get("anchors") or {},
        new_words=tuple(metrics.get("new_words") or ()),
        edits=tuple(metrics.get("systematic_edits") or ()),
        accepted=acceptance.accepted,
        judged=acceptance.judged,
    )
