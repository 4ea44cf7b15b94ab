//! Which rows of a batch a block of queries attends to.

use std::ops::Range;

/// Queries that see the same: all of `seen`, and from `own_start` up to themselves. Rows of the batch.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryBlock {
    pub(crate) queries: Range<usize>,
    /// In the order of their positions.
    pub(crate) seen: Vec<Range<usize>>,
    pub(crate) own_start: usize,
}

impl QueryBlock {
    /// Queries in one block at most: bounds the scores that are held at a time.
    pub(crate) const LEN: usize = 64;

    /// Whether all rows it names are among `tokens`, and every query sees itself.
    pub(crate) fn is_within(&self, tokens: usize) -> bool {
        self.own_start <= self.queries.start
            && self.queries.start < self.queries.end
            && self.queries.end <= tokens
            && self.seen.iter().all(|rows| rows.start <= rows.end && rows.end <= tokens)
    }

    /// The first row that it names.
    pub(crate) fn first(&self) -> usize {
        self.seen.first().map_or(self.own_start, |rows| rows.start.min(self.own_start))
    }

    /// Keys that its first query sees before itself.
    pub(crate) fn before(&self) -> usize {
        self.seen.iter().map(Range::len).sum::<usize>() + self.queries.start - self.own_start
    }

    pub(crate) fn shifted(&self, by: usize) -> Self {
        let shifted = |range: &Range<usize>| range.start + by..range.end + by;
        QueryBlock {
            queries: shifted(&self.queries),
            seen: self.seen.iter().map(shifted).collect(),
            own_start: self.own_start + by,
        }
    }
}
