"""The messages of TF Serving's gRPC protocol that its servers are told and asked with, without TensorFlow.

The stubs of tensorflow-serving-api import all of TensorFlow for one enum of error codes: 6 s and 1,600
modules, which a `retrain run` that finds nothing new (3 s) would pay for each look at the servers. So the few
messages that need it are declared here, with the field numbers of get_model_status.proto,
model_management.proto and get_model_metadata.proto; ModelSpec and ModelServerConfig are the library's own. A
test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2

_PACKAGE = "retrain.push"
_MESSAGES = """
name: "components/push/model_service.proto"
package: "retrain.push"
syntax: "proto3"
dependency: "tensorflow_serving/apis/model.proto"
dependency: "tensorflow_serving/config/model_server_config.proto"
message_type {
  name: "ReloadConfigRequest"
  field { name: "config" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE
          type_name: ".tensorflow.serving.ModelServerConfig" }
}
message_type {
  name: "GetModelStatusRequest"
  field { name: "model_spec" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE
          type_name: ".tensorflow.serving.ModelSpec" }
}
message_type {
  name: "StatusProto"
  field { name: "error_code" number: 1 label: LABEL_OPTIONAL type: TYPE_INT32 }
  field { name: "error_message" number: 2 label: LABEL_OPTIONAL type: TYPE_STRING }
}
message_type {
  name: "ModelVersionStatus"
  field { name: "version" number: 1 label: LABEL_OPTIONAL type: TYPE_INT64 }
  field { name: "state" number: 2 label: LABEL_OPTIONAL type: TYPE_INT32 }
  field { name: "status" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE
          type_name: ".retrain.push.StatusProto" }
}
message_type {
  name: "GetModelStatusResponse"
  field { name: "model_version_status" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE
          type_name: ".retrain.push.ModelVersionStatus" }
}
message_type {
  name: "GetModelMetadataRequest"
  field { name: "model_spec" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE
          type_name: ".tensorflow.serving.ModelSpec" }
  field { name: "metadata_field" number: 2 label: LABEL_REPEATED type: TYPE_STRING }
}
message_type {
  name: "GetModelMetadataResponse"
  field { name: "model_spec" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE
          type_name: ".tensorflow.serving.ModelSpec" }
}
"""


def _messages() -> Mapping[str, Any]:
    """Name -> message class."""
    # Imported for this: a file finds what it depends on only in the pool.
    assert model_pb2.DESCRIPTOR and model_server_config_pb2.DESCRIPTOR
    file = text_format.Parse(_MESSAGES, descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        message.name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"{_PACKAGE}.{message.name}")
        )
        for message in file.message_type
    }


MESSAGES = _messages()
