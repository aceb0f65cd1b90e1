//! Things in pictures: each decoder on outputs that are worked out by hand, and real detectors on real photos.

use crate::support::{data, image, rgb};
use flotilla_onnx::{Dim, GraphBuilder, Node, Value};
use flotilla_protocol::Pipeline;
use flotilla_protocol::pipeline::detection::{
    AnchorFree, AnchorFreeLevel, BoxForm, Boxes, CellBox, Decoder, PriorLevel, Priors, Yolo, YoloGrid,
};
use flotilla_protocol::pipeline::{Colour, Detection, Layout, Output, Place, Resize};
use flotilla_runtime::metrics::detection::iou;
use flotilla_runtime::{Answer, Input, Model, Object};
use std::io::Read;

fn finds(mut pipeline: Pipeline, labels: &[&str], decoder: Decoder) -> Pipeline {
    pipeline.output = Output::Detection(Detection {
        labels: labels.iter().map(|&label| label.to_owned()).collect(),
        decoder,
        score: 0.5,
        overlap: 0.45,
        limit: 100,
    });
    pipeline
}

fn objects(model: &mut Model, input: Input<'_>) -> Vec<Object> {
    match model.predict(input).unwrap().answer {
        Answer::Objects(objects) => objects,
        other => panic!("{other:?} are no things"),
    }
}

/// A network for pictures of 16 x 16 that gives these outputs, whatever it sees.
fn gives(outputs: &[(&str, &[usize], Vec<f32>)]) -> Vec<u8> {
    let graph = GraphBuilder::new("constant");
    answering(graph.input(Value::f32("x", [Dim::from(1), 3.into(), 16.into(), 16.into()])), outputs)
}

/// The network with this input that gives these outputs, whatever it sees.
fn answering(graph: GraphBuilder, outputs: &[(&str, &[usize], Vec<f32>)]) -> Vec<u8> {
    let mut graph = graph
        .initializer_f32("zero", &[1], vec![0.0])
        .node(Node::new("ReduceMax", ["x"], ["any"]).int("keepdims", 0))
        .node(Node::new("Mul", ["any", "zero"], ["nothing"]));
    for (name, shape, values) in outputs {
        let fixed = format!("{name} fixed");
        graph = graph
            .initializer_f32(&fixed, shape, values.clone())
            .node(Node::new("Add", [fixed.as_str(), "nothing"], [*name]))
            .output(Value::f32(*name, shape.iter().map(|dim| Dim::from(*dim))));
    }
    graph.build().unwrap().write()
}

/// What is found in a picture of 32 x 16 that is letterboxed: halved, with 4 rows above and below.
fn found(
    labels: &[&str],
    decoder: Decoder,
    outputs: &[(&str, &[usize], Vec<f32>)],
) -> Vec<(String, f32, [f32; 4])> {
    let letterbox = Resize::Letterbox { fill: 114, place: Place::Centre };
    let pipeline = finds(rgb(16, 16, letterbox, Layout::Nchw, &["-"]), labels, decoder);
    let picture = crate::support::png(::image::RgbImage::new(32, 16));
    let mut model = Model::load(&pipeline, &gives(outputs)).unwrap();
    let found = objects(&mut model, Input::Encoded(&picture));
    found.into_iter().map(|object| (object.label.label, object.label.score, object.place)).collect()
}

#[test]
fn yolo_v5_rows_are_boxes_with_objectness() {
    let rows = vec![
        // Around (8, 8) of the network's picture, 4 x 2.
        8.0, 8.0, 4.0, 2.0, 0.9, 0.1, 0.8, //
        8.0, 8.0, 4.0, 2.0, 0.5, 0.1, 0.8, //
        2.0, 8.0, 4.0, 2.0, 1.0, 0.75, 0.0,
    ];
    let found = found(&["a", "b"], Decoder::YoloV5(Yolo::default()), &[("y", &[1, 3, 7], rows)]);
    // In the picture that was sent everything is twice as large, and 4 rows higher in the network's.
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((found[0].0.as_str(), found[0].2), ("a", [0.0, 6.0, 8.0, 10.0]));
    assert_eq!((found[1].0.as_str(), found[1].2), ("b", [12.0, 6.0, 20.0, 10.0]));
    assert!((found[1].1 - 0.72).abs() < 1e-6);
}

#[test]
fn yolo_v8_columns_are_boxes_with_a_score_a_class() {
    // Columns of two places: x, y, w, h, two classes.
    let columns = vec![8.0, 2.0, 8.0, 8.0, 4.0, 4.0, 2.0, 2.0, 0.1, 0.75, 0.8, 0.0];
    let found = found(&["a", "b"], Decoder::YoloV8(Yolo::default()), &[("y", &[1, 6, 2], columns)]);
    assert_eq!(found[0], ("b".to_owned(), 0.8, [12.0, 6.0, 20.0, 10.0]));
    assert_eq!(found[1], ("a".to_owned(), 0.75, [0.0, 6.0, 8.0, 10.0]));
}

#[test]
fn yolo_x_boxes_are_relative_to_their_cells() {
    let mut rows = vec![0.0; 5 * 6];
    // The last of 4 cells of stride 8, then the one of stride 16: half a cell in, one stride high and wide.
    rows[3 * 6..4 * 6].copy_from_slice(&[0.5, 0.5, 0.0, 0.0, 1.0, 0.9]);
    rows[4 * 6..].copy_from_slice(&[0.5, 0.5, 0.0, 0.0, 1.0, 0.8]);
    let decoder = Decoder::YoloX(YoloGrid { output: None, strides: vec![8, 16] });
    let found = found(&["a"], decoder, &[("y", &[1, 5, 6], rows)]);
    assert_eq!(found[0], ("a".to_owned(), 0.9, [16.0, 8.0, 32.0, 16.0]));
    assert_eq!(found[1], ("a".to_owned(), 0.8, [0.0, 0.0, 32.0, 16.0]));
}

#[test]
fn ssd_offsets_move_priors_and_its_background_is_nothing() {
    let priors = Priors {
        levels: vec![PriorLevel { stride: 8, sizes: vec![[8.0, 8.0]] }],
        centre_variance: 0.1,
        size_variance: 0.2,
    };
    let spec = Boxes {
        boxes: "boxes".into(),
        scores: "scores".into(),
        softmax: true,
        background: true,
        form: BoxForm::Centre,
        relative: true,
        priors: Some(priors),
    };
    let mut boxes = vec![0.0; 16];
    // The first prior, one of its widths to the right: 1 / 0.1.
    boxes[0] = 10.0;
    let mut scores = [5.0, 0.0].repeat(4);
    scores[1] = 10.0;
    let outputs = [("boxes", &[1, 4, 4][..], boxes), ("scores", &[1, 4, 2][..], scores)];
    let found = found(&["a"], Decoder::Boxes(spec), &outputs);
    assert_eq!(found.len(), 1, "the others are background");
    let expected = [16.0, 0.0, 32.0, 8.0];
    assert!(found[0].2.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3), "{found:?}");
}

#[test]
fn a_distribution_of_distances_is_its_mean() {
    let spec = AnchorFree {
        levels: vec![AnchorFreeLevel {
            stride: 8,
            classes: "classes".into(),
            objectness: None,
            boxes: "boxes".into(),
        }],
        boxes: CellBox::Distribution { bins: 3 },
        sigmoid: true,
        root: false,
        point: 0.5,
    };
    // As planes: [classes, rows, columns] and [4 * bins, rows, columns]; the last cell has a distance of 1 to each side.
    let mut classes = vec![-9.0; 4];
    classes[3] = 2.0;
    let mut boxes = vec![0.0; 12 * 4];
    for side in 0..4 {
        boxes[(side * 3 + 1) * 4 + 3] = 50.0;
    }
    let outputs = [("classes", &[1, 1, 2, 2][..], classes), ("boxes", &[1, 12, 2, 2][..], boxes)];
    let found = found(&["a"], Decoder::AnchorFree(spec), &outputs);
    // The centre is (12, 12), 8 to each side: beyond the picture it is cut.
    assert_eq!(found[0].2, [8.0, 0.0, 32.0, 16.0]);
}

#[test]
fn planes_are_told_from_cells_also_where_there_are_as_many_columns_as_numbers() {
    let spec = AnchorFree {
        levels: vec![AnchorFreeLevel {
            stride: 4,
            classes: "classes".into(),
            objectness: None,
            boxes: "boxes".into(),
        }],
        boxes: CellBox::Distances,
        sigmoid: false,
        root: false,
        point: 0.0,
    };
    // Cell 6 of 4 x 4 is in row 1 and column 2: its point is (8, 4).
    let mut classes = vec![0.0; 16];
    classes[6] = 0.9;
    let mut boxes = vec![0.0; 4 * 16];
    for (side, distance) in [2.0, 0.0, 1.0, 1.0].into_iter().enumerate() {
        boxes[side * 16 + 6] = distance;
    }
    let outputs = [("classes", &[1, 1, 4, 4][..], classes), ("boxes", &[1, 4, 4, 4][..], boxes)];
    let found = found(&["a"], Decoder::AnchorFree(spec), &outputs);
    assert_eq!(found, [("a".to_owned(), 0.9, [0.0, 0.0, 24.0, 8.0])]);
}

#[test]
fn a_description_of_countless_boxes_is_refused_before_they_are_made() {
    let load = |decoder: Decoder, outputs: &[(&str, &[usize], Vec<f32>)]| {
        let pipeline = finds(rgb(6_000, 6_000, Resize::Stretch, Layout::Nchw, &["-"]), &["a"], decoder);
        let graph = GraphBuilder::new("constant").input(Value::f32("x", [1_usize, 3, 6_000, 6_000]));
        Model::load(&pipeline, &answering(graph, outputs)).unwrap_err().detail()
    };
    let priors = Priors {
        levels: vec![PriorLevel { stride: 1, sizes: vec![[1.0, 1.0]; 64] }; 16],
        centre_variance: 0.1,
        size_variance: 0.2,
    };
    let boxes = Boxes {
        boxes: "boxes".into(),
        scores: "scores".into(),
        softmax: false,
        background: false,
        form: BoxForm::Centre,
        relative: true,
        priors: Some(priors),
    };
    let outputs = [("boxes", &[1, 1, 4][..], vec![0.0; 4]), ("scores", &[1, 1, 1][..], vec![0.0])];
    assert!(
        load(Decoder::Boxes(boxes), &outputs)
            .contains("the priors of a picture of 6000 x 6000 are 36864000000")
    );
    let grid = Decoder::YoloX(YoloGrid { output: None, strides: vec![1; 16] });
    assert!(
        load(grid, &[("y", &[1, 1, 6][..], vec![0.0; 6])])
            .contains("the cells of a picture of 6000 x 6000 are 576000000")
    );
}

#[test]
fn outputs_that_do_not_fit_are_named() {
    let load = |decoder: Decoder, outputs: &[(&str, &[usize], Vec<f32>)]| {
        let pipeline = finds(rgb(16, 16, Resize::Stretch, Layout::Nchw, &["-"]), &["a", "b"], decoder);
        Model::load(&pipeline, &gives(outputs)).unwrap_err().detail()
    };
    let v5 = Decoder::YoloV5(Yolo::default());
    assert!(
        load(v5.clone(), &[("y", &[1, 2, 6], vec![0.0; 12])]).contains("output y has the shape [1, 2, 6]")
    );
    assert!(load(v5.clone(), &[("y", &[1, 7, 2], vec![0.0; 14])]).contains("no fitting axis has 7 values"));
    let two: [(&str, &[usize], Vec<f32>); 2] = [("y", &[1, 1, 7], vec![0.0; 7]), ("z", &[1], vec![0.0])];
    assert!(load(v5, &two).contains("2 outputs (y, z); the pipeline must name"));
    let x = Decoder::YoloX(YoloGrid { output: None, strides: vec![8] });
    assert!(load(x, &[("y", &[1, 3, 7], vec![0.0; 21])]).contains("gives 3 boxes"));
}

fn photo(name: &str) -> Option<Vec<u8>> {
    let path = data("models/sample-inputs.zip")?;
    let mut archive = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut bytes = Vec::new();
    archive.by_name(&format!("sample-inputs/{name}")).unwrap().read_to_end(&mut bytes).unwrap();
    Some(bytes)
}

fn face_detectors() -> Option<[Model; 2]> {
    let mut ultraface = rgb(320, 240, Resize::Stretch, Layout::Nchw, &["-"]);
    image(&mut ultraface).mean = vec![127.0 / 255.0; 3];
    image(&mut ultraface).std = vec![128.0 / 255.0; 3];
    let boxes = Boxes {
        boxes: "boxes".into(),
        scores: "scores".into(),
        softmax: false,
        background: true,
        form: BoxForm::Corners,
        relative: true,
        priors: None,
    };
    let ultraface = finds(ultraface, &["face"], Decoder::Boxes(boxes));
    let letterbox = Resize::Letterbox { fill: 0, place: Place::TopLeft };
    let mut yunet = rgb(320, 320, letterbox, Layout::Nchw, &["-"]);
    image(&mut yunet).colour = Colour::Bgr;
    image(&mut yunet).std = vec![1.0 / 255.0; 3];
    let level = |stride: u32| AnchorFreeLevel {
        stride,
        classes: format!("cls_{stride}"),
        objectness: Some(format!("obj_{stride}")),
        boxes: format!("bbox_{stride}"),
    };
    let free = AnchorFree {
        levels: [8, 16, 32].map(level).to_vec(),
        boxes: CellBox::CentreSize,
        sigmoid: false,
        root: true,
        point: 0.0,
    };
    let yunet = finds(yunet, &["face"], Decoder::AnchorFree(free));
    let load = |pipeline: &Pipeline, file: &str| {
        let onnx = std::fs::read(data(file)?).unwrap();
        Some(Model::load(pipeline, &onnx).unwrap())
    };
    Some([load(&ultraface, "models/ultraface-RFB-320.onnx")?, load(&yunet, "models/yunet_n_320_320.onnx")?])
}

#[test]
fn two_face_detectors_of_different_kinds_find_the_same_faces() {
    let Some([mut ultraface, mut yunet]) = face_detectors() else { return };
    for (name, least) in [("face_13.jpg", 1), ("face_19.jpg", 3), ("face_2.jpg", 1), ("face_24.jpg", 3)] {
        let photo = photo(name).unwrap();
        let (a, b) =
            (objects(&mut ultraface, Input::Encoded(&photo)), objects(&mut yunet, Input::Encoded(&photo)));
        let sure: Vec<&Object> = b.iter().filter(|face| face.label.score > 0.7).collect();
        let both = sure.iter().filter(|face| a.iter().any(|other| iou(other.place, face.place) > 0.4));
        let both = both.count();
        assert!(both >= least, "{name}: {both} of {} and {}: {a:?} {b:?}", a.len(), b.len());
    }
    for name in ["china.jpg", "flower.jpg"] {
        let photo = photo(name).unwrap();
        assert_eq!(objects(&mut yunet, Input::Encoded(&photo)).len(), 0, "{name}");
    }
}
