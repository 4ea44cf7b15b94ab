//! Dispatches the commands.

use anyhow::Result;

use super::args::{Cli, Verb};
use super::screen::{check_threads, download_bar};
use super::{eval, experiment, merge, methods, probe, report, shell, sweep, tasks, train, trajectory};
use crate::device::cpu::simd;
use crate::hub::bars;

impl Cli {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let quiet = self.quiet;
        simd::check_environment()?;
        check_threads("RAYON_NUM_THREADS=", std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.trim().parse().ok()))?;
        if !quiet {
            bars::draw_bars_with(download_bar);
        }
        match self.verb {
            Verb::Train(args) => train::train_verb(args, quiet),
            Verb::Plan(args) => train::plan_verb(args),
            Verb::Eval(args) => eval::eval_verb(args, quiet),
            Verb::Probe(args) => probe::probe_verb(args, quiet),
            Verb::Replay(args) => trajectory::replay_verb(args, quiet),
            Verb::Export(args) if args.merge => merge::merge_verb(args),
            Verb::Export(args) => trajectory::export_verb(args),
            Verb::Report(args) => report::report_verb(args, quiet),
            Verb::Sweep(args) => sweep::sweep_verb(args, quiet),
            Verb::Lab(args) => experiment::experiment_verb(args, quiet),
            Verb::Tasks(args) => tasks::tasks_verb(args),
            Verb::Methods(args) => methods::methods_verb(args),
            Verb::Completions { shell } => shell::completions_verb(shell),
            Verb::Man { verb } => shell::man_verb(verb),
            Verb::Schema => shell::schema_verb(),
        }
    }
}
