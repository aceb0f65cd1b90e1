"""Asks an agent's local endpoint through Triton's HTTP client: health, metadata, tensors as JSON and as bytes, classes,
a batch, several requests at once, and mistakes."""

import sys

import numpy
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

client = triton.InferenceServerClient(url=sys.argv[1], concurrency=4)
assert client.is_server_live() and client.is_server_ready()
assert client.is_model_ready("letters") and not client.is_model_ready("numbers")
assert client.get_server_metadata()["name"] == "flotilla-agent"
metadata = client.get_model_metadata("letters")
assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 2, 2]}], metadata
version = metadata["versions"][0]
assert client.is_model_ready("letters", version)

pixels = numpy.linspace(0, 1, 8, dtype=numpy.float32).reshape(2, 1, 2, 2)


def ask(binary_in, binary_out, classes=0, **options):
    tensor = triton.InferInput("x", pixels.shape, "FP32")
    tensor.set_data_from_numpy(pixels, binary_data=binary_in)
    wanted = triton.InferRequestedOutput("y", binary_data=binary_out, class_count=classes)
    return client.infer("letters", [tensor], outputs=[wanted], request_id="9", **options)


answers = [ask(i, o).as_numpy("y") for i in (False, True) for o in (False, True)]
assert all(answer.shape == (2, 3) and answer.dtype == numpy.float32 for answer in answers)
assert all(numpy.array_equal(answer, answers[0]) for answer in answers), answers
assert answers[0].argmax(axis=1).tolist() == [0, 0]
response = ask(True, True, model_version=version).get_response()
assert (response["model_name"], response["model_version"], response["id"]) == ("letters", version, "9")

for binary_out in (False, True):
    best = ask(True, binary_out, classes=2).as_numpy("y")
    assert best.shape == (2, 2)
    score, index, label = best.flat[0].decode().split(":") if isinstance(best.flat[0], bytes) else best.flat[0].split(":")
    assert (index, label) == ("0", "a") and float(score) > 0.99, best

tensor = triton.InferInput("x", pixels.shape, "FP32")
tensor.set_data_from_numpy(pixels)
pending = [client.async_infer("letters", [tensor]) for _ in range(16)]
assert all(numpy.array_equal(one.get_result().as_numpy("y"), answers[0]) for one in pending)

wrong = triton.InferInput("x", [2, 4], "FP32")
wrong.set_data_from_numpy(pixels.reshape(2, 4))
try:
    client.infer("letters", [wrong])
    raise SystemExit("a wrong shape was taken")
except InferenceServerException as error:
    assert "shape" in error.message(), error
print("all right")
