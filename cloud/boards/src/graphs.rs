//! Graphs to measure a machine with: layers of the kinds that models for edge devices are made of, in the orders in which
//! they come, of drawn sizes. The same graphs each time.

use flotilla_onnx::{GraphBuilder, Node, Value};

/// A graph of one input of floats.
#[derive(Clone, Debug)]
pub struct Graph {
    /// What it is made of, in words.
    pub name: String,
    /// The file.
    pub onnx: Vec<u8>,
    /// The shape of its input.
    pub input: Vec<usize>,
}

/// All graphs.
pub fn graphs() -> Vec<Graph> {
    let mut draw = Draw(0x9E37_79B9_7F4A_7C15);
    let mut graphs = Vec::new();
    for side in [6, 8, 12, 16, 24, 28, 32, 40, 48, 64, 96, 128, 160] {
        for round in 0..2 {
            graphs.push(plain(&mut draw, side, round));
            graphs.push(separable(&mut draw, side, round));
            graphs.push(detector(&mut draw, side));
            graphs.push(detector(&mut draw, side));
        }
        graphs.push(residual(&mut draw, side));
    }
    for width in [256, 288, 320, 352] {
        graphs.push(stem(&mut draw, width, 16));
        let channels = draw.of(&[8, 24, 32]);
        graphs.push(stem(&mut draw, width, channels));
    }
    for channels in [2, 3, 4, 5, 6, 7] {
        for side in [6, 10, 20, 40] {
            graphs.push(small_head(&mut draw, side, channels));
        }
    }
    for width in [16, 32, 64, 128, 192, 256, 384, 512, 640, 1024] {
        graphs.push(dense(&mut draw, width));
        graphs.push(elementwise(&mut draw, width));
    }
    for steps in [10, 25, 49, 98, 196] {
        graphs.push(sequence(&mut draw, steps));
    }
    graphs
}

/// A generator of numbers: it is to draw the same ones everywhere, not to be good.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[(self.next() % choices.len() as u64) as usize]
    }

    fn weights(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (self.next() % 2_001) as f32 / 1e4 - 0.1).collect()
    }
}

/// Layers one after the other.
struct Chain<'a> {
    draw: &'a mut Draw,
    graph: GraphBuilder,
    /// The value that the next layer takes, and its shape.
    at: String,
    shape: Vec<usize>,
    input: Vec<usize>,
    count: usize,
}

impl<'a> Chain<'a> {
    fn new(draw: &'a mut Draw, name: &str, shape: &[usize]) -> Self {
        let graph = GraphBuilder::new(name).input(Value::f32("x", shape.iter().copied()));
        Self { draw, graph, at: "x".into(), shape: shape.to_vec(), input: shape.to_vec(), count: 0 }
    }

    fn fresh(&mut self) -> String {
        self.count += 1;
        format!("v{}", self.count)
    }

    fn change(&mut self, make: impl FnOnce(GraphBuilder) -> GraphBuilder) {
        let graph = std::mem::replace(&mut self.graph, GraphBuilder::new(""));
        self.graph = make(graph);
    }

    fn constant(&mut self, dims: &[usize]) -> String {
        let (name, data) = (self.fresh(), self.draw.weights(dims.iter().product()));
        self.change(|graph| graph.initializer_f32(&name, dims, data));
        name
    }

    fn list(&mut self, values: &[i64]) -> String {
        let name = self.fresh();
        self.change(|graph| graph.initializer_i64(&name, &[values.len()], values.to_vec()));
        name
    }

    /// Adds a node that takes what is there and these; the shape is what it makes of it.
    fn node(&mut self, kind: &str, also: &[String], shape: Vec<usize>, set: impl FnOnce(Node) -> Node) {
        let output = self.fresh();
        let inputs = std::iter::once(&self.at).chain(also);
        let node = set(Node::new(kind, inputs.cloned().collect::<Vec<_>>(), [output.as_str()]));
        self.change(|graph| graph.node(node));
        (self.at, self.shape) = (output, shape);
    }

    fn same(&mut self, kind: &str) {
        let shape = self.shape.clone();
        self.node(kind, &[], shape, |node| node);
    }

    fn conv(&mut self, channels: usize, side: usize, stride: usize, depthwise: bool) {
        let (before, pad) = (self.shape[1], side / 2);
        let (channels, group) = if depthwise { (before, before) } else { (channels, 1) };
        let weights = self.constant(&[channels, before / group, side, side]);
        let bias = self.constant(&[channels]);
        let out = |size: usize| (size + 2 * pad - side) / stride + 1;
        let shape = vec![self.shape[0], channels, out(self.shape[2]), out(self.shape[3])];
        let whole = |number: usize| number as i64;
        self.node("Conv", &[weights, bias], shape, |node| {
            node.ints("kernel_shape", [whole(side); 2])
                .ints("strides", [whole(stride); 2])
                .ints("pads", [whole(pad); 4])
                .int("group", whole(group))
        });
    }

    fn pool(&mut self, kind: &str, side: usize, stride: usize) {
        let out = |size: usize| (size - side) / stride + 1;
        let shape = vec![self.shape[0], self.shape[1], out(self.shape[2]), out(self.shape[3])];
        self.node(kind, &[], shape, |node| {
            node.ints("kernel_shape", [side as i64; 2]).ints("strides", [stride as i64; 2])
        });
    }

    fn relu(&mut self) {
        self.same("Relu");
    }

    /// A normalisation that nobody has folded into its convolution.
    fn scale_and_shift(&mut self) {
        let dims: Vec<usize> =
            self.shape.iter().enumerate().map(|(axis, dim)| if axis == 1 { *dim } else { 1 }).collect();
        for kind in ["Mul", "Add"] {
            let (constant, shape) = (self.constant(&dims), self.shape.clone());
            self.node(kind, &[constant], shape, |node| node);
        }
    }

    fn combine(&mut self, kind: &str, other: &str) {
        let shape = self.shape.clone();
        self.node(kind, &[other.to_owned()], shape, |node| node);
    }

    fn reshape(&mut self, shape: &[usize]) {
        let target: Vec<i64> = shape.iter().map(|dim| *dim as i64).collect();
        let target = self.list(&target);
        self.node("Reshape", &[target], shape.to_vec(), |node| node);
    }

    fn transpose(&mut self, order: &[usize]) {
        let shape = order.iter().map(|axis| self.shape[*axis]).collect();
        self.node("Transpose", &[], shape, |node| node.ints("perm", order.iter().map(|axis| *axis as i64)));
    }

    fn gemm(&mut self, width: usize) {
        let (weights, bias) = (self.constant(&[width, self.shape[1]]), self.constant(&[width]));
        let shape = vec![self.shape[0], width];
        self.node("Gemm", &[weights, bias], shape, |node| node.int("transB", 1));
    }

    fn softmax(&mut self) {
        let shape = self.shape.clone();
        self.node("Softmax", &[], shape, |node| node.int("axis", -1));
    }

    /// A classifier on top.
    fn head(&mut self, classes: usize) {
        let shape = vec![self.shape[0], self.shape[1], 1, 1];
        if self.draw.of(&[true, false]) {
            self.node("GlobalAveragePool", &[], shape, |node| node);
        } else {
            let side = self.shape[2].min(self.shape[3]);
            self.pool("AveragePool", side, 1);
        }
        let flat: usize = self.shape[1..].iter().product();
        self.reshape(&[1, flat]);
        self.gemm(classes);
        self.softmax();
    }

    fn end(self, more: &[(String, Vec<usize>)]) -> Graph {
        let mut graph = self.graph.output(Value::f32(&self.at, self.shape.iter().copied()));
        for (name, shape) in more {
            graph = graph.output(Value::f32(name, shape.iter().copied()));
        }
        // They are built of parts that fit; a test builds every one.
        let model = graph.build().expect("the graph is well-formed");
        let name = format!("{:?} {}", self.input, self.count);
        Graph { name, onnx: model.write(), input: self.input }
    }
}

/// Small pictures have many channels, large ones few: what a device computes in a few milliseconds.
fn channels(draw: &mut Draw, side: usize) -> usize {
    match side {
        0..=12 => draw.of(&[32, 48, 64, 96, 128, 256]),
        13..=32 => draw.of(&[16, 24, 32, 48, 64]),
        33..=64 => draw.of(&[8, 16, 24, 32]),
        _ => draw.of(&[8, 12, 16, 32]),
    }
}

/// Convolutions with pooling, as for digits.
fn plain(draw: &mut Draw, side: usize, round: usize) -> Graph {
    let (colours, width) = (draw.of(&[1, 3]), channels(draw, side));
    let kernel = draw.of(&[3, 3, 5]);
    let last = round % 2 == 1;
    let shape = if last { vec![1, side, side, colours] } else { vec![1, colours, side, side] };
    let mut chain = Chain::new(draw, "plain", &shape);
    if last {
        chain.transpose(&[0, 3, 1, 2]);
    }
    chain.conv(width / 2, kernel, 1, false);
    chain.relu();
    if side > 64 {
        chain.conv(width / 2, 3, 2, false);
    } else {
        chain.pool("MaxPool", 2, 2);
    }
    let stride = chain.draw.of(&[1, 2]);
    chain.conv(width, kernel, stride, false);
    chain.relu();
    if chain.shape[2] >= 6 {
        let side = chain.draw.of(&[2, 3]);
        chain.pool("MaxPool", side, side);
    }
    chain.head(10);
    chain.end(&[])
}

/// What detectors begin with: a large picture made small.
fn stem(draw: &mut Draw, width: usize, channels: usize) -> Graph {
    let mut chain = Chain::new(draw, "stem", &[1, 3, width * 3 / 4, width]);
    chain.conv(channels, 3, 2, false);
    chain.relu();
    chain.conv(0, 3, 1, true);
    chain.conv(channels, 1, 1, false);
    chain.relu();
    chain.pool("MaxPool", 2, 2);
    chain.end(&[])
}

/// What detectors end with: few values at each place.
fn small_head(draw: &mut Draw, side: usize, channels: usize) -> Graph {
    let mut chain = Chain::new(draw, "small head", &[1, 64, side, side]);
    chain.conv(channels, 1, 1, false);
    chain.conv(0, 3, 1, true);
    chain.transpose(&[0, 2, 3, 1]);
    chain.reshape(&[1, side * side, channels]);
    chain.same("Sigmoid");
    chain.end(&[])
}

/// Depthwise and pointwise convolutions.
fn separable(draw: &mut Draw, side: usize, round: usize) -> Graph {
    let width = channels(draw, side);
    let rectangular = side + if round == 0 { 0 } else { side / 4 };
    // As those come that were made with the channels last.
    let last = draw.of(&[true, false]);
    let shape = if last { [1, side, rectangular, 3] } else { [1, 3, side, rectangular] };
    let mut chain = Chain::new(draw, "separable", &shape);
    if last {
        chain.transpose(&[0, 3, 1, 2]);
    }
    let stride = if side > 24 { 2 } else { 1 };
    chain.conv(width, 3, stride, false);
    for block in 0..4 {
        let normalised = chain.draw.of(&[false, false, true]);
        let stride = if block == 1 && chain.shape[2] > 3 { 2 } else { 1 };
        chain.conv(0, 3, stride, true);
        if normalised {
            chain.scale_and_shift();
        }
        chain.relu();
        let wider = chain.shape[1] * if block % 2 == 0 { 2 } else { 1 };
        chain.conv(wider.min(256), 1, 1, false);
        if chain.draw.of(&[true, true, false]) {
            chain.relu();
        } else {
            let clip = [chain.constant(&[]), chain.constant(&[])];
            let shape = chain.shape.clone();
            chain.node("Clip", &clip, shape, |node| node);
        }
    }
    chain.head(12);
    chain.end(&[])
}

/// Blocks that are added to what went into them.
fn residual(draw: &mut Draw, side: usize) -> Graph {
    let width = channels(draw, side);
    let mut chain = Chain::new(draw, "residual", &[1, 3, side, side]);
    chain.conv(width, 3, if side > 64 { 2 } else { 1 }, false);
    chain.relu();
    for block in 0..2 {
        let (before, shape) = (chain.at.clone(), chain.shape.clone());
        let stride = 1 + block;
        let wider = width * stride;
        chain.conv(wider, 3, stride, false);
        chain.relu();
        chain.conv(wider, 3, 1, false);
        let (deep, deep_shape) = (chain.at.clone(), chain.shape.clone());
        (chain.at, chain.shape) = (before, shape);
        if stride > 1 {
            let weights = chain.constant(&[wider, chain.shape[1], 1, 1]);
            chain.node("Conv", &[weights], deep_shape, |node| {
                node.ints("kernel_shape", [1; 2]).ints("strides", [2; 2])
            });
        }
        chain.combine("Add", &deep);
        chain.relu();
    }
    chain.head(10);
    chain.end(&[])
}

/// Heads for boxes and scores on a backbone, with a wider look at what is coarse.
fn detector(draw: &mut Draw, side: usize) -> Graph {
    let width = channels(draw, side).min(64);
    let mut chain = Chain::new(draw, "detector", &[1, width, side, side + side / 3 / 2 * 2]);
    chain.conv(width, 1, 1, false);
    chain.relu();
    let (fine, fine_shape) = (chain.at.clone(), chain.shape.clone());
    if side.is_multiple_of(2) && chain.shape[3].is_multiple_of(2) {
        chain.pool("MaxPool", 2, 2);
        chain.conv(0, 3, 1, true);
        chain.conv(width, 1, 1, false);
        let (scales, empty) = (chain.constant_of(&[1.0, 1.0, 2.0, 2.0]), String::new());
        chain.node("Resize", &[empty, scales], fine_shape, |node| {
            node.string("mode", "nearest")
                .string("coordinate_transformation_mode", "asymmetric")
                .string("nearest_mode", "floor")
        });
        chain.combine("Add", &fine);
    }
    let (trunk, trunk_shape) = (chain.at.clone(), chain.shape.clone());
    let mut heads = Vec::new();
    for (values, squashed) in [(2, true), (4, false)] {
        (chain.at, chain.shape) = (trunk.clone(), trunk_shape.clone());
        let anchors = chain.draw.of(&[1, 2, 3]);
        match chain.draw.of(&[0, 1, 2]) {
            0 => chain.conv(values * anchors, 3, 1, false),
            1 => {
                chain.conv(0, 3, 1, true);
                chain.conv(values * anchors, 1, 1, false);
            }
            _ => {
                chain.conv(values * anchors, 1, 1, false);
                chain.conv(0, 3, 1, true);
            }
        }
        chain.transpose(&[0, 2, 3, 1]);
        let all: usize = chain.shape.iter().product();
        chain.reshape(&[1, all / values, values]);
        if squashed {
            if chain.draw.of(&[true, false]) { chain.softmax() } else { chain.same("Sigmoid") }
        }
        heads.push((chain.at.clone(), chain.shape.clone()));
    }
    let (boxes, box_shape) = heads[1].clone();
    (chain.at, chain.shape) = (boxes, box_shape.clone());
    let corner = chain.slice(2, 0, 2);
    let size = chain.slice(2, 2, 4);
    (chain.at, chain.shape) = size.clone();
    chain.same("Exp");
    chain.combine("Mul", &corner.0);
    let both = vec![box_shape[0], box_shape[1], 4];
    chain.node("Concat", &[corner.0], both, |node| node.int("axis", 2));
    chain.end(&heads[..1])
}

impl Chain<'_> {
    fn constant_of(&mut self, values: &[f32]) -> String {
        let name = self.fresh();
        self.change(|graph| graph.initializer_f32(&name, &[values.len()], values.to_vec()));
        name
    }

    /// A part of what is there, which stays.
    fn slice(&mut self, axis: usize, from: i64, to: i64) -> (String, Vec<usize>) {
        let (at, shape) = (self.at.clone(), self.shape.clone());
        let bounds = [self.list(&[from]), self.list(&[to]), self.list(&[axis as i64])];
        let mut part = shape.clone();
        part[axis] = (to - from) as usize;
        self.node("Slice", &bounds, part, |node| node);
        let slice = (self.at.clone(), self.shape.clone());
        (self.at, self.shape) = (at, shape);
        slice
    }
}

/// Dense layers, as of an autoencoder.
fn dense(draw: &mut Draw, width: usize) -> Graph {
    let mut chain = Chain::new(draw, "dense", &[1, width]);
    for _ in 0..4 {
        let next = chain.draw.of(&[8, 16, 64, 128, 256, width]);
        chain.gemm(next);
        if chain.draw.of(&[false, true]) {
            let (scale, shift) = (chain.constant(&[next]), chain.constant(&[next]));
            let shape = chain.shape.clone();
            chain.node("Mul", &[scale], shape.clone(), |node| node);
            chain.node("Add", &[shift], shape, |node| node);
        }
        chain.relu();
    }
    chain.gemm(width.min(256));
    chain.end(&[])
}

/// What is done value by value.
fn elementwise(draw: &mut Draw, width: usize) -> Graph {
    let rows = draw.of(&[4, 16, 64, 256]);
    let mut chain = Chain::new(draw, "elementwise", &[1, rows, width]);
    let first = chain.at.clone();
    for kind in ["Sigmoid", "Tanh", "Exp", "Sqrt"] {
        chain.same(kind);
        let other = chain.draw.of(&["Add", "Mul", "Sub", "Max"]);
        chain.combine(other, &first);
    }
    chain.softmax();
    let shape = vec![1, rows, 1];
    chain.node("ReduceMean", &[], shape, |node| node.ints("axes", [-1]));
    chain.end(&[])
}

/// A recording or a sensor's values: long and narrow pictures.
fn sequence(draw: &mut Draw, steps: usize) -> Graph {
    let width = draw.of(&[16, 32, 64]);
    let mut chain = Chain::new(draw, "sequence", &[1, 1, steps, 10]);
    chain.conv(width, 5, 2, false);
    chain.relu();
    for _ in 0..3 {
        chain.conv(0, 3, 1, true);
        chain.relu();
        chain.conv(width, 1, 1, false);
        chain.relu();
    }
    chain.head(12);
    chain.end(&[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_runtime::engine::{Given, operators};

    #[test]
    fn every_graph_runs_in_the_engine_and_they_are_the_same_each_time() {
        let all = graphs();
        assert!(all.len() > 80, "{}", all.len());
        let again = graphs();
        for (graph, same) in all.iter().zip(&again) {
            assert_eq!(graph.onnx, same.onnx);
            let operators = operators(&graph.onnx, &[Given::of(&graph.input)])
                .unwrap_or_else(|e| panic!("{}: {}", graph.name, e.detail()));
            assert!(operators.len() > 3, "{}: {operators:?}", graph.name);
        }
    }
}
