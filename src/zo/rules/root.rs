//! The second moment under the root of adaptive methods.

use crate::zo::numbers::f32_or;
use crate::zo::settings::Settings;
use crate::zo::step_context::StepContext;

/// sqrt(v + zeta). In the first steps, 1 may stand in place of a v that is still small: related code of R-AdaZO's group does so for
/// 29 steps.
#[derive(Clone, Copy)]
pub struct Root {
    zeta: f32,
    warmup: u64,
}

impl Root {
    /// Defaults: zeta 1e-8, no warm-up.
    pub fn new(settings: &Settings) -> Self {
        Root { zeta: f32_or(settings.zeta, 1e-8), warmup: settings.second_moment_warmup.unwrap_or(0) }
    }

    /// sqrt(v + zeta) of v at this step.
    #[inline(always)]
    pub fn at(self, step: &StepContext) -> impl Fn(f32) -> f32 + Copy {
        let (zeta, is_warming) = (self.zeta, step.step <= self.warmup);
        #[inline(always)]
        move |v: f32| (if is_warming { 1.0 } else { v } + zeta).sqrt()
    }

    /// It in words, with `v` the name of the second moment.
    pub fn definition(self, v: &str) -> String {
        format!("sqrt({v} + {:e})", self.zeta)
    }

    /// What to add to a definition.
    pub fn note(self) -> String {
        match self.warmup {
            0 => String::new(),
            steps => format!("; 1 in place of v in steps 1 to {steps}"),
        }
    }
}
