//! Rotary positions, the halves of a head turned against each other.

use rayon::prelude::*;

/// Turns the first `heads` heads of each row of x [tokens, width] in place by the angles whose `cos` and `sin` are [tokens, half]; `back` by
/// the negative angles.
pub fn rotate(x: &mut [f32], width: usize, heads: usize, [cos, sin]: [&[f32]; 2], half: usize, back: bool) {
    let turned = 2 * half * heads;
    x.par_chunks_mut(width).zip(cos.par_chunks(half)).zip(sin.par_chunks(half)).for_each(|((row, cos), sin)| {
        for head in row[..turned].chunks_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            for i in 0..half {
                let (x, y, sin) = (a[i], b[i], if back { -sin[i] } else { sin[i] });
                a[i] = x * cos[i] - y * sin;
                b[i] = x * sin + y * cos[i];
            }
        }
    });
}
