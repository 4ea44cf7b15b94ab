//! Dispatches the commands.

use anyhow::Result;

use super::args::{Cli, TasksArgs, TasksVerb, Verb};
use super::screen::{check_threads, download_bar, say};
use super::{eval, merge, sweep, train, trajectory};
use crate::base::text::nearest;
use crate::data::task::Task;
use crate::data::task::definition::BUILTIN;
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
            Verb::Replay(args) => trajectory::replay_verb(args, quiet),
            Verb::Export(args) if args.merge => merge::merge_verb(args),
            Verb::Export(args) => trajectory::export_verb(args),
            Verb::Sweep(args) => sweep::sweep_verb(args, quiet),
            Verb::Tasks(args) => tasks_verb(args),
        }
    }
}

fn tasks_verb(args: TasksArgs) -> Result<()> {
    match args.verb.unwrap_or(TasksVerb::List) {
        TasksVerb::List => {
            for (name, _) in BUILTIN {
                say(&format!("{name:<8} {}", Task::open(name)?.description))?;
            }
            Ok(())
        }
        TasksVerb::Show { name } => {
            let known = BUILTIN.iter().find(|(n, _)| *n == name);
            let (_, text) = known.ok_or_else(|| {
                usage!("there is no task \"{name}\": {}", nearest(&name, BUILTIN.iter().map(|(name, _)| *name)))
            })?;
            say(text.trim_end())
        }
    }
}
