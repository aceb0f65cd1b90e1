//! Files of a release that are made from patches: `flotilla_device::patch` chooses, the link brings them, the slot applies
//! them. Whatever goes wrong with one is said, and then the file is fetched.

use crate::fetch::Stopped;
use crate::intake::{Desk, blocking};
use crate::slot::{Base, Slot};
use flotilla_device::Fault;
use flotilla_device::download::Download;
use flotilla_device::patch::{Choice, Patches, is_given_up};
use flotilla_device::update::Event;
use flotilla_protocol::{Digest, ErrorCode, ModelName, ReleaseManifest};
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

/// A slot that is being filled.
pub(crate) struct Patching<'a> {
    pub(crate) desk: &'a Desk,
    pub(crate) cancel: &'a CancellationToken,
    /// Of the update machine.
    pub(crate) ticket: u64,
    pub(crate) place: &'a Slot,
    /// The part of the release that this device needs.
    pub(crate) part: &'a ReleaseManifest,
}

impl Patching<'_> {
    /// Makes what can be made of what lies in the other slots. What is still missing then is for the caller to fetch.
    pub(crate) async fn run(&self, others: Vec<Slot>, mut download: Download) -> Result<Download, Stopped> {
        let (place, files) = (self.place.clone(), self.part.files.clone());
        let (held, here) = blocking(move || {
            let patches = files.iter().flat_map(|file| &file.patches);
            let mut held: BTreeMap<Digest, Base> = BTreeMap::new();
            for base in patches.clone().filter_map(|patch| patch.base) {
                held.extend(others.iter().find_map(|slot| slot.base(&base)).map(|found| (base, found)));
            }
            let here = patches.map(|patch| (patch.digest, place.patch_bytes(patch)));
            Ok((held, here.collect::<BTreeMap<Digest, u64>>()))
        })
        .await?;
        let here = |patch: &Digest| here.get(patch).copied().unwrap_or(0);
        let mut patches = Patches::of(&self.part.files);
        while let Some(choice) =
            patches.next(&download, |base| held.contains_key(base), |patch| here(&patch.digest))
        {
            let base = choice.patch.base.and_then(|base| held.get(&base)).cloned();
            let event = match self.fetch(&choice, base.clone(), &download).await? {
                Err(fault) => {
                    // What is here of it takes room that the file may need.
                    let (place, patch) = (self.place.clone(), choice.patch.clone());
                    blocking(move || place.remove_patch(&patch)).await?;
                    Err(fault)
                }
                Ok(()) => {
                    let made;
                    (download, made) = self.apply(&choice, base, download).await?;
                    made
                }
            };
            self.tell(&choice, event).await;
        }
        Ok(download)
    }

    async fn tell(&self, choice: &Choice, made: Result<u64, Fault>) {
        let (ticket, patch_bytes) = (self.ticket, choice.patch.bytes);
        let (model, file) = (self.desk.model().map(ModelName::as_str), &choice.file.name);
        let event = match made {
            Ok(bytes) => {
                tracing::info!(model, file, bytes, patch_bytes, "made from a patch");
                Event::FilesRebuilt { ticket, bytes, patch_bytes }
            }
            Err(fault) => {
                tracing::warn!(model, file, %fault, "a patch is not used; what is missing of the file is fetched");
                Event::PatchFailed { ticket, fault }
            }
        };
        self.desk.tell(event).await;
    }

    /// Fetches a patch whose base is as it should be. A fault that says nothing against fetching the file itself is the
    /// inner one.
    async fn fetch(
        &self,
        choice: &Choice,
        base: Option<Base>,
        download: &Download,
    ) -> Result<Result<(), Fault>, Stopped> {
        let only = ReleaseManifest { files: vec![choice.patch.entry()], ..self.part.clone() };
        let (place, patch) = (self.place.clone(), only.clone());
        let begun = blocking(move || {
            base.as_ref().map_or(Ok(()), Base::check)?;
            let mut fetch = Download::files(&patch.files);
            place.resume(&patch, &mut fetch)?;
            Ok(fetch)
        });
        // The file itself has the room that it was promised: one without room for a patch, too, is no reason to wait.
        let room = || {
            let board = |promised| self.desk.board_beside(promised);
            self.desk.fetcher.rooms().promise(self.place, &only, board)
        };
        let (mut fetch, _room) = match begun.await.and_then(|fetch| Ok((fetch, room()?))) {
            Ok(begun) => begun,
            Err(fault) => return Ok(Err(fault)),
        };
        let mut progress = self.desk.progress(self.ticket, download.bytes_done());
        let mut put = |chunk: &_| self.place.write(&only, chunk);
        match self.desk.fetcher.run(&mut fetch, &mut put, self.cancel, &mut progress).await {
            Err(Stopped::Fault(fault)) if is_given_up(&fault, &fetch) => Ok(Err(fault)),
            fetched => fetched.map(Ok),
        }
    }

    /// Applies a patch that is here: how many bytes it spares.
    async fn apply(
        &self,
        choice: &Choice,
        base: Option<Base>,
        mut download: Download,
    ) -> Result<(Download, Result<u64, Fault>), Stopped> {
        let (place, part, cancel) = (self.place.clone(), self.part.clone(), self.cancel.clone());
        let choice = choice.clone();
        let applied = blocking(move || {
            let cancelled = || cancel.is_cancelled();
            let made = place.rebuild(&part, &choice, base.as_ref(), &mut download, &cancelled);
            Ok((download, made))
        });
        match applied.await? {
            (_, Err(fault)) if fault.code == ErrorCode::Cancelled => Err(Stopped::Cancelled),
            applied => Ok(applied),
        }
    }
}
