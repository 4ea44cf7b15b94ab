//! Embedding lookup.

use rayon::prelude::*;

use super::convert::convert;
use super::displaced::Displaced;
use super::points::rows_per_point;
use crate::device::{Element, View};

/// Rows `ids` of `weight` [vocab, hidden] in f32: [ids, hidden]. At several points `ids` must repeat once per point.
pub fn rows(weight: View, hidden: usize, ids: &[u32], displaced: Option<&Displaced>) -> candle_core::Result<Vec<f32>> {
    each_precision!(View, weight, w => match displaced {
        Some(displaced) => displaced_rows(w, hidden, ids, displaced),
        None => plain_rows(w, hidden, ids),
    })
}

fn plain_rows<T: Element>(w: &[T], hidden: usize, ids: &[u32]) -> candle_core::Result<Vec<f32>> {
    let mut y = vec![0f32; ids.len() * hidden];
    for (id, y) in ids.iter().zip(y.chunks_mut(hidden.max(1))) {
        let Some(row) = w.get(*id as usize * hidden..(*id as usize + 1) * hidden) else {
            candle_core::bail!("embed: token {id} of {} rows", w.len() / hidden.max(1));
        };
        convert(row, y);
    }
    Ok(y)
}

/// Draws a row's directions once for all points.
fn displaced_rows<T: Element>(w: &[T], hidden: usize, ids: &[u32], displaced: &Displaced) -> candle_core::Result<Vec<f32>> {
    let rows = rows_per_point(ids.len(), displaced.points())?;
    let Some(vocab) = w.len().checked_div(hidden) else { candle_core::bail!("an embedding of nothing") };
    if ids.iter().any(|id| *id as usize >= vocab) || ids.chunks(rows).any(|other| *other != ids[..rows]) {
        candle_core::bail!("embed: {} ids at {} points, {vocab} rows", ids.len(), displaced.points());
    }
    let mut y = vec![0f32; ids.len() * hidden];
    let mut of_points: Vec<_> = y.chunks_mut(rows * hidden).map(|y| y.chunks_mut(hidden)).collect();
    let jobs: Vec<(usize, Vec<&mut [f32]>)> = ids[..rows]
        .iter()
        .map(|id| (*id as usize * hidden, of_points.iter_mut().filter_map(Iterator::next).collect()))
        .collect();
    jobs.into_par_iter().for_each_init(Vec::new, |row, (first, to)| {
        displaced.read(&w[first..first + hidden], first, row);
        to.into_iter().zip(row.chunks(hidden)).for_each(|(to, from)| convert(from, to));
    });
    Ok(y)
}

/// dW[id] += dy, row by row: dy [ids, hidden].
pub fn add_rows_of(dw: &mut [f32], hidden: usize, ids: &[u32], dy: &[f32]) {
    for (id, dy) in ids.iter().zip(dy.chunks(hidden)) {
        let row = &mut dw[*id as usize * hidden..][..hidden];
        row.iter_mut().zip(dy).for_each(|(dw, dy)| *dw += dy);
    }
}
