"""What the doctor says of the store, the model, and of Label Studio as recorded; Redis is in tests/integration."""

import io
from pathlib import Path
from typing import Any

import pytest
from requests_mock import Mocker

from backend.doctor import examination
from backend.doctor.findings import Finding
from backend.doctor.label_studio import check_label_studio
from model.bundle import bundle_version
from tests.factories import make_image, write_bundle
from worker.settings import Settings

LS = "http://label-studio.test"
BACKEND = "http://backend.test:9090"
IMAGE = "/data/upload/1/0a1b2c3d-dog.png"
CONFIG = """<View><Image name="image" value="$captioning"/>
<TextArea name="caption" toName="image" editable="true"/></View>"""
GUARDED = "URL resolves to a reserved network address (block: 127.0.0.0/8)"


def png() -> bytes:
    file = io.BytesIO()
    make_image().save(file, "PNG")
    return file.getvalue()


class FakeLabelStudio:
    """A healthy Label Studio with one connected project; tests make it ill."""

    def __init__(self, mocker: Mocker) -> None:
        self.mocker = mocker
        self.project = {
            "id": 1,
            "title": "Dogs",
            "label_config": CONFIG,
            "model_version": "captioner",
            "show_collab_predictions": True,
        }
        self.backends = [self.backend()]
        self.webhooks = [self.webhook()]
        self.tasks: list[dict[str, Any]] = [{"id": 15, "data": {"captioning": IMAGE}}]
        self.patched = mocker.patch(f"{LS}/api/projects/1/", json=self._patch_project)
        mocker.get(f"{LS}/api/version/", json={"release": "1.23.2"})
        mocker.get(f"{LS}/api/current-user/whoami", json={"email": "owner@example.com"})
        mocker.get(f"{LS}/api/projects/", json=lambda *_: {"results": [self.project], "next": None})
        mocker.get(f"{LS}/api/ml", json=lambda *_: self.backends)
        mocker.get(f"{LS}/api/webhooks/", json=lambda *_: self.webhooks)
        mocker.get(f"{LS}/api/tasks", json=lambda *_: {"tasks": self.tasks, "total": len(self.tasks)})
        mocker.get(f"{LS}{IMAGE}", content=png())
        mocker.post(f"{LS}/api/ml/", status_code=400, json={"detail": "Validation error"})
        mocker.post(f"{LS}/api/webhooks/", status_code=400, json={"detail": "Validation error"})
        self.mended = mocker.patch(f"{LS}/api/webhooks/3/", json=self.webhook())

    def _patch_project(self, request: Any, _context: Any) -> dict[str, Any]:
        self.project = self.project | request.json()
        return self.project

    @staticmethod
    def backend(**changes: Any) -> dict[str, Any]:
        values = {"id": 2, "url": BACKEND, "title": "captioner", "readable_state": "Connected", "model_version": "v1"}
        return values | {"auth_method": "NONE", "basic_auth_user": ""} | changes

    @staticmethod
    def webhook(**changes: Any) -> dict[str, Any]:
        values = {"id": 3, "url": f"{BACKEND}/webhook", "headers": {}, "is_active": True, "actions": []}
        return values | {"send_payload": True, "send_for_all_actions": True} | changes


@pytest.fixture
def label_studio(requests_mock: Mocker) -> FakeLabelStudio:
    return FakeLabelStudio(requests_mock)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


def examine(tmp_path: Path, *, repair: bool = False, **changes: Any) -> dict[str, Finding]:
    """Return the findings on Label Studio's side by name."""
    values: dict[str, Any] = {
        "label_studio_url": LS,
        "label_studio_api_key": "0" * 40,
        "model_store": str(tmp_path),
        "redis_url": "redis://127.0.0.1:1/0",
    }
    settings = Settings(**values | changes)
    return {finding.name: finding for finding in check_label_studio(settings, repair=repair)}


@pytest.mark.usefixtures("label_studio")
def test_a_healthy_installation_is_found_in_order(tmp_path: Path) -> None:
    findings = examine(tmp_path)

    assert all(finding.ok for finding in findings.values())
    assert {name: finding.message for name, finding in findings.items()} == {
        "Label Studio": "1.23.2 answers at http://label-studio.test/",
        "API key": "the legacy token of owner@example.com is accepted",
        "guard of backend addresses": "lets ours through",
        "guard of webhook addresses": "lets ours through",
        "project 1 (Dogs), backend": "connected, serves v1",
        "project 1 (Dogs), webhook": "reports every annotation",
        "project 1 (Dogs), prelabeling": "tasks are prelabeled by 'captioner'",
        "project 1 (Dogs), labeling config": "captions go into caption",
        "project 1 (Dogs), images": "task 15 has 64 x 48 pixels",
    }
    assert all(finding.remedy is None for finding in findings.values())


def test_a_missing_api_key_is_said_with_what_it_costs(tmp_path: Path) -> None:
    [finding] = examine(tmp_path, label_studio_api_key=None).values()

    assert not finding.ok
    assert "LABEL_STUDIO_API_KEY is not set" in finding.message
    assert "personal access token" in (finding.remedy or "")


def test_a_refused_api_key_is_said(tmp_path: Path, label_studio: FakeLabelStudio) -> None:
    said = "legacy token authentication has been disabled for this organization"
    label_studio.mocker.get(f"{LS}/api/current-user/whoami", status_code=401, json={"detail": said})

    finding = examine(tmp_path)["API key"]

    assert not finding.ok
    assert said in finding.message


def test_an_unreachable_label_studio_is_said(tmp_path: Path) -> None:
    [finding] = examine(tmp_path, label_studio_url="http://127.0.0.1:1").values()

    assert not finding.ok
    assert "cannot be reached at http://127.0.0.1:1/" in finding.message


@pytest.mark.parametrize(
    ("path", "name"), [("api/ml/", "guard of backend addresses"), ("api/webhooks/", "guard of webhook addresses")]
)
def test_each_address_guard_is_named_with_the_way_out(
    tmp_path: Path, label_studio: FakeLabelStudio, path: str, name: str
) -> None:
    label_studio.mocker.post(f"{LS}/{path}", status_code=403, json={"detail": GUARDED})

    findings = examine(tmp_path)

    assert [name for name, finding in findings.items() if not finding.ok] == [name]
    assert GUARDED in findings[name].message
    assert "ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false" in (findings[name].remedy or "")


def test_without_a_connection_the_doctor_says_where_to_connect(tmp_path: Path, label_studio: FakeLabelStudio) -> None:
    label_studio.backends = []

    finding = examine(tmp_path, port=9091)["projects"]

    assert not finding.ok
    assert "Settings > Model > Connect Model" in (finding.remedy or "")
    assert "9091" in (finding.remedy or "")


def test_a_backend_that_lacks_its_login_in_label_studio_is_said(tmp_path: Path, label_studio: FakeLabelStudio) -> None:
    label_studio.backends = [label_studio.backend(readable_state="Error")]

    findings = examine(tmp_path, basic_auth_user="label", basic_auth_pass="studio")

    assert "Basic authentication" in (findings["project 1 (Dogs), backend"].remedy or "")


def test_a_webhook_without_our_login_is_said_and_mended(tmp_path: Path, label_studio: FakeLabelStudio) -> None:
    login: dict[str, Any] = {"basic_auth_user": "label", "basic_auth_pass": "studio"}

    found = examine(tmp_path, **login)["project 1 (Dogs), webhook"]
    mended = examine(tmp_path, repair=True, **login)["project 1 (Dogs), webhook"]

    assert (found.ok, found.repaired) == (False, False)
    assert found.remedy == "captioner doctor --repair"
    assert (mended.ok, mended.repaired) == (True, True)
    [request] = label_studio.mended.request_history
    assert request.json()["headers"] == {"Authorization": "Basic bGFiZWw6c3R1ZGlv"}
    assert "studio" not in str(found) + str(mended)


def test_a_missing_webhook_is_created(tmp_path: Path, label_studio: FakeLabelStudio) -> None:
    label_studio.webhooks = []
    refused = {"status_code": 400, "json": {"detail": "Validation error"}}
    created = label_studio.mocker.post(
        f"{LS}/api/webhooks/", [refused, {"status_code": 201, "json": label_studio.webhook()}]
    )

    mended = examine(tmp_path, repair=True)["project 1 (Dogs), webhook"]

    assert mended.repaired
    assert created.request_history[-1].json()["url"] == f"{BACKEND}/webhook"


def test_a_webhook_that_label_studio_refuses_stays_wrong_and_names_the_guards(
    tmp_path: Path, label_studio: FakeLabelStudio
) -> None:
    label_studio.webhooks = []
    label_studio.mocker.post(f"{LS}/api/webhooks/", status_code=403, json={"detail": GUARDED})

    finding = examine(tmp_path, repair=True)["project 1 (Dogs), webhook"]

    assert not finding.ok
    assert "SSRF_PROTECTION_ENABLED=false" in (finding.remedy or "")


@pytest.mark.parametrize(
    "changes", [{"model_version": ""}, {"model_version": "v0"}, {"show_collab_predictions": False, "model_version": ""}]
)
def test_prelabeling_by_something_else_is_said_and_mended(
    tmp_path: Path, label_studio: FakeLabelStudio, changes: dict[str, Any]
) -> None:
    label_studio.project |= changes

    found = examine(tmp_path)["project 1 (Dogs), prelabeling"]
    mended = examine(tmp_path, repair=True)["project 1 (Dogs), prelabeling"]
    again = examine(tmp_path)["project 1 (Dogs), prelabeling"]

    assert (found.ok, mended.repaired, again.ok) == (False, True, True)
    assert label_studio.project["model_version"] == "captioner"


def test_a_second_backend_that_label_studio_never_asks_is_said(tmp_path: Path, label_studio: FakeLabelStudio) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    ours = label_studio.backend(id=5, title="ours", model_version=bundle_version(str(bundle)))
    label_studio.backends = [ours, label_studio.backend(id=2, title="theirs")]

    finding = examine(tmp_path, caption_bundle=str(bundle))["project 1 (Dogs), prelabeling"]

    assert not finding.ok
    assert "asks only the first backend of a project, 'theirs'" in finding.message


def test_a_labeling_config_without_captions_is_said(tmp_path: Path, label_studio: FakeLabelStudio) -> None:
    label_studio.project |= {"label_config": '<View><Text name="t" value="$t"/></View>'}

    finding = examine(tmp_path)["project 1 (Dogs), labeling config"]

    assert not finding.ok
    assert "Image Captioning" in (finding.remedy or "")


def test_a_text_area_that_cannot_be_edited_in_place_is_advised_upon(
    tmp_path: Path, label_studio: FakeLabelStudio
) -> None:
    label_studio.project |= {"label_config": CONFIG.replace(' editable="true"', "")}

    finding = examine(tmp_path)["project 1 (Dogs), labeling config"]

    assert finding.ok
    assert 'editable="true"' in (finding.remedy or "")


def test_an_image_that_cannot_be_had_is_said(tmp_path: Path, label_studio: FakeLabelStudio) -> None:
    label_studio.mocker.get(f"{LS}{IMAGE}", status_code=500)

    finding = examine(tmp_path)["project 1 (Dogs), images"]

    assert not finding.ok
    assert finding.message.startswith("task 15: ")


def test_an_image_that_is_none_is_said(tmp_path: Path, label_studio: FakeLabelStudio) -> None:
    label_studio.mocker.get(f"{LS}{IMAGE}", content=b"hello")

    assert "not an image" in examine(tmp_path)["project 1 (Dogs), images"].message


def test_a_finding_is_one_line() -> None:
    wrong = Finding(name="store", ok=False, message="cannot be written", remedy="set MODEL_STORE")
    mended = Finding(name="webhook", ok=True, message="was missing", repaired=True)

    assert str(wrong) == "WRONG  store: cannot be written -> set MODEL_STORE"
    assert str(mended) == "mended webhook: was missing"


def lines_of(settings: Settings) -> tuple[int, list[str]]:
    lines: list[str] = []
    return examination.examine(settings, show=lines.append), lines


def test_the_exit_code_is_0_only_if_all_is_well(tmp_path: Path, bundle: Path) -> None:
    settings = Settings(
        redis_url="redis://127.0.0.1:1/0", model_store=str(tmp_path / "store"), caption_bundle=str(bundle)
    )

    code, lines = lines_of(settings)

    assert code == 1
    assert lines[0].startswith("WRONG  Redis: redis://127.0.0.1:1/0 does not answer")
    assert lines[1] == f"ok     store: {tmp_path / 'store'} can be read and written"
    assert lines[2].startswith("ok     model: tiny-")
    assert lines[3].startswith("WRONG  Label Studio: LABEL_STUDIO_API_KEY is not set")


def test_a_store_that_cannot_be_written_and_a_bundle_that_is_missing_are_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")

    settings = Settings(
        redis_url="redis://127.0.0.1:1/0", model_store=str(tmp_path / "file" / "store"), caption_bundle="nonesuch"
    )
    _, lines = lines_of(settings)

    assert lines[1].startswith("WRONG  store: cannot write")
    assert lines[2].startswith("WRONG  model: no bundle at 'nonesuch'")
