"""What a check found: one statement, how sure it is, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One finding of a scene check.

    Attributes:
        topic: what was looked at: "up", "scale", "outliers", "rows", "render mode", "cameras", "coverage", "kind".
        severity: "ok" (as it should be), "note" (was brought in order), "warning" (results will suffer), "error" (the
            scene cannot be used).
        what: the finding in a sentence.
        confidence: 0 to 1.
        advice: what to do, in a sentence; "" where there is nothing to do.
    """

    topic: str
    severity: Severity
    what: str
    confidence: float = 1.0
    advice: str = ""

    def line(self) -> str:
        """The finding on one line, as programs print it."""
        sure = "" if self.confidence >= 0.995 else f" ({self.confidence:.0%} sure)"
        return f"{self.severity}: {self.topic}: {self.what}{sure}" + (f"; {self.advice}" if self.advice else "")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
