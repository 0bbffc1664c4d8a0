"""Sentences about images that a server does not give: the cause, as far as the answer shows it, and the way out.

No sentence has a password or the query of an address, because queries hold signatures.
"""

import re
from dataclasses import dataclass
from urllib.parse import parse_qs

from backend.images.label_studio_files import root_of_file
from model.errors import ImageProblem

ASK_DOCTOR = "`captioner doctor` says more"
STORAGES = "Settings > Cloud Storage of the project"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An answer that is no image."""

    image_ref: str
    """The value in the task's data."""
    status: int
    detail: str
    """The beginning of the answer. It is read for known words, and never quoted."""
    is_file: bool
    """Label Studio was asked for one of its files."""
    at_label_studio: bool
    is_signed: bool
    """Label Studio sent us on to an address that it signed."""
    has_key: bool

    @property
    def reason(self) -> ImageProblem:
        if self.status in {401, 403} and not (self.is_signed and "NoSuchKey" in self.detail):
            return "refused"
        # Label Studio answers 500 for an upload that it does not know, and 424 where its storage fails.
        return "missing" if self.status in {404, 410, 424, 500} else "unreachable"

    @property
    def sentence(self) -> str:
        """Return what happened; the cause follows a colon where it is known."""
        cause = self._cause()
        return f"{shown(self.image_ref)} answered {self.status}" + (f": {cause}" if cause else "")

    def _cause(self) -> str:
        if self.is_signed:
            return self._cause_of_storage()
        if self.is_file and self.status in {401, 403}:
            return self._cause_of_refusal()
        if self.is_file and self.status in {404, 410, 424, 500}:
            return self._cause_of_absence()
        if self.at_label_studio and self.status in {401, 403, 404}:
            return "Label Studio has no images at this path" if root_of_file(self.image_ref) is None else ""
        return ""

    def _cause_of_refusal(self) -> str:
        if not self.has_key:
            return "Label Studio shows its files to users only, and LABEL_STUDIO_API_KEY is not set"
        if self.status == 401:
            return f"Label Studio refuses LABEL_STUDIO_API_KEY, {ASK_DOCTOR}"
        if "LOCAL_FILES_SERVING_ENABLED" in self.detail:
            return "start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true"
        return "the user of LABEL_STUDIO_API_KEY may not see the project of this file"

    def _cause_of_absence(self) -> str:
        if "local-files" in self.image_ref:
            return (
                "Label Studio has no such file, or no local files storage covers its folder in a project that the "
                f"user of LABEL_STUDIO_API_KEY may see ({STORAGES})"
            )
        if "/data/" in self.image_ref:
            return "Label Studio has no such file; it was deleted, or the task came from another Label Studio"
        if self.status == 424:
            return self._cause_of_storage()
        return f"no storage covers this address, or it cannot sign one ({STORAGES})"

    def _cause_of_storage(self) -> str:
        if self.status in {404, 410} or re.search(r"NoSuchKey|Not Found|not exist|\b404\b", self.detail, re.IGNORECASE):
            return "the file is missing in its storage"
        if self.status in {400, 401, 403}:
            return (
                "the storage refuses the address that Label Studio signed; the file is missing there, or the "
                f"credentials may not read it ({STORAGES})"
            )
        return f"the storage did not give the file to Label Studio, whose log says why ({STORAGES})"


def about_addresses(image_ref: str, public_address: str | None) -> str:
    """Return advice about an address that may be a file of Label Studio, but that none of its known addresses covers.

    Args:
        image_ref: the value in the task's data.
        public_address: the address for browsers that Label Studio named; None if it named none.
    """
    root = root_of_file(image_ref)
    if root is None or (image_ref.startswith("/") and not root):
        return ""
    named = f"now it names {public_address.rstrip('/')}" if public_address else "it has named no address yet"
    if root.startswith("/"):
        return (
            f". Neither LABEL_STUDIO_URL nor the address that Label Studio names has the sub-path {root}: start Label "
            f"Studio with LABEL_STUDIO_HOST=http(s)://<its public host>{root}, and open a project once; {named}"
        )
    return (
        f". If this is a file of Label Studio: start Label Studio with LABEL_STUDIO_HOST={root}, and open a project "
        f"once ({named}); it is then fetched at LABEL_STUDIO_URL, with the key"
    )


def shown(image_ref: str) -> str:
    """Return an image address for logs and replies: short, and without passwords and signatures."""
    if image_ref[:5].lower() == "data:":
        return image_ref.partition(",")[0][:60] + ",..."
    address, _, query = image_ref.partition("#")[0].partition("?")
    if re.search(r"/data/local-files/?$", address):
        names = parse_qs(query).get("d", [])
        address += f"?d={names[0]}" if names else ""
    address = re.sub(r"//[^/@]*@", "//", address)
    return address if len(address) <= 200 else address[:200] + "..."
