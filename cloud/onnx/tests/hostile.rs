//! Files that are damaged, cut or made to do harm are refused with a typed error; nothing panics or grows.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use flotilla_onnx::pb::{self, tensor_proto::DataLocation};
use flotilla_onnx::{DataType, Dim, Error, GraphBuilder, Model, Node, Value};
use proptest::prelude::*;
use tract_onnx::pb::TensorProto;

fn model() -> Model {
    GraphBuilder::new("m")
        .input(Value::f32("x", [Dim::from("N"), Dim::from(2)]))
        .output(Value::f32("y", [Dim::from("N"), Dim::from(2)]))
        .initializer_f32("w", &[2, 2], vec![1.0, 2.0, 3.0, 4.0])
        .initializer_i8("q", &[4], vec![1, 2, 3, 4])
        .node(Node::new("MatMul", ["x", "w"], ["h"]))
        .node(Node::new("Relu", ["h"], ["y"]).ints("unused", [1, 2, 3]).string("s", "text"))
        .build()
        .unwrap()
}

/// Everything one may ask a model that was read.
fn use_it(model: &Model) {
    let _ = (model.summary(), model.check_order(), model.fresh_name("w"), model.inputs(), model.outputs());
    for tensor in model.initializers() {
        let name = &tensor.name;
        let _ =
            (model.tensor_f32(name), model.tensor_i8(name), model.tensor_i64(name), model.consumers_of(name));
    }
    let mut changed = model.clone();
    let _ = (changed.rename("w", "v"), changed.remove_unused_initializers(), changed.remove_node(0));
    assert_eq!(Model::read(&model.write()).unwrap().write(), model.write());
}

fn with(change: impl FnOnce(&mut pb::GraphProto)) -> Result<Model, Error> {
    let mut proto = model().into_proto();
    change(proto.graph.as_mut().unwrap());
    Model::from_proto(proto)
}

fn with_tensor(tensor: TensorProto) -> Result<Model, Error> {
    with(|graph| graph.initializer.push(TensorProto { name: "t".into(), ..tensor }))
}

#[test]
fn weights_in_another_file_are_refused_wherever_they_hide() {
    let external = TensorProto {
        data_type: DataType::Float as i32,
        data_location: Some(DataLocation::External as i32),
        external_data: vec![pb::StringStringEntryProto {
            key: "location".into(),
            value: "/etc/passwd".into(),
        }],
        ..TensorProto::default()
    };
    assert!(matches!(with_tensor(external.clone()), Err(Error::ExternalData { tensor }) if tensor == "t"));
    let constant = Node::new("Constant", [""; 0], ["c"]).tensor("value", external.clone());
    assert!(matches!(with(|g| g.node.insert(0, constant.clone().into())), Err(Error::ExternalData { .. })));
    let mut holder = pb::NodeProto::from(Node::new("If", ["x"], ["z"]));
    holder.attribute.push(pb::AttributeProto {
        name: "then_branch".into(),
        g: Some(pb::GraphProto { node: vec![constant.into()], ..pb::GraphProto::default() }),
        ..pb::AttributeProto::default()
    });
    assert!(matches!(with(|g| g.node.push(holder)), Err(Error::ExternalData { .. })));
}

#[test]
fn tensors_whose_data_do_not_fit_are_refused() {
    let float = |dims: &[i64], values: usize, raw: usize| TensorProto {
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        float_data: vec![0.0; values],
        raw_data: vec![0; raw],
        ..TensorProto::default()
    };
    assert!(matches!(with_tensor(float(&[-1], 0, 0)), Err(Error::Dims { .. })));
    assert!(matches!(with_tensor(float(&[i64::MAX, i64::MAX], 0, 0)), Err(Error::Dims { .. })));
    assert!(matches!(with_tensor(float(&[0, i64::MAX, i64::MAX], 0, 0)), Err(Error::Dims { .. })));
    assert!(matches!(with_tensor(float(&[3], 2, 0)), Err(Error::DataLength { found: 2, expected: 3, .. })));
    assert!(matches!(
        with_tensor(float(&[3], 0, 11)),
        Err(Error::DataLength { found: 11, expected: 12, .. })
    ));
    assert!(matches!(with_tensor(float(&[3], 3, 12)), Err(Error::AmbiguousData { .. })));
    assert!(with_tensor(float(&[], 1, 0)).is_ok() && with_tensor(float(&[0, 3], 0, 0)).is_ok());
    let unknown = TensorProto { data_type: 99, ..TensorProto::default() };
    assert!(matches!(with_tensor(unknown), Err(Error::ElementType { .. })));
    let too_wide = TensorProto {
        dims: vec![1],
        data_type: DataType::Int8 as i32,
        int32_data: vec![300],
        ..TensorProto::default()
    };
    assert!(matches!(with_tensor(too_wide).unwrap().tensor_i8("t"), Err(Error::ElementType { .. })));
    assert!(matches!(model().tensor_f32("q"), Err(Error::ElementType { found, .. }) if found == "INT8"));
    assert!(matches!(model().tensor_f32("none"), Err(Error::NoTensor { .. })));
}

#[test]
fn files_without_a_graph_or_operator_set_and_files_too_large_are_refused() {
    let no_graph = pb::ModelProto { graph: None, ..model().into_proto() };
    assert!(matches!(Model::from_proto(no_graph), Err(Error::NoGraph)));
    let no_opset = pb::ModelProto { opset_import: Vec::new(), ..model().into_proto() };
    assert!(matches!(Model::from_proto(no_opset), Err(Error::NoOpset)));
    assert!(matches!(Model::read(b""), Err(Error::NoGraph)));
    assert!(matches!(Model::read(b"<html>not found</html>"), Err(Error::Wire { .. })));
    let bytes = model().write();
    let refused = Model::read_within(&bytes, bytes.len() - 1);
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
}

/// Each two bytes would become one node of hundreds of bytes in memory.
#[test]
fn a_small_file_that_decodes_to_much_memory_is_refused_before_decoding() {
    let nodes = [0x0a_u8, 0x00].repeat(4 << 20);
    let mut file = vec![0x3a];
    let mut length = nodes.len();
    while length >= 0x80 {
        file.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    file.push(length as u8);
    file.extend(nodes);
    assert!(matches!(Model::read(&file), Err(Error::TooMuchMemory { .. })));
}

#[test]
fn a_file_cut_anywhere_is_refused_or_still_whole() {
    let bytes = model().write();
    for end in 0..bytes.len() {
        if let Ok(model) = Model::read(&bytes[..end]) {
            use_it(&model);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(model) = Model::read(&bytes) {
            use_it(&model);
        }
    }

    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = model().write();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Ok(model) = Model::read(&bytes) {
            use_it(&model);
        }
    }
}

/// A graph with so many small graphs, names or nodes of one kind in it as a file of a few megabytes can hold.
#[test]
fn many_names_take_no_time_that_grows_with_their_square() {
    const MANY: usize = 30_000;
    let started = std::time::Instant::now();
    let names = |kind: &'static str| (0..MANY).map(move |i| format!("{kind}{i}"));
    let nested = with(|graph| {
        let constant = |name: String| TensorProto {
            name,
            data_type: DataType::Float as i32,
            dims: vec![0],
            ..TensorProto::default()
        };
        graph.initializer.extend(names("c").map(constant));
        graph.input.extend(names("i").map(|name| Value::f32(name, [1_usize]).into()));
        graph.node.extend(names("o").map(|output| {
            let mut node = pb::NodeProto::from(Node::new("If", ["x"], [output]));
            node.attribute.push(pb::AttributeProto {
                name: "then_branch".into(),
                g: Some(pb::GraphProto::default()),
                ..pb::AttributeProto::default()
            });
            node
        }));
    });
    let nested = nested.unwrap();
    nested.check_order().unwrap();
    assert_eq!(nested.inputs().len(), MANY + 1);
    // The square takes minutes.
    assert!(started.elapsed() < std::time::Duration::from_secs(60), "{:?}", started.elapsed());
}
