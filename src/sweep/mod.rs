//! A sweep: a grid of runs from one file, each run a process of its own, and the table of what came of them.

pub mod options;
pub mod file;
mod names;
pub mod grid;
mod standing;
pub mod plan;
mod memory;
mod children;
mod progress;
mod rounds;
pub mod folder;
pub mod conduct;
pub mod choice;
pub mod table;

pub use conduct::{Orders, conduct};
pub use file::SweepFile;
pub use folder::SweepFolder;
pub use grid::Cell;
pub use names::{cell_folder, cells_folder};
pub use plan::PlannedCell;
