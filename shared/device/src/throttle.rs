//! When a board is too hot to predict at full speed. Two bounds keep it from changing its mind at every reading.

/// Readings without a temperature after which heat is no reason any more.
const SILENT: u32 = 3;

/// Whether predictions are slowed down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throttle {
    throttle_c: f32,
    resume_c: f32,
    hot: bool,
    silent: u32,
}

impl Throttle {
    /// A cool board that is too hot from `throttle_c` on and cool again below `resume_c`, in degrees Celsius.
    pub fn new(throttle_c: f32, resume_c: f32) -> Self {
        Self { throttle_c, resume_c, hot: false, silent: 0 }
    }

    /// Whether predictions are slowed down.
    pub fn is_hot(&self) -> bool {
        self.hot
    }

    /// Takes in a reading, in degrees Celsius, or that there is none. Says what is true from now on, if that changed.
    pub fn read(&mut self, celsius: Option<f32>) -> Option<bool> {
        let hot = match celsius.filter(|c| c.is_finite()) {
            Some(celsius) => {
                self.silent = 0;
                if self.hot { celsius >= self.resume_c } else { celsius >= self.throttle_c }
            }
            None => {
                self.silent = self.silent.saturating_add(1);
                self.hot && self.silent < SILENT
            }
        };
        (std::mem::replace(&mut self.hot, hot) != hot).then_some(hot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn between_the_bounds_nothing_changes() {
        let mut throttle = Throttle::new(80.0, 70.0);
        let readings = [60.0, 79.9, 80.0, 75.0, 85.0, 70.0, 69.9, 79.0, 90.0];
        let said = readings.map(|celsius| throttle.read(Some(celsius)));
        let (hot, cool) = (Some(true), Some(false));
        assert_eq!(said, [None, None, hot, None, None, None, cool, None, hot]);
    }

    #[test]
    fn a_thermometer_that_is_gone_slows_nothing_down_for_good() {
        let mut throttle = Throttle::new(80.0, 70.0);
        assert_eq!(throttle.read(Some(81.0)), Some(true));
        assert_eq!([None, Some(f32::NAN)].map(|reading| throttle.read(reading)), [None, None]);
        assert_eq!(throttle.read(None), Some(false));
        assert_eq!(throttle.read(None), None);
    }

    proptest! {
        #[test]
        fn it_changes_only_where_a_bound_is_crossed(readings in proptest::collection::vec(proptest::option::of(40.0f32..110.0), 0..200)) {
            let mut throttle = Throttle::new(80.0, 70.0);
            let mut before = false;
            for reading in readings {
                match throttle.read(reading) {
                    Some(hot) => {
                        prop_assert_ne!(hot, before);
                        let crossed = reading.is_none_or(|c| if hot { c >= 80.0 } else { c < 70.0 });
                        prop_assert!(crossed);
                        prop_assert!(reading.is_some() || !hot);
                        before = hot;
                    }
                    None => prop_assert_eq!(throttle.is_hot(), before),
                }
            }
        }
    }
}
