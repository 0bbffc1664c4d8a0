"""The model versions of each project, in the store. Versions never change; a pointer says which one serves.

projects/<project>/versions/<version>/decoder.safetensors
projects/<project>/versions/<version>/decoder.json         SHA-256 of the weights, sizes, vocabulary, a caption to check
projects/<project>/versions/<version>/version.json         written last: without it the version does not exist
projects/<project>/serving.json                            the version that serves, and those that did before
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from safetensors.numpy import save

from model.captioner import Captioner
from model.decoders.sizes import DecoderSizes
from model.errors import ModelVersionError, VersionChoiceError
from model.manifest import StoredDecoder, bundle_version, parse_tensors
from model.runtime.check_caption import Check, check_features, make_check
from model.store import Store
from model.tokenizer import Tokenizer
from model.vision.encoder_spec import ImageEncoder

if TYPE_CHECKING:
    from model.torch_captioner import TorchCaptioner

logger = logging.getLogger(__name__)

MadeCaptioner_co = TypeVar("MadeCaptioner_co", bound=Captioner, covariant=True)


class AnyBundle(Protocol[MadeCaptioner_co]):
    """A bundle, whatever computes its captioners: model/bundle.py or model/runtime/serving_bundle.py."""

    @property
    def encoder(self) -> ImageEncoder: ...

    @property
    def version(self) -> str: ...

    def captioner(self) -> MadeCaptioner_co: ...

    def captioner_of(self, decoder: StoredDecoder) -> MadeCaptioner_co: ...


REMEMBERED_POINTERS = 100
PRUNED = "the weights of version {name} were deleted to save space (KEEP_VERSIONS), so it cannot serve any more"
_NAME = re.compile(r"v\d+-[0-9a-f]{8}")
BY_RETRAINING = "retraining"
"""Value of `by` in the pointer after a retraining published a version."""


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """The result of one retraining, published or refused."""

    name: str
    """Such as `v3-9f8e7d6c`: the project's third retraining, and 8 hex digits of its weights' SHA-256."""
    project_id: int
    parent: str
    """The version that it was trained from and compared with."""
    bundle: str
    """Version of the bundle whose encoder it needs."""
    encoder: str
    """Fingerprint of that encoder."""
    created_at: str
    """ISO 8601, UTC."""
    published: bool
    """False if it was not better, or a person chose another version meanwhile. Its weights are then not stored."""
    decision: str
    """The reason why it was published or refused, in words."""
    metrics: Mapping[str, Any]
    """Measurements of the candidate and of its parent, on the same held-out captions."""
    corrections: tuple[str, ...]
    """The corrections it was trained on."""
    pruned: bool = False
    """True if it was published, and its weights were deleted later to save space."""

    def misfit(self, bundle: "AnyBundle[Any]") -> str | None:
        """Return the reason why it cannot serve with the encoder of this bundle; None if it can."""
        if self.encoder == bundle.encoder.fingerprint:
            return None
        return f"version {self.name} was trained on bundle {self.bundle}, not on {bundle.version}"


class ModelRegistry:
    """Reads and writes the versions of all projects that build on one encoder."""

    def __init__(self, store: Store, base_version: str) -> None:
        """Open the versions in a store.

        Args:
            base_version: the bundle's version. It serves the projects that have no version of their own.
        """
        self._store = store
        self.base_version = base_version
        self._whole: set[tuple[int, str]] = set()
        """Versions that were found to be whole; files of versions never change."""

    @classmethod
    def open(cls, model_store: str, caption_bundle: str) -> Self:
        """Open the versions in MODEL_STORE that build on CAPTION_BUNDLE; no weights are loaded.

        Raises:
            BundleError: there is no such bundle.
            StoreError: the store cannot be used.
        """
        return cls(Store(model_store), bundle_version(caption_bundle))

    def serving(self, project_id: int) -> str:
        """Return the name of the version that serves a project.

        Where files are damaged, it is the newest version that is whole and that served before, or else the bundle.
        `damages` names the files.
        """
        pointer = self._pointer(project_id)
        chosen = str(pointer["version"])
        if chosen == self.base_version or self.is_whole(project_id, chosen):
            return chosen
        earlier = (str(name) for name in reversed(pointer["before"]) if name != self.base_version)
        whole = next((name for name in earlier if self.is_whole(project_id, name)), self.base_version)
        logger.warning("version is damaged project=%s version=%s served=%s", project_id, chosen, whole)
        return whole

    def is_whole(self, project_id: int, name: str) -> bool:
        """Say whether a published version can be read; what was found is remembered."""
        return self._problem_of(project_id, name) is None

    def _problem_of(self, project_id: int, name: str) -> str | None:
        """Return why a version cannot be read, with the file; None if it can."""
        if (project_id, name) not in self._whole:
            try:
                version = self.find(project_id, name)
                if version is None:
                    return f"{self._folder(project_id, name)}/version.json in the model store is missing"
                if not version.published:
                    return f"version {name} of project {project_id} was refused, so its weights were not kept"
                if version.pruned:
                    return PRUNED.format(name=name)
                self.decoder(project_id, name)
            except ModelVersionError as problem:
                return str(problem)
            self._whole.add((project_id, name))
        return None

    def distrust(self, project_id: int, name: str) -> None:
        """Let the files of a version be checked again, because it could not be loaded."""
        self._whole.discard((project_id, name))

    def damages(self, project_id: int, records: int | None = None) -> list[str]:
        """Return a sentence for each damaged file of a project, with the way out.

        Args:
            project_id: Label Studio's.
            records: number of the newest versions whose records are looked at; None: all.
        """
        sentences = []
        try:
            pointer = self._read_pointer(project_id)
            chosen = str(pointer["version"])
            if chosen != self.base_version and (reason := self._problem_of(project_id, chosen)):
                way_out = (
                    f"restore it from a backup, or choose another version: `captioner promote {project_id} VERSION`"
                )
                sentences.append(f"{reason}, so {self.serving(project_id)} serves; {way_out}")
        except ModelVersionError as problem:
            way_out = f"`captioner promote {project_id} VERSION` writes it anew"
            sentences.append(f"{problem}, so {self.serving(project_id)} serves; {way_out}")
        for name in self.names(project_id)[:records]:
            path = f"{self._folder(project_id, name)}/version.json"
            try:
                if self._store.exists(path):
                    self._version(path)
            except ModelVersionError as problem:
                sentences.append(f"{problem}; restore it from a backup, or leave it: the version cannot serve")
        return sentences

    def succeeded(self, project_id: int) -> str | None:
        """Return the version that served before, if a retraining published the serving version.

        None if the bundle or a version that a person chose is serving.
        """
        pointer = self._pointer(project_id)
        if pointer.get("by") != BY_RETRAINING or not pointer["before"]:
            return None
        if self.serving(project_id) != pointer["version"]:
            return None
        return str(pointer["before"][-1])

    def versions(self, project_id: int) -> list[ModelVersion]:
        """Return the records of the project's retrainings, oldest first; the bundle is not one of them.

        Damaged records are left out; `damages` names them.
        """
        versions = []
        for path in self._records(project_id):
            try:
                versions.append(self._version(path))
            except ModelVersionError as problem:
                logger.warning("version left out project=%s problem=%s", project_id, problem)
        return sorted(versions, key=lambda version: (version.created_at, version.name))

    def _records(self, project_id: int) -> list[str]:
        paths = self._store.list(f"projects/{project_id}/versions")
        return [path for path in paths if path.endswith("/version.json")]

    def names(self, project_id: int) -> list[str]:
        """Return the names of the project's retrainings, the newest first, including those without a record."""
        return sorted(self._store.names(f"projects/{project_id}/versions"), key=_number, reverse=True)

    def newest(self, project_id: int) -> ModelVersion | None:
        """Return the record of the project's last retraining, published or refused; None before the first."""
        for name in self.names(project_id):  # reads one record, because a project may have hundreds
            path = f"{self._folder(project_id, name)}/version.json"
            if self._store.exists(path):
                try:
                    return self._version(path)
                except ModelVersionError as problem:
                    logger.warning("version left out project=%s problem=%s", project_id, problem)
        return None

    def version(self, project_id: int, name: str) -> ModelVersion:
        """Return one retraining's record.

        Raises:
            ModelVersionError: the project has no such version; the message lists the versions it has.
        """
        version = self.find(project_id, name)
        if version is None:
            raise ModelVersionError(self._unknown(project_id, name))
        return version

    def find(self, project_id: int, name: str) -> ModelVersion | None:
        """Return one retraining's record; None if the project has no such version."""
        # The pattern is needed: "v1-9f8e7d6c/" is not a name, but leads to a record.
        path = f"{self._folder(project_id, name)}/version.json"
        return self._version(path) if _NAME.fullmatch(name) and self._store.exists(path) else None

    def known_states(self, project_id: int, name: str) -> frozenset[str]:
        """Return the states of corrections that a version was trained or measured on; none for a bundle."""
        is_bundle = name == self.base_version
        return frozenset([] if is_bundle else self.version(project_id, name).metrics.get("known_states", []))

    def load(self, project_id: int, name: str, bundle: "AnyBundle[MadeCaptioner_co]") -> MadeCaptioner_co:
        """Load a version's decoder beside the bundle's encoder.

        Raises:
            ModelVersionError: the version is unknown, was refused, or needs another encoder.
        """
        if name == bundle.version:
            return bundle.captioner()
        version = self.version(project_id, name)
        if misfit := version.misfit(bundle):
            raise ModelVersionError(misfit)
        return bundle.captioner_of(self.decoder(project_id, name))

    def decoder(self, project_id: int, name: str) -> StoredDecoder:
        """Return the decoder of a published version.

        Raises:
            ModelVersionError: its weights are missing or damaged.
        """
        content, fields = self._read_decoder(project_id, name)
        try:
            return StoredDecoder(
                version=name,
                sizes=DecoderSizes(**fields["sizes"]),
                weights=parse_tensors(content),
                tokenizer=Tokenizer.from_json(fields["tokenizer"]),
                check=Check.from_json(fields["check"]) if "check" in fields else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            path = f"{self._folder(project_id, name)}/decoder.json"
            raise ModelVersionError(f"{path} in the model store is damaged: {cause!r}") from cause

    def publish(
        self,
        project_id: int,
        candidate: "TorchCaptioner",
        *,
        parent: str,
        metrics: Mapping[str, Any],
        corrections: Sequence[str],
        decision: str,
    ) -> ModelVersion:
        """Store a candidate and let it serve. A reader sees the old version or the new one, never half of it.

        If a person has meanwhile chosen a version other than the parent, that version stays and the candidate is
        refused.
        """
        content = _weights_of(candidate)
        decoder = candidate.decoder
        features = check_features(decoder.feature_mean.numpy(), decoder.feature_scale.numpy())
        fields = {
            "sizes": vars(decoder.sizes),
            "tokenizer": candidate.tokenizer.to_json(),
            "check": asdict(make_check(decoder, features)),
        }
        version = self._new_version(
            project_id, content, candidate.encoder.fingerprint, parent, metrics, corrections, decision
        )
        return self._publish(version, content, fields)

    def copy(self, source_id: int, name: str, project_id: int) -> ModelVersion:
        """Let another project be served by a copy of a version.

        Raises:
            ModelVersionError: the version is unknown or damaged.
        """
        original = self.version(source_id, name)
        content, fields = self._read_decoder(source_id, name)
        decision = f"copied from version {name} of project {source_id}"
        version = self._new_version(project_id, content, original.encoder, self.serving(project_id), {}, (), decision)
        return self._publish(version, content, fields)

    def refuse(
        self,
        project_id: int,
        candidate: "TorchCaptioner",
        *,
        parent: str,
        metrics: Mapping[str, Any],
        corrections: Sequence[str],
        decision: str,
    ) -> ModelVersion:
        """Record a candidate that was not better, without its weights. The serving version stays."""
        version = self._new_version(
            project_id,
            _weights_of(candidate),
            candidate.encoder.fingerprint,
            parent,
            metrics,
            corrections,
            decision,
        )
        return self._record(replace(version, published=False))

    def promote(self, project_id: int, name: str, *, by: str, bundle: Callable[[], "AnyBundle[Any]"]) -> None:
        """Let a published version, or the bundle, serve the project.

        Args:
            name: of the version, or the bundle's version.
            by: the person who chose it.
            bundle: returns the bundle; called only for a version that was trained on another bundle.

        Raises:
            VersionChoiceError: the version is unknown, was refused, or needs another encoder.
        """
        if name != self.base_version:
            version = self.find(project_id, name)
            if version is None:
                raise VersionChoiceError(self._unknown(project_id, name))
            if not version.published:
                raise VersionChoiceError(f"version {name} was refused and its weights were not kept; retrain instead")
            if version.pruned:
                raise VersionChoiceError(PRUNED.format(name=name))
            if version.bundle != self.base_version and (misfit := version.misfit(bundle())):
                raise VersionChoiceError(misfit)
        self._move_pointer(self._pointer(project_id), project_id, name, by=by)

    def rollback(self, project_id: int, *, by: str) -> str:
        """Let the earlier version serve again, and return its name.

        Raises:
            VersionChoiceError: no other version has served this project.
        """
        pointer = self._pointer(project_id)
        if not pointer["before"]:
            raise VersionChoiceError(f"project {project_id} has no earlier version to go back to")
        before, name = list(pointer["before"]), self.base_version
        while before:
            name = str(before.pop())
            if name == self.base_version or self.is_whole(project_id, name):
                break
        self._write_pointer(pointer, project_id, name, before, by)
        return name

    def prune(self, project_id: int, keep: int) -> list[str]:
        """Delete the weights of old versions, and return their names; the records stay.

        The newest `keep` published versions stay, the serving one, its parent, the one that served before it, and those
        that a person chose.
        """
        published = [version for version in self.versions(project_id) if version.published and not version.pruned]
        pointer = self._pointer(project_id)
        needed = {pointer["version"], self.serving(project_id), *pointer["before"][-1:], *pointer.get("promoted", [])}
        needed |= {version.parent for version in published if version.name in needed}
        pruned = [version for version in published[:-keep] if version.name not in needed]
        for version in pruned:
            self._record(replace(version, pruned=True))
            for file in ("decoder.safetensors", "decoder.json"):
                self._store.delete(f"{self._folder(project_id, version.name)}/{file}")
            self.distrust(project_id, version.name)
        return [version.name for version in pruned]

    def _unknown(self, project_id: int, name: str) -> str:
        names = ", ".join([self.base_version, *(version.name for version in self.versions(project_id))])
        return f"project {project_id} has no version {name!r}; it has: {names}"

    def _publish(self, version: ModelVersion, content: bytes, fields: Mapping[str, Any]) -> ModelVersion:
        """Store weights, and let them serve unless a person chose another version than the parent meanwhile."""
        folder = self._folder(version.project_id, version.name)
        self._store.write(f"{folder}/decoder.safetensors", content)
        chosen = self.serving(version.project_id)  # read here, because writing the weights takes a while
        if chosen != version.parent:
            self._store.delete(f"{folder}/decoder.safetensors")
            reason = f"{chosen} was chosen to serve meanwhile; without that: {version.decision}"
            return self._record(replace(version, published=False, decision=reason))
        self._write_json(f"{folder}/decoder.json", {"sha256": hashlib.sha256(content).hexdigest(), **fields})
        pointer = self._pointer(version.project_id)
        self._record(version)
        self._move_pointer(pointer, version.project_id, version.name, by=BY_RETRAINING)
        return version

    def _read_decoder(self, project_id: int, name: str) -> tuple[bytes, dict[str, Any]]:
        """Return the weights of a version as they are stored, and its sizes and vocabulary as JSON values."""
        content = self._store.read(f"{self._folder(project_id, name)}/decoder.safetensors")
        fields = self._json(f"{self._folder(project_id, name)}/decoder.json")
        digest = fields.pop("sha256", None)
        if not isinstance(digest, str):
            path = f"{self._folder(project_id, name)}/decoder.json"
            raise ModelVersionError(f"{path} in the model store is damaged: it names no weights")
        if content is None or hashlib.sha256(content).hexdigest() != digest:
            path = f"{self._folder(project_id, name)}/decoder.safetensors"
            raise ModelVersionError(f"{path} in the model store is missing or damaged")
        return content, fields

    def _new_version(
        self,
        project_id: int,
        content: bytes,
        encoder: str,
        parent: str,
        metrics: Mapping[str, Any],
        corrections: Sequence[str],
        decision: str,
    ) -> ModelVersion:
        """Return the record of a version with these weights, as a published one."""
        # The number comes from the folders: a damaged record does not matter, and no number is given twice.
        number = 1 + max(map(_number, self._store.names(f"projects/{project_id}/versions")), default=0)
        return ModelVersion(
            name=f"v{number}-{hashlib.sha256(content).hexdigest()[:8]}",
            project_id=project_id,
            parent=parent,
            bundle=self.base_version,
            encoder=encoder,
            created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            published=True,
            decision=decision,
            metrics=metrics,
            corrections=tuple(corrections),
        )

    def _record(self, version: ModelVersion) -> ModelVersion:
        self._write_json(f"{self._folder(version.project_id, version.name)}/version.json", asdict(version))
        return version

    def _move_pointer(self, pointer: Mapping[str, Any], project_id: int, name: str, *, by: str) -> None:
        """Let a version serve in the place of that of the pointer."""
        if pointer["version"] != name:
            self._write_pointer(pointer, project_id, name, [*pointer["before"], pointer["version"]], by)
        elif "damage" in pointer:
            self._write_pointer(pointer, project_id, name, pointer["before"], by)

    def _write_pointer(
        self, pointer: Mapping[str, Any], project_id: int, name: str, before: list[str], by: str
    ) -> None:
        path = f"projects/{project_id}/serving.json"
        if "damage" in pointer and (damaged := self._store.read(path)):
            self._store.write(f"projects/{project_id}/serving.damaged.json", damaged)  # nothing is thrown away
        promoted = [str(chosen) for chosen in pointer.get("promoted", [])]
        if by != BY_RETRAINING and name not in promoted:
            promoted.append(name)
        self._write_json(
            path,
            {
                "version": name,
                "bundle": self.base_version,
                "before": before[-REMEMBERED_POINTERS:],
                "promoted": promoted[-REMEMBERED_POINTERS:],
                "by": by,
                "since": datetime.now(UTC).isoformat(timespec="milliseconds"),
            },
        )

    def _pointer(self, project_id: int) -> dict[str, Any]:
        """Return the pointer. In the place of a damaged one, the newest version serves after all earlier ones."""
        try:
            return self._read_pointer(project_id)
        except ModelVersionError as problem:
            logger.warning("pointer is damaged project=%s problem=%s", project_id, problem)
            *before, version = [self.base_version, *self._published(project_id)]
            return {"version": version, "bundle": self.base_version, "before": before, "damage": str(problem)}

    def _read_pointer(self, project_id: int) -> dict[str, Any]:
        """Return the pointer as it is stored. A pointer that belongs to another bundle is ignored.

        Raises:
            ModelVersionError: it is damaged.
        """
        path = f"projects/{project_id}/serving.json"
        first: dict[str, Any] = {"version": self.base_version, "bundle": self.base_version, "before": []}
        if not self._store.exists(path):
            if self._published(project_id):
                raise ModelVersionError(f"{path} in the model store is missing")
            return first
        pointer = self._json(path)
        names = [pointer.get("version"), pointer.get("bundle")]
        names += [*_as_list(pointer.get("before")), *_as_list(pointer.get("promoted", []))]
        if not all(isinstance(name, str) for name in names):
            raise ModelVersionError(f"{path} in the model store is damaged: it names no version")
        return pointer if pointer["bundle"] == self.base_version else first

    def _published(self, project_id: int) -> list[str]:
        """Return the names of the published versions of this bundle, oldest first."""
        return [
            version.name
            for version in self.versions(project_id)
            if version.published and version.bundle == self.base_version
        ]

    def _version(self, path: str) -> ModelVersion:
        fields = self._json(path)
        try:
            read = {"metrics": dict(fields["metrics"]), "corrections": tuple(fields["corrections"])}
            version = ModelVersion(**(fields | read))
        except (KeyError, TypeError, ValueError) as cause:
            raise ModelVersionError(f"{path} in the model store is damaged: {cause!r}") from cause
        texts = [version.name, version.parent, version.bundle, version.encoder, version.created_at, version.decision]
        texts += _as_list(version.metrics.get("known_states", []))
        number = version.metrics.get("change_number", 0)
        is_right = isinstance(version.published, bool) and isinstance(number, int)
        if not is_right or not all(isinstance(text, str) for text in texts):
            raise ModelVersionError(f"{path} in the model store is damaged: a field has a wrong type")
        return version

    def _json(self, path: str) -> dict[str, Any]:
        content = self._store.read(path)
        try:
            fields = json.loads(content or b"")
        except (ValueError, RecursionError) as cause:
            raise ModelVersionError(f"{path} in the model store is missing or damaged") from cause
        if not isinstance(fields, dict):
            raise ModelVersionError(f"{path} in the model store is damaged: it holds no object")
        return fields

    def _write_json(self, path: str, fields: Mapping[str, Any]) -> None:
        self._store.write(path, json.dumps(fields, ensure_ascii=False, indent=1).encode())

    @staticmethod
    def _folder(project_id: int, name: str) -> str:
        return f"projects/{project_id}/versions/{name}"


def _weights_of(candidate: "TorchCaptioner") -> bytes:
    """Return the weights of a candidate as they are stored."""
    return bytes(save({name: values.detach().numpy() for name, values in candidate.decoder.state_dict().items()}))


def _as_list(value: Any) -> list[Any]:
    """Return a list as it is, and anything else as a list that holds no name."""
    return value if isinstance(value, list) else [None]


def _number(name: str) -> int:
    """Return the number of a version's retraining; 0 for a folder that is not a version."""
    number = name.removeprefix("v").partition("-")[0]
    return int(number) if number.isdecimal() else 0
