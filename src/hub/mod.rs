//! Models and data sets by their names on the hub, in the cache that Python's tools share.

pub mod bars;
mod settings;
pub mod repo;
mod cache;
mod http;
mod download;
mod snapshot;

pub use repo::{Repo, Wanted};
pub use snapshot::Hub;
