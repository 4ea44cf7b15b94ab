//! Attention mask of a packed batch, by blocks of queries.

use std::ops::Range;

/// Queries that attend to the same rows: all of `seen`, and causally from `own_start` up to themselves. Rows of the batch.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryBlock {
    pub(crate) queries: Range<usize>,
    /// In order of position.
    pub(crate) seen: Vec<Range<usize>>,
    pub(crate) own_start: usize,
}

impl QueryBlock {
    /// Maximum number of queries in a block; bounds the size of the score matrix.
    pub(crate) const LEN: usize = 64;

    /// Whether all rows are below `tokens` and every query attends to itself.
    pub(crate) fn is_within(&self, tokens: usize) -> bool {
        self.own_start <= self.queries.start
            && self.queries.start < self.queries.end
            && self.queries.end <= tokens
            && self.seen.iter().all(|rows| rows.start <= rows.end && rows.end <= tokens)
    }

    /// The first row attended to.
    pub(crate) fn first(&self) -> usize {
        self.seen.first().map_or(self.own_start, |rows| rows.start.min(self.own_start))
    }

    /// Number of keys that the first query attends to besides itself.
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
