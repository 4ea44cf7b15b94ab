//! Rows of activations that stand for several points: as many stretches of one length, one for each point.

/// Of `rows` rows of activations those that stand for one of so many points.
pub fn rows_a_point(rows: usize, points: usize) -> candle_core::Result<usize> {
    if !rows.is_multiple_of(points) {
        candle_core::bail!("{rows} rows of activations for {points} points");
    }
    Ok(rows / points)
}

/// The rows of x [.., width], at most `many` together, each stretch with the point that it stands for.
pub fn by_points(x: &mut [f32], width: usize, points: usize, many: usize) -> candle_core::Result<Vec<(usize, &mut [f32])>> {
    let rows = rows_a_point(x.len() / width, points)?;
    let of_point = x.chunks_mut(rows.max(1) * width).enumerate();
    Ok(of_point.flat_map(|(point, x)| x.chunks_mut(many * width).map(move |x| (point, x))).collect())
}
