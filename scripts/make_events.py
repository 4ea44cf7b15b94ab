"""Writes tests/fixtures/events.json: records of event files as TensorBoard's own package writes them.

    pip install tensorboard && python3 scripts/make_events.py > tests/fixtures/events.json
"""

import json
import struct

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.hparams import metadata, plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb


def record(event):
    data = event.SerializeToString(deterministic=True)
    length = struct.pack("<Q", len(data))
    crc = lambda bytes_: struct.pack("<I", masked_crc32c(bytes_))
    return (length + crc(length) + data + crc(data)).hex()


def text(tag, content):
    """As SummaryWriter.add_text of PyTorch."""
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text", content=b""))
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", string_val=[content.encode()], tensor_shape=shape)
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


scalars = Summary(
    value=[
        Summary.Value(tag="train/loss", simple_value=0.625),
        Summary.Value(tag="train/learning_rate", simple_value=1e-6),
    ]
)
# The order in which several are written is left to the library.
start = lambda name, value: hparams_pb({name: value}, "a run", 1700000000.0)


def session_end():
    info = plugin_data_pb2.SessionEndInfo(status="STATUS_SUCCESS", end_time_secs=1700000009.0)
    content = plugin_data_pb2.HParamsPluginData(session_end_info=info, version=metadata.PLUGIN_DATA_VERSION)
    data = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=content.SerializeToString())
    tag = metadata.SESSION_END_INFO_TAG
    value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=data), tensor=start("a", 1).value[0].tensor)
    return Summary(value=[value])


print(
    json.dumps(
        {
            "version": record(Event(wall_time=1700000000.25, file_version="brain.Event:2")),
            "scalars": record(Event(wall_time=1700000001.5, step=300, summary=scalars)),
            "no_step": record(Event(wall_time=1700000001.5, summary=scalars)),
            "text": record(Event(wall_time=1700000000.25, summary=Summary(value=[text("config/text_summary", "a\nb")]))),
            "number": record(Event(wall_time=1700000000.25, summary=start("learning_rate", 1e-6))),
            "string": record(Event(wall_time=1700000000.25, summary=start("optimizer", "zo-sgd"))),
            "bool": record(Event(wall_time=1700000000.25, summary=start("stop_if_diverged", True))),
            "session_end": record(
                Event(wall_time=1700000000.25, summary=session_end())
            ),
        },
        indent=1,
    )
)
