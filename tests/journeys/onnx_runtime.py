"""Checks ONNX files with the checker of the standard and runs them in ONNX Runtime.

Reads a JSON list of [file, shape, inputs] from standard input, where inputs is a list of flat lists, and prints a JSON list
with the flat first output of each input, file by file."""

import json
import sys

import numpy
import onnx
import onnxruntime

answers = []
for file, shape, inputs in json.load(sys.stdin):
    onnx.checker.check_model(file, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    run = lambda values: session.run(None, {name: numpy.array(values, numpy.float32).reshape(shape)})[0]
    answers.append([run(values).astype(numpy.float64).ravel().tolist() for values in inputs])
json.dump(answers, sys.stdout)
