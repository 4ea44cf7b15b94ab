//! ZO-SGD with momentum: m <- b m + g; theta <- theta - lr m (ZO-Bench, arXiv 2402.11592).

use super::or;
use super::rule::Equations;
use crate::config::Settings;
use crate::estimator::At;
use crate::noise::Kernel;

/// State: m.
#[derive(Clone, Copy)]
pub struct ZoSgdMomentum {
    lr: f32,
    momentum: f32,
}

impl ZoSgdMomentum {
    /// b is `momentum`, 0.9 unless given.
    pub fn new(settings: &Settings) -> Self {
        ZoSgdMomentum { lr: 0.0, momentum: or(settings.momentum, 0.9) }
    }
}

impl Kernel<1> for ZoSgdMomentum {
    #[inline(always)]
    fn apply(&self, theta: f32, g: f32, [m]: [f32; 1]) -> (f32, [f32; 1]) {
        let m = self.momentum.mul_add(m, g);
        (self.lr.mul_add(-m, theta), [m])
    }
}

impl Equations<1> for ZoSgdMomentum {
    const STATE: [&'static str; 1] = ["m"];

    fn set(&mut self, at: &At) {
        self.lr = at.learning_rate;
    }

    fn definition(&self) -> String {
        format!("m = {} m + g; theta -= lr m", self.momentum)
    }
}
