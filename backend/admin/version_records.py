"""Versions of one project as a tree: what each learned, and how it compares with its parent."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.captioning.services import CaptioningServices
from model.errors import ModelVersionError
from model.registry import ModelRegistry, ModelVersion
from worker.feedback.totals import Acceptance, read_acceptance

VERSIONS_SHOWN = 50
EXAMPLES_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class VersionRecord:
    """One version."""

    name: str
    parent: str | None
    """None for the bundle that every project starts with."""
    depth: int
    """Depth in the tree; the bundle has 0."""
    serves: bool
    published: bool
    pruned: bool
    """Its weights were deleted to save space."""
    fits: bool
    """The version was made for the encoder in use."""
    created_at: str | None
    decision: str
    plain_decision: str
    """The same without losses and statistics. Old versions have none, so theirs is the whole decision."""
    corrections: int
    """Number of corrections it was trained on."""
    new: Mapping[str, Any]
    """Losses of candidate and parent on held-out captions since the parent; `captions` counts them.

    Some keys are missing in old versions.
    """
    old: Mapping[str, Any]
    anchors: Mapping[str, Any]
    new_words: tuple[str, ...]
    edits: tuple[str, ...]
    """Word changes that annotators of this project make repeatedly."""
    accepted: int
    judged: int
    word_edits: int
    """Words that annotators changed in its suggestions."""
    compared: int
    """Captions whose changed words were counted."""

    @property
    def accepted_rate(self) -> float | None:
        return self.accepted / self.judged if self.judged else None

    @property
    def mean_word_edits(self) -> float | None:
        return self.word_edits / self.compared if self.compared else None

    @property
    def can_serve(self) -> bool:
        return self.published and not self.pruned and self.fits and not self.serves


@dataclass(frozen=True, kw_only=True)
class Example:
    """Captions of one image that no version was trained on."""

    correction: str
    """Name of the correction whose image it is."""
    before: str
    """Caption of the version's parent."""
    after: str
    """Caption of the version."""
    written: str
    """What the annotator wrote."""


def version_tree(services: CaptioningServices, project_id: int) -> tuple[VersionRecord, ...]:
    """Return the bundle and all versions, each below its parent, older children first."""
    registry, fits = services.captioners.registry, services.captioners.fits
    serving, versions = registry.serving(project_id), known_versions(registry, project_id)
    names = [registry.base_version, *(version.name for version in versions)]
    acceptances = read_acceptance(services.redis, project_id, names)
    root = _version_record(None, registry.base_version, serving, 0, acceptances[registry.base_version], fits=True)
    below = (
        _version_record(version, version.name, serving, depth, acceptances[version.name], fits=fits(version))
        for version, depth in _below(registry.base_version, versions)
    )
    return (root, *below)


def known_versions(registry: ModelRegistry, project_id: int) -> list[ModelVersion]:
    """Return the project's versions, oldest first. The decision of a damaged record says what is damaged."""
    records = [_record(registry, project_id, name) for name in registry.names(project_id)]
    versions = [record for record in records if record is not None]
    return sorted(versions, key=lambda version: (version.created_at, version.name))


def plain_decision(version: ModelVersion) -> str:
    """Return why a version was published or not, in plain words if its record has them."""
    return str(version.metrics.get("plain_decision") or version.decision)


def newest_versions(tree: Sequence[VersionRecord]) -> tuple[VersionRecord, ...]:
    """Return the newest VERSIONS_SHOWN of a tree, and always the bundle and the serving version."""
    by_age = sorted(tree, key=lambda version: version.created_at or "")
    newest = {version.name for version in by_age[-VERSIONS_SHOWN:]}
    return tuple(version for version in tree if version.name in newest or version.serves or version.parent is None)


def read_examples(registry: ModelRegistry, project_id: int, name: str | None) -> tuple[Example, ...]:
    """Return images that a version captions in another way than its parent does.

    Args:
        registry: holds the versions.
        project_id: of the version.
        name: of the version; None if it is not known.
    """
    version = _record(registry, project_id, name) if name and name != registry.base_version else None
    examples = [
        Example(
            correction=sample["correction"],
            before=sample["before"]["caption"],
            after=sample["after"]["caption"],
            written=sample["written"],
        )
        for sample in (version.metrics.get("samples") or () if version else ())
    ]
    return tuple(example for example in examples if example.before != example.after)[:EXAMPLES_SHOWN]


def gained_words(tree: Sequence[VersionRecord]) -> tuple[str, ...]:
    """Return the words that the serving version learned in addition to the bundle's, oldest first."""
    versions = {version.name: version for version in tree}
    version = next((version for version in tree if version.serves), None)
    words: tuple[str, ...] = ()
    while version is not None:
        words = version.new_words + words
        version = versions.get(version.parent or "")
    return tuple(dict.fromkeys(words))


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
    """Yield each version below its parent, with its depth; a loop, because a trunk can have hundreds of versions."""
    children: dict[str, list[ModelVersion]] = {name: [] for name in (root, *(version.name for version in versions))}
    for version in versions:
        # A version that was made with another bundle is shown below ours.
        children[version.parent if version.parent in children else root].append(version)
    stack = _last_first(children[root], 1)
    while stack:
        version, depth, is_branch = stack.pop()
        yield version, depth
        stack += _last_first(children[version.name], depth + is_branch)


def _last_first(siblings: Sequence[ModelVersion], depth: int) -> list[tuple[ModelVersion, int, bool]]:
    """Return each sibling with its depth and if it is a branch; the trunk continues with the youngest sibling."""
    return [(version, depth, version is not siblings[-1]) for version in reversed(siblings)]


def _version_record(
    version: ModelVersion | None, name: str, serving: str | None, depth: int, acceptance: Acceptance, *, fits: bool
) -> VersionRecord:
    metrics: Mapping[str, Any] = version.metrics if version else {}
    return VersionRecord(
        name=name,
        parent=version.parent if version else None,
        depth=depth,
        serves=name == serving,
        published=version.published if version else True,
        pruned=version.pruned if version else False,
        fits=fits,
        created_at=version.created_at if version else None,
        decision=version.decision if version else "the bundle that every project starts with",
        plain_decision=plain_decision(version) if version else "Every project begins with it.",
        corrections=len(version.corrections) if version else 0,
        new=metrics.get("new") or {},
        old=metrics.get("old") or {},
        anchors=metrics.get("anchors") or {},
        new_words=tuple(metrics.get("new_words") or ()),
        edits=tuple(metrics.get("systematic_edits") or ()),
        accepted=acceptance.accepted,
        judged=acceptance.judged,
        word_edits=acceptance.word_edits,
        compared=acceptance.compared,
    )
