"""The scores of a captioner before and after a change, on the same images."""

from dataclasses import dataclass

from model.metrics.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two evaluations on the same images."""

    before: Evaluation
    after: Evaluation

    @property
    def is_better(self) -> bool:
        """True if CIDEr-D rose: of these metrics it agrees best with people (Vedantam et al. 2015,
        https://arxiv.org/abs/1411.5726)."""
        return self.after.metrics.cider_d > self.before.metrics.cider_d

    @property
    def same_captions(self) -> int:
        """Number of images whose caption is the same, word for word."""
        pairs = zip(self.before.captions, self.after.captions, strict=True)
        return sum(before.caption == after.caption for before, after in pairs)

    def scores(self) -> list[tuple[str, float, float]]:
        """Return name, score before and score after, in per cent; a score that cannot be computed here counts as 0."""
        before = dict(self.before.scores())
        return [(name, 100 * (before[name] or 0.0), 100 * (after or 0.0)) for name, after in self.after.scores()]

    def table(self) -> str:
        """Return the metrics as lines for a terminal, in per cent as papers print them, and a verdict in words."""
        before, after = self.before.metrics, self.after.metrics
        rows = [
            *self.scores(),
            ("words to edit", before.word_edits, after.word_edits),
            ("none to edit", 100 * before.unedited, 100 * after.unedited),
        ]
        head = f"{self.before.version} before, on {after.images} held-out images, and after training"
        columns = f"  {'':14} {'before':>8} {'after':>8} {'change':>8}"
        return "\n".join([head, columns, *(score_row(*row) for row in rows), self._verdict()])

    def _verdict(self) -> str:
        not_better = ", ".join(name for name, before, after in self.scores() if after <= before)
        if not self.is_better:
            return f"not better than before in {not_better}: go on with {self.before.version}, or give more captions"
        return f"better, but not in {not_better}" if not_better else "better in every score"


def score_row(name: str, before: float, after: float, widths: tuple[int, int] = (14, 8)) -> str:
    """Return one line of a table of scores before and after."""
    first, column = widths
    return f"  {name:{first}} {before:{column}.1f} {after:{column}.1f} {after - before:+8.1f}"
