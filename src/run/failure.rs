//! The errors of a failed run: what its folder holds, and what to try.

use super::checkpoint;
use super::session::Session;
use crate::base::text::shell_quoted;
use crate::base::{Diverged, NotFinite};

impl Session<'_> {
    /// Adds what is left of the run to an error of a diverged or non-finite loss; other errors pass unchanged.
    pub(super) fn explain(&self, mut error: anyhow::Error) -> anyhow::Error {
        if let Some(at) = error.downcast_mut::<NotFinite>() {
            at.say = Some(format!("\n  {}", self.what_is_left()));
        }
        if let Some(Diverged(why)) = error.downcast_mut() {
            *why += &format!("\n  {}; to continue anyway: `stop_if_diverged=false`", self.what_is_left());
        }
        error
    }

    fn what_is_left(&self) -> String {
        let (log, config) = (&self.log, self.config);
        let (good, best) = (self.limit().last_good(self.journal.losses()), self.best.0);
        let kept = match best {
            0 => "the weights from before training".into(),
            best => format!("the weights of step {best} (the lowest dev loss)"),
        };
        let before = match checkpoint::newest(&config.output_dir, good) {
            Some(step) => format!("; checkpoint-{step} holds the last good weights that were kept, those of step {step}"),
            None if log.trajectory().header.replays && good > best => {
                format!(
                    "; for the weights of the last good step: zotune replay {} --to-step {good} --output-dir FOLDER",
                    shell_quoted(&config.output_dir.to_string_lossy())
                )
            }
            None => String::new(),
        };
        let rate = config.learning_rate.unwrap_or_default() / 10.0;
        format!("{} holds {kept}{before}\n  try `learning_rate {rate:.0e}` (a tenth)", config.output_dir.display())
    }
}
