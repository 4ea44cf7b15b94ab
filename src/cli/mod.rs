//! The command line. Results go to stdout, everything else to stderr.

mod args;
mod flags;
mod format;
mod screen;
mod eval;
mod merge;
mod methods;
mod report;
mod shell;
mod tasks;
mod tracker;
mod lab;
mod train;
mod sweep;
mod trajectory;
mod verbs;

pub use args::Cli;
pub use flags::{WithFlags, with_flags};
