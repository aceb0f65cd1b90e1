//! Whether a device may measure a model now: only where that neither disturbs what serves nor is disturbed itself.

use crate::fault::Fault;
use flotilla_protocol::ErrorCode;

/// How a device is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doing {
    /// Another model is being measured.
    pub measuring: bool,
    /// A release, a shadow or an agent is on its way in, or on probation.
    pub updating: bool,
    /// The board is so hot that predictions are slowed down.
    pub hot: bool,
    /// What is left of a battery that is being emptied, in percent; none on mains.
    pub battery_percent: Option<u8>,
}

/// Below this a battery is kept for what the device is there for.
const BATTERY_PERCENT: u8 = 30;

/// Says why not, if it may not. All of it passes, so whoever asked may ask again.
pub fn may_begin(doing: &Doing) -> Result<(), Fault> {
    let refuse =
        |code, detail: String| Err(Fault::transient(code, format!("nothing is measured now: {detail}")));
    match doing {
        Doing { measuring: true, .. } => {
            refuse(ErrorCode::Busy, "another model is being measured; ask again when that has ended".into())
        }
        Doing { updating: true, .. } => {
            refuse(ErrorCode::Busy, "an update is under way; ask again when it has ended".into())
        }
        Doing { hot: true, .. } => {
            refuse(ErrorCode::WrongState, "the board is too hot; ask again when it has cooled down".into())
        }
        Doing { battery_percent: Some(left), .. } if *left < BATTERY_PERCENT => {
            let why = format!(
                "the battery has {left} % left, {BATTERY_PERCENT} are needed; charge it and ask again"
            );
            refuse(ErrorCode::WrongState, why)
        }
        Doing { .. } => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_device_measures_only_when_it_has_nothing_better_to_do() {
        may_begin(&Doing::default()).unwrap();
        may_begin(&Doing { battery_percent: Some(30), ..Doing::default() }).unwrap();
        let refused = |doing: Doing| {
            let fault = may_begin(&doing).unwrap_err();
            assert!(fault.transient && fault.detail.contains("ask again"), "{fault:?}");
            fault.code
        };
        assert_eq!(refused(Doing { measuring: true, ..Doing::default() }), ErrorCode::Busy);
        assert_eq!(refused(Doing { updating: true, ..Doing::default() }), ErrorCode::Busy);
        assert_eq!(refused(Doing { hot: true, ..Doing::default() }), ErrorCode::WrongState);
        assert_eq!(refused(Doing { battery_percent: Some(29), ..Doing::default() }), ErrorCode::WrongState);
    }
}
