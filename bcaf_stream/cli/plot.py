"""The picture of a call: one lane for each channel or speaker, colour by emotion, opacity by confidence."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bcaf_stream.console import EMOTION_COLOURS, OTHER_COLOUR, who
from bcaf_stream.display import printable
from bcaf_stream.errors import SourceError
from bcaf_stream.events.event import Event
from bcaf_stream.events.progress import settled


def save_timeline(events: Sequence[Event], path: Path, title: str) -> None:
    """Draw the emotions of one call; the picture's format follows the suffix of `path`.

    Raises:
        SourceError: the picture cannot be written there.
    """
    figure = _draw(settled(events), title)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: the picture cannot be written: {error}") from None
    finally:
        plt.close(figure)


def _draw(spoken: Sequence[Event], title: str) -> Figure:
    lanes = list(dict.fromkeys(map(who, spoken)))
    plt.switch_backend("Agg")  # a file, never a window
    figure, axes = plt.subplots(figsize=(12, 1.6 + 0.9 * max(1, len(lanes))), layout="constrained")
    for event in spoken:
        start, end = (event.start_ms or 0) / 1000, (event.end_ms or 0) / 1000
        colour = EMOTION_COLOURS.get(event.emotion or "", OTHER_COLOUR)
        lane = lanes.index(who(event))
        alpha = 0.15 + 0.85 * (event.confidence or 0.0)
        axes.barh(lane, end - start, left=start, height=0.7, color=colour, alpha=alpha, linewidth=0)
    names = map(printable, lanes)
    axes.set_yticks(range(len(lanes)), names, parse_math=False)  # a $ in a name is no formula
    axes.set_ylim(len(lanes) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("time in the call (s)")
    axes.set_title(printable(title), loc="left", parse_math=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    seen = sorted({event.emotion for event in spoken if event.emotion})
    handles = [Patch(color=EMOTION_COLOURS.get(emotion, OTHER_COLOUR), label=emotion) for emotion in seen]
    if handles:
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
    else:
        axes.text(0.5, 0.5, "no speech", transform=axes.transAxes, ha="center", color="0.5")
    return figure
