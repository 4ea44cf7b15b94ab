//! Rotary position embeddings, with a head's two halves as coordinate pairs.

use rayon::prelude::*;

/// Rotates the first `heads` heads of each row of x [tokens, width] in place by the angles with `cos` and `sin` [tokens,
/// half], by the negative angles if `inverse`.
pub fn rotate(x: &mut [f32], width: usize, heads: usize, [cos, sin]: [&[f32]; 2], half: usize, inverse: bool) {
    let rotated = 2 * half * heads;
    x.par_chunks_mut(width).zip(cos.par_chunks(half)).zip(sin.par_chunks(half)).for_each(|((row, cos), sin)| {
        for head in row[..rotated].chunks_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            for i in 0..half {
                let (x, y, sin) = (a[i], b[i], if inverse { -sin[i] } else { sin[i] });
                a[i] = x * cos[i] - y * sin;
                b[i] = x * sin + y * cos[i];
            }
        }
    });
}
