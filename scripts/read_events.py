#!/usr/bin/env python3
"""Prints what TensorBoard's own reader finds in a folder of event files, as one JSON object.

With `pip install tensorboard`:  python3 scripts/read_events.py RUN/events
"""

import json
import sys

from tensorboard.backend.event_processing import event_accumulator
from tensorboard.backend.event_processing import plugin_event_accumulator

EVERYTHING = {"scalars": 0, "tensors": 0}


def scalars(folder):
    """By the reader that scripts use."""
    reader = event_accumulator.EventAccumulator(folder, size_guidance=EVERYTHING)
    reader.Reload()
    tags = reader.Tags()["scalars"]
    return {tag: [[event.step, event.value] for event in reader.Scalars(tag)] for tag in tags}


def texts(folder):
    """By the reader of TensorBoard's own pages; the other one never takes a text back."""
    reader = plugin_event_accumulator.EventAccumulator(folder, tensor_size_guidance={"text": 0})
    reader.Reload()
    tags = reader.PluginTagToContent("text") if "text" in reader.ActivePlugins() else []
    values = lambda tag: [[e.step, e.tensor_proto.string_val[0].decode()] for e in reader.Tensors(tag)]
    return {tag: values(tag) for tag in tags}


def main():
    folder = sys.argv[1]
    json.dump({"scalars": scalars(folder), "texts": texts(folder)}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
