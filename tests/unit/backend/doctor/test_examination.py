"""Findings of the doctor on the store, the model and Label Studio; Redis is in tests/integration."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from backend.doctor import examination
from backend.doctor.findings import Finding
from backend.doctor.label_studio import check_label_studio
from backend.label_studio.public_address import PublicAddress
from tests.factories import write_bundle
from tests.fake_label_studio import GUARDED, LEGACY_TOKEN, FakeLabelStudio, Reply
from tests.image_server import png
from worker.settings import Settings

BACKEND = "http://127.0.0.1:9090"
Examine = Callable[..., dict[str, Finding]]
IMAGE = "/data/upload/1/0a1b2c3d-dog.png"
CONFIG = """<View><Image name="image" value="$captioning"/>
<TextArea name="caption" toName="image" editable="true"/></View>"""


@pytest.fixture
def healthy(label_studio: FakeLabelStudio, redis: Redis) -> FakeLabelStudio:
    """A Label Studio with one connected project, in which all is well."""
    label_studio.add_project(title="Dogs", label_config=CONFIG)
    label_studio.connect_ours(1, redis)
    label_studio.files[IMAGE] = png()
    label_studio.add_task(1, {"captioning": IMAGE}, id=15)
    return label_studio


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def examine(healthy: FakeLabelStudio, redis_url: str, tmp_path: Path) -> Examine:
    """Return a function that returns the findings on Label Studio's side by name."""

    def examine(*, repair: bool = False, **changes: Any) -> dict[str, Finding]:
        values: dict[str, Any] = {
            "label_studio_url": healthy.url,
            "label_studio_api_key": LEGACY_TOKEN,
            "model_store": str(tmp_path),
            "redis_url": redis_url,
        }
        settings = Settings(**values | changes)
        return {finding.name: finding for finding in check_label_studio(settings, repair=repair)}

    return examine


def test_a_healthy_installation_is_found_in_order(examine: Examine, healthy: FakeLabelStudio) -> None:
    findings = examine()

    assert all(finding.ok for finding in findings.values())
    assert {name: finding.message for name, finding in findings.items()} == {
        "Label Studio": f"1.23.2 answers at {healthy.url}/",
        "API key": "the legacy token of demo@example.com is accepted",
        "guard of backend addresses": "accepts the address of this backend",
        "guard of webhook addresses": "accepts the address of this backend",
        "project 1 (Dogs), backend": "connected, uses version v1",
        "project 1 (Dogs), webhook": "reports every annotation",
        "project 1 (Dogs), prelabeling": "tasks are prelabeled by 'captioner'",
        "project 1 (Dogs), labeling config": "captions are written into caption",
        "project 1 (Dogs), images": "the image of task 15 has 64 x 48 pixels",
    }
    assert all(finding.remedy is None for finding in findings.values())


def test_a_version_of_label_studio_that_nobody_tried_is_named(examine: Examine, healthy: FakeLabelStudio) -> None:
    healthy.prepare("GET", "/api/version", Reply(body={"release": "1.17.0"}))

    finding = examine()["Label Studio"]

    assert finding.ok
    assert (finding.remedy or "").startswith("this captioner was tried with Label Studio 1.18, 1.20, 1.22, 1.23")


def test_text_areas_without_captions_are_named(examine: Examine, healthy: FakeLabelStudio) -> None:
    notes = '<TextArea name="notes" toName="image"/></View>'
    healthy.projects[1]["label_config"] = healthy.projects[1]["label_config"].replace("</View>", notes)

    finding = examine()["project 1 (Dogs), labeling config"]

    assert "TextArea 'notes' is not taken for a caption because of its name" in (finding.remedy or "")


def test_a_missing_api_key_is_named_with_what_it_costs(examine: Examine) -> None:
    [finding] = examine(label_studio_api_key=None).values()

    assert not finding.ok
    assert "LABEL_STUDIO_API_KEY is not set" in finding.message
    assert "personal access token" in (finding.remedy or "")


def test_a_refused_api_key_is_named(examine: Examine, healthy: FakeLabelStudio) -> None:
    healthy.allows_legacy_tokens = False

    finding = examine()["API key"]

    assert not finding.ok
    assert "legacy token authentication has been disabled for this organization" in finding.message


def test_an_unreachable_label_studio_is_named(examine: Examine) -> None:
    [finding] = examine(label_studio_url="http://127.0.0.1:1").values()

    assert not finding.ok
    assert "cannot be reached at http://127.0.0.1:1/" in finding.message


@pytest.mark.parametrize("guarded", ["backend", "webhook"])
def test_each_address_guard_is_named_with_the_way_out(examine: Examine, healthy: FakeLabelStudio, guarded: str) -> None:
    healthy.guards_backends, healthy.guards_webhooks = guarded == "backend", guarded == "webhook"

    findings = examine()

    name = f"guard of {guarded} addresses"
    assert [name for name, finding in findings.items() if not finding.ok] == [name]
    assert GUARDED in findings[name].message
    assert "ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false" in (findings[name].remedy or "")


def test_without_a_connection_the_doctor_says_where_to_connect(examine: Examine, healthy: FakeLabelStudio) -> None:
    healthy.backends.clear()

    finding = examine(port=9091)["projects"]

    assert not finding.ok
    assert "Settings > Model > Connect Model" in (finding.remedy or "")
    assert "9091" in (finding.remedy or "")


def test_a_backend_that_lacks_its_login_in_label_studio_is_named(examine: Examine, healthy: FakeLabelStudio) -> None:
    healthy.backends[1]["readable_state"] = "Error"

    findings = examine(basic_auth_user="label", basic_auth_pass="studio")

    assert "Basic authentication" in (findings["project 1 (Dogs), backend"].remedy or "")


def test_a_webhook_without_our_login_is_named_and_repaired(examine: Examine, healthy: FakeLabelStudio) -> None:
    login: dict[str, Any] = {"basic_auth_user": "label", "basic_auth_pass": "studio"}

    before = examine(**login)["project 1 (Dogs), webhook"]
    repaired = examine(repair=True, **login)["project 1 (Dogs), webhook"]
    after = examine(**login)["project 1 (Dogs), webhook"]

    assert (before.ok, before.repaired) == (False, False)
    assert before.remedy == "captioner doctor --repair"
    assert (repaired.ok, repaired.repaired) == (True, True)
    assert (after.ok, after.repaired) == (True, False)
    assert healthy.webhooks[1]["headers"] == {"Authorization": "Basic bGFiZWw6c3R1ZGlv"}
    assert "studio" not in str(before) + str(repaired)


def test_a_missing_webhook_is_created(examine: Examine, healthy: FakeLabelStudio) -> None:
    healthy.webhooks.clear()

    repaired = examine(repair=True)["project 1 (Dogs), webhook"]

    assert repaired.repaired
    assert [webhook["url"] for webhook in healthy.webhooks.values()] == [f"{BACKEND}/webhook"]


def test_a_webhook_that_label_studio_refuses_stays_wrong_and_names_the_guards(
    examine: Examine, healthy: FakeLabelStudio
) -> None:
    healthy.webhooks.clear()
    healthy.guards_webhooks = True

    finding = examine(repair=True)["project 1 (Dogs), webhook"]

    assert not finding.ok
    assert "SSRF_PROTECTION_ENABLED=false" in (finding.remedy or "")


@pytest.mark.parametrize(
    "changes", [{"model_version": ""}, {"model_version": "v0"}, {"show_collab_predictions": False, "model_version": ""}]
)
def test_prelabeling_by_something_else_is_named_and_repaired(
    examine: Examine, healthy: FakeLabelStudio, changes: dict[str, Any]
) -> None:
    healthy.projects[1] |= changes

    before = examine()["project 1 (Dogs), prelabeling"]
    repaired = examine(repair=True)["project 1 (Dogs), prelabeling"]
    after = examine()["project 1 (Dogs), prelabeling"]

    assert (before.ok, repaired.repaired, after.ok) == (False, True, True)
    assert healthy.projects[1]["model_version"] == "captioner"


def test_predictions_that_the_owner_chose_are_no_fault(examine: Examine, healthy: FakeLabelStudio) -> None:
    task_id = healthy.add_task(1, {"image": "/data/upload/1/a.png"})
    healthy.add_prediction(task_id, "an imported caption", "gpt-caps")
    healthy.projects[1] |= {"model_version": "gpt-caps"}

    finding = examine(repair=True)["project 1 (Dogs), prelabeling"]

    assert (finding.ok, finding.repaired) == (True, False)
    assert finding.message.startswith("your choice: annotators see the predictions of 'gpt-caps'")
    assert healthy.projects[1]["model_version"] == "gpt-caps"


def test_a_second_backend_that_label_studio_never_asks_is_named(
    examine: Examine, healthy: FakeLabelStudio, redis: Redis
) -> None:
    healthy.backends[1] |= {"title": "theirs", "url": "http://127.0.0.1:9292"}
    healthy.connect_backend(1, BACKEND, title="ours")

    finding = examine()["project 1 (Dogs), prelabeling"]

    assert not finding.ok
    assert "asks only the first backend of a project, 'theirs'" in finding.message


@pytest.mark.parametrize("version", ["v1", "photos-41ee6c07"])
def test_a_project_of_another_backend_is_left_alone(
    examine: Examine, healthy: FakeLabelStudio, redis_url: str, version: str
) -> None:
    login: dict[str, Any] = {"basic_auth_user": "label", "basic_auth_pass": "studio"}
    healthy.setup_answers[BACKEND] = lambda _: version
    healthy.projects[1] |= {"model_version": ""}

    findings = examine(repair=True, **login)

    assert [name for name in findings if name.startswith("project 1")] == []
    assert findings["projects"].message == "none of the 1 projects has this captioner connected"
    assert (healthy.webhooks[1]["headers"], healthy.projects[1]["model_version"]) == ({}, "")


def test_a_silent_backend_of_a_project_that_was_never_ours_is_no_fault_of_ours(
    examine: Examine, healthy: FakeLabelStudio
) -> None:
    healthy.add_project(id=2, title="Cats", label_config=CONFIG)
    healthy.connect_backend(2, "http://127.0.0.1:9191", readable_state="Disconnected")

    finding = examine()["project 2 (Cats), backend"]

    assert finding.ok
    assert finding.message == "Label Studio shows Disconnected for http://127.0.0.1:9191"


def test_two_installations_in_one_project_keep_their_own_webhooks(examine: Examine, healthy: FakeLabelStudio) -> None:
    healthy.connect_backend(1, "http://127.0.0.1:9191")
    healthy.setup_answers["http://127.0.0.1:9191"] = lambda _: "v1"

    examine(repair=True, basic_auth_user="label", basic_auth_pass="studio")

    assert {hook["url"]: hook["headers"] for hook in healthy.webhooks.values()} == {
        f"{BACKEND}/webhook": {"Authorization": "Basic bGFiZWw6c3R1ZGlv"},
        "http://127.0.0.1:9191/webhook": {},
    }


def test_without_redis_the_doctor_says_why_nothing_is_examined(examine: Examine) -> None:
    finding = examine(redis_url="redis://127.0.0.1:1/0")["projects"]

    assert not finding.ok
    assert "because Redis does not answer" in finding.message


def test_a_labeling_config_without_captions_is_named(examine: Examine, healthy: FakeLabelStudio) -> None:
    healthy.projects[1]["label_config"] = '<View><Text name="t" value="$t"/></View>'

    finding = examine()["project 1 (Dogs), labeling config"]

    assert not finding.ok
    assert "Image Captioning" in (finding.remedy or "")


def test_a_text_area_that_cannot_be_edited_in_place_gets_advice(examine: Examine, healthy: FakeLabelStudio) -> None:
    healthy.projects[1]["label_config"] = CONFIG.replace(' editable="true"', "")

    finding = examine()["project 1 (Dogs), labeling config"]

    assert finding.ok
    assert 'editable="true"' in (finding.remedy or "")


def test_an_image_that_label_studio_does_not_have_is_named(examine: Examine, healthy: FakeLabelStudio) -> None:
    healthy.files.clear()

    finding = examine()["project 1 (Dogs), images"]

    assert not finding.ok
    assert finding.message.startswith("task 15: ")


def test_an_image_at_the_public_address_of_label_studio_is_read_or_the_setting_is_named(
    examine: Examine, healthy: FakeLabelStudio, redis: Redis
) -> None:
    healthy.add_task(1, {"captioning": f"http://localhost:1{IMAGE}"}, id=16)
    before = examine()["project 1 (Dogs), images"]

    PublicAddress(redis).note("http://localhost:1")
    after = examine()["project 1 (Dogs), images"]

    assert not before.ok
    assert "LABEL_STUDIO_HOST=http://localhost:1" in before.message
    assert before.remedy is None
    assert after.message == "the image of task 16 has 64 x 48 pixels"


def test_a_file_that_is_no_image_is_named(examine: Examine, healthy: FakeLabelStudio) -> None:
    healthy.files[IMAGE] = b"hello"

    assert "not an image" in examine()["project 1 (Dogs), images"].message


def test_a_finding_is_one_line() -> None:
    wrong = Finding(name="store", ok=False, message="cannot be written", remedy="set MODEL_STORE")
    repaired = Finding(name="webhook", ok=True, message="was missing", repaired=True)

    assert str(wrong) == "WRONG    store: cannot be written -> set MODEL_STORE"
    assert str(repaired) == "repaired webhook: was missing"


def lines_of(settings: Settings) -> tuple[int, list[str]]:
    lines: list[str] = []
    return examination.examine(settings, show=lines.append), lines


def test_the_exit_code_is_0_only_if_all_is_well(tmp_path: Path, bundle: Path) -> None:
    settings = Settings(
        redis_url="redis://127.0.0.1:1/0", model_store=str(tmp_path / "store"), caption_bundle=str(bundle)
    )

    code, lines = lines_of(settings)

    assert code == 1
    assert lines[0].startswith("WRONG    Redis: redis://127.0.0.1:1/0 does not answer")
    assert lines[1] == f"ok       store: {tmp_path / 'store'} can be read and written"
    assert lines[2].startswith("ok       model: tiny-")
    assert lines[3].startswith("WRONG    Label Studio: LABEL_STUDIO_API_KEY is not set")


def test_a_store_that_cannot_be_written_and_a_bundle_that_is_missing_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")

    settings = Settings(
        redis_url="redis://127.0.0.1:1/0", model_store=str(tmp_path / "file" / "store"), caption_bundle="nonesuch"
    )
    _, lines = lines_of(settings)

    assert lines[1].startswith("WRONG    store: cannot write")
    assert lines[2].startswith("WRONG    model: no bundle at 'nonesuch'")
