//! Tensors as they are: bytes one after the other, or a JSON object with a list a name.

use crate::numbers::Numbers;
use crate::tensor::{self, Port, Values};
use crate::{Error, Result};
use flotilla_protocol::pipeline::TensorsInput;
use std::collections::BTreeMap;

/// Reads tensors of these names, kinds and shapes.
#[derive(Clone, Debug)]
pub(super) struct Tensors {
    pub(super) ports: Vec<Port>,
}

impl Tensors {
    pub(super) fn new(input: &TensorsInput) -> Self {
        Self { ports: input.tensors.iter().map(Port::from).collect() }
    }

    /// Bytes of all tensors together.
    pub(super) fn raw_bytes(&self) -> usize {
        self.ports.iter().map(Port::bytes).sum()
    }

    /// Little-endian values, one tensor after the other.
    pub(super) fn raw(&self, bytes: &[u8]) -> Result<Vec<Values>> {
        let length = || Error::TensorBytes { got: bytes.len(), need: self.raw_bytes() };
        let tensors = tensor::from_bytes(&self.ports, bytes).ok_or_else(length)?;
        self.checked(tensors)
    }

    /// `{"name": [[1, 2], [3, 4]], …}`: lists as deep as one likes, their numbers in row-major order.
    pub(super) fn json(&self, bytes: &[u8]) -> Result<Vec<Values>> {
        let unreadable = |e: serde_json::Error| Error::TensorDocument(e.to_string());
        let mut document: BTreeMap<String, Numbers> = serde_json::from_slice(bytes).map_err(unreadable)?;
        let read = |port: &Port| {
            let named = format!("input {}", port.name);
            let Numbers { values: numbers, .. } = document
                .remove(&port.name)
                .ok_or_else(|| Error::TensorDocument(format!("{named} is missing")))?;
            if numbers.len() != port.values() {
                return Err(Error::TensorLength { got: numbers.len(), need: port.values() });
            }
            Values::from_f64(port.kind, &numbers)
                .ok_or_else(|| Error::TensorDocument(format!("a number of {named} is no {}", port.kind)))
        };
        let tensors = self.ports.iter().map(read).collect::<Result<Vec<_>>>()?;
        if let Some(name) = document.keys().next() {
            let name: String = name.chars().take(64).collect();
            let names: Vec<&str> = self.ports.iter().map(|port| port.name.as_str()).collect();
            return Err(Error::TensorDocument(format!("there is no input {name}, but {}", names.join(", "))));
        }
        self.checked(tensors)
    }

    fn checked(&self, tensors: Vec<Values>) -> Result<Vec<Values>> {
        for (values, port) in tensors.iter().zip(&self.ports) {
            if let Some(index) = values.not_finite() {
                return Err(Error::TensorNotFinite { name: port.name.clone(), index });
            }
        }
        Ok(tensors)
    }
}
