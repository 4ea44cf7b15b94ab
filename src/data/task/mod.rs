//! Tasks: their rows, the templates of prompt and candidate answers, the loss and the metric.

pub mod kinds;
pub mod prompted;
mod json;
mod cells;
mod row;
mod parquet;
mod rows;
mod hub;
mod sections;
mod templates;
mod own_files;
mod files;
pub mod definition;
mod row_file;
mod splits;
mod classes;
mod inferred;

pub use definition::{BUILTIN, Task};
pub use files::Files;
pub use kinds::{Loss, Metric, Sizes};
pub use prompted::{PromptedRow, Repeats, Splits};
pub use row::Row;
pub use rows::Format;
