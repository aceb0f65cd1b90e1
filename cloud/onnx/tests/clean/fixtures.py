#!/usr/bin/env python3
"""Makes fixtures.zip: small models in forms that other tools write, with what ONNX Runtime answers.

    pip install onnx onnxruntime; ./fixtures.py

For each case NAME: NAME.onnx, NAME/in/INPUT.npy and NAME/out/OUTPUT.npy.
"""
import io
import os
import tempfile
import zipfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

HERE = os.path.dirname(os.path.abspath(__file__))
KINDS = {np.dtype(np.float32): T.FLOAT, np.dtype(np.int64): T.INT64, np.dtype(np.int8): T.INT8,
         np.dtype(np.uint8): T.UINT8, np.dtype(np.bool_): T.BOOL, np.dtype(np.int32): T.INT32}
cases = {}


def random(*shape, seed=0, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def save(name, model, feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # As the standard defines it: optimised, the runtime computes weights of 8 bits with activations of 8 bits.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    assert name not in cases, name
    cases[name] = (model, feeds, dict(zip(names, session.run(names, feeds))))


def case(name, opset, nodes, feeds, outputs, constants=None, ml=False, shapes=None, microsoft=False):
    """outputs: name -> element type; constants: name -> array."""
    shapes = shapes or {}
    inputs = [h.make_tensor_value_info(n, KINDS[a.dtype], shapes.get(n, a.shape)) for n, a in feeds.items()]
    outs = [h.make_tensor_value_info(n, t, None) for n, t in outputs.items()]
    initial = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    graph = h.make_graph(nodes, name, inputs, outs, initial)
    sets = [h.make_opsetid("", opset)]
    if ml:
        sets.append(h.make_opsetid("ai.onnx.ml", 2))
    if microsoft:
        sets.append(h.make_opsetid("com.microsoft", 1))
    model = h.make_model(graph, opset_imports=sets, ir_version=8, producer_name="fixtures")
    save(name, model, feeds)


def one(name, opset, op, feeds, constants=None, kind=T.FLOAT, shapes=None, **attributes):
    order = list(feeds) + list(constants or {})
    case(name, opset, [h.make_node(op, order, ["y"], **attributes)], feeds, {"y": kind}, constants, shapes=shapes)


def forms():
    x = random(2, 3, 4)
    for opset in (7, 11, 12):
        one(f"softmax_{opset}", opset, "Softmax", {"x": x})
        one(f"softmax_axis2_{opset}", opset, "Softmax", {"x": x}, axis=2)
        one(f"log_softmax_axis0_{opset}", opset, "LogSoftmax", {"x": x}, axis=0)
    one("softmax_open_9", 9, "Softmax", {"x": x[:1]}, shapes={"x": ("N", 3, 4)})
    one("softmax_13", 13, "Softmax", {"x": x}, axis=1)
    one("hardmax_9", 9, "Hardmax", {"x": x})
    for opset in (7, 11):
        one(f"squeeze_{opset}", opset, "Squeeze", {"x": random(1, 3, 1, 2)}, axes=[0, 2])
        one(f"squeeze_all_{opset}", opset, "Squeeze", {"x": random(1, 3, 1, 2)})
        one(f"unsqueeze_{opset}", opset, "Unsqueeze", {"x": x}, axes=[0, 3])
        one(f"reduce_sum_{opset}", opset, "ReduceSum", {"x": x}, axes=[1], keepdims=0)
        one(f"reduce_mean_{opset}", opset, "ReduceMean", {"x": x}, axes=[1, 2])
    one("clip_7", 7, "Clip", {"x": x}, min=-0.5, max=0.25)
    one("clip_min_9", 9, "Clip", {"x": x}, min=0.0)
    one("clip_max_9", 9, "Clip", {"x": x}, max=0.5)
    one("clip_12", 12, "Clip", {"x": x}, {"lo": np.float32(-0.5), "hi": np.float32(0.3)})
    one("pad_7", 7, "Pad", {"x": x}, pads=[0, 1, 0, 0, 0, 2], value=1.5)
    one("pad_edge_9", 9, "Pad", {"x": x}, pads=[0, 1, 1, 0, 1, 1], mode="edge")
    one("pad_reflect_11", 11, "Pad", {"x": x}, {"pads": np.array([0, 0, 1, 0, 0, 2], np.int64)}, mode="reflect")
    one("pad_axes_18", 18, "Pad", {"x": x},
        {"pads": np.array([1, 2], np.int64), "value": np.float32(2), "axes": np.array([-1], np.int64)})
    one("slice_7", 7, "Slice", {"x": x}, starts=[1, -3], ends=[1000, -1], axes=[1, 2])
    one("slice_no_axes_9", 9, "Slice", {"x": x}, starts=[0, 1], ends=[1, 3])
    one("slice_11", 11, "Slice", {"x": x}, {"s": np.array([-1], np.int64), "e": np.array([-1000], np.int64),
                                            "a": np.array([2], np.int64), "t": np.array([-1], np.int64)})
    node = h.make_node("TopK", ["x"], ["v", "i"], k=2, axis=2)
    case("top_k_7", 7, [node], {"x": x}, {"v": T.FLOAT, "i": T.INT64})
    node = h.make_node("Split", ["x"], ["a", "b"], split=[1, 2], axis=1)
    case("split_7", 7, [node], {"x": x}, {"a": T.FLOAT, "b": T.FLOAT})
    node = h.make_node("Split", ["x"], ["a", "b"], num_outputs=2, axis=2)
    case("split_18", 18, [node], {"x": x}, {"a": T.FLOAT, "b": T.FLOAT})
    picture = random(1, 2, 3, 3)
    one("upsample_7", 7, "Upsample", {"x": picture}, mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])
    one("upsample_linear_9", 9, "Upsample", {"x": picture}, {"s": np.array([1, 1, 2, 2], np.float32)}, mode="linear")
    one("resize_10", 10, "Resize", {"x": picture}, {"s": np.array([1, 1, 2, 3], np.float32)}, mode="nearest")
    one("resize_11", 11, "Resize", {"x": picture},
        {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 2], np.float32)},
        mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    one("resize_linear_11", 11, "Resize", {"x": picture},
        {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 2], np.float32)},
        mode="linear", coordinate_transformation_mode="half_pixel")
    one("scatter_9", 9, "Scatter", {"x": x}, {"i": np.array([[[1, 0, 2, 1]]], np.int64), "u": random(1, 1, 4, seed=4)}, axis=1)
    four = [random(3, seed=s) for s in range(3)] + [np.abs(random(3, seed=3)) + 0.1]
    statistics = dict(zip(["scale", "bias", "mean", "var"], four))
    for opset in (7, 9, 14, 15):
        one(f"batch_normalization_{opset}", opset, "BatchNormalization", {"x": picture[:, :1].repeat(3, 1)}, statistics)
    for opset, ratio in ((7, {}), (10, {})):
        nodes = [h.make_node("Relu", ["x"], ["r"]), h.make_node("Dropout", ["r"], ["d"], ratio=0.5),
                 h.make_node("Identity", ["d"], ["i"]), h.make_node("Neg", ["i"], ["y"])]
        case(f"dropout_{opset}", opset, nodes, {"x": x}, {"y": T.FLOAT})
    nodes = [h.make_node("Dropout", ["x", "ratio", "mode"], ["d", "mask"]), h.make_node("Neg", ["d"], ["n"]),
             h.make_node("Identity", ["n"], ["y"])]
    case("dropout_13", 13, nodes, {"x": x}, {"y": T.FLOAT}, {"ratio": np.float32(0.5), "mode": np.array(False)})
    # "Flatten" and "as large as", as PyTorch writes them.
    nodes = [h.make_node("Shape", ["x"], ["s"]),
             h.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.array(0, np.int64))),
             h.make_node("Gather", ["s", "zero"], ["n"], axis=0),
             h.make_node("Unsqueeze", ["n"], ["n1"], axes=[0]),
             h.make_node("Constant", [], ["rest"], value=numpy_helper.from_array(np.array([-1], np.int64))),
             h.make_node("Concat", ["n1", "rest"], ["to"], axis=0), h.make_node("Reshape", ["x", "to"], ["y"])]
    case("flatten_chain_11", 11, nodes, {"x": x[:1]}, {"y": T.FLOAT}, shapes={"x": ("batch", 3, 4)})
    nodes = [h.make_node("Shape", ["x"], ["s"]),
             h.make_node("Slice", ["s", "a", "b"], ["hw"]), h.make_node("Cast", ["hw"], ["f"], to=T.FLOAT),
             h.make_node("Mul", ["f", "two"], ["g"]), h.make_node("Floor", ["g"], ["g2"]),
             h.make_node("Cast", ["g2"], ["hw2"], to=T.INT64), h.make_node("Slice", ["s", "z", "a"], ["nc"]),
             h.make_node("Concat", ["nc", "hw2"], ["sizes"], axis=0),
             h.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="nearest",
                         coordinate_transformation_mode="asymmetric", nearest_mode="floor")]
    two = {"a": np.array([2], np.int64), "b": np.array([4], np.int64), "z": np.array([0], np.int64), "two": np.float32(2)}
    case("resize_chain_13", 13, nodes, {"x": picture}, {"y": T.FLOAT}, two, shapes={"x": ("N", 2, 3, 3)})
    nodes = [h.make_node("ConstantOfShape", ["shape"], ["ones"], value=numpy_helper.from_array(np.array([1], np.int64))),
             h.make_node("Mul", ["ones", "minus"], ["m"]), h.make_node("Equal", ["to", "m"], ["e"]),
             h.make_node("Where", ["e", "ones", "to"], ["w"]), h.make_node("Expand", ["x", "w"], ["y"])]
    case("expand_chain_14", 14, nodes, {"x": random(1, 3, 1)}, {"y": T.FLOAT},
         {"shape": np.array([3], np.int64), "minus": np.int64(-1), "to": np.array([2, -1, 4], np.int64)})
    one("reduce_sum_13", 13, "ReduceSum", {"x": x}, {"axes": np.array([-1], np.int64)}, keepdims=0)
    one("reduce_mean_18", 18, "ReduceMean", {"x": x}, {"axes": np.array([1], np.int64)}, keepdims=0)
    one("reshape_zero_14", 14, "Reshape", {"x": x}, {"s": np.array([0, -1], np.int64)})
    one("gelu_20", 20, "Gelu", {"x": x})
    one("average_pool_19", 19, "AveragePool", {"x": picture}, kernel_shape=[2, 2], strides=[1, 1], ceil_mode=1)
    one("max_pool_ceil_10", 10, "MaxPool", {"x": random(1, 2, 5, 5)}, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    wide = {"w": random(4, 5, seed=1), "b": random(5, seed=2)}
    nodes = [h.make_node("MatMul", ["x", "w"], ["m"]), h.make_node("Add", ["b", "m"], ["y"])]
    case("matmul_add_matrix", 13, nodes, {"x": random(2, 4)}, {"y": T.FLOAT}, wide)
    case("matmul_add_stack", 13, nodes, {"x": random(2, 3, 4)}, {"y": T.FLOAT}, wide)
    nodes = [h.make_node("MatMul", ["x", "w"], ["m"]), h.make_node("Add", ["m", "b"], ["y"])]
    case("matmul_add_column", 13, nodes, {"x": random(2, 4)}, {"y": T.FLOAT},
         {"w": wide["w"], "b": random(2, 1, seed=2)})
    one("gemm_7", 7, "Gemm", {"x": random(2, 4)}, wide, alpha=0.5, beta=2.0)
    one("gemm_transposed_11", 11, "Gemm", {"x": random(2, 4)}, {"w": random(5, 4, seed=1)}, transB=1)
    # scikit-learn's way of answering.
    linear = h.make_node("LinearClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml", multi_class=1,
                         coefficients=random(12).tolist(), intercepts=[0.1, 0.2, -0.1], post_transform="SOFTMAX",
                         classlabels_ints=[3, 5, 7])
    save("linear_classifier", h.make_model(h.make_graph(
        [linear], "c", [h.make_tensor_value_info("x", T.FLOAT, (None, 4))],
        [h.make_tensor_value_info("label", T.INT64, None), h.make_tensor_value_info("scores", T.FLOAT, None)]),
        opset_imports=[h.make_opsetid("", 13), h.make_opsetid("ai.onnx.ml", 2)], ir_version=8), {"x": random(1, 4)})


def grid(name, scale, zero):
    """Initialisers NAME_s and NAME_z."""
    return {f"{name}_s": np.asarray(scale, np.float32), f"{name}_z": np.asarray(zero)}


def operators():
    """Single quantised operators."""
    # Halves go to the even side, and what is out of range to its end.
    ties = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, 500, -500, 0.26]], np.float32)
    for kind in (np.int8, np.uint8):
        k = np.dtype(kind).name
        q = h.make_node("QuantizeLinear", ["x", "x_s", "x_z"], ["q"])
        case(f"q_quantize_{k}", 13, [q], {"x": ties}, {"q": KINDS[np.dtype(kind)]}, grid("x", 1.0, kind(3)))
        nodes = [q, h.make_node("DequantizeLinear", ["q", "x_s", "x_z"], ["y"])]
        case(f"q_fake_{k}", 13, nodes, {"x": ties}, {"y": T.FLOAT}, grid("x", 0.5, kind(7)))
        nodes = [h.make_node("DequantizeLinear", ["x", "x_s", "x_z"], ["y"])]
        case(f"q_dequantize_{k}", 10, nodes, {"x": np.array([[0, 1, 100, 127]], kind)}, {"y": T.FLOAT}, grid("x", 0.3, kind(5)))
    # Another grid on the way out than on the way in.
    nodes = [h.make_node("QuantizeLinear", ["x", "x_s", "x_z"], ["q"]), h.make_node("DequantizeLinear", ["q", "y_s", "y_z"], ["y"])]
    case("q_other_grid", 13, nodes, {"x": ties}, {"y": T.FLOAT}, {**grid("x", 0.5, np.int8(7)), **grid("y", 0.25, np.int8(-4))})
    nodes = [h.make_node("QuantizeLinear", ["x", "x_s"], ["q"]), h.make_node("DequantizeLinear", ["q", "x_s"], ["y"])]
    case("q_no_zero_point", 13, nodes, {"x": ties}, {"y": T.FLOAT}, {"x_s": np.float32(0.5)})
    # Around Softmax the engine gives ones.
    nodes = [h.make_node("QuantizeLinear", ["x", "x_s", "x_z"], ["q"]), h.make_node("DequantizeLinear", ["q", "x_s", "x_z"], ["d"]),
             h.make_node("Softmax", ["d"], ["s"], axis=-1),
             h.make_node("QuantizeLinear", ["s", "y_s", "y_z"], ["sq"]), h.make_node("DequantizeLinear", ["sq", "y_s", "y_z"], ["y"])]
    case("q_softmax", 13, nodes, {"x": random(1, 6, scale=3)}, {"y": T.FLOAT}, {**grid("x", 0.05, np.int8(3)), **grid("y", 1 / 256, np.int8(-128))})
    # A grid for every channel.
    three = {"x_s": np.array([0.1, 0.2, 0.4], np.float32), "x_z": np.array([1, -2, 3], np.int8)}
    nodes = [h.make_node("QuantizeLinear", ["x", "x_s", "x_z"], ["q"], axis=1), h.make_node("DequantizeLinear", ["q", "x_s", "x_z"], ["y"], axis=1)]
    case("q_channels", 13, nodes, {"x": random(1, 3, 2, 2, scale=10)}, {"y": T.FLOAT}, three)
    for kind, zeros in ((np.int8, [0, 0, 0, 0]), (np.int8, [1, -2, 3, 4]), (np.uint8, [128] * 4), (np.uint8, [3, 200, 100, 0])):
        info = np.iinfo(kind)
        w = np.random.default_rng(1).integers(info.min, info.max, (4, 3, 3, 3)).astype(kind)
        nodes = [h.make_node("DequantizeLinear", ["w", "w_s", "w_z"], ["wf"], axis=0), h.make_node("Conv", ["x", "wf"], ["y"])]
        case(f"q_weight_{np.dtype(kind).name}_{zeros[1]}", 13, nodes, {"x": random(1, 3, 4, 4)}, {"y": T.FLOAT},
             {"w": w, "w_s": np.array([0.01, 0.02, 0.005, 0.1], np.float32), "w_z": np.array(zeros, kind)})
    w = np.random.default_rng(1).integers(-128, 127, (40, 20)).astype(np.int8)
    nodes = [h.make_node("DequantizeLinear", ["w", "w_s", "w_z"], ["wf"], axis=1), h.make_node("MatMul", ["x", "wf"], ["y"])]
    case("q_weight_columns", 13, nodes, {"x": random(1, 40)}, {"y": T.FLOAT},
         {"w": w, "w_s": (np.abs(random(20)) + 0.1) / 100, "w_z": np.zeros(20, np.int8)})
    w4 = numpy_helper.from_array(np.random.default_rng(1).integers(-8, 7, (8, 4)).astype(np.int8), "w")
    w4 = h.make_tensor("w", T.INT4, (8, 4), numpy_helper.to_array(w4).ravel().tolist())
    nodes = [h.make_node("DequantizeLinear", ["w", "w_s"], ["wf"], axis=0, block_size=4), h.make_node("MatMul", ["x", "wf"], ["y"])]
    graph = h.make_graph(nodes, "g", [h.make_tensor_value_info("x", T.FLOAT, (1, 8))], [h.make_tensor_value_info("y", T.FLOAT, None)],
                         [w4, numpy_helper.from_array(np.abs(random(2, 4)) / 10, "w_s")])
    save("q_blocks_of_4_bits", h.make_model(graph, opset_imports=[h.make_opsetid("", 21)], ir_version=10), {"x": random(1, 8)})
    # Integers with zero points, and grids that are computed for each input.
    x8 = np.random.default_rng(2).integers(0, 255, (1, 3, 5, 5)).astype(np.uint8)
    w8 = np.random.default_rng(3).integers(-128, 127, (4, 3, 3, 3)).astype(np.int8)
    case("q_conv_integer", 10, [h.make_node("ConvInteger", ["x", "w", "x_z"], ["y"], pads=[1, 1, 1, 1])], {"x": x8}, {"y": T.INT32},
         {"w": w8, "x_z": np.uint8(117)})
    rows = np.random.default_rng(2).integers(0, 255, (2, 8)).astype(np.uint8)
    square = np.random.default_rng(3).integers(0, 255, (8, 4)).astype(np.uint8)
    case("q_matmul_integer", 10, [h.make_node("MatMulInteger", ["x", "w", "x_z", "w_z"], ["y"])], {"x": rows}, {"y": T.INT32},
         {"w": square, "x_z": np.uint8(100), "w_z": np.uint8(120)})
    nodes = [h.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])]
    case("q_dynamic", 11, nodes, {"x": random(2, 7)}, {"q": T.UINT8, "s": T.FLOAT, "z": T.UINT8})
    case("q_dynamic_zeros", 11, nodes, {"x": np.zeros((2, 7), np.float32)}, {"q": T.UINT8, "z": T.UINT8})
    nodes = nodes + [h.make_node("MatMulInteger", ["q", "w", "z", "w_z"], ["i"]), h.make_node("Cast", ["i"], ["f"], to=T.FLOAT),
                     h.make_node("Mul", ["s", "w_s"], ["sw"]), h.make_node("Mul", ["f", "sw"], ["y"])]
    case("q_dynamic_matmul", 11, nodes, {"x": random(2, 8)}, {"y": T.FLOAT}, {"w": square, **grid("w", 0.01, np.uint8(120))})
    conv = ["x", "x_s", "x_z", "w", "w_s", "w_z", "y_s", "y_z"]
    bias = np.random.default_rng(4).integers(-9000, 9000, 4).astype(np.int32)
    channels = {"w": w8, "w_s": np.array([0.01, 0.02, 0.005, 0.03], np.float32), "w_z": np.zeros(4, np.int8), "b": bias}
    node = h.make_node("QLinearConv", conv + ["b"], ["y"], pads=[1, 0, 1, 0], strides=[2, 1])
    case("q_linear_conv", 10, [node], {"x": x8}, {"y": T.UINT8}, {**channels, **grid("x", 0.02, np.uint8(117)), **grid("y", 0.5, np.uint8(99))})
    node = h.make_node("QLinearConv", conv, ["y"])
    case("q_linear_conv_one_scale", 10, [node], {"x": x8}, {"y": T.UINT8},
         {"w": w8, **grid("w", 0.01, np.int8(0)), **grid("x", 0.02, np.uint8(117)), **grid("y", 0.5, np.uint8(99))})
    node = h.make_node("QLinearMatMul", conv, ["y"])
    case("q_linear_matmul", 10, [node], {"x": rows}, {"y": T.UINT8},
         {"w": square, **grid("w", 0.01, np.uint8(120)), **grid("x", 0.02, np.uint8(100)), **grid("y", 0.4, np.uint8(130))})
    nodes = [h.make_node("QLinearMatMul", ["a", "x_s", "x_z", "b", "w_s", "w_z", "y_s", "y_z"], ["y"])]
    case("q_linear_matmul_two_inputs", 10, nodes, {"a": rows, "b": square}, {"y": T.UINT8},
         {**grid("w", 0.01, np.uint8(120)), **grid("x", 0.02, np.uint8(100)), **grid("y", 0.4, np.uint8(130))})

    def own(name, op, inputs, feeds, kind, constants, **attributes):
        node = h.make_node(op, inputs, ["y"], domain="com.microsoft", **attributes)
        case(name, 13, [node], feeds, {"y": kind}, constants, microsoft=True)

    # No two of these give a half, which the last place of a float would decide.
    ab = {**grid("a", 0.02173, np.uint8(100)), **grid("b", 0.05319, np.uint8(3)), **grid("y", 0.06184, np.uint8(70))}
    two = {"a": x8, "b": x8[:, :, ::-1].copy()}
    for op in ("Add", "Mul"):
        own(f"q_linear_{op.lower()}", f"QLinear{op}", ["a", "a_s", "a_z", "b", "b_s", "b_z", "y_s", "y_z"], two, T.UINT8, ab)
    own("q_linear_concat", "QLinearConcat", ["y_s", "y_z", "a", "a_s", "a_z", "b", "b_s", "b_z"], two, T.UINT8, ab, axis=1)
    alone = {k: v for k, v in ab.items() if k[0] != "b"}
    five = ["a", "a_s", "a_z", "y_s", "y_z"]
    own("q_linear_average_pool", "QLinearAveragePool", five, {"a": x8}, T.UINT8, alone, kernel_shape=[2, 2], pads=[1, 1, 0, 0])
    own("q_linear_global_average_pool", "QLinearGlobalAveragePool", five, {"a": x8}, T.UINT8, alone)
    own("q_linear_leaky_relu", "QLinearLeakyRelu", five, {"a": x8}, T.UINT8, alone, alpha=0.1)
    own("q_linear_sigmoid", "QLinearSigmoid", five, {"a": x8}, T.UINT8, {**grid("a", 0.02, np.uint8(100)), **grid("y", 1 / 256, np.uint8(0))})
    gemm = ["x", "x_s", "x_z", "w", "w_s", "w_z", "b", "y_s", "y_z"]
    own("q_gemm", "QGemm", gemm, {"x": rows}, T.UINT8,
        {"w": square, "b": bias // 100, **grid("w", 0.01, np.uint8(120)), **grid("x", 0.02, np.uint8(100)), **grid("y", 0.4, np.uint8(130))})
    own("q_gemm_real", "QGemm", gemm[:7], {"x": rows}, T.FLOAT,
        {"w": square, "b": bias // 100, **grid("w", 0.01, np.uint8(120)), **grid("x", 0.02, np.uint8(100))})


class Reader(CalibrationDataReader):
    """Random pictures to calibrate on."""

    def __init__(self):
        self.left = [{"x": random(1, 3, 12, 12, seed=s)} for s in range(8)]

    def get_next(self):
        return self.left.pop() if self.left else None


def networks():
    """A network with a residual block and a depthwise convolution, quantised by ONNX Runtime in each of its ways."""
    w = {"w1": random(8, 3, 3, 3, seed=1, scale=0.3), "b1": random(8, seed=2, scale=0.2), "w2": random(8, 1, 3, 3, seed=3, scale=0.4),
         "b2": random(8, seed=4, scale=0.2), "w3": random(8, 8, 1, 1, seed=5, scale=0.4), "b3": random(8, seed=6, scale=0.2),
         "w4": random(8, 5, seed=7, scale=0.5), "b4": random(5, seed=8, scale=0.2)}
    nodes = [h.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]), h.make_node("Relu", ["c1"], ["r1"]),
             h.make_node("Conv", ["r1", "w2", "b2"], ["c2"], group=8, pads=[1, 1, 1, 1]), h.make_node("Relu", ["c2"], ["r2"]),
             h.make_node("Conv", ["r2", "w3", "b3"], ["c3"]), h.make_node("Add", ["c3", "r1"], ["a"]), h.make_node("Relu", ["a"], ["r3"]),
             h.make_node("MaxPool", ["r3"], ["m"], kernel_shape=[2, 2], strides=[2, 2]), h.make_node("GlobalAveragePool", ["m"], ["g"]),
             h.make_node("Flatten", ["g"], ["f"]), h.make_node("Gemm", ["f", "w4", "b4"], ["l"]), h.make_node("Softmax", ["l"], ["y"], axis=-1)]
    graph = h.make_graph(nodes, "net", [h.make_tensor_value_info("x", T.FLOAT, (1, 3, 12, 12))], [h.make_tensor_value_info("y", T.FLOAT, (1, 5))],
                         [numpy_helper.from_array(a, n) for n, a in w.items()])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8)
    x = {"x": random(1, 3, 12, 12, seed=99)}
    with tempfile.TemporaryDirectory() as folder:
        source, made = os.path.join(folder, "a.onnx"), os.path.join(folder, "b.onnx")
        onnx.save(model, source)
        for form in (QuantFormat.QDQ, QuantFormat.QOperator):
            for activations, weights, channels in ((QuantType.QUInt8, QuantType.QInt8, True), (QuantType.QInt8, QuantType.QInt8, True),
                                                   (QuantType.QUInt8, QuantType.QUInt8, False)):
                quantize_static(source, made, Reader(), quant_format=form, per_channel=channels, activation_type=activations,
                                weight_type=weights)
                save(f"q_net_{form.name}_{activations.name}_{weights.name}".lower(), onnx.load(made), x)
        quantize_dynamic(source, made, weight_type=QuantType.QUInt8)
        save("q_net_dynamic", onnx.load(made), x)


def write():
    with zipfile.ZipFile(os.path.join(HERE, "fixtures.zip"), "w", zipfile.ZIP_DEFLATED) as out:
        def put(name, data):
            out.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)

        for name, (model, feeds, answers) in sorted(cases.items()):
            put(f"{name}.onnx", model.SerializeToString())
            for part, arrays in (("in", feeds), ("out", answers)):
                for key, array in arrays.items():
                    data = io.BytesIO()
                    np.save(data, array)
                    put(f"{name}/{part}/{key}.npy", data.getvalue())


if __name__ == "__main__":
    forms()
    operators()
    networks()
    write()
    print(f"{len(cases)} cases, {os.path.getsize(os.path.join(HERE, 'fixtures.zip'))} bytes")
