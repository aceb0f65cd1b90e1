//! What can be wrong with a model file or with a change to a model.

use flotilla_protocol::ErrorCode;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What can be wrong with a model file or with a change to a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is larger than the limit.
    #[error("the ONNX file has {bytes} bytes and the limit is {limit}: use a smaller model")]
    TooLarge {
        /// Size of the file.
        bytes: usize,
        /// Size allowed.
        limit: usize,
    },
    /// The file would take too much memory when it is decoded.
    #[error(
        "the ONNX file would take more than {limit} bytes of memory: it is damaged or made to exhaust memory"
    )]
    TooMuchMemory {
        /// Memory allowed.
        limit: usize,
    },
    /// The bytes are no protocol buffer message.
    #[error("the file is not ONNX at byte {offset}: {what}; export the model again")]
    Wire {
        /// Where in the file.
        offset: usize,
        /// What was found.
        what: &'static str,
    },
    /// The message does not decode as a model.
    #[error("the file is not an ONNX model: export the model again")]
    Decode(#[source] prost::DecodeError),
    /// The model has no graph, or an empty one.
    #[error("the ONNX file has no graph: export the whole model, not its metadata")]
    NoGraph,
    /// No operator set is declared.
    #[error("the ONNX file does not say which operator set it uses: export the model again")]
    NoOpset,
    /// Weights stand in another file.
    #[error("tensor `{tensor}` keeps its data in another file: export the model with its weights inside")]
    ExternalData {
        /// Name of the tensor.
        tensor: String,
    },
    /// The dimensions of a tensor are negative or too large to count.
    #[error("tensor `{tensor}` has impossible dimensions {dims:?}")]
    Dims {
        /// Name of the tensor.
        tensor: String,
        /// The dimensions as they stand in the file.
        dims: Vec<i64>,
    },
    /// The data of a tensor do not fit its dimensions.
    #[error("tensor `{tensor}` holds {found} {unit} where its dimensions and type need {expected}")]
    DataLength {
        /// Name of the tensor.
        tensor: String,
        /// What is counted.
        unit: &'static str,
        /// How many there are.
        found: usize,
        /// How many there must be.
        expected: usize,
    },
    /// A tensor has its data twice.
    #[error("tensor `{tensor}` holds both raw and typed data, so it is not clear which are meant")]
    AmbiguousData {
        /// Name of the tensor.
        tensor: String,
    },
    /// A tensor has an element type that is unknown or cannot be used here.
    #[error("tensor `{tensor}` has element type {found}, and {expected} is needed")]
    ElementType {
        /// Name of the tensor.
        tensor: String,
        /// Its type.
        found: String,
        /// What is needed.
        expected: &'static str,
    },
    /// No initialiser or constant has this name.
    #[error("the model has no constant tensor `{name}`")]
    NoTensor {
        /// The name looked for.
        name: String,
    },
    /// No input has this name.
    #[error("the model has no input `{name}`")]
    NoInput {
        /// The name looked for.
        name: String,
    },
    /// A name is empty where one is needed.
    #[error("{what} has no name")]
    NoName {
        /// What has no name.
        what: &'static str,
    },
    /// Two values or nodes have one name.
    #[error("the name `{name}` is used twice: every value and every node needs its own")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A node reads a value that nothing before it makes.
    #[error("node `{node}` reads `{value}`, which no input, initialiser or earlier node makes")]
    Undefined {
        /// The node, or `graph outputs`.
        node: String,
        /// The value.
        value: String,
    },
    /// A value would have more elements than any model here needs.
    #[error("{what} asks for more than {limit} elements: it is damaged or made to exhaust memory")]
    TooManyElements {
        /// The node or input.
        what: String,
        /// Elements allowed.
        limit: usize,
    },
    /// A node names an axis that no value has.
    #[error(
        "node {node} names axis {axis}, which no value has: the file is damaged, so export the model again"
    )]
    Axis {
        /// The node.
        node: String,
        /// The axis.
        axis: i64,
    },
    /// The operator set is from before what is read.
    #[error("the model uses opset {opset}, and 7 is the oldest that is read: export it again with opset 13")]
    OldOpset {
        /// What the model uses.
        opset: i64,
    },
    /// A node is in the form for training.
    #[error(
        "node {node} is in training mode, where answers depend on chance: export the model for inference"
    )]
    Training {
        /// The node.
        node: String,
    },
    /// A node is in a form that no later version has.
    #[error("node {node} has {what}, which ONNX has retired: export the model again with opset 13")]
    Retired {
        /// The node.
        node: String,
        /// What it has.
        what: &'static str,
    },
    /// Nodes were to be put where the graph has no place.
    #[error("nodes cannot be inserted at {index}: the graph has {nodes} nodes")]
    Place {
        /// The index asked for.
        index: usize,
        /// Nodes in the graph.
        nodes: usize,
    },
}

impl Error {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } | Self::TooMuchMemory { .. } | Self::TooManyElements { .. } => {
                ErrorCode::TooLarge
            }
            Self::ExternalData { .. }
            | Self::OldOpset { .. }
            | Self::Training { .. }
            | Self::Retired { .. } => ErrorCode::ModelUnsupported,
            Self::NoTensor { .. } | Self::NoInput { .. } => ErrorCode::NotFound,
            Self::Duplicate { .. } => ErrorCode::AlreadyExists,
            Self::Place { .. } => ErrorCode::InvalidInput,
            _ => ErrorCode::ModelInvalid,
        }
    }
}
