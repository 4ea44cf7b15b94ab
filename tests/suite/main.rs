//! The one integration-test binary. Numbers to compare with come from outside: closed forms, NumPy, transformers
//! (tests/fixtures, made by scripts/make_fixtures.py), candle-transformers, or the plain way of computing a thing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod adapters;
mod attack;
mod auto_rate;
mod baselines;
mod binary;
mod checkpoints;
mod determinism;
mod estimator;
mod fields;
mod gradients;
mod gguf;
mod gguf_text;
mod graph;
mod hostile;
mod hub_data;
mod hub;
mod hub_faults;
mod hub_server;
mod labs;
mod lab_runs;
mod layout;
mod methods;
mod method_options;
mod models;
mod mutate;
mod newcomer;
mod diverged;
mod early_stopping;
mod known_rows;
mod messages;
mod mnist;
mod noise;
mod odd;
mod own_data;
mod packing;
mod points;
mod printed;
mod real_data;
mod report;
mod run_folder;
mod shell;
mod snapshots;
mod support;
mod survival;
mod sweep;
mod tasks;
mod tensorboard;
mod ties;
mod tokenizers;
mod trajectory;
mod walks;

/// The heap is counted as in the binary, so that what is held can be tested.
#[global_allocator]
static ALLOCATOR: zotune::base::Counting = zotune::base::Counting;
