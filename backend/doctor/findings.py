"""The finding of one check of `captioner doctor`."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    name: str
    ok: bool
    message: str
    remedy: str | None = None
    """The way to repair it; also advice where nothing is wrong."""
    repaired: bool = False
    """True if `--repair` has just repaired it; `ok` is then true too."""

    def __str__(self) -> str:
        mark = "repaired" if self.repaired else "ok" if self.ok else "WRONG"
        advice = f" -> {self.remedy}" if self.remedy else ""
        return f"{mark:<9}{self.name}: {self.message}{advice}"
