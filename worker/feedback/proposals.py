"""The decision on what an annotator was shown, and what they made of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from model.metrics.scores import word_edits
from model.metrics.words import Words, metric_words
from worker.feedback.edit_kinds import edit_kinds
from worker.feedback.record import Arm, Correction, Feedback, Outcome, Submission
from worker.feedback.suggestions import Suggestion, shown_suggestions

REWRITTEN_BELOW = 0.5
"""A caption that keeps a smaller share of our words than this, in whatever order, is rewritten and not edited."""
COMPARED_CHARACTERS = 2000
"""Later characters are not compared, because a webhook has one second."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Our suggestion for one control of one task."""

    arm: Arm
    caption: str | None = None
    """The one that stood in the field."""
    model_version: str | None = None
    captions: tuple[str, ...] = ()
    """Of this version, best first; at least one unless the arm is `none`."""
    generation: int | None = None
    """Of the memory that chose them."""
    like: tuple[str, ...] = ()
    """Names of the corrections that spoke for the best one."""
    score: float | None = None
    """Of the best one."""
    image_key: str | None = None


def find_proposal(
    submission: Submission, suggestions: Sequence[Suggestion], named: Suggestion | None = None
) -> Proposal:
    """Return what the annotator was shown, or what was withheld.

    Args:
        submission: what the annotator left in the field.
        suggestions: for its control, task and image, newest first; withheld ones among them.
        named: the suggestion that Label Studio says stood in the field.
    """
    was_prefilled = submission.prefilled is not None or submission.origin in {"prediction", "prediction-changed"}
    shown = shown_suggestions(suggestions, was_prefilled=was_prefilled)
    if named is not None:
        shown = [named, *shown]
    # An accepted caption or an untouched skip may be an older suggestion than the newest.
    text = submission.prefilled
    if submission.origin in {"prediction", None} and submission.caption is not None:
        text = submission.caption
    proposed = next((suggestion for suggestion in shown if suggestion.caption == text), None)
    image_key = suggestions[0].image_key or None if suggestions else None
    if proposed is None and _is_by_script(submission):
        return Proposal(arm="none", image_key=image_key)
    if proposed is None and shown:
        proposed = shown[0]
    if proposed is not None:
        return _shown(proposed, suggestions)
    if submission.prefilled is not None or submission.origin == "prediction":
        # Our suggestion is forgotten, because Redis was lost. Only Label Studio's hint is left.
        forgotten = submission.prefilled or submission.caption or ""
        return Proposal(arm="shown", caption=forgotten, captions=(forgotten,), image_key=image_key)
    if suggestions and suggestions[0].withheld:
        best = suggestions[0]
        return Proposal(
            arm="withheld",
            model_version=best.model_version,
            captions=(best.caption,),
            generation=best.generation,
            like=best.like,
            score=best.score,
            image_key=image_key,
        )
    return Proposal(arm="none", image_key=image_key)


def judge(submission: Submission, proposal: Proposal) -> Feedback:
    """Return what the annotator made of our suggestion."""
    outcome = _outcome(submission, proposal)
    best = proposal.captions[0] if proposal.captions else None
    compared = None if best is None or submission.caption is None else (words(best), words(submission.caption))
    record = Feedback if submission.caption is None else Correction
    return record(
        **vars(submission),
        image_key=proposal.image_key,
        proposed=proposal.caption,
        arm=proposal.arm,
        model_version=proposal.model_version,
        suggestion=best,
        generation=proposal.generation,
        like=proposal.like,
        score=proposal.score,
        outcome=outcome,
        word_edits=None if compared is None else word_edits(*compared),
        kinds=edit_kinds(*compared) if compared is not None and outcome == "edited" else (),
    )


@lru_cache(maxsize=64)
def words(caption: str) -> Words:
    """Return the words of a caption that are compared and counted."""
    return metric_words(caption[:COMPARED_CHARACTERS])


def _is_by_script(submission: Submission) -> bool:
    """Say whether a caption came by an import or by Label Studio's API, so that nobody saw a suggestion before.

    The page of Label Studio always says where a text comes from, and how long the annotator took.
    """
    if submission.caption is None or submission.origin in {"prediction", "prediction-changed"}:
        return False
    return submission.origin is None or submission.lead_time_s is None


def _shown(proposed: Suggestion, suggestions: Sequence[Suggestion]) -> Proposal:
    made_by = (proposed.model_version, proposed.generation)
    same = [shown for shown in suggestions if (shown.model_version, shown.generation) == made_by and not shown.withheld]
    return Proposal(
        arm="shown",
        caption=proposed.caption,
        model_version=proposed.model_version,
        captions=tuple(suggestion.caption for suggestion in same) or (proposed.caption,),
        generation=proposed.generation,
        like=same[0].like if same else (),
        score=same[0].score if same else None,
        image_key=proposed.image_key or None,
    )


def _outcome(submission: Submission, proposal: Proposal) -> Outcome:
    if submission.caption is None:
        return "skipped"
    if proposal.arm != "shown":
        return "written"
    best, *alternatives = proposal.captions
    if submission.caption == best:
        return "accepted"
    if submission.caption in alternatives:
        return "alternative"
    before, after = words(best), words(submission.caption)
    kept_share = (Counter(before) & Counter(after)).total() / len(before) if before else 0.0
    return "rewritten" if kept_share < REWRITTEN_BELOW else "edited"
