"""The captioner's errors, sorted by the person or process that they concern.

CaptionerError
├── SettingsError         for the operator: the process does not start
├── RequestError          for the caller: a request's body lacks a key or has a wrong type
├── LabelConfigError      for the project owner: the labeling config cannot be captioned
├── TaskError             this task gets an empty prediction; the others continue
│   └── ImageError        its image cannot be fetched or decoded
├── CorrectionError       this annotation is not stored
├── CaptionFileError      a captions file for training or evaluation cannot be read
├── StoreError            the model store cannot be read or written
├── LayoutError           Redis or the model store holds data of a version that this one cannot read
├── ModelVersionError     a version is unknown, damaged or made for another bundle
│   ├── BundleError       a bundle is missing, damaged, or its parts do not fit
│   │   └── GraphError    ONNX Runtime cannot run it by the graphs that it carries
│   └── VersionChoiceError  a person chose a version that cannot serve
├── BusyError             a prediction has to be asked for again later, because too many wait
├── JobError              a job cannot be changed as requested in its state
├── TrainingError         nothing is published; the current version keeps serving
├── LabelStudioError      Label Studio cannot be reached or refuses a request
└── ServiceError          a process of the product did not start (demo, tests)
"""

from typing import Literal

ImageProblem = Literal["absent", "address", "unreachable", "refused", "missing", "slow", "large", "unreadable"]
"""Reason why an image is not available, in one word, for metrics; `absent` if the task names no image."""


class CaptionerError(Exception):
    """A problem that a person can solve. The message says what was wrong, what was expected and the way out."""


class SettingsError(CaptionerError):
    """A setting has a value that cannot be used."""


class RequestError(CaptionerError):
    """A request's body lacks a key or holds a wrong type; the message names the key."""


class LabelConfigError(CaptionerError):
    """The labeling config has no TextArea that describes an Image."""


class TaskError(CaptionerError):
    """One task cannot be captioned."""

    reason: ImageProblem = "absent"


class ImageError(TaskError):
    """An image cannot be fetched or decoded."""

    def __init__(self, message: str, reason: ImageProblem = "unreadable", *, without_content: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.without_content = without_content or message
        """The message without a part of the image, for whoever may name the address of an image and not read it."""


class CorrectionError(CaptionerError):
    """An annotation cannot be understood as a correction."""


class CaptionFileError(CaptionerError):
    """A captions file is missing or has no known format."""


class StoreError(CaptionerError):
    """The model store cannot be read or written."""


class LayoutError(CaptionerError):
    """Redis or the model store holds data in a layout that this version cannot read; nothing was changed."""


class ModelVersionError(CaptionerError):
    """A model version is unknown, damaged, or belongs to another bundle."""


class BundleError(ModelVersionError):
    """A bundle is missing, damaged, or its parts do not fit together."""


class GraphError(BundleError):
    """The graphs of a bundle are missing, damaged, out of date, or compute something else than torch."""


class VersionChoiceError(ModelVersionError):
    """A version that a person wants to serve is unknown, was refused, or needs another encoder."""


class BusyError(CaptionerError):
    """Too many predictions wait, so this one was not begun."""

    def __init__(self, sentence: str, retry_after_s: int) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class JobError(CaptionerError):
    """A job is unknown, its project is paused, or its state does not allow the request."""


class TrainingError(CaptionerError):
    """A training cannot start or gave no result."""


class LabelStudioError(CaptionerError):
    """Label Studio cannot be reached, refuses our token, or did not do what we requested."""


class ServiceError(CaptionerError):
    """A process of the product (Redis, backend, worker, Label Studio) did not start or ended early."""
