"""Counts the captions of 1,000 unseen drawn scenes that state no wrong fact.

python -m tests.benchmarks.bench_scenes
"""

import json
import time

from model.bundle import load_bundle
from model.decoders.search import DecodingOptions
from recipes.scenes.scene_evaluation import FactReport, caption_facts

SCENES = 1000
BAR = 0.95


def main() -> None:
    bundle = load_bundle("scenes")
    started = time.monotonic()
    report = caption_facts(bundle.captioner(), SCENES, options=DecodingOptions(beam_size=3))
    print(table(report, bundle.version, time.monotonic() - started))
    holds = report.correct >= BAR
    print(json.dumps({"bars": {"scenes_fact_correct": {"value": report.correct, "bar": BAR, "holds": holds}}}))


def table(report: FactReport, version: str, seconds: float) -> str:
    rows = [
        ("no wrong fact", f"{report.correct:.1%}"),
        ("no wrong fact, every group named", f"{report.complete:.1%}"),
        *(
            (f"no wrong fact, {n} group(s) in the scene", f"{share:.1%}")
            for n, share in report.correct_by_groups.items()
        ),
        *((f"wrong facts of kind {kind}", str(count)) for kind, count in sorted(report.wrong_kinds.items())),
        ("seconds, drawing included", f"{seconds:.0f}"),
    ]
    lines = [f"{version}, {report.scenes} unseen scenes, beam 3", *(f"  {name:<40} {value:>8}" for name, value in rows)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
