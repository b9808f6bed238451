"""Flows of tokens to draw."""

from collections import Counter

import numpy as np
import pandas as pd


def frame_of(*paths, texts=None):
    """The frame of a flow from full paths, and their stages "0", "1" and so on."""
    rows = []
    for stage in range(len(paths[0]) - 1):
        pairs = Counter((path[stage], path[stage + 1]) for path in paths)
        for (code, following), count in pairs.most_common():
            row = {"source": str(stage), "code": code, "target": str(stage + 1)}
            rows.append({**row, "next_code": following, "count": count})
    frame = pd.DataFrame(rows)
    if texts is not None:
        frame["text"] = [
            texts.get(c, "") if s == "0" else ""
            for s, c in zip(frame["source"], frame["code"], strict=True)
        ]
        frame["next_text"] = ""
    return frame.sort_values("count", ascending=False, kind="stable", ignore_index=True)


def noisy_flow() -> pd.DataFrame:
    """3,000 tokens over three stages of 40 codes; most keep their code."""
    generator = np.random.default_rng(0)
    first = generator.zipf(1.5, 3_000) % 40
    second = np.where(generator.random(3_000) < 0.7, first, generator.integers(0, 40, 3_000))
    third = np.where(generator.random(3_000) < 0.7, second, generator.integers(0, 40, 3_000))
    return frame_of(*zip(first.tolist(), second.tolist(), third.tolist(), strict=True))
