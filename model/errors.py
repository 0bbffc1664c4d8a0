"""The errors of the captioner, sorted by whose matter each is.

CaptionerError
├── SettingsError         the operator's: the process stops at start
├── RequestError          the caller's: a request's body lacks a key or holds a wrong type
├── LabelConfigError      the project owner's: the labeling config cannot be captioned
├── TaskError             this task gets an empty prediction, the batch goes on
│   └── ImageError        its image cannot be had or read
├── CorrectionError       this annotation is not stored
├── CaptionFileError      a captions file for training or evaluation cannot be read
├── StoreError            the model store cannot be read or written
├── ModelVersionError     a version is unknown, damaged or made for another bundle
│   ├── BundleError       a bundle is missing, damaged or does not fit together
│   └── VersionChoiceError  a person chose a version that cannot serve
├── JobError              a job is in no state for what a person asked of it
├── TrainingError         nothing is published, the current version keeps serving
├── LabelStudioError      Label Studio cannot be reached or refuses
└── ServiceError          a process of the product did not start (demo, tests)
"""

from typing import Literal

ImageProblem = Literal["absent", "address", "unreachable", "refused", "missing", "slow", "large", "unreadable"]
"""Why an image cannot be had, in one word, for counting; `absent` where the task names none."""


class CaptionerError(Exception):
    """Something a person can mend; the message says what was wrong, what was expected and the way out."""


class SettingsError(CaptionerError):
    """A setting has a value that cannot work."""


class RequestError(CaptionerError):
    """A request's body lacks a key or holds a wrong type; the message names the key."""


class LabelConfigError(CaptionerError):
    """The labeling config has no TextArea that describes an Image."""


class TaskError(CaptionerError):
    """One task cannot be captioned."""

    reason: ImageProblem = "absent"


class ImageError(TaskError):
    """An image cannot be fetched or decoded."""

    def __init__(self, message: str, reason: ImageProblem = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason


class CorrectionError(CaptionerError):
    """An annotation cannot be understood as a correction."""


class CaptionFileError(CaptionerError):
    """A captions file is missing or not in a known format."""


class StoreError(CaptionerError):
    """The model store cannot be read or written."""


class ModelVersionError(CaptionerError):
    """A model version is unknown, damaged, or belongs to another bundle."""


class BundleError(ModelVersionError):
    """A bundle is missing, damaged, or its parts do not fit together."""


class VersionChoiceError(ModelVersionError):
    """A version that a person wants to serve is unknown, was refused, or is made for another encoder."""


class JobError(CaptionerError):
    """A job is in no state for what was asked of it, or unknown, or its project is paused."""


class TrainingError(CaptionerError):
    """A training cannot start or came to nothing."""


class LabelStudioError(CaptionerError):
    """Label Studio cannot be reached, refuses our token, or did not do what was asked."""


class ServiceError(CaptionerError):
    """A process of the product (Redis, backend, worker, Label Studio) did not start or ended early."""
