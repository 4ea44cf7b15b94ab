//! Models and data sets of the Hugging Face hub, in the cache that the Python libraries share.

pub mod bars;
mod settings;
pub mod repo;
mod cache;
mod http;
mod download;
mod snapshot;

pub use repo::{FileRequest, Repo};
pub use snapshot::Hub;
