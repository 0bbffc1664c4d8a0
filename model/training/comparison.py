"""One captioner before and after it learned more, on the same images."""

from dataclasses import dataclass

from model.metrics.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What it scored."""

    before: Evaluation
    after: Evaluation

    @property
    def is_better(self) -> bool:
        """CIDEr-D decides: of the metrics here it agrees best with people (Vedantam et al. 2015,
        https://arxiv.org/abs/1411.5726)."""
        return self.after.metrics.cider_d > self.before.metrics.cider_d

    def table(self) -> str:
        """Return the metrics as lines for a terminal, in per cent as papers print them, and in words what they say."""
        lines = [f"{self.before.version} before, on {self.after.metrics.images} held-out images, and after training"]
        lines.append(f"  {'':14} {'before':>8} {'after':>8} {'change':>8}")
        for name, was, became in self._rows():
            lines.append(f"  {name:14} {was:8.1f} {became:8.1f} {became - was:+8.1f}")
        return "\n".join([*lines, self._verdict()])

    def _rows(self) -> list[tuple[str, float, float]]:
        was, became = dict(self.before.scores()), dict(self.after.scores())
        rows = [(name, 100 * (was[name] or 0.0), 100 * (score or 0.0)) for name, score in became.items()]
        edits = (self.before.metrics.word_edits, self.after.metrics.word_edits)
        unedited = (100 * self.before.metrics.unedited, 100 * self.after.metrics.unedited)
        return [*rows, ("words to edit", *edits), ("none to edit", *unedited)]

    def _verdict(self) -> str:
        was, became = dict(self.before.scores()), dict(self.after.scores())
        not_better = [name for name in became if (became[name] or 0.0) <= (was[name] or 0.0)]
        if not self.is_better:
            return (
                f"not better than before in {', '.join(not_better)}: go on with {self.before.version}, or give more "
                "captions"
            )
        return f"better, but not in {', '.join(not_better)}" if not_better else "better in every score"
