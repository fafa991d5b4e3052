#!/usr/bin/env python3
"""Writes testdata/golden/events.out.tfevents: an event file by the `tensorboard` package itself.

Run from the repository root, with `pip install tensorboard`:  python3 scripts/golden_events.py
"""

import glob
import os
import shutil
import tempfile

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.event_file_writer import EventFileWriter


def text(tag, value):
    """As `tensorboard.plugins.text.summary_v2` builds it."""
    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
    metadata = summary_pb2.SummaryMetadata(
        plugin_data=plugin, data_class=summary_pb2.DataClass.DATA_CLASS_TENSOR
    )
    tensor = tensor_pb2.TensorProto(
        dtype=DT_STRING,
        tensor_shape=tensor_shape_pb2.TensorShapeProto(),
        string_val=[value.encode()],
    )
    return summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def scalar(tag, value):
    return summary_pb2.Summary.Value(tag=tag, simple_value=value)


def main():
    events = [
        event_pb2.Event(session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)),
    ]
    for step in range(1, 4):
        values = [scalar("train/loss", 4.0 / step), scalar("lr/rest", 1e-3 * step)]
        events.append(event_pb2.Event(step=step, summary=summary_pb2.Summary(value=values)))
    values = [text("samples/1", "    Once upon a time, \u00e9\n")]
    events.append(event_pb2.Event(step=3, summary=summary_pb2.Summary(value=values)))
    with tempfile.TemporaryDirectory() as folder:
        writer = EventFileWriter(folder)
        for i, event in enumerate(events):
            event.wall_time = 1_700_000_000.5 + i
            writer.add_event(event)
        writer.close()
        (written,) = glob.glob(os.path.join(folder, "events.out.tfevents.*"))
        shutil.copyfile(written, "testdata/golden/events.out.tfevents")


if __name__ == "__main__":
    main()
