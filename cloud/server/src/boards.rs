//! What the control plane knows of boards: their profiles, what operators cost there, and what devices say of that.

use crate::golden;
use crate::http::Problem;
use bytes::Bytes;
use flotilla_boards::{Correction, CostTable, Pair, Prediction, Predictor, correct, derived, reference};
use flotilla_data::Datasets;
use flotilla_fleet::{Fleet, Probed};
use flotilla_identity::{Actor, Permission, audit, now_ms};
use flotilla_protocol::board::{BUILT_IN, BoardProfile, built_in};
use flotilla_protocol::message::Measured;
use flotilla_protocol::{DeviceId, Digest, ErrorCode, limits};
use flotilla_registry::{ModelVersion, Registry, ToMeasure};
use flotilla_runtime::engine::Operator;
use flotilla_runtime::operators;
use flotilla_storage::{Batch, Collection, Entity, Records, Table};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Devices whose word is asked for at most.
const DEVICES: usize = 5_000;
/// Networks whose operators are kept in memory.
const SEEN: usize = 64;
/// A device of which a job wants to know how long a model takes has so many milliseconds to say it.
const MEASURE_MS: u64 = 15 * 60 * 1000;
/// Tables of boards that are kept.
const TABLES: usize = 256;

/// A table that was measured on a machine of a board.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BoardTable {
    /// The table.
    pub table: CostTable,
    /// When it came, in milliseconds since 1970.
    pub at_ms: u64,
}

impl Entity for BoardTable {
    const TABLE: Table = Table::new("board-tables");

    fn id(&self) -> Vec<u8> {
        self.table.board.as_bytes().to_vec()
    }
}

/// The boards.
pub struct Boards {
    records: Arc<dyn Records>,
    tables: Collection<BoardTable>,
    registry: Arc<Registry>,
    datasets: Arc<Datasets>,
    fleet: Fleet,
    seen: Mutex<BTreeMap<Digest, Arc<Vec<Operator>>>>,
}

/// What is known of a board.
pub(crate) struct Known {
    pub(crate) name: String,
    /// None for a board that a device brought itself, and that was measured.
    pub(crate) profile: Option<BoardProfile>,
    /// None where it was neither measured nor do documents say enough.
    pub(crate) predictor: Option<Predictor>,
}

impl Boards {
    /// The boards, with what these know of them.
    pub fn new(
        records: Arc<dyn Records>,
        registry: Arc<Registry>,
        datasets: Arc<Datasets>,
        fleet: Fleet,
    ) -> Self {
        let tables = Collection::new(records.clone());
        Self { records, tables, registry, datasets, fleet, seen: Mutex::default() }
    }

    /// Every board that comes with the platform or was measured.
    pub(crate) async fn all(&self) -> Result<Vec<Known>, Problem> {
        let mut tables: BTreeMap<String, CostTable> = BTreeMap::new();
        for found in self.tables.list(None, TABLES).await?.items {
            tables.insert(found.value.table.board.clone(), found.value.table);
        }
        let probed = self.fleet.probed(DEVICES).await?;
        let built_in = BUILT_IN.iter().map(|(name, _)| (*name).to_owned());
        let names: Vec<String> = built_in.chain(tables.keys().cloned()).collect();
        let mut all: Vec<Known> = Vec::with_capacity(names.len());
        for name in names {
            if all.iter().any(|known| known.name == name) {
                continue;
            }
            all.push(self.known(&name, tables.get(&name).cloned(), &probed).await?);
        }
        Ok(all)
    }

    /// One of them; of those that come with the platform, `atlas-200dk` is `atlas-200-dk`.
    pub(crate) async fn one(&self, name: &str) -> Result<Known, Problem> {
        let plain = |name: &str| name.replace('-', "").to_ascii_lowercase();
        let exact = self.tables.get(name).await?.is_some() || built_in(name).is_some();
        let alike = BUILT_IN.iter().map(|(built_in, _)| *built_in).find(|other| plain(other) == plain(name));
        let name = if exact { name } else { alike.unwrap_or(name) };
        let table = self.tables.get(name).await?.map(|found| found.value.table);
        if table.is_none() && built_in(name).is_none() {
            let known: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            let detail = format!(
                "there is no board {name}; known are {}. Run `flotilla board measure {name}` on one to make it known",
                known.join(", ")
            );
            return Err(Problem::new(ErrorCode::NotFound, detail));
        }
        let probed = self.fleet.probed(DEVICES).await?;
        self.known(name, table, &probed).await
    }

    async fn known(&self, name: &str, table: Option<CostTable>, probed: &[Probed]) -> Result<Known, Problem> {
        let profile = built_in(name);
        let predictor = match table.or_else(|| profile.as_ref().and_then(derived)) {
            Some(table) => Some(Predictor { correction: self.correction(name, &table, probed).await, table }),
            None => None,
        };
        Ok(Known { name: name.to_owned(), profile, predictor })
    }

    /// By how much what devices of a board measured differs from a table.
    async fn correction(&self, name: &str, table: &CostTable, probed: &[Probed]) -> Correction {
        let mut pairs = Vec::new();
        for Probed { release, p50_ms, .. } in probed.iter().filter(|probed| probed.board == name) {
            // What has gone meanwhile, or cannot be read, says nothing.
            match self.of_release(release).await {
                Ok(operators) => {
                    pairs.push(Pair { predicted_ms: table.predict(&operators).ms, reported_ms: *p50_ms })
                }
                Err(problem) => tracing::debug!(release = %release.short(), ?problem, "not compared"),
            }
        }
        correct(pairs)
    }

    async fn of_release(&self, release: &Digest) -> Result<Arc<Vec<Operator>>, Problem> {
        let release = self.registry.find_release(release).await?;
        self.of_version(&self.registry.version(&release.model, release.version).await?).await
    }

    /// The operators of a version.
    pub(crate) async fn of_version(&self, version: &ModelVersion) -> Result<Arc<Vec<Operator>>, Problem> {
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = seen().get(&version.onnx).cloned() {
            return Ok(known);
        }
        let (pipeline, onnx) = (self.registry.pipeline(version).await?, self.registry.onnx(version).await?);
        let counted = tokio::task::spawn_blocking(move || operators(&pipeline, &onnx)).await;
        let counted = counted
            .map_err(|e| Problem::new(ErrorCode::Internal, e))?
            .map_err(|e| Problem::new(e.code(), e.detail()))?;
        let counted = Arc::new(counted);
        let mut seen = seen();
        if seen.len() >= SEEN {
            seen.clear();
        }
        seen.insert(version.onnx, counted.clone());
        Ok(counted)
    }

    /// What predicts for a board; refused where nothing does.
    pub(crate) async fn predictor(&self, name: &str) -> Result<Predictor, Problem> {
        self.one(name).await?.predictor.ok_or_else(|| {
            let detail =
                format!("nothing says how fast board {name} is: run `flotilla board measure {name}` on one");
            Problem::new(ErrorCode::NotFound, detail)
        })
    }

    /// How long a version takes on a board.
    pub(crate) async fn predict(
        &self,
        name: &str,
        version: &ModelVersion,
    ) -> Result<(Predictor, Prediction), Problem> {
        let predictor = self.predictor(name).await?;
        let prediction = predictor.of(&self.of_version(version).await?);
        Ok((predictor, prediction))
    }

    /// A file, with what stands around a version and the inputs that this is checked with, to be measured.
    pub(crate) async fn to_measure(&self, version: &ModelVersion, onnx: Bytes) -> Result<ToMeasure, Problem> {
        let (_, inputs) = golden::inputs(&self.registry, &self.datasets, version).await?;
        let pipeline = self.registry.pipeline(version).await?;
        Ok(ToMeasure { model: version.model.clone(), version: version.version, onnx, pipeline, inputs })
    }

    /// Has a device measure a file that is to become a version of a model, or is one, and waits for it.
    pub(crate) async fn measure(
        &self,
        device: &DeviceId,
        version: &ModelVersion,
        onnx: Bytes,
    ) -> Result<Measured, Problem> {
        let wanted = self.to_measure(version, onnx).await?;
        Ok(self.fleet.measure(&Actor::system(), device, wanted, MEASURE_MS).await?)
    }

    /// What predicts for one device by what it measures of a version now, by its board's table; by that of the reference
    /// where nothing is known of its board.
    pub(crate) async fn on_device(
        &self,
        device: &DeviceId,
        version: &ModelVersion,
    ) -> Result<(Predictor, Measured), Problem> {
        let board = self.fleet.device(device).await?.board.board;
        let predictor = match self.one(&board).await {
            Ok(known) => known.predictor,
            Err(problem) if problem.code == ErrorCode::NotFound.as_str() => None,
            Err(problem) => return Err(problem),
        };
        let of_reference = || Predictor { table: reference(), correction: Correction::NONE };
        let measured = self.measure(device, version, self.registry.onnx(version).await?).await?;
        let operators = self.of_version(version).await?;
        let took_ms = measured.p50_us as f64 / 1e3;
        Ok((predictor.unwrap_or_else(of_reference).on_device(&operators, took_ms), measured))
    }

    /// Keeps what was measured on a machine of a board, in place of what was known before.
    pub(crate) async fn keep(&self, actor: &Actor, table: CostTable) -> Result<(), Problem> {
        let invalid = |detail: String| Problem::new(ErrorCode::InvalidInput, detail);
        table.check().map_err(|e| invalid(e.to_string()))?;
        let name = &table.board;
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > limits::ID || !name.chars().all(fits) {
            return Err(invalid(format!("board: 1 to {} letters, digits, - and _ are possible", limits::ID)));
        }
        let held = self.tables.get(name).await?;
        if held.is_none() && self.tables.list(None, TABLES).await?.items.len() >= TABLES {
            return Err(Problem::new(ErrorCode::Busy, format!("{TABLES} boards are measured already")));
        }
        let (subject, now_ms) = (format!("board/{name}"), now_ms());
        let detail = serde_json::json!({ "kinds": table.kinds.len(), "spread": table.spread });
        let mut batch = Batch::new();
        let action = Permission::DeviceControl.as_str();
        audit::record(&mut batch, actor, action, &subject, detail, now_ms)?;
        let kept = BoardTable { table, at_ms: now_ms };
        match held {
            Some(held) => self.tables.update(&mut batch, &held, &kept)?,
            None => self.tables.insert(&mut batch, &kept)?,
        }
        self.records.commit(batch).await?;
        Ok(())
    }
}
