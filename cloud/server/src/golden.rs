//! Inputs by which devices prove a release.

use crate::http::problem::Problem;
use bytes::Bytes;
use flotilla_data::{Datasets, Split};
use flotilla_protocol::{DatasetName, ErrorCode};
use flotilla_registry::{ModelVersion, Registry};
use flotilla_runtime::{Input, Preprocessor};

/// Golden vectors of a release: samples of the test split, spread evenly.
const GOLDEN: usize = 16;
/// A sample over so many bytes becomes a golden vector in the size of the model's input.
const GOLDEN_INPUT: usize = 16 * 1024;
/// Bytes of all golden vectors, beyond which fewer are taken.
const GOLDEN_BYTES: usize = 1024 * 1024;

/// Where they are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// The test split of the version's dataset.
    Dataset,
    /// They came with the model.
    Given,
    /// They were made up.
    Generated,
}

impl From {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Dataset => "dataset",
            Self::Given => "given",
            Self::Generated => "generated",
        }
    }
}

/// Golden inputs of a version: samples of its dataset, else those that came with it.
pub(crate) async fn inputs(
    registry: &Registry,
    datasets: &Datasets,
    version: &ModelVersion,
) -> Result<(From, Vec<Bytes>), Problem> {
    if !version.lineage.dataset.is_empty() {
        return Ok((From::Dataset, of_dataset(registry, datasets, version).await?));
    }
    match registry.samples(version).await? {
        Some(samples) => Ok((if samples.generated { From::Generated } else { From::Given }, samples.inputs)),
        None => {
            let detail = format!(
                "{} v{} has no inputs that devices could check it with: import it again with a dataset or with sample inputs",
                version.model, version.version
            );
            Err(Problem::new(ErrorCode::InvalidInput, detail))
        }
    }
}

/// Samples of the dataset that the model was trained or measured on.
async fn of_dataset(
    registry: &Registry,
    datasets: &Datasets,
    version: &ModelVersion,
) -> Result<Vec<Bytes>, Problem> {
    let name: DatasetName = version.lineage.dataset.parse().map_err(|_| {
        let detail =
            format!("{} v{} does not say which dataset it comes from", version.model, version.version);
        Problem::new(ErrorCode::InvalidInput, detail)
    })?;
    let dataset = datasets.version(&name, Some(version.lineage.dataset_version)).await?;
    let samples = datasets.samples(&dataset, Some(Split::Test)).await?;
    let form = datasets.input_form(&dataset).await?;
    let pipeline = registry.pipeline(version).await?;
    let preprocessor = Preprocessor::new(&pipeline).map_err(|e| Problem::new(e.code(), e))?;
    let count = samples.len().min(GOLDEN);
    let mut inputs = Vec::with_capacity(count);
    let mut total = 0;
    for index in 0..count {
        let sample = datasets.sample_bytes(&samples[index * samples.len() / count]).await?;
        let sample = form.input(sample)?;
        let preprocessor = preprocessor.clone();
        let input = tokio::task::spawn_blocking(move || small(&preprocessor, sample.into()))
            .await
            .map_err(|e| Problem::new(ErrorCode::Internal, e))?
            .map_err(|e| Problem::new(e.code(), e))?;
        total += input.len();
        if total > GOLDEN_BYTES && !inputs.is_empty() {
            break;
        }
        inputs.push(input.into());
    }
    Ok(inputs)
}

/// A sample as it is, or, where it is a large picture, as small as the model sees it: every device stores it.
pub(crate) fn small(preprocessor: &Preprocessor, sample: Vec<u8>) -> flotilla_runtime::Result<Vec<u8>> {
    if sample.len() <= GOLDEN_INPUT {
        return Ok(sample);
    }
    let small = preprocessor.miniature(Input::Unsaid(&sample))?;
    Ok(if small.len() < sample.len() { small } else { sample })
}
