//! What a shadow gets to see: after an application has its answer, the same input, if the shadow has nothing else to do and
//! its share says so. Nothing of it comes back to an application.
//!
//! Where no shadow runs a prediction pays for one uncontended lock. Where one does, it pays for a copy of the input, and
//! only if that will be looked at.

use super::{Interface, Lifetime, ModelHost, lock};
use crate::hard::Seen;
use flotilla_protocol::message::{Disagreement, SHARE_ALL, ShadowTelemetry};
use flotilla_protocol::{Digest, ModelName, limits};
use flotilla_runtime::{Input, Port, Prediction, Values, tensor};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::mpsc;

/// Inputs that wait for a shadow while it is at another.
const QUEUE: usize = 1;
/// Pairs of labels that are told apart; what comes after them is not.
const PAIRS: usize = 256;

/// An input that outlives its request.
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// [`Input::Encoded`].
    Encoded(Vec<u8>),
    /// [`Input::Raw`].
    Raw(Vec<u8>),
    /// What the network itself takes, for the batch of one: its tensors one after the other, as little-endian bytes.
    Tensors(Vec<u8>),
}

impl From<Input<'_>> for Kept {
    fn from(input: Input<'_>) -> Self {
        match input {
            Input::Encoded(bytes) | Input::Unsaid(bytes) => Kept::Encoded(bytes.to_vec()),
            Input::Raw(bytes) => Kept::Raw(bytes.to_vec()),
        }
    }
}

/// An input with the answer that an application got.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// The input.
    pub input: Kept,
    /// The confirmed release.
    pub release: Digest,
    /// Its answer.
    pub confirmed: Prediction,
    /// Its time in microseconds.
    pub latency_us: u64,
}

/// An input that both releases answered.
#[derive(Debug)]
pub struct Compared<'a> {
    /// The model.
    pub model: &'a ModelName,
    /// The input, and what the confirmed release made of it.
    pub offer: &'a Offer,
    /// What the shadow made of it.
    pub shadow: &'a Prediction,
    /// Its time in microseconds.
    pub shadow_us: u64,
    /// Whether both named the same label.
    pub agreed: bool,
}

/// A shadow that runs beside a release.
#[derive(Clone, Debug)]
pub struct Side {
    /// The shadow.
    pub release: Digest,
    /// The release that applications are answered by.
    pub against: Digest,
    /// What the shadow's network takes. Tensors that were made for another one are not for it.
    pub inputs: Vec<Port>,
    /// Share of the inputs that it sees, in per mille.
    pub share_per_mille: u32,
}

/// Where inputs leave the way of an answer.
#[derive(Debug)]
struct Tap {
    side: Side,
    share_per_mille: AtomicU32,
    /// Shares of the inputs that came by, in per mille of an input.
    passed: AtomicU64,
    offers: mpsc::Sender<Offer>,
}

impl Tap {
    fn is_due(&self) -> bool {
        let share = u64::from(self.share_per_mille.load(Ordering::Relaxed).min(SHARE_ALL));
        let before = self.passed.fetch_add(share, Ordering::Relaxed);
        let whole = |shares: u64| shares / u64::from(SHARE_ALL);
        whole(before.wrapping_add(share)) != whole(before)
    }
}

/// What a model's name keeps of its shadow.
#[derive(Debug, Default)]
pub(super) struct Shadowed {
    tap: RwLock<Option<Arc<Tap>>>,
    comparison: std::sync::Mutex<Option<Comparison>>,
}

impl Shadowed {
    fn tap(&self) -> Option<Arc<Tap>> {
        self.tap.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, tap: Option<Tap>) {
        *self.tap.write().unwrap_or_else(PoisonError::into_inner) = tap.map(Arc::new);
    }

    fn count(&self, release: Digest, count: impl FnOnce(&mut Comparison)) {
        if let Some(comparison) = &mut *lock(&self.comparison)
            && comparison.telemetry.release == Some(release)
        {
            count(comparison);
        }
    }

    /// Shows an input and its answer to the shadow of the release that gave it, if there is one with time for it: while
    /// the board is `throttled` there is none.
    pub(super) fn offer(
        &self,
        interface: &Interface,
        input: Shown<'_>,
        confirmed: &Prediction,
        latency_us: u64,
        throttled: bool,
    ) {
        let Some(tap) = self.tap() else { return };
        let fits = match input {
            Shown::Input(_) => true,
            Shown::Tensors(_) => tap.side.inputs == interface.inputs,
        };
        if tap.side.against != interface.release || !fits || !tap.is_due() {
            return;
        }
        let skip = || self.count(tap.side.release, |comparison| comparison.telemetry.skipped += 1);
        match tap.offers.try_reserve() {
            Ok(_) if throttled => skip(),
            Ok(place) => {
                let input = match input {
                    Shown::Input(input) => input.into(),
                    Shown::Tensors(tensors) => Kept::Tensors(tensor::to_bytes(tensors)),
                };
                let release = interface.release;
                place.send(Offer { input, release, confirmed: confirmed.shortened(), latency_us });
            }
            Err(mpsc::error::TrySendError::Full(())) => skip(),
            // It is being stopped.
            Err(mpsc::error::TrySendError::Closed(())) => {}
        }
    }
}

/// What came by.
#[derive(Clone, Copy)]
pub(super) enum Shown<'a> {
    Input(Input<'a>),
    Tensors(&'a [Values]),
}

/// The counters of two releases side by side.
#[derive(Debug)]
struct Comparison {
    telemetry: ShadowTelemetry,
    pairs: BTreeMap<(u32, u32), u64>,
}

impl Comparison {
    fn of(side: &Side) -> Self {
        let telemetry = ShadowTelemetry {
            release: Some(side.release),
            against: Some(side.against),
            ..ShadowTelemetry::default()
        };
        Self { telemetry, pairs: BTreeMap::new() }
    }

    fn is_of(&self, side: &Side) -> bool {
        (self.telemetry.release, self.telemetry.against) == (Some(side.release), Some(side.against))
    }

    fn add(&mut self, compared: &Compared<'_>) {
        let Compared { offer, shadow, shadow_us, agreed, .. } = compared;
        let telemetry = &mut self.telemetry;
        telemetry.compared += 1;
        let sure = |prediction: &Prediction| {
            prediction.headline().and_then(|headline| headline.confidence).unwrap_or(0.0)
        };
        telemetry.confirmed.record(offer.latency_us, sure(&offer.confirmed));
        telemetry.shadow.record(*shadow_us, sure(shadow));
        if *agreed {
            telemetry.agreed += 1;
            return;
        }
        let index = |prediction: &Prediction| {
            prediction.headline().and_then(|headline| u32::try_from(headline.label_index).ok())
        };
        // Which labels differ is told where both have one.
        let (Some(confirmed), Some(shadow)) = (index(&offer.confirmed), index(shadow)) else { return };
        let pair = (confirmed, shadow);
        let full = self.pairs.len() >= PAIRS;
        match self.pairs.get_mut(&pair) {
            Some(count) => *count += 1,
            None if full => {}
            None => drop(self.pairs.insert(pair, 1)),
        }
    }

    fn telemetry(&self) -> ShadowTelemetry {
        let disagreement = |(&(confirmed, shadow), &count)| Disagreement { confirmed, shadow, count };
        let mut disagreements: Vec<Disagreement> = self.pairs.iter().map(disagreement).collect();
        disagreements.sort_by_key(|pair| std::cmp::Reverse(pair.count));
        disagreements.truncate(limits::DISAGREEMENTS);
        ShadowTelemetry { disagreements, ..self.telemetry.clone() }
    }
}

impl ModelHost {
    /// Lets a shadow see what `name` is asked from now on; none if `name` does not serve. The counters go on if the
    /// same two releases ran side by side before.
    pub fn attach_shadow(&self, name: &ModelName, side: Side) -> Option<mpsc::Receiver<Offer>> {
        let lifetime = self.lifetime(name)?;
        let mut comparison = lock(&lifetime.shadowed.comparison);
        if comparison.as_ref().is_none_or(|comparison| !comparison.is_of(&side)) {
            *comparison = Some(Comparison::of(&side));
        }
        drop(comparison);
        let (offers, offered) = mpsc::channel(QUEUE);
        let share_per_mille = AtomicU32::new(side.share_per_mille);
        lifetime.shadowed.set(Some(Tap { side, share_per_mille, passed: AtomicU64::new(0), offers }));
        Some(offered)
    }

    /// The shadow of `name` sees nothing more.
    pub fn detach_shadow(&self, name: &ModelName) {
        if let Some(lifetime) = self.lifetime(name) {
            lifetime.shadowed.set(None);
        }
    }

    /// The shadow of `name` sees another share of the inputs, in per mille.
    pub fn share_with_shadow(&self, name: &ModelName, share_per_mille: u32) {
        if let Some(tap) = self.lifetime(name).and_then(|lifetime| lifetime.shadowed.tap()) {
            tap.share_per_mille.store(share_per_mille, Ordering::Relaxed);
        }
    }

    /// Forgets the counters of a shadow that is not wanted any more.
    pub fn forget_shadow(&self, name: &ModelName) {
        if let Some(lifetime) = self.lifetime(name) {
            lifetime.shadowed.set(None);
            *lock(&lifetime.shadowed.comparison) = None;
        }
    }

    /// A shadow had no answer to an input.
    pub fn shadow_failed(&self, name: &ModelName, release: Digest) {
        if let Some(lifetime) = self.lifetime(name) {
            lifetime.shadowed.count(release, |comparison| comparison.telemetry.failures += 1);
        }
    }

    /// Both releases answered an input. Everything that is to be made of such a pair is made here. If another release
    /// serves by now, there is nothing to be said of the two any more.
    pub fn on_compared(&self, release: Digest, compared: &Compared<'_>) {
        let Some(serving) = self.find(compared.model) else { return };
        if serving.served.release != compared.offer.release {
            return;
        }
        serving.lifetime.shadowed.count(release, |comparison| comparison.add(compared));
        if !compared.agreed {
            let seen = match &compared.offer.input {
                Kept::Encoded(bytes) => Seen::Input(Input::Encoded(bytes)),
                Kept::Raw(bytes) => Seen::Input(Input::Raw(bytes)),
                Kept::Tensors(bytes) => match tensor::from_bytes(&serving.interface.inputs, bytes).as_deref()
                {
                    Some([Values::Fp32(tensor)]) => {
                        serving.offer_disagreement(Seen::Tensor(tensor), &compared.offer.confirmed);
                        return;
                    }
                    _ => return,
                },
            };
            serving.offer_disagreement(seen, &compared.offer.confirmed);
        }
    }

    /// How shadows compare.
    pub fn shadow_telemetry(&self) -> BTreeMap<ModelName, ShadowTelemetry> {
        let of =
            |lifetime: &Lifetime| lock(&lifetime.shadowed.comparison).as_ref().map(Comparison::telemetry);
        self.read()
            .iter()
            .filter_map(|(name, serving)| Some((name.clone(), of(&serving.lifetime)?)))
            .collect()
    }

    fn lifetime(&self, name: &ModelName) -> Option<Arc<Lifetime>> {
        self.find(name).map(|serving| Arc::clone(&serving.lifetime))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::hard::HardExamples;
    use flotilla_protocol::message::{Desired, HardExamples as Policy, HardReason, Settings};
    use flotilla_protocol::pipeline::{Colour, ImageInput, Input as Takes, Layout, Resize, TensorKind};
    use flotilla_runtime::{Answer, Label};
    use proptest::prelude::*;

    fn port(name: &str, shape: &[usize]) -> Port {
        Port { name: name.into(), kind: TensorKind::Fp32, shape: shape.to_vec() }
    }

    fn side(share_per_mille: u32) -> Side {
        let (release, against) = (Digest::of(b"shadow"), Digest::of(b"confirmed"));
        Side { release, against, inputs: vec![port("x", &[1, 4])], share_per_mille }
    }

    fn answer(label_index: usize) -> Prediction {
        let label = Label { label_index, label: label_index.to_string(), score: 0.5 };
        Prediction { answer: Answer::Class(label), scores: vec![] }
    }

    fn tapped(share: u32) -> (Shadowed, mpsc::Receiver<Offer>, Interface) {
        let (side, shadowed) = (side(share), Shadowed::default());
        let (offers, offered) = mpsc::channel(QUEUE);
        let interface = Interface {
            release: side.against,
            inputs: side.inputs.clone(),
            outputs: vec![port("y", &[1, 3])],
            stateful: false,
            takes: Takes::Image(ImageInput {
                width: 2,
                height: 2,
                colour: Colour::Grey,
                resize: Resize::Exact,
                layout: Layout::Nchw,
                mean: vec![0.0],
                std: vec![1.0],
                ..ImageInput::none()
            }),
            labels: Arc::new([]),
        };
        *lock(&shadowed.comparison) = Some(Comparison::of(&side));
        let share_per_mille = AtomicU32::new(share);
        shadowed.set(Some(Tap { side, share_per_mille, passed: AtomicU64::new(0), offers }));
        (shadowed, offered, interface)
    }

    #[test]
    fn a_busy_shadow_misses_inputs_and_says_how_many() {
        let (shadowed, mut offered, interface) = tapped(1_000);
        for _ in 0..4 {
            shadowed.offer(&interface, Shown::Input(Input::Raw(&[1, 2])), &answer(1), 7, false);
        }
        let offer = offered.try_recv().unwrap();
        assert_eq!((offer.input, offer.latency_us), (Kept::Raw(vec![1, 2]), 7));
        assert!(offered.try_recv().is_err());
        let telemetry = lock(&shadowed.comparison).as_ref().unwrap().telemetry();
        assert_eq!((telemetry.skipped, telemetry.compared), (3, 0));
    }

    #[test]
    fn a_board_that_is_too_hot_shows_its_shadow_nothing() {
        let letters: ModelName = "letters".parse().unwrap();
        let host = testing::host(Digest::of(b"confirmed"), HardExamples::default());
        let mut offered = host.attach_shadow(&letters, side(1_000)).unwrap();
        host.throttle(true);
        host.predict(&letters, Input::Raw(&[1; 4])).unwrap();
        assert!(offered.try_recv().is_err());
        assert_eq!(host.shadow_telemetry()[&letters].skipped, 1);
        host.throttle(false);
        host.predict(&letters, Input::Raw(&[2; 4])).unwrap();
        assert_eq!(offered.try_recv().unwrap().input, Kept::Raw(vec![2; 4]));
    }

    #[test]
    fn what_was_made_for_another_release_or_another_network_is_not_for_the_shadow() {
        let (shadowed, mut offered, interface) = tapped(1_000);
        let other = Interface { release: Digest::of(b"candidate"), ..interface.clone() };
        shadowed.offer(&other, Shown::Input(Input::Raw(&[1])), &answer(1), 7, false);
        let wider = Interface { inputs: vec![port("x", &[1, 8])], ..interface.clone() };
        shadowed.offer(&wider, Shown::Tensors(&[Values::Fp32(vec![0.5; 8])]), &answer(1), 7, false);
        assert!(offered.try_recv().is_err());
        let tensors = [Values::Fp32(vec![0.5; 4])];
        shadowed.offer(&interface, Shown::Tensors(&tensors), &answer(1), 7, false);
        assert_eq!(offered.try_recv().unwrap().input, Kept::Tensors(tensor::to_bytes(&tensors)));
    }

    #[test]
    fn a_disagreement_is_no_second_draw_of_the_audit_and_none_of_a_release_that_serves_no_more() {
        let (confirmed, shadow) = (Digest::of(b"confirmed"), Digest::of(b"shadow"));
        let letters: ModelName = "letters".parse().unwrap();
        let (hard, mut outlet) = HardExamples::new();
        let host = testing::host(confirmed, hard.clone());
        let consent = |shadow_disagreement, audit_per_million| {
            let policy =
                Policy { shadow_disagreement, audit_per_million, daily_bytes: 1, ..Policy::default() };
            let hard_examples = [(letters.clone(), policy)].into();
            hard.configure(&Desired {
                project: "default".parse().unwrap(),
                device: "box".parse().unwrap(),
                version: 1,
                issued_at_ms: 0,
                models: BTreeMap::new(),
                settings: Settings::default(),
                commands: Vec::new(),
                agent: None,
                hard_examples,
                shadows: BTreeMap::new(),
            });
        };
        let offer =
            Offer { input: Kept::Raw(vec![1; 4]), release: confirmed, confirmed: answer(0), latency_us: 3 };
        let (of, against) = (&answer(1), &offer);
        let disagree = || {
            let compared =
                Compared { model: &letters, offer: against, shadow: of, shadow_us: 9, agreed: false };
            host.on_compared(shadow, &compared);
        };
        let _offered = host.attach_shadow(&letters, side(1_000)).unwrap();

        consent(false, 1_000_000);
        disagree();
        assert_eq!(outlet.next_reason(), None, "the audit was drawn when it was answered");
        consent(true, 1_000_000);
        disagree();
        assert_eq!(outlet.next_reason(), Some(HardReason::Disagreement));

        testing::install(&host, Digest::of(b"next"));
        disagree();
        assert_eq!(
            outlet.next_reason(),
            None,
            "the picture would be said to be of a release that never saw it"
        );
        assert_eq!(host.shadow_telemetry()[&letters].compared, 2);
    }

    #[test]
    fn the_most_frequent_disagreements_are_told_and_the_memory_for_them_is_bounded() {
        let mut comparison = Comparison::of(&side(1_000));
        let model: ModelName = "digits".parse().unwrap();
        let mut add = |confirmed: usize, shadow: usize| {
            let (input, release) = (Kept::Raw(vec![]), Digest::of(b"confirmed"));
            let offer = Offer { input, release, confirmed: answer(confirmed), latency_us: 3 };
            let (shadow, agreed) = (&answer(shadow), confirmed == shadow);
            comparison.add(&Compared { model: &model, offer: &offer, shadow, shadow_us: 9, agreed });
        };
        (0..5).for_each(|_| add(1, 1));
        (0..1_000).for_each(|n| add(n, n + 1));
        (0..3).for_each(|_| add(7, 8));
        let telemetry = comparison.telemetry();
        assert_eq!((telemetry.compared, telemetry.agreed), (1_008, 5));
        assert_eq!(telemetry.disagreements.len(), limits::DISAGREEMENTS);
        assert_eq!(telemetry.disagreements[0], Disagreement { confirmed: 7, shadow: 8, count: 4 });
        assert_eq!(comparison.pairs.len(), PAIRS);
        assert_eq!(
            (telemetry.confirmed.latency.count(), telemetry.shadow.latency.sum_us),
            (1_008, 9 * 1_008)
        );
    }

    proptest! {
        #[test]
        fn a_share_is_kept_to_one_input(share in 0u32..1_500, inputs in 0u64..5_000) {
            let (shadowed, _offered, _) = tapped(share);
            let tap = shadowed.tap().unwrap();
            let due = (0..inputs).filter(|_| tap.is_due()).count() as u64;
            prop_assert_eq!(due, inputs * u64::from(share.min(1_000)) / 1_000);
        }
    }
}
