//! Reports on runs: plots, tables, and a page.

mod escape;
mod runs;
mod goal;
mod groups;
pub mod curves;
mod summary;
mod table;
mod axis;
mod svg;
pub mod plot;
mod figures;
mod png;
mod page;
pub mod written;
pub mod serve;
mod events;
pub mod tensorboard;

pub use goal::Goal;
pub use runs::ORDER;
pub use summary::{Report, Row, Spread, Target, TargetCost};
pub use table::as_text;
