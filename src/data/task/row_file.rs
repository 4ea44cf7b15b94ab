//! A data file of a task, from which rows are drawn.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};

use super::definition::Task;
use super::files::Files;
use super::hub::HubSection;
use super::kinds::Part;
use super::prompted::PromptedRow;
use super::row::{Row, Visit};
use super::rows::Rows;
use crate::base::permutation::permutation;

/// A data file of a task. Its rows are read again for each draw, which takes a few thousand of perhaps millions.
pub struct RowFile<'a> {
    task: &'a Task,
    /// Its rows.
    pub rows: Rows,
    columns: Vec<&'a str>,
    /// The [hub] section, if the file is the hub's.
    hub: Option<&'a HubSection>,
    /// The number of rows.
    pub count: usize,
}

impl<'a> RowFile<'a> {
    /// Opens the file of a part, and checks and counts its rows. Fails if it is missing or empty.
    pub fn open(task: &'a Task, files: &Files, part: Part) -> Result<Self> {
        let mut hub = None;
        let rows = match files {
            Files::Local(source) => {
                let name = if part == Part::Train { &task.data.train } else { &task.data.eval };
                let there = task.hub.as_ref().map_or(String::new(), |hub| format!(", or {}", hub.place(part)));
                Rows::open(source, name, task.data.format)?
                    .with_context(|| format!("{} is missing; task {} needs it{there}", source.place(name), task.name))?
            }
            Files::Hub(clone) => {
                hub = task.hub.as_ref();
                hub.context("the task has no section [hub]")?.open(clone.as_deref(), part)?
            }
            Files::Own(own) => own.open(part)?,
        };
        let theirs = |column: &'a String| hub.map_or(vec![column.as_str()], |hub| hub.hub_columns(column));
        let columns = task.columns.iter().flat_map(theirs).collect();
        let mut file = RowFile { task, rows, columns, hub, count: 0 };
        let mut count = 0;
        file.visit(&mut |_| {
            count += 1;
            Ok(())
        })?;
        if count == 0 {
            bail!("{} has no rows", file.rows.place);
        }
        file.count = count;
        Ok(file)
    }

    fn visit(&self, visit: &mut Visit) -> Result<()> {
        self.rows.visit(Some(&self.columns), visit)
    }

    /// The first `n` rows of the permutation of `seed`. More than there are is a usage error, which calls `n` `name`.
    pub fn first(&self, n: usize, name: &str, seed: u32) -> Result<Vec<Row>> {
        match n > self.count {
            true => Err(usage!("`{name}` {n}: {} has only {} rows", self.rows.place, self.count)),
            false => self.take(&permutation(seed, self.count)[..n]),
        }
    }

    /// The rows with these indices, in this order.
    pub fn take(&self, numbers: &[usize]) -> Result<Vec<Row>> {
        let places: HashMap<usize, usize> = numbers.iter().enumerate().map(|(place, row)| (*row, place)).collect();
        let mut taken = vec![Row::default(); numbers.len()];
        self.visit(&mut |mut row| {
            if let Some(place) = places.get(&row.index) {
                self.hub.inspect(|hub| hub.rename_columns(&mut row));
                taken[*place] = row;
            }
            Ok(())
        })?;
        Ok(taken)
    }

    pub fn prompts(&self, rows: &[Row]) -> Result<Vec<PromptedRow>> {
        let of_task = self.task.label.as_ref().map(|label| &label.values);
        let values = self.hub.and_then(|hub| hub.labels.as_ref()).or(of_task).map_or(&[][..], Vec::as_slice);
        let prompt = |row: &Row| {
            let place = self.rows.place_of(row);
            self.task.prompt(row, values, place.clone()).context(place)
        };
        rows.iter().map(prompt).collect()
    }
}
