//! Activations at several points: one block of rows per point, of equal length.

/// Rows per point. Fails unless `rows` is a multiple of `points`.
pub fn rows_per_point(rows: usize, points: usize) -> candle_core::Result<usize> {
    if !rows.is_multiple_of(points) {
        candle_core::bail!("{rows} rows of activations for {points} points");
    }
    Ok(rows / points)
}

/// Splits x [.., width] into chunks of at most `max_rows` rows, none across points, each with its point's index.
pub fn chunks_by_point(
    x: &mut [f32],
    width: usize,
    points: usize,
    max_rows: usize,
) -> candle_core::Result<Vec<(usize, &mut [f32])>> {
    let rows = rows_per_point(x.len() / width, points)?;
    let of_point = x.chunks_mut(rows.max(1) * width).enumerate();
    Ok(of_point.flat_map(|(point, x)| x.chunks_mut(max_rows * width).map(move |x| (point, x))).collect())
}
