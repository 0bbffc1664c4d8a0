"""What a check of `captioner doctor` found."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    name: str
    ok: bool
    message: str
    remedy: str | None = None
    """How a person mends it; also advice where nothing is wrong."""
    repaired: bool = False
    """Whether `--repair` mended it just now; `ok` is then true."""

    def __str__(self) -> str:
        mark = "mended" if self.repaired else "ok" if self.ok else "WRONG"
        advice = f" -> {self.remedy}" if self.remedy else ""
        return f"{mark:<7}{self.name}: {self.message}{advice}"
