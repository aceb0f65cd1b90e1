//! A loaded model: pipeline and engine together.

use crate::answer::{Reader, Seen};
use crate::drift::Monitor;
use crate::engine::{self, Engine, Given};
use crate::preprocess::{Frame, Prepared};
use crate::state::{States, Stream};
use crate::tensor::{Port, Values};
use crate::{Bundle, Error, Input, Prediction, Preprocessor, Result};
use flotilla_protocol::Pipeline;
use flotilla_protocol::pipeline::{self, ConstantTensor, InvalidPipeline, TensorKind};

/// A model ready to predict. One prediction at a time; it may move between threads.
#[derive(Debug)]
pub struct Model {
    takes: pipeline::Input,
    gives: pipeline::Output,
    preprocessor: Preprocessor,
    engine: Engine,
    reader: Reader,
    /// What the network takes of its caller: its inputs but states and constants.
    inputs: Vec<Port>,
    constants: Vec<Values>,
    states: States,
    /// For each state, the output that it goes on with.
    state_outputs: Vec<usize>,
    monitor: Option<Box<Monitor>>,
}

impl Model {
    /// Loads an ONNX model that belongs to `pipeline`.
    pub fn load(pipeline: &Pipeline, onnx: &[u8]) -> Result<Self> {
        let preprocessor = Preprocessor::new(pipeline)?;
        let free = preprocessor.given().len();
        let given = given(pipeline, &preprocessor);
        let engine = Engine::load(onnx, &given)?;
        let constant = |constant: &ConstantTensor| {
            let values = Values::from_f64(constant.input.kind, &constant.values);
            // What is finite with 64 bits need not be with 32.
            values.filter(|values| values.not_finite().is_none()).ok_or_else(|| {
                let problem = format!("a value of {} is no {}", constant.input.name, constant.input.kind);
                Error::Pipeline(InvalidPipeline { field: "constants", problem })
            })
        };
        let constants = pipeline.constants.iter().map(constant).collect::<Result<Vec<_>>>()?;
        let state_outputs = state_outputs(pipeline, engine.outputs())?;
        let is_state = |place: &usize| state_outputs.contains(place);
        let outputs: Vec<Port> = (0..engine.outputs().len())
            .filter(|place| !is_state(place))
            .map(|place| engine.outputs()[place].clone())
            .collect();
        let inputs: Vec<Port> = engine.inputs().take(free).cloned().collect();
        let reader = Reader::new(pipeline, &inputs[0], outputs)?;
        let states = States::new(engine.inputs().skip(free + constants.len()).cloned().collect());
        let (takes, gives) = (pipeline.input.clone(), pipeline.output.clone());
        Ok(Self {
            takes,
            gives,
            preprocessor,
            engine,
            reader,
            inputs,
            constants,
            states,
            state_outputs,
            monitor: None,
        })
    }

    /// Loads the first variant of a release that is for this board and engine ([`engine::NAME`]).
    pub fn from_bundle(bundle: &Bundle, board: &str, engine: &str) -> Result<Self> {
        if engine != engine::NAME {
            return Err(Error::UnknownEngine { engine: engine.to_owned() });
        }
        let manifest = bundle.manifest();
        let variant = manifest.variant_for(board, engine)?;
        let model = Self::load(&manifest.pipeline, &bundle.read(&variant.model)?)?;
        let monitor = bundle.baseline()?.map(|baseline| Monitor::new(&manifest.pipeline, baseline));
        Ok(Self { monitor: monitor.map(Box::new), ..model })
    }

    /// What compares predictions with the release's baseline, if it has one. It is given out once: whoever predicts
    /// counts with it, so that it can be read while a prediction runs.
    pub fn take_monitor(&mut self) -> Option<Box<Monitor>> {
        self.monitor.take()
    }

    /// What the pipeline takes.
    pub fn takes(&self) -> &pipeline::Input {
        &self.takes
    }

    /// What becomes of the network's outputs.
    pub fn gives(&self) -> &pipeline::Output {
        &self.gives
    }

    /// What turns inputs into tensors.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// Label names, in the order of their indices; none where answers have no labels.
    pub fn labels(&self) -> &[String] {
        self.reader.labels()
    }

    /// The tensors that the network takes, with a batch of one; states and constants are not among them.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The tensors that the network gives, with a batch of one; states are not among them.
    pub fn outputs(&self) -> &[Port] {
        self.reader.ports()
    }

    /// Whether it keeps states between calls.
    pub fn is_stateful(&self) -> bool {
        !self.state_outputs.is_empty()
    }

    /// Predicts one input that stands for itself: a network with states begins anew, and goes on with none of it. So the
    /// same input has the same answer, whatever came before.
    pub fn predict(&mut self, input: Input<'_>) -> Result<Prediction> {
        self.predict_in(Stream::ALONE, input)
    }

    /// Predicts one input of a stream.
    pub fn predict_in(&mut self, stream: Stream<'_>, input: Input<'_>) -> Result<Prediction> {
        let prepared = self.preprocessor.prepare(input)?;
        self.predict_prepared(stream, &prepared)
    }

    /// Pre-processing alone.
    pub fn prepare(&self, input: Input<'_>) -> Result<Prepared> {
        self.preprocessor.prepare(input)
    }

    /// Everything after pre-processing.
    pub fn predict_prepared(&mut self, stream: Stream<'_>, prepared: &Prepared) -> Result<Prediction> {
        let windows = self.windows(stream, &prepared.rows)?;
        self.reader.read(windows, prepared.frame.as_ref())
    }

    /// What the network itself gives for tensors ([`Model::inputs`]), and what post-processing makes of it. Boxes are in
    /// pixels of the network's picture.
    pub fn run(&mut self, stream: Stream<'_>, tensors: Vec<Values>) -> Result<(Vec<Values>, Prediction)> {
        let frame = self.preprocessor.pictures().map(|pictures| {
            let image = pictures.image();
            Frame { size: [image.width as f32, image.height as f32], scale: [1.0; 2], offset: [0.0; 2] }
        });
        let windows = self.windows(stream, &[tensors])?;
        let outputs = windows.first().map(|window| window.outputs.clone()).unwrap_or_default();
        Ok((outputs, self.reader.read(windows, frame.as_ref())?))
    }

    /// Runs the network once a row.
    fn windows(&mut self, stream: Stream<'_>, rows: &[Vec<Values>]) -> Result<Vec<Seen>> {
        let mut states = self.states.take(stream);
        let mut windows = Vec::with_capacity(rows.len());
        for row in rows {
            // A failed run leaves the stream to begin anew.
            let (window, next) = self.window(row, states)?;
            windows.push(window);
            states = next;
        }
        // So does one that leaves what is no number: nothing would ever come of it again.
        if states.iter().all(|values| values.not_finite().is_none()) {
            self.states.keep(stream, states);
        }
        Ok(windows)
    }

    fn window(&mut self, row: &[Values], states: Vec<Values>) -> Result<(Seen, Vec<Values>)> {
        let fitted: Vec<Option<Values>> = row
            .iter()
            .zip(&self.inputs)
            .map(|(values, port)| match values {
                Values::Fp32(floats) if port.kind != TensorKind::Fp32 => {
                    Some(Values::rounded(port.kind, floats))
                }
                _ => None,
            })
            .collect();
        let own = row.iter().zip(&fitted).map(|(values, fitted)| fitted.as_ref().unwrap_or(values));
        let inputs: Vec<&Values> = own.chain(&self.constants).chain(&states).collect();
        let mut outputs: Vec<Option<Values>> = self.engine.run(&inputs)?.into_iter().map(Some).collect();
        let next: Vec<Values> =
            self.state_outputs.iter().filter_map(|place| outputs[*place].take()).collect();
        let input = row.first().cloned().unwrap_or_else(|| Values::Fp32(Vec::new()));
        Ok((Seen { input, outputs: outputs.into_iter().flatten().collect() }, next))
    }
}

/// What a network of this pipeline is given: what is prepared, constants, states.
fn given(pipeline: &Pipeline, preprocessor: &Preprocessor) -> Vec<Given> {
    let mut given = preprocessor.given();
    let named = pipeline.constants.iter().map(|constant| &constant.input);
    given.extend(named.chain(pipeline.states.iter().map(|state| &state.input)).map(|spec| Given {
        name: Some(spec.name.clone()),
        kind: Some(spec.kind),
        shape: spec.dims(),
    }));
    given
}

/// The operators of a network of this pipeline ([`engine::operators`]).
pub fn operators(pipeline: &Pipeline, onnx: &[u8]) -> Result<Vec<engine::Operator>> {
    engine::operators(onnx, &given(pipeline, &Preprocessor::new(pipeline)?))
}

/// The output of each state, which must be another tensor like it.
fn state_outputs(pipeline: &Pipeline, outputs: &[Port]) -> Result<Vec<usize>> {
    let mut places = Vec::with_capacity(pipeline.states.len());
    for state in &pipeline.states {
        let fail = |problem: String| Err(Error::Interface(problem));
        let Some(place) = outputs.iter().position(|port| port.name == state.output) else {
            let names: Vec<&str> = outputs.iter().map(|port| port.name.as_str()).collect();
            return fail(format!(
                "it has no output {} for a state; it has {}",
                state.output,
                names.join(", ")
            ));
        };
        let (port, wanted) = (&outputs[place], Port::from(&state.input));
        if (port.kind, port.values()) != (wanted.kind, wanted.values()) {
            return fail(format!(
                "its output {} is {} {:?} and cannot take the place of the state {}, which is {} {:?}",
                port.name, port.kind, port.shape, wanted.name, wanted.kind, wanted.shape
            ));
        }
        if places.contains(&place) {
            return fail(format!("its output {} is two states", state.output));
        }
        places.push(place);
    }
    Ok(places)
}
